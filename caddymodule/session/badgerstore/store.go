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
	// Dir is the directory, which is the store's own. It is made, for this user
	// alone, if it does not exist.
	Dir string

	// SyncWrites makes Sync wait until the disk has the data. Without it the
	// data survives the end of the process, but the last seconds may be lost
	// with the machine's power.
	SyncWrites bool

	// MinFree is how many bytes must be free on the disk for new sessions to
	// be written; see Room.
	MinFree uint64

	// Logger logs trouble that no caller sees. Default: none.
	Logger *slog.Logger
}

// A Store is a session.Store in a directory. It is also a session.Syncer,
// Observer, Pinger, RoomChecker, Counter, Scanner and Backuper.
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
	scans      scans
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

// A dataKey is a key of the contract as Badger has it. The prefix keeps it
// apart from the store's own record and from Badger's.
func dataKey(key string) []byte {
	k := make([]byte, 1+len(key))
	k[0] = dataPrefix
	copy(k[1:], key)
	return k
}

const (
	dataPrefix = 'k'
	ownPrefix  = 's'
)

// Get implements session.Store.
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.calls.Leave()
	return s.get(key)
}

func (s *Store) get(key string) ([]byte, error) {
	if found, ok := s.pending.Load(key); ok {
		w := found.(*write)
		if w.deleted || w.expiresAt > 0 && w.expiresAt <= uint64(time.Now().Unix()) {
			return nil, session.ErrNotFound
		}
		return append(make([]byte, 0, len(w.value)), w.value...), nil
	}
	return s.read(dataKey(key))
}

// read reads the newest version of a key from the database.
func (s *Store) read(key []byte) (value []byte, err error) {
	err = recovered(func() error {
		txn := s.db.NewTransactionAt(math.MaxUint64, false)
		defer txn.Discard()
		item, err := txn.Get(key)
		if err != nil {
			return err
		}
		value, err = item.ValueCopy(make([]byte, 0, item.ValueSize()))
		return err
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, session.ErrNotFound
	}
	return value, err
}

// Put implements session.Store.
func (s *Store) Put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	return s.change(ctx, key, func() error { return s.put(ctx, key, value, ttl) })
}

// Update implements session.Store. Writers of one key wait for each other, so
// it never gives up.
func (s *Store) Update(ctx context.Context, key string, change session.ChangeFunc) error {
	return s.change(ctx, key, func() error {
		old, err := s.get(key)
		if err != nil && !errors.Is(err, session.ErrNotFound) {
			return err
		}
		value, ttl, err := change(old)
		if err != nil {
			return err
		}
		if value != nil {
			return s.put(ctx, key, value, ttl)
		}
		if old == nil {
			return nil
		}
		return s.committer.add(ctx, &write{key: key, deleted: true})
	})
}

// Delete implements session.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	return s.change(ctx, key, func() error { return s.committer.add(ctx, &write{key: key, deleted: true}) })
}

// change runs f, which writes a key, alone, and calls the observers.
func (s *Store) change(ctx context.Context, key string, f func() error) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.calls.Leave()
	unlock, err := s.keys.Lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	if err := f(); err != nil {
		return err
	}
	s.observers.Changed(key)
	return nil
}

func (s *Store) put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if ttl < 0 {
		return fmt.Errorf("writing a value with the negative ttl %v", ttl)
	}
	if len(value) > session.MaxValue {
		return fmt.Errorf("writing a value of %d bytes: the limit is %d", len(value), session.MaxValue)
	}
	w := &write{key: key, value: slices.Clone(value)}
	if ttl > 0 {
		w.expiresAt = expiry(time.Now(), ttl)
	}
	return s.committer.add(ctx, w)
}

// expiry is when Badger may drop a value: it counts in seconds and compares
// with its own truncated clock, so it gets one more.
func expiry(now time.Time, ttl time.Duration) uint64 {
	return uint64(now.Add(ttl).Unix()) + 2
}

// Observe implements session.Observer. This process is the only writer, so a
// value stays valid until changed is called.
func (s *Store) Observe(changed func(key string)) (maxAge time.Duration, cancel func()) {
	return 0, s.observers.Add(changed)
}

// Ping implements session.Pinger.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.calls.Leave()
	_, err := s.readNumber()
	return err
}
