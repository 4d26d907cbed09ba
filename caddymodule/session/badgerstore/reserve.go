package badgerstore

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

// reserveSize is the size of the reserve: room for some thousand revocations.
// What is in it fits into one transaction.
const reserveSize = 640 << 10

// A reserve is a file whose blocks are on the disk before they are needed. While
// the disk is too full for Badger, writes go there, which can only be
// revocations, and into Badger as soon as there is room. Each commit is written
// like a backup, with its number as the expiry of the first record.
type reserve struct {
	file *os.File
	used int64
}

func openReserve(dir string) (*reserve, error) {
	f, err := os.OpenFile(filepath.Join(dir, reserveFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && size < reserveSize {
		_, err = f.Write(make([]byte, reserveSize-size))
		err = errors.Join(err, f.Sync(), storekit.SyncDir(dir))
	}
	return &reserve{file: f}, err
}

// append makes a commit durable.
func (r *reserve) append(number uint64, writes map[string]*write) error {
	var b bytes.Buffer
	_ = storekit.WriteRecords(&b, func(visit func(*write) error) error {
		_ = visit(&write{Key: "number", ExpiresAt: number})
		for _, w := range writes {
			_ = visit(w)
		}
		return nil
	})
	_, err := r.file.WriteAt(b.Bytes(), r.used)
	r.used += int64(b.Len())
	return errors.Join(err, r.file.Sync())
}

// reset forgets all commits.
func (r *reserve) reset() error {
	if r.used == 0 {
		return nil
	}
	r.used = 0
	_, err := r.file.WriteAt(make([]byte, reserveSize), 0)
	return errors.Join(err, r.file.Sync())
}

// read returns the writes of the commits after a number, and the number of the
// last one. A commit that is not whole, and so was not acknowledged, ends it.
func (r *reserve) read(after uint64) (writes map[string]*write, last uint64) {
	writes, last = make(map[string]*write), after
	in := bufio.NewReader(io.NewSectionReader(r.file, 0, reserveSize))
	for {
		var commit []*write
		err := storekit.ReadRecords(in, func(w *write) error {
			commit = append(commit, w)
			return nil
		})
		if err != nil || len(commit) == 0 {
			return writes, last
		}
		r.used = reserveSize
		if number := commit[0].ExpiresAt; number > last {
			last = number
			for _, w := range commit[1:] {
				writes[w.Key] = w
			}
		}
	}
}

// recoverReserve commits what the reserve holds, and requires that neither an
// acknowledged commit nor the newest table is missing; see witness.
func (s *Store) recoverReserve() error {
	_, at, err := s.numberAt(s.witness.tables)
	if err == nil && at != s.witness.tables {
		err = errors.New("tables are missing")
	}
	newest, _, newestErr := s.numberAt(math.MaxUint64)
	writes, last := s.reserve.read(newest)
	if last < s.witness.number {
		newestErr = errors.Join(newestErr, fmt.Errorf("the last %d acknowledged commits are missing", s.witness.number-last))
	}
	if err := errors.Join(err, newestErr); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	s.number = last
	if len(writes) > 0 {
		return s.commit(writes)
	}
	return s.reserve.reset()
}
