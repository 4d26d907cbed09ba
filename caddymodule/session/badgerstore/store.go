// Package badgerstore keeps sessions in a directory on disk, in Badger, which is
// used through what it exports. The package adds group commit (commit.go), a
// witness of what was acknowledged (directory.go), revocations on a full disk
// (room.go, reserve.go) and backups that show when they were changed (backup.go).
package badgerstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

// Options configure a Store.
type Options struct {
	Dir string // the store's own; made, for this user alone, if it does not exist

	// SyncWrites makes Sync wait until the disk has the data. Without it the
	// data survives the end of the process, but the last seconds may be lost
	// with the machine's power.
	SyncWrites bool

	MinFree uint64       // bytes that must be free for new sessions; see Room
	Logger  *slog.Logger // for trouble that no caller sees; default: none
}

// A Store is a session.Store in a directory. It is also a session.Syncer,
// Observer, RoomChecker, Counter, Scanner and Backuper.
type Store struct {
	dir     string
	log     *slog.Logger
	syncs   bool
	db      *badger.DB
	witness *witness
	reserve *reserve
	room    room

	calls      *storekit.Calls
	keys       *storekit.KeyLocks // held while a key is written, never during a sync
	observers  storekit.Observers
	pending    sync.Map // *write by key: what the database may not have yet
	committer  *committer
	scanning   sync.RWMutex // held for reading while a scan reads an old version
	background sync.WaitGroup
	opened     atomic.Bool
	broken     atomic.Pointer[error] // why nothing more can be trusted

	version     atomic.Uint64 // of the last transaction
	number      uint64        // of the last commit
	unallocated int64         // bytes written since allocateFiles
}

// begin opens a call, if the store can be used and the caller still waits.
func (s *Store) begin(ctx context.Context) error {
	if err := s.calls.Enter(); err != nil {
		return err
	}
	err := ctx.Err()
	if broken := s.broken.Load(); broken != nil {
		err = *broken
	}
	if err != nil {
		s.calls.Leave()
	}
	return err
}

// fail puts the store out of use for good: after a failed commit, what is in
// memory and what is on the disk may differ. It returns the first reason.
func (s *Store) fail(err error) error {
	if s.broken.CompareAndSwap(nil, &err) {
		s.log.Error("the session store is out of use until the process is restarted", "dir", s.dir, "error", err)
	}
	return *s.broken.Load()
}

// dataKey returns a key of the contract as Badger has it. The prefix keeps it
// apart from the store's own record and from Badger's.
func dataKey(key string) []byte { return slices.Concat([]byte{'k'}, []byte(key)) }

// Get implements session.Store.
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.calls.Leave()
	return s.get(key)
}

func (s *Store) get(key string) (value []byte, err error) {
	if found, ok := s.pending.Load(key); ok {
		w := found.(*write)
		if w.Deleted || w.ExpiresAt > 0 && w.ExpiresAt <= uint64(time.Now().Unix()) {
			return nil, session.ErrNotFound
		}
		return append([]byte{}, w.Value...), nil
	}
	err = s.view(math.MaxUint64, dataKey(key), func(item *badger.Item) error {
		value, err = item.ValueCopy(make([]byte, 0, item.ValueSize()))
		return err
	})
	return value, err
}

// view visits the newest version of a key in the database up to a version.
func (s *Store) view(version uint64, key []byte, visit func(*badger.Item) error) error {
	err := recovered(func() error {
		txn := s.db.NewTransactionAt(version, false)
		defer txn.Discard()
		item, err := txn.Get(key)
		if err != nil {
			return err
		}
		return visit(item)
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return session.ErrNotFound
	}
	return err
}

// Update implements session.Store. Writers of one key wait for each other, so
// it never gives up.
func (s *Store) Update(ctx context.Context, key string, change session.ChangeFunc) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.calls.Leave()
	unlock, err := s.keys.Lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := s.get(key)
	if err != nil && !errors.Is(err, session.ErrNotFound) {
		return err
	}
	value, ttl, err := change(old)
	if err != nil || value == nil && old == nil {
		return err
	}
	w, err := newWrite(key, value, ttl)
	if err != nil {
		return err
	}
	if err := s.committer.add(ctx, w); err != nil {
		return err
	}
	s.observers.Changed(key)
	return nil
}

// newWrite returns the write of what a session.ChangeFunc returned.
func newWrite(key string, value []byte, ttl time.Duration) (*write, error) {
	switch {
	case ttl < 0:
		return nil, fmt.Errorf("writing a value with the negative ttl %v", ttl)
	case len(value) > session.MaxValue:
		return nil, fmt.Errorf("writing a value of %d bytes: the limit is %d", len(value), session.MaxValue)
	case value == nil:
		return &write{Key: key, Deleted: true}, nil
	}
	w := &write{Key: key, Value: slices.Clone(value)}
	if ttl > 0 {
		// Badger compares with its own truncated clock, so it gets one more.
		w.ExpiresAt = uint64(time.Now().Add(ttl).Unix()) + 2
	}
	return w, nil
}

// Observe implements session.Observer. This process is the only writer, so a
// value stays valid until changed is called.
func (s *Store) Observe(changed func(key string)) (maxAge time.Duration, cancel func()) {
	return 0, s.observers.Add(changed)
}
