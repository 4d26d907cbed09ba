package badgerstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// Scan implements session.Scanner. It sees the store as it was at its begin.
func (s *Store) Scan(ctx context.Context, prefix string, visit func(key string, value []byte, ttl time.Duration) error) error {
	now := time.Now()
	return s.each(ctx, prefix, func(w *write) error {
		var ttl time.Duration
		if w.ExpiresAt > 0 {
			ttl = time.Duration(min(int64(w.ExpiresAt)-now.Unix(), int64(math.MaxInt64/time.Second))) * time.Second
			ttl = max(ttl, time.Nanosecond)
		}
		return visit(w.Key, w.Value, ttl)
	})
}

// each visits every live key that begins with prefix, as the reserve has it if
// it is there.
func (s *Store) each(ctx context.Context, prefix string, visit func(*write) error) error {
	s.committer.mu.Lock()
	held := maps.Clone(s.committer.held)
	s.committer.mu.Unlock()
	return s.walk(ctx, prefix, func(item *badger.Item) error {
		value, err := item.ValueCopy(nil)
		w := &write{Key: string(item.Key()[1:]), Value: value, ExpiresAt: item.ExpiresAt()}
		if newer := held[w.Key]; newer != nil {
			*w = *newer
			w.Value = slices.Clone(w.Value)
		}
		if err != nil || w.Deleted {
			return err
		}
		return visit(w)
	})
}

// walk visits every key that begins with prefix and is live now. It looks at
// the dead ones itself: Badger's iterator would pass over them in one go,
// however many millions they are, and could not be interrupted.
func (s *Store) walk(ctx context.Context, prefix string, visit func(*badger.Item) error) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.calls.Leave()
	if err := s.Sync(ctx); err != nil {
		return err
	}
	s.scanning.RLock() // the version must not be discarded meanwhile
	defer s.scanning.RUnlock()
	return recovered(func() error {
		txn := s.db.NewTransactionAt(s.version.Load(), false)
		defer txn.Discard()
		it := txn.NewIterator(badger.IteratorOptions{Prefix: dataKey(prefix), AllVersions: true})
		defer it.Close()
		var last []byte
		for it.Rewind(); it.Valid(); it.Next() {
			select {
			case <-s.calls.Stopping().Done():
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
	})
}

// countSample is how many keys Count looks at.
const countSample = 4096

// Count implements session.Counter. In a store of up to 4096 such keys it looks
// at all; in a larger one at a part, and the rest follows from the keys being
// hashes, which lie evenly.
func (s *Store) Count(ctx context.Context, prefix string, number func(key string, value []byte) int64) (sum int64, err error) {
	var seen int
	var last uint64
	err = s.walk(ctx, prefix, func(item *badger.Item) error {
		if seen == countSample && last > 0 {
			return io.EOF
		}
		seen++
		var leading [8]byte // of a hash
		copy(leading[:], item.Key()[1+len(prefix):])
		last = binary.BigEndian.Uint64(leading[:])
		return item.Value(func(value []byte) error {
			sum += number(string(item.Key()[1:]), value)
			return nil
		})
	})
	if errors.Is(err, io.EOF) {
		return int64(float64(sum) / (float64(last) / math.MaxUint64)), nil
	}
	return sum, err
}
