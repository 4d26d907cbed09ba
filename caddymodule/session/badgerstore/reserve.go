package badgerstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// reserveSize is the size of the reserve: room for some thousand revocations.
// Everything in it fits into one transaction.
const reserveSize = 640 << 10

// A reserve is a file whose blocks are on the disk before they are needed. While
// the disk is too full for Badger, writes go there, which can only be
// revocations, and into Badger as soon as there is room. It holds commits, each
//
//	size (4) | checksum (4) | number of the commit (8) | records as in a backup
//
// where size and checksum are of what follows, and ends with a commit of size 0
// or one that is not whole.
type reserve struct {
	file *os.File
	used int64
}

const reserveHeader = 4 + 4

func openReserve(dir string) (*reserve, error) {
	f, err := os.OpenFile(filepath.Join(dir, reserveFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	r := &reserve{file: f}
	info, err := f.Stat()
	if missing := reserveSize - info.Size(); err == nil && missing > 0 {
		_, err = f.WriteAt(make([]byte, missing), info.Size())
		err = errors.Join(err, f.Sync(), syncDir(dir))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

// append makes a commit durable.
func (r *reserve) append(number uint64, writes []*write) error {
	var b bytes.Buffer
	b.Write(make([]byte, reserveHeader))
	b.Write(binary.BigEndian.AppendUint64(nil, number))
	for _, w := range writes {
		w.encode(&b)
	}
	body := b.Bytes()[reserveHeader:]
	binary.BigEndian.PutUint32(b.Bytes(), uint32(len(body)))
	copy(b.Bytes()[4:], checksum(body))
	if r.used+int64(b.Len()) > reserveSize {
		return errors.New("the reserve is too small")
	}
	if _, err := r.file.WriteAt(b.Bytes(), r.used); err != nil {
		return err
	}
	r.used += int64(b.Len())
	return r.file.Sync()
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

// read passes on each write of the commits after a number, and returns the
// number of the last.
func (r *reserve) read(after uint64, visit func(*write)) (last uint64, err error) {
	content, err := io.ReadAll(io.NewSectionReader(r.file, 0, reserveSize))
	if err != nil {
		return 0, err
	}
	last = after
	for {
		if len(content) < reserveHeader {
			return last, nil
		}
		size := int64(binary.BigEndian.Uint32(content))
		if size < 8 || size > int64(len(content)-reserveHeader) {
			return last, nil
		}
		body := content[reserveHeader:][:size]
		if !bytes.Equal(checksum(body), content[4:reserveHeader]) {
			return last, nil
		}
		content = content[reserveHeader+size:]
		r.used = reserveSize - int64(len(content))
		number := binary.BigEndian.Uint64(body)
		if number <= after {
			continue // in the database already
		}
		records := bytes.NewReader(body[8:])
		for records.Len() > 0 {
			w, err := decodeWrite(records)
			if err != nil || w == nil {
				return 0, fmt.Errorf("%w: %s is not as it was written", ErrDamaged, reserveFile)
			}
			visit(w)
		}
		last = number
	}
}

// recoverReserve commits what the reserve holds, and requires that no
// acknowledged commit is missing.
func (s *Store) recoverReserve() error {
	inBadger, err := s.readNumber()
	if err != nil {
		return err
	}
	held := make(map[string]*write)
	s.number, err = s.reserve.read(inBadger, func(w *write) { held[w.key] = w })
	if err != nil {
		return err
	}
	if s.number < s.witness.number {
		return fmt.Errorf("%w: the last %d acknowledged commits are missing", ErrDamaged, s.witness.number-s.number)
	}
	if err := s.checkTables(); err != nil {
		return err
	}
	if len(held) > 0 {
		if err := s.commit(held); err != nil {
			return err
		}
	}
	return s.reserve.reset()
}
