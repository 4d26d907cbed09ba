package storekit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// A Record is a key and its value in a store.
type Record struct {
	Key       string
	Value     []byte
	ExpiresAt uint64 // in seconds, 0: never
	Deleted   bool
}

// Records are written as
//
//	line with the version | header, key, value of each | header with key size 0 | SHA-256 of all before
//
// so that it shows when they were cut or changed.
const recordsVersion = "wxgate backup 3\n"

type recordHeader struct {
	KeySize   uint16
	Deleted   bool
	ValueSize uint32
	ExpiresAt uint64
}

// MaxKey is the largest key, in bytes, of a Record.
const MaxKey = 256

// ErrNoRecords is returned when what was read is not what WriteRecords wrote.
var ErrNoRecords = errors.New("this is no complete backup of a session store")

// WriteRecords writes the records that each passes on.
func WriteRecords(w io.Writer, each func(visit func(*Record) error) error) error {
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10)
	out.WriteString(recordsVersion) // an error comes back from every later write
	err := each(func(r *Record) error {
		head := recordHeader{uint16(len(r.Key)), r.Deleted, uint32(len(r.Value)), r.ExpiresAt}
		_ = binary.Write(out, binary.BigEndian, head)
		out.WriteString(r.Key)
		_, err := out.Write(r.Value)
		return err
	})
	if err != nil {
		return err
	}
	_ = binary.Write(out, binary.BigEndian, recordHeader{})
	if err := out.Flush(); err != nil {
		return err
	}
	_, err = w.Write(sum.Sum(nil))
	return err
}

// SendRecords is WriteRecords to a receiver that may have stopped reading: it
// returns when ctx ends, with its cause. A write to w that has a deadline, like
// that of a connection, ends then, too.
func SendRecords(ctx context.Context, w io.Writer, each func(visit func(*Record) error) error) error {
	received, sent := io.Pipe()
	var writing sync.WaitGroup
	writing.Go(func() { _ = sent.CloseWithError(WriteRecords(sent, each)) })
	defer writing.Wait()
	defer context.AfterFunc(ctx, func() {
		_ = sent.CloseWithError(context.Cause(ctx))
		if conn, ok := w.(interface{ SetWriteDeadline(t time.Time) error }); ok {
			_ = conn.SetWriteDeadline(time.Unix(1, 0))
		}
	})()
	_, err := io.Copy(w, received)
	_ = received.CloseWithError(err) // so that the writer ends
	return err
}

// ReadRecords reads what WriteRecords wrote, and nothing behind it. Only when it
// returns nil were the records whole.
func ReadRecords(in io.Reader, visit func(*Record) error) error {
	err := readRecords(in, visit)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: it ends early", ErrNoRecords)
	}
	return err
}

func readRecords(in io.Reader, visit func(*Record) error) error {
	sum := sha256.New()
	summed := io.TeeReader(in, sum)
	version := make([]byte, len(recordsVersion))
	if _, err := io.ReadFull(summed, version); err != nil {
		return err
	}
	if string(version) != recordsVersion {
		return fmt.Errorf("%w of this version of wxgate", ErrNoRecords)
	}
	for {
		var head recordHeader
		if err := binary.Read(summed, binary.BigEndian, &head); err != nil {
			return err
		}
		if head.KeySize == 0 {
			break
		}
		if head.KeySize > MaxKey || head.ValueSize > session.MaxValue {
			return ErrNoRecords
		}
		body := make([]byte, int(head.KeySize)+int(head.ValueSize))
		if _, err := io.ReadFull(summed, body); err != nil {
			return err
		}
		key, value := string(body[:head.KeySize]), body[head.KeySize:]
		if err := visit(&Record{key, value, head.ExpiresAt, head.Deleted}); err != nil {
			return err
		}
	}
	want, got := sum.Sum(nil), make([]byte, sha256.Size)
	if _, err := io.ReadFull(in, got); err != nil {
		return err
	}
	if !bytes.Equal(want, got) {
		return fmt.Errorf("%w: its checksum is wrong", ErrNoRecords)
	}
	return nil
}
