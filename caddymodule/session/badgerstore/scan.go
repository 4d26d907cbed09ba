package badgerstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// Scan implements session.Scanner. It sees the store as it was at its begin.
func (s *Store) Scan(ctx context.Context, prefix string, visit func(key string, value []byte, ttl time.Duration) error) error {
	now := time.Now()
	return s.each(ctx, prefix, func(w *write) error {
		var ttl time.Duration
		if w.expiresAt > 0 {
			ttl = time.Duration(min(int64(w.expiresAt)-now.Unix(), int64(math.MaxInt64/time.Second))) * time.Second
			ttl = max(ttl, time.Nanosecond)
		}
		return visit(w.key, w.value, ttl)
	})
}

// each visits every live key that begins with prefix, also those of the reserve.
func (s *Store) each(ctx context.Context, prefix string, visit func(*write) error) error {
	return s.walk(ctx, prefix, func(item *badger.Item) error {
		w := &write{key: string(item.Key()[1:]), expiresAt: item.ExpiresAt()}
		if found, ok := s.pending.Load(w.key); ok && found.(*write).held {
			*w = *found.(*write)
			w.value = slices.Clone(w.value)
		} else if value, err := item.ValueCopy(nil); err == nil {
			w.value = value
		} else {
			return err
		}
		if w.deleted {
			return nil
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
	if err := s.sync(ctx); err != nil {
		return err
	}
	at := s.scans.begin(s)
	defer s.scans.end()
	return recovered(func() error {
		txn := s.db.NewTransactionAt(at, false)
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

// scans are the scans that read the store as it was at a version, whose values
// must not be dropped meanwhile.
type scans struct {
	mu       sync.Mutex
	underway int
}

func (c *scans) begin(s *Store) (version uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.underway++
	return s.version.Load()
}

func (c *scans) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.underway--
}

// discard lets compactions drop what is older than a version.
func (c *scans) discard(db *badger.DB, version uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.underway == 0 {
		db.SetDiscardTs(version)
	}
}

// countSample is how many keys Count looks at.
const countSample = 4096

// Count implements session.Counter. A store of up to 4096 such keys is counted;
// of a larger one, a part is, and the rest follows from the keys being hashes:
// they lie evenly, and the error is about 2 %.
func (s *Store) Count(ctx context.Context, prefix string) (n int64, err error) {
	var last uint64
	err = s.walk(ctx, prefix, func(item *badger.Item) error {
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
