package badgerstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// Scan implements session.Scanner. It sees the store as it was at its begin.
func (s *Store) Scan(ctx context.Context, prefix string, visit func(key string, value []byte, ttl time.Duration) error) error {
	now := time.Now()
	return s.each(ctx, prefix, func(key []byte, value []byte, expiresAt uint64) error {
		var ttl time.Duration
		if expiresAt > 0 {
			ttl = time.Duration(min(int64(expiresAt)-now.Unix(), int64(math.MaxInt64/time.Second))) * time.Second
			ttl = max(ttl, time.Nanosecond)
		}
		return visit(string(key), value, ttl)
	})
}

// each visits every live key that begins with prefix. The key belongs to the
// iterator, the value to visit.
func (s *Store) each(ctx context.Context, prefix string, visit func(key, value []byte, expiresAt uint64) error) (err error) {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.usage.end()
	defer recoverTo(&err)
	at, done := s.readers.begin(&s.version)
	defer done()
	return s.walk(ctx, at, prefix, func(item *badger.Item) error {
		value, err := item.ValueCopy(nil)
		if err != nil {
			return badgerError(err)
		}
		return visit(item.Key()[1:], value, item.ExpiresAt())
	})
}

// walk visits every key that begins with prefix and was live at a version. It
// looks at the dead ones itself: Badger's iterator would pass over them in one
// go, however many millions they are, and nobody could interrupt it.
func (s *Store) walk(ctx context.Context, at uint64, prefix string, visit func(*badger.Item) error) error {
	txn := s.db.NewTransactionAt(at, false)
	defer txn.Discard()
	it := txn.NewIterator(badger.IteratorOptions{Prefix: dataKey(prefix), AllVersions: true})
	defer it.Close()
	var last []byte
	for it.Rewind(); it.Valid(); it.Next() {
		select {
		case <-s.usage.done():
			return session.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		item := it.Item()
		if bytes.Equal(item.Key(), last) {
			continue // an older version
		}
		last = item.KeyCopy(last)
		if item.IsDeletedOrExpired() {
			continue
		}
		if err := visit(item); err != nil {
			return err
		}
	}
	return nil
}

// countSample is how many keys Count looks at.
const countSample = 4096

// Count implements session.Counter. A store of up to 4096 such keys is counted;
// of a larger one, a part is, and the rest follows from the keys being hashes:
// they lie evenly, and the error is about 2 %.
func (s *Store) Count(ctx context.Context, prefix string) (n int64, err error) {
	if err := s.begin(ctx); err != nil {
		return 0, err
	}
	defer s.usage.end()
	defer recoverTo(&err)
	var last uint64
	err = s.walk(ctx, math.MaxUint64, prefix, func(item *badger.Item) error {
		if n == countSample && last > 0 {
			return errEnough
		}
		n++
		last = leading(item.Key()[1+len(prefix):])
		return nil
	})
	if errors.Is(err, errEnough) {
		return int64(float64(n) / (float64(last) / math.MaxUint64)), nil
	}
	return n, err
}

// errEnough ends a walk that need not go on.
var errEnough = errors.New("enough has been seen")

// leading returns the first eight bytes of a hash as a number.
func leading(hash []byte) uint64 {
	var b [8]byte
	copy(b[:], hash)
	return binary.BigEndian.Uint64(b[:])
}
