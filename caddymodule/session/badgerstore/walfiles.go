package badgerstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// walFiles follows Badger's write-ahead log, a file per memtable, numbered
// upwards. Badger syncs only the newest one when it is asked to, and not the
// directory: a write may lie in a file that was full just before the sync, and
// would be lost with the power. So the files are synced here.
type walFiles struct {
	dir    string
	from   int      // the oldest that may hold something unsynced
	newest int      // the newest that is known
	listed int64    // size of the list of tables when all files were last looked for
	file   *os.File // the newest
	tables int64    // size of the list of tables when it was last synced
	head   uint64   // how it began then
}

const walExt = ".mem"

func walPath(dir string, number int) string {
	return filepath.Join(dir, fmt.Sprintf("%05d%s", number, walExt))
}

// sync makes durable whatever was written before the call.
func (w *walFiles) sync() error {
	if err := w.find(); err != nil {
		return err
	}
	for ; w.from < w.newest; w.from++ {
		if err := syncWAL(walPath(w.dir, w.from)); err != nil {
			return err
		}
	}
	if w.file != nil {
		if err := syncData(w.file); err != nil {
			return err
		}
	}
	return w.syncNames()
}

// find turns to the newest file.
func (w *walFiles) find() error {
	newest, err := w.findNewest()
	if err != nil || (w.file != nil && newest == w.newest) {
		return err
	}
	return w.follow(newest)
}

// follow turns to a new file. Its blocks are allocated at once, so that Badger,
// which writes to it through a memory map, finds them when the disk is full.
func (w *walFiles) follow(number int) error {
	if w.file != nil {
		w.file.Close()
		w.file = nil
	}
	w.newest = number
	f, err := os.OpenFile(walPath(w.dir, number), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return syncDir(w.dir) // it is a table already
	}
	if err != nil {
		return err
	}
	w.file = f
	if err := allocate(f, walSize); err != nil {
		return err
	}
	return syncDir(w.dir)
}

// passTables lets go of files that are tables already: Badger makes them in
// order, so those before one that is gone are, too.
func (w *walFiles) passTables() {
	from := w.newest
	for from > w.from && exists(walPath(w.dir, from-1)) {
		from--
	}
	w.from = from
}

// syncNames makes the list of tables and their names durable, if there are new
// ones: Badger syncs the one, but not always the other, and the marker must
// not be ahead of either.
func (w *walFiles) syncNames() error {
	if manifestSize(w.dir) == w.tables {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(w.dir, manifestName), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, head, err := manifestState(f) // of one file, if Badger writes another now
	if err != nil {
		return err
	}
	if err := syncData(f); err != nil {
		return err
	}
	w.tables, w.head = size, head
	return syncDir(w.dir)
}

// findNewest looks for files after the newest known one. None is removed before
// the list of tables has the table that was made of it; then all are looked
// for, because a scan that is under way may keep an older one.
func (w *walFiles) findNewest() (int, error) {
	if exists(walPath(w.dir, w.newest)) {
		newest := w.newest
		for exists(walPath(w.dir, newest+1)) {
			newest++
		}
		if manifestSize(w.dir) == w.listed {
			return newest, nil
		}
	}
	size := manifestSize(w.dir)
	numbers, err := listWAL(w.dir)
	if err != nil || len(numbers) == 0 {
		return w.newest, err
	}
	w.listed = size
	if w.from == 0 {
		w.from = numbers[0]
	}
	return numbers[len(numbers)-1], nil
}

func (w *walFiles) close() {
	if w.file != nil {
		w.file.Close()
	}
}

// syncWAL syncs a file that is no longer written to. If it is gone, Badger has
// made a table of it, which it has synced.
func syncWAL(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return syncData(f)
}

// listWAL returns the numbers of the log files, in order.
func listWAL(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), walExt)
		if !ok {
			continue
		}
		number, err := strconv.Atoi(name)
		if err != nil {
			return nil, fmt.Errorf("%w: %s is not a name of Badger's", ErrDamaged, e.Name())
		}
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	return numbers, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// manifestSize returns the size of Badger's list of tables, -1 if it is gone.
func manifestSize(dir string) int64 {
	info, err := os.Stat(filepath.Join(dir, manifestName))
	if err != nil {
		return -1
	}
	return info.Size()
}

// manifestState returns the size of Badger's list of tables, and its head: the
// size and checksum of its first entry. The list is appended to, and after some
// ten thousand tables it is written anew: then it begins with an entry of all
// tables, and the head is another. In a new store that entry is empty and the
// head is 0, as it is if the file is too short to have one.
func manifestState(f *os.File) (size int64, head uint64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	var entry [8]byte
	if _, err := f.ReadAt(entry[:], manifestMagic); errors.Is(err, io.EOF) {
		return info.Size(), 0, nil
	} else if err != nil {
		return 0, 0, err
	}
	return info.Size(), binary.BigEndian.Uint64(entry[:]), nil
}

// readManifestState returns the size -1 if the list is gone.
func readManifestState(dir string) (size int64, head uint64, err error) {
	f, err := os.Open(filepath.Join(dir, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return -1, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	return manifestState(f)
}

const (
	manifestName  = "MANIFEST"
	manifestMagic = 8 // bytes before the first entry
)
