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
	"slices"

	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

var (
	// ErrInUse is returned when another process or Store has the directory open.
	ErrInUse = errors.New("another process has the session store open")

	// ErrDamaged is returned when the files in the directory are not as they
	// were left: a session that was revoked might live again.
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
	storeFile     = "wxgate.store"
	reserveFile   = "wxgate.reserve"
	openingFile   = "wxgate.opening"
	restoringFile = "wxgate.restoring" // exists while Restore works
)

// The store file is a version line, the witness's two numbers and a checksum.
const (
	anyVersion   = "wxgate sessions "
	storeVersion = anyVersion + "2\n"
	storeSize    = len(storeVersion) + 8 + 8 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func withChecksum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
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
	b := binary.BigEndian.AppendUint64([]byte(storeVersion), w.number)
	_, err := w.file.WriteAt(withChecksum(binary.BigEndian.AppendUint64(b, w.tables)), 0)
	return err
}

// openWitness examines the directory before Badger does, and makes a new store
// of an empty one.
func openWitness(dir string) (*witness, error) {
	path := filepath.Join(dir, storeFile)
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	notEmpty := checkEmpty(dir, storeFile, restoringFile)
	fresh := len(content) == 0 && notEmpty == nil
	switch body := content[:max(0, len(content)-4)]; {
	case fresh:
	case err != nil && !has(dir, reserveFile):
		return nil, fmt.Errorf("%w (%w)", ErrForeign, notEmpty)
	case !bytes.HasPrefix(content, []byte(anyVersion)) || !bytes.Equal(withChecksum(bytes.Clone(body)), content):
		return nil, fmt.Errorf("%w: %s is missing or not as it was written", ErrDamaged, storeFile)
	case !bytes.HasPrefix(content, []byte(storeVersion)) || len(content) != storeSize:
		return nil, ErrVersion
	}
	w := new(witness)
	if w.file, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if fresh {
		return w, errors.Join(w.write(), w.file.Sync(), storekit.SyncDir(dir))
	}
	w.number = binary.BigEndian.Uint64(content[len(storeVersion):])
	w.tables = binary.BigEndian.Uint64(content[len(storeVersion)+8:])
	return w, nil
}

// maxUnfinished is how many starts in a row may end the process before the
// store counts as damaged: where files were cut, one of Badger's goroutines
// panics. The opening file has a byte for each start that has not opened and
// verified the store, or the reason why it must not be opened any more.
const maxUnfinished = 2

// beginOpening counts a start, and returns the content of the opening file
// before.
func beginOpening(dir string) (before []byte, err error) {
	path := filepath.Join(dir, openingFile)
	if before, err = os.ReadFile(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(before) >= maxUnfinished {
		return nil, fmt.Errorf("%w: the process ended while opening it, or %s has the reason: %s", ErrDamaged, path, before)
	}
	return before, setOpening(dir, append(before, '.'))
}

func setOpening(dir string, content []byte) error {
	if path := filepath.Join(dir, openingFile); len(content) > 0 {
		return os.WriteFile(path, content, 0o600)
	} else if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func has(dir, file string) bool {
	_, err := os.Lstat(filepath.Join(dir, file))
	return err == nil
}

// Exists reports, without opening it, whether there is a store in a directory,
// or something else that Restore would not write over.
func Exists(dir string) bool { return errors.Is(checkEmpty(dir), ErrNotEmpty) }

// checkEmpty returns ErrNotEmpty if there is anything in a directory but these
// files and what a file system puts there.
func checkEmpty(dir string, but ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lost+found" && !slices.Contains(but, e.Name()) {
			return fmt.Errorf("%w: it holds %s", ErrNotEmpty, e.Name())
		}
	}
	return nil
}
