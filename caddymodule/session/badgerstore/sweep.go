package badgerstore

import (
	"bytes"
	"errors"
	"math"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// Badger drops an expired value when a compaction comes across it, which is
// when something new is written over its place: what lies in the last level
// may lie there for ever. So a sweep goes round the keys, slowly, and deletes
// what has expired. The deletions then move down through the levels like
// anything written, and take the values with them.

const (
	// sweepKeys is how many keys a sweep looks at in each upkeep: at 10^6
	// sessions, which are 2×10^6 keys, a round takes half an hour.
	sweepKeys = 1000

	// sweepHurry is how many times as many if much has expired.
	sweepHurry = 10

	// sweepAfter is how long ago a value must have expired. New writes may
	// have dropped it by themselves until then.
	sweepAfter = time.Minute
)

// A sweeper remembers where it is.
type sweeper struct{ next []byte }

// tick sweeps a little further.
func (w *sweeper) tick(s *Store) error {
	before := uint64(time.Now().Add(-sweepAfter).Unix())
	for range sweepHurry {
		expired, err := w.sweep(s, before, sweepKeys)
		if err != nil || expired < sweepKeys/2 {
			return err
		}
	}
	return nil
}

// sweep looks at so many keys, deletes those that expired before a time in
// seconds, and returns how many they were.
func (w *sweeper) sweep(s *Store, before uint64, keys int) (expired int, err error) {
	if s.room.none() {
		return 0, nil
	}
	found, next, err := s.findExpired(w.next, before, keys)
	if err != nil {
		return 0, err
	}
	for _, key := range found {
		if err := s.removeExpired(key); err != nil {
			return 0, err
		}
	}
	w.next = next
	return len(found), nil
}

// findExpired returns the expired keys among the next ones, and where to go on:
// at the beginning, if next is nil.
func (s *Store) findExpired(from []byte, before uint64, keys int) (found [][]byte, next []byte, err error) {
	defer recoverTo(&err)
	txn := s.db.NewTransactionAt(math.MaxUint64, false)
	defer txn.Discard()
	// All versions, because the iterator leaves out what has expired.
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{dataPrefix}, AllVersions: true})
	defer it.Close()
	var last []byte
	for it.Seek(from); it.Valid(); it.Next() {
		item := it.Item()
		if bytes.Equal(item.Key(), last) {
			continue // an older version
		}
		if keys--; keys < 0 {
			return found, item.KeyCopy(nil), nil
		}
		last = item.KeyCopy(last)
		if at := item.ExpiresAt(); at > 0 && at <= before { // a deleted one has no expiry
			found = append(found, item.KeyCopy(nil))
		}
	}
	return found, nil, nil
}

// removeExpired deletes a key, unless it has been written again.
func (s *Store) removeExpired(key []byte) error {
	defer s.hold(string(key[1:]))()
	_, err := s.get(key)
	if !errors.Is(err, session.ErrNotFound) {
		return err
	}
	return s.commit(func(txn *badger.Txn) error { return txn.Delete(key) })
}
