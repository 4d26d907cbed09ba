package badgerstore

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// A backup is
//
//	line with the version | records | 0 (2) | SHA-256 of all before (32)
//
// and a record is
//
//	key size (2) | value size (4) | expiry in seconds, 0: none (8) | key | value
//
// with numbers in big endian. Unlike Badger's own, it shows when it has been
// cut or changed. The values are sealed; it is as secret as the store.
const (
	anyBackup    = "wxgate backup "
	thisBackup   = anyBackup + "2\n"
	recordHeader = 2 + 4 + 8
	maxKey       = 256

	// deletedSize is the value size of a deleted key, in the reserve.
	deletedSize = 1<<32 - 1
)

// ErrNoBackup is returned when what was read is not a whole backup.
var ErrNoBackup = errors.New("this is no complete backup of a session store")

func (w *write) encode(out io.Writer) {
	var head [recordHeader]byte
	binary.BigEndian.PutUint16(head[:], uint16(len(w.key)))
	binary.BigEndian.PutUint32(head[2:], uint32(len(w.value)))
	if w.deleted {
		binary.BigEndian.PutUint32(head[2:], deletedSize)
	}
	binary.BigEndian.PutUint64(head[6:], w.expiresAt)
	out.Write(head[:]) // the writers here keep the error for later
	io.WriteString(out, w.key)
	out.Write(w.value)
}

// decodeWrite reads what encode wrote. It returns nil at the end of a backup.
func decodeWrite(in io.Reader) (*write, error) {
	var head [recordHeader]byte
	if _, err := io.ReadFull(in, head[:2]); err != nil {
		return nil, err
	}
	keySize := binary.BigEndian.Uint16(head[:])
	if keySize == 0 {
		return nil, nil
	}
	if _, err := io.ReadFull(in, head[2:]); err != nil {
		return nil, err
	}
	valueSize := binary.BigEndian.Uint32(head[2:])
	w := &write{deleted: valueSize == deletedSize, expiresAt: binary.BigEndian.Uint64(head[6:])}
	if w.deleted {
		valueSize = 0
	}
	if keySize > maxKey || valueSize > session.MaxValue {
		return nil, ErrNoBackup
	}
	body := make([]byte, int(keySize)+int(valueSize))
	if _, err := io.ReadFull(in, body); err != nil {
		return nil, err
	}
	w.key, w.value = string(body[:keySize]), body[keySize:]
	return w, nil
}

// Backup implements session.Backuper. It shows the store as it was when it was
// called. When the store closes, it does not wait for a receiver that may have
// stopped reading; a write to w that has a deadline, like that of a connection,
// ends then, too.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	received, sent := io.Pipe()
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	helpers.Go(func() { _ = sent.CloseWithError(s.backup(ctx, sent)) })
	helpers.Go(func() {
		select {
		case <-s.calls.Stopping().Done():
			_ = sent.CloseWithError(session.ErrClosed)
			if conn, ok := w.(interface{ SetWriteDeadline(t time.Time) error }); ok {
				_ = conn.SetWriteDeadline(time.Unix(1, 0))
			}
		case <-ctx.Done():
			_ = sent.CloseWithError(ctx.Err())
		}
	})
	_, err := io.Copy(w, received)
	return err
}

func (s *Store) backup(ctx context.Context, w io.Writer) error {
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10)
	out.WriteString(thisBackup)
	err := s.each(ctx, "", func(w *write) error {
		w.encode(out)
		_, err := out.Write(nil) // the first error so far
		return err
	})
	if err != nil {
		return err
	}
	out.Write([]byte{0, 0})
	if err := out.Flush(); err != nil {
		return err
	}
	_, err = w.Write(sum.Sum(nil))
	return err
}

// readBackup reads a backup and passes each record to visit. Only when it
// returns nil was the backup whole.
func readBackup(r io.Reader, visit func(*write) error) error {
	in, sum := bufio.NewReaderSize(r, 64<<10), sha256.New()
	summed := io.TeeReader(in, sum)
	version := make([]byte, len(thisBackup))
	if _, err := io.ReadFull(summed, version); err != nil {
		return noBackup(err)
	}
	if !strings.HasPrefix(string(version), anyBackup) {
		return ErrNoBackup
	}
	if string(version) != thisBackup {
		return fmt.Errorf("%w of this version of wxgate: restore it with the version that made it", ErrNoBackup)
	}
	for {
		w, err := decodeWrite(summed)
		if err != nil {
			return noBackup(err)
		}
		if w == nil {
			break
		}
		if w.deleted {
			return ErrNoBackup
		}
		if err := visit(w); err != nil {
			return err
		}
	}
	want, got := sum.Sum(nil), make([]byte, sha256.Size)
	if _, err := io.ReadFull(in, got); err != nil {
		return noBackup(err)
	}
	if !bytes.Equal(want, got) {
		return fmt.Errorf("%w: its checksum is wrong", ErrNoBackup)
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows it", ErrNoBackup)
	}
	return nil
}

// noBackup explains why a backup could not be read.
func noBackup(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends early", ErrNoBackup)
	}
	return err
}
