package badgerstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

var (
	// ErrInUse is returned when another process, or another Store of this one,
	// has the directory open.
	ErrInUse = errors.New("another process has the session store open")

	// ErrDamaged is returned when the files in the directory are not as they
	// were left. A session that was revoked might live again, so no session is
	// opened.
	ErrDamaged = errors.New("the session store is damaged")

	// ErrVersion is returned when another version of wxgate made the store.
	ErrVersion = errors.New("another version of wxgate made this session store: start that version, or move the directory away and let every user log in again")

	// ErrForeign is returned when the directory holds files, and no store.
	ErrForeign = errors.New("the directory holds files of another program: name an empty directory for the session store")

	// ErrRestoring is returned when Restore did not finish.
	ErrRestoring = errors.New("a restore into the directory was interrupted: remove the directory and restore again")
)

// The files of this package beside Badger's.
const (
	storeFile     = "wxgate.store"     // the version, and the number of the last acknowledged commit
	reserveFile   = "wxgate.reserve"   // see reserve.go
	openingFile   = "wxgate.opening"   // a byte for each start that has not finished opening the store
	damagedFile   = "wxgate.damaged"   // why the next start must not open the store
	restoringFile = "wxgate.restoring" // exists while Restore works
)

// The content of the store file: a line with the version, two numbers (see
// witness), and a checksum of all that.
const (
	anyVersion   = "wxgate sessions "
	thisVersion  = anyVersion + "2\n"
	storeFileLen = len(thisVersion) + 8 + 8 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli))
}

// A witness is the open store file. Badger goes on without a word when the end
// of its log or of its list of tables is missing, so two things are kept here.
// Every commit has a number, which the commit itself writes to the database, and
// which is written here once the disk has the commit: a database behind it lacks
// acknowledged writes. The newest version in a table is kept here and never
// discarded: a database without it lacks that table. The file may be behind the
// database, never ahead.
type witness struct {
	file   *os.File
	number uint64 // of the last acknowledged commit
	tables uint64 // the newest version that was in a table
}

func (w *witness) write() error {
	b := binary.BigEndian.AppendUint64([]byte(thisVersion), w.number)
	b = binary.BigEndian.AppendUint64(b, w.tables)
	_, err := w.file.WriteAt(append(b, checksum(b)...), 0)
	return err
}

// openDirectory examines the directory before Badger does, makes a new store of
// an empty one, and opens its witness.
func openDirectory(dir string) (*witness, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	ours, other := false, ""
	for _, e := range entries {
		switch e.Name() {
		case reserveFile:
			ours = true
		case storeFile, restoringFile, "lost+found":
		default:
			other = e.Name()
		}
	}
	path := filepath.Join(dir, storeFile)
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	fresh := len(content) == 0 && !ours && other == ""
	switch body := content[:max(0, len(content)-4)]; {
	case fresh:
	case err != nil && !ours:
		return nil, fmt.Errorf("%w (it holds %s)", ErrForeign, other)
	case len(content) == 0 || !bytes.Equal(checksum(body), content[len(body):]) || !bytes.HasPrefix(body, []byte(anyVersion)):
		return nil, fmt.Errorf("%w: %s is missing or its checksum is wrong", ErrDamaged, storeFile)
	case !bytes.HasPrefix(body, []byte(thisVersion)) || len(content) != storeFileLen:
		return nil, ErrVersion
	}
	w := new(witness)
	if w.file, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if !fresh {
		w.number = binary.BigEndian.Uint64(content[len(thisVersion):])
		w.tables = binary.BigEndian.Uint64(content[len(thisVersion)+8:])
		return w, nil
	}
	if err := errors.Join(w.write(), w.file.Sync(), syncDir(dir)); err != nil {
		return nil, errors.Join(err, w.file.Close())
	}
	return w, nil
}

// A panic in one of Badger's goroutines ends the process, and files that were
// cut cause one while Badger opens them. So each start is counted until the
// store has been opened and verified, and after two that ended the process the
// store counts as damaged.
const maxUnfinished = 2

// beginOpening counts a start. giveUp undoes that after an error, because the
// process lives on.
func beginOpening(dir string) (giveUp func() error, err error) {
	reason, err := os.ReadFile(filepath.Join(dir, damagedFile))
	if err == nil {
		return nil, fmt.Errorf("%w: %s", ErrDamaged, strings.TrimSpace(string(reason)))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	path := filepath.Join(dir, openingFile)
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(before) >= maxUnfinished {
		return nil, fmt.Errorf("%w: the process ended %d times while opening it (remove %s to try again)", ErrDamaged, len(before), path)
	}
	if err := os.WriteFile(path, append(before, '.'), 0o600); err != nil {
		return nil, err
	}
	return func() error {
		if len(before) == 0 {
			return endOpening(dir)
		}
		return os.WriteFile(path, before, 0o600)
	}, nil
}

// endOpening forgets the starts that did not finish.
func endOpening(dir string) error {
	if err := os.Remove(filepath.Join(dir, openingFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Exists reports, without opening it, whether there is a store in a directory,
// or something else that Restore would not write over.
func Exists(dir string) bool { return errors.Is(checkEmpty(dir), ErrNotEmpty) }

// checkEmpty returns ErrNotEmpty if there is anything in a directory but what
// a file system puts there.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return fmt.Errorf("%w: it holds %s", ErrNotEmpty, e.Name())
		}
	}
	return nil
}

// syncDir makes the names of new files durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // it denies access to a directory
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
