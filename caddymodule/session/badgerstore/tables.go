package badgerstore

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4/fb"
)

// A table of Badger's is
//
//	blocks | index | index size (4) | checksum | checksum size (4)
//
// and a block ends in its own checksum and the size of that. The index names
// the place of each block.
const (
	tableExt     = ".sst"
	maxChecksum  = 64 // a few bytes of protobuf
	maxIndexSize = 1 << 30
)

func tableName(number uint64) string { return fmt.Sprintf("%06d%s", number, tableExt) }

// verifyFor is how long opening a store may take to verify tables, newest
// first. The rest is verified in the background: at 10^7 sessions there are
// 3 GB of them.
const verifyFor = time.Second / 2

// verifyTables verifies that tables are as they were written. It returns those
// that it had no time for.
func verifyTables(dir string, numbers []uint64) (later []string, err error) {
	slices.SortFunc(numbers, func(a, b uint64) int { return cmp.Compare(b, a) })
	deadline := time.Now().Add(verifyFor)
	for _, number := range numbers {
		path := filepath.Join(dir, tableName(number))
		blocks := time.Now().Before(deadline)
		if err := verifyTable(path, blocks); err != nil {
			return nil, err
		}
		if !blocks {
			later = append(later, path)
		}
	}
	return later, nil
}

// verifyTable verifies the index of a table, and its blocks if asked to.
func verifyTable(path string, blocks bool) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is missing", ErrDamaged, filepath.Base(path))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	err = verifyTableFile(f, info.Size(), blocks)
	if errors.Is(err, errTable) {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, filepath.Base(path), err)
	}
	return err
}

// errTable says that a table is not as it was written.
var errTable = errors.New("a checksum is wrong")

func verifyTableFile(f io.ReaderAt, size int64, blocks bool) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errTable // the index is read without looking, once its checksum is right
		}
	}()
	end := size
	checksum, err := readBack(f, &end, maxChecksum)
	if err != nil {
		return err
	}
	indexData, err := readBack(f, &end, maxIndexSize)
	if err != nil {
		return err
	}
	if err := verifySum(indexData, checksum); err != nil {
		return err
	}
	if !blocks {
		return nil
	}

	index := fb.GetRootAsTableIndex(indexData, 0)
	var place fb.BlockOffset
	buffer := make([]byte, 0, 1<<20)
	var begin int64 // where in the file the buffer begins
	for i := range index.OffsetsLength() {
		if !index.Offsets(&place, i) {
			return errTable
		}
		from, to := int64(place.Offset()), int64(place.Offset())+int64(place.Len())
		if to > end {
			return errTable
		}
		if from < begin || to > begin+int64(len(buffer)) {
			buffer = slices.Grow(buffer[:0], int(to-from))
			buffer = buffer[:min(int64(cap(buffer)), end-from)]
			if _, err := f.ReadAt(buffer, from); err != nil {
				return err
			}
			begin = from
		}
		if err := verifyBlock(buffer[from-begin : to-begin]); err != nil {
			return err
		}
	}
	return nil
}

// verifyBlock verifies a block, which ends in its checksum.
func verifyBlock(block []byte) error {
	end := len(block) - 4
	if end < 0 {
		return errTable
	}
	n := int(binary.BigEndian.Uint32(block[end:]))
	if n > min(end, maxChecksum) {
		return errTable
	}
	return verifySum(block[:end-n], block[end-n:end])
}

// readBack reads what ends at end, with its size in the last four bytes, and
// moves end to its begin.
func readBack(f io.ReaderAt, end *int64, limit uint32) ([]byte, error) {
	var size [4]byte
	if *end < 4 {
		return nil, errTable
	}
	if _, err := f.ReadAt(size[:], *end-4); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > limit || int64(n) > *end-4 {
		return nil, errTable
	}
	data := make([]byte, n)
	*end -= 4 + int64(n)
	if _, err := f.ReadAt(data, *end); err != nil {
		return nil, err
	}
	return data, nil
}

// verifySum compares data with its checksum, which Badger writes as a message
// of protobuf: field 2, the CRC-32C. An algorithm, field 1, would stand there
// only if it were another.
func verifySum(data, checksum []byte) error {
	var want []byte
	if sum := crc32.Checksum(data, castagnoli); sum != 0 {
		want = binary.AppendUvarint([]byte{2 << 3}, uint64(sum))
	}
	if !bytes.Equal(checksum, want) {
		return errTable
	}
	return nil
}
