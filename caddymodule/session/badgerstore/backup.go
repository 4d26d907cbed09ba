package badgerstore

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// A backup is
//
//	magic | records | 0 (1) | number of records (8) | SHA-256 of all before (32)
//
// and a record is
//
//	1 (1) | key size (2) | value size (4) | expiry in seconds, 0: none (8) | key | value
//
// with numbers in big endian. Unlike Badger's own, it shows when it has been
// cut or changed. The values are sealed; it is as secret as the store.
const (
	backupMagic  = "wxgate backup 1\n"
	backupRecord = 1
	backupEnd    = 0
	recordHeader = 2 + 4 + 8
	maxKey       = 256
)

// ErrNoBackup says that what was read is no backup, or not the whole of it.
var ErrNoBackup = errors.New("this is no complete backup of a session store")

// Backup implements session.Backuper. It shows the store as it was when it was
// called. When the store closes, it does not wait for whoever receives the
// backup and may have stopped reading; a write to w that has a deadline, like
// that of a connection, ends then, too.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	received, sent := io.Pipe()
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	helpers.Go(func() { _ = sent.CloseWithError(s.backup(ctx, sent)) })
	helpers.Go(func() {
		select {
		case <-s.usage.done():
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
	out := newBackupWriter(w)
	err := s.each(ctx, "", func(key, value []byte, expiresAt uint64) error {
		return out.record(key, value, expiresAt)
	})
	if err != nil {
		return err
	}
	return out.finish()
}

type backupWriter struct {
	out   *bufio.Writer
	sum   hash.Hash
	count uint64
}

func newBackupWriter(w io.Writer) *backupWriter {
	b := &backupWriter{sum: sha256.New()}
	b.out = bufio.NewWriterSize(io.MultiWriter(w, b.sum), 64<<10)
	b.out.WriteString(backupMagic) // an error comes back from every later write
	return b
}

func (b *backupWriter) record(key, value []byte, expiresAt uint64) error {
	var head [1 + recordHeader]byte
	head[0] = backupRecord
	binary.BigEndian.PutUint16(head[1:], uint16(len(key)))
	binary.BigEndian.PutUint32(head[3:], uint32(len(value)))
	binary.BigEndian.PutUint64(head[7:], expiresAt)
	b.count++
	b.out.Write(head[:])
	b.out.Write(key)
	_, err := b.out.Write(value)
	return err
}

func (b *backupWriter) finish() error {
	b.out.WriteByte(backupEnd)
	b.out.Write(binary.BigEndian.AppendUint64(nil, b.count))
	if err := b.out.Flush(); err != nil {
		return err
	}
	b.out.Write(b.sum.Sum(nil))
	return b.out.Flush()
}

// readBackup reads a backup and gives each record to visit. The key and value
// belong to visit. Only when it returns nil was the backup whole.
func readBackup(r io.Reader, visit func(key, value []byte, expiresAt uint64) error) error {
	in := &backupReader{sum: sha256.New()}
	in.in = bufio.NewReaderSize(r, 64<<10)
	magic, err := in.take(len(backupMagic))
	if err != nil {
		return err
	}
	if string(magic) != backupMagic {
		return ErrNoBackup
	}
	for count := uint64(0); ; count++ {
		kind, err := in.take(1)
		if err != nil {
			return err
		}
		switch kind[0] {
		case backupRecord:
			if err := in.record(visit); err != nil {
				return err
			}
		case backupEnd:
			return in.end(count)
		default:
			return ErrNoBackup
		}
	}
}

type backupReader struct {
	in  *bufio.Reader
	sum hash.Hash
}

// take reads n bytes.
func (b *backupReader) take(n int) ([]byte, error) {
	data := make([]byte, n)
	if _, err := io.ReadFull(b.in, data); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("%w: it ends early", ErrNoBackup)
		}
		return nil, err
	}
	b.sum.Write(data)
	return data, nil
}

func (b *backupReader) record(visit func(key, value []byte, expiresAt uint64) error) error {
	head, err := b.take(recordHeader)
	if err != nil {
		return err
	}
	keySize := int(binary.BigEndian.Uint16(head))
	valueSize := binary.BigEndian.Uint32(head[2:])
	if keySize == 0 || keySize > maxKey || valueSize > maxValue {
		return ErrNoBackup
	}
	body, err := b.take(keySize + int(valueSize))
	if err != nil {
		return err
	}
	return visit(body[:keySize:keySize], body[keySize:], binary.BigEndian.Uint64(head[6:]))
}

func (b *backupReader) end(count uint64) error {
	number, err := b.take(8)
	if err != nil {
		return err
	}
	if binary.BigEndian.Uint64(number) != count {
		return ErrNoBackup
	}
	want := b.sum.Sum(nil)
	sum, err := b.take(len(want))
	if err != nil {
		return err
	}
	if !bytes.Equal(sum, want) {
		return fmt.Errorf("%w: its checksum is wrong", ErrNoBackup)
	}
	if _, err := b.in.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows it", ErrNoBackup)
	}
	return nil
}
