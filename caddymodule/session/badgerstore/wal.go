package badgerstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
)

// A log file of Badger's is a header of 20 bytes and then entries, each
//
//	meta | user meta | key size | value size | expiry | key | value | CRC-32C
//
// with the sizes and the expiry as varints, and after the last one zeros. A
// transaction is entries that are marked as such and one that ends it. Keys
// end in 8 bytes of version, counted downwards.
const (
	walHeader  = 20
	walInTxn   = 1 << 6
	walEndTxn  = 1 << 7
	maxWALKey  = 1 << 16
	versionLen = 8
)

// inspectWAL checks the log files that a crash left. What was written after
// the last acknowledged sync may be torn, and is cut off where it tears. A
// store that was closed has none with anything in it.
func inspectWAL(dir string, marker *markerState, log *slog.Logger) error {
	numbers, err := listWAL(dir)
	if err != nil {
		return err
	}
	if err := checkWALPresent(dir, numbers, marker); err != nil {
		return err
	}
	torn := "" // the first file that ends early
	for _, number := range numbers {
		name := filepath.Base(walPath(dir, number))
		content, err := os.ReadFile(walPath(dir, number))
		if err != nil {
			return err
		}
		found := readWAL(content)
		if torn != "" && found.synced > 0 && found.synced <= marker.synced {
			return fmt.Errorf("%w: %s ends early, and what follows in %s was acknowledged", ErrDamaged, torn, name)
		}
		if len(content) < walHeader {
			// Made, but not yet written to: Badger would stumble over it.
			if err := os.Remove(walPath(dir, number)); err != nil {
				return err
			}
			continue
		}
		if anySet(content[:8]) {
			return fmt.Errorf("%w: %s names a key of Badger's own encryption", ErrDamaged, name)
		}
		if !found.dirty {
			continue
		}
		torn = name
		log.Warn("the session store's log ends in an unfinished write, which was not acknowledged",
			"dir", dir, "file", name, "offset", found.end)
		if err := os.Truncate(walPath(dir, number), int64(found.end)); err != nil {
			return err
		}
	}
	return nil
}

// checkWALPresent finds log files that are missing: while the list of tables
// is as it was at the last sync, no table has been made of any.
func checkWALPresent(dir string, numbers []int, marker *markerState) error {
	if marker.phase != phaseOpen || manifestSize(dir) != marker.manifest {
		return nil
	}
	there := make(map[int]bool, len(numbers))
	for _, number := range numbers {
		there[number] = true
	}
	for number := marker.oldest; number <= marker.newest; number++ {
		if !there[int(number)] {
			return fmt.Errorf("%w: %s is missing", ErrDamaged, filepath.Base(walPath(dir, int(number))))
		}
	}
	return nil
}

// walContent is what a log file holds.
type walContent struct {
	end    int    // where the last whole transaction ends
	synced uint64 // the last number of a sync in it, 0 if none
	dirty  bool   // something other than zeros follows
}

// readWAL reads a log file as far as Badger would.
func readWAL(b []byte) (found walContent) {
	if len(b) < walHeader {
		return walContent{dirty: anySet(b)}
	}
	found.end = walHeader
	at := walHeader
	var open walTxn
	for {
		entry, size, err := readWALEntry(b[at:])
		if err != nil || size == 0 || !open.take(entry) {
			break
		}
		at += size
		if open.done {
			found.end = at
			found.synced = max(found.synced, open.synced)
			open = walTxn{}
		}
	}
	found.dirty = anySet(b[found.end:])
	return found
}

// A walTxn is a transaction as far as it was read.
type walTxn struct {
	version uint64 // of its entries; 0 before the first
	synced  uint64 // the number of a sync, if it holds one
	done    bool
}

// take adds an entry, and returns false if it does not belong there. The store
// writes nothing outside of transactions.
func (t *walTxn) take(e walEntry) bool {
	switch {
	case e.meta&walInTxn != 0:
		if t.version == 0 {
			t.version = e.version
		}
		if bytes.Equal(e.key, syncedKey) && len(e.value) == 8 {
			t.synced = binary.BigEndian.Uint64(e.value)
		}
		return e.version == t.version
	case e.meta&walEndTxn != 0:
		t.done = string(e.value) == strconv.FormatUint(t.version, 10)
	}
	return t.done
}

// errTorn says that no whole entry begins here.
var errTorn = errors.New("no whole entry")

type walEntry struct {
	meta    byte
	key     []byte // without its version
	version uint64
	value   []byte
}

// readWALEntry reads the entry that b begins with. At the end of the log its
// key is empty.
func readWALEntry(b []byte) (e walEntry, size int, err error) {
	if len(b) < 2 {
		return e, 0, errTorn
	}
	at := 2
	var field [3]uint64 // key size, value size, expiry
	for i := range field {
		v, n := binary.Uvarint(b[at:])
		if n <= 0 {
			return e, 0, errTorn
		}
		field[i] = v
		at += n
	}
	keySize, valueSize := field[0], field[1]
	if keySize == 0 {
		return e, 0, nil
	}
	if keySize < versionLen || keySize > maxWALKey || valueSize > uint64(len(b)) {
		return e, 0, errTorn
	}
	end := at + int(keySize) + int(valueSize)
	if end+crc32.Size > len(b) {
		return e, 0, errTorn
	}
	if crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]) {
		return e, 0, errTorn
	}
	key := b[at : at+int(keySize)]
	name := len(key) - versionLen
	return walEntry{
		meta:    b[0],
		key:     key[:name],
		version: math.MaxUint64 - binary.BigEndian.Uint64(key[name:]),
		value:   b[at+int(keySize) : end],
	}, end + crc32.Size, nil
}

// anySet reports whether b holds anything but zeros.
func anySet(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) > 0 }
