package badgerstore

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// Options says where and how a Store keeps its data.
type Options struct {
	// Dir is the directory, which the store has for itself. It is made, for
	// this user alone, if it does not exist.
	Dir string

	// SyncWrites makes Sync wait until the disk has the data. Without it the
	// data survives the end of the process, but the last seconds may be lost
	// with the machine's power.
	SyncWrites bool

	// MinFree is how many bytes must be free on the disk for new sessions to
	// be written; see Room. Writes of any kind stop at 64 MiB.
	MinFree uint64

	// Logger is told of trouble, and of nothing else. Default: none.
	Logger *slog.Logger
}

// maxValue is the largest value: the contract's limit.
const maxValue = session.MaxValue

// A Store is a session.Store in a directory. It is also a session.Syncer,
// Observer, Pinger, RoomChecker, Counter, Scanner and Backuper.
type Store struct {
	dir    string
	log    *slog.Logger
	db     *badger.DB
	lock   *dirLock
	marker *marker

	usage     usage
	keys      [256]sync.Mutex // held while a key is written
	seed      maphash.Seed
	version   atomic.Uint64 // of the last write
	readers   readers
	observers observers
	syncing   syncer
	room      room
	upkeep    upkeep
	broken    atomic.Pointer[error] // why nothing more can be trusted
	closing   func()                // for tests: called when Badger is closed, before the marker says so
}

// begin opens a call, if the store can be used and the caller still waits.
func (s *Store) begin(ctx context.Context) error {
	if !s.usage.begin() {
		return session.ErrClosed
	}
	err := ctx.Err()
	if broken := s.broken.Load(); broken != nil {
		err = *broken
	}
	if err != nil {
		s.usage.end()
	}
	return err
}

// fail puts the store out of use for good: what it would say can no longer be
// trusted. It returns the first reason.
func (s *Store) fail(err error) error {
	if s.broken.CompareAndSwap(nil, &err) {
		s.log.Error("the session store is out of use", "dir", s.dir, "error", err)
	}
	return *s.broken.Load()
}

// A dataKey is a key of the contract as Badger has it. The prefix keeps it
// apart from the store's own records and from Badger's.
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
	defer s.usage.end()
	return s.get(dataKey(key))
}

// get reads the newest version of a key. The store is opened in Badger's
// managed mode, where a reader need not wait for writers of other keys.
func (s *Store) get(key []byte) (value []byte, err error) {
	defer recoverTo(&err)
	txn := s.db.NewTransactionAt(math.MaxUint64, false)
	defer txn.Discard()
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, session.ErrNotFound
	}
	if err != nil {
		return nil, badgerError(err)
	}
	value, err = item.ValueCopy(make([]byte, 0, item.ValueSize()))
	if err != nil {
		return nil, badgerError(err)
	}
	return value, nil
}

// Put implements session.Store.
func (s *Store) Put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.usage.end()
	defer s.hold(key)()
	return s.write(key, value, ttl)
}

// Update implements session.Store. Writers of one key wait for each other, so
// it never gives up.
func (s *Store) Update(ctx context.Context, key string, change session.ChangeFunc) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.usage.end()
	defer s.hold(key)()
	old, err := s.get(dataKey(key))
	if err != nil && !errors.Is(err, session.ErrNotFound) {
		return err
	}
	value, ttl, err := change(old)
	if err != nil {
		return err
	}
	if value == nil {
		if old == nil {
			return nil
		}
		return s.remove(key)
	}
	return s.write(key, value, ttl)
}

// Delete implements session.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.usage.end()
	defer s.hold(key)()
	return s.remove(key)
}

// hold keeps other writers of a key out until the returned function is called.
func (s *Store) hold(key string) (release func()) {
	lock := &s.keys[maphash.String(s.seed, key)%uint64(len(s.keys))]
	lock.Lock()
	return lock.Unlock
}

func (s *Store) write(key string, value []byte, ttl time.Duration) error {
	if ttl < 0 {
		return fmt.Errorf("writing a value with the negative ttl %v", ttl)
	}
	if len(value) > maxValue {
		return fmt.Errorf("writing a value of %d bytes: the limit is %d", len(value), maxValue)
	}
	// Badger keeps the value until it has been flushed.
	entry := badger.NewEntry(dataKey(key), append([]byte(nil), value...))
	if ttl > 0 {
		entry.ExpiresAt = expiry(time.Now(), ttl)
	}
	if err := s.commit(func(txn *badger.Txn) error { return txn.SetEntry(entry) }); err != nil {
		return err
	}
	s.observers.changed(key)
	return nil
}

// expiry is when Badger may drop a value: it counts in seconds and compares
// with its own truncated clock, so it gets one more.
func expiry(now time.Time, ttl time.Duration) uint64 {
	return uint64(now.Add(ttl).Unix()) + 2
}

func (s *Store) remove(key string) error {
	if err := s.commit(func(txn *badger.Txn) error { return txn.Delete(dataKey(key)) }); err != nil {
		return err
	}
	s.observers.changed(key)
	return nil
}

// commit writes one key, whose lock is held.
func (s *Store) commit(write func(*badger.Txn) error) (err error) {
	defer recoverTo(&err)
	if err := s.room.checkWrite(); err != nil {
		return err
	}
	txn := s.db.NewTransactionAt(math.MaxUint64, true)
	defer txn.Discard()
	if err := write(txn); err != nil {
		return badgerError(err)
	}
	return badgerError(txn.CommitAt(s.version.Add(1), nil))
}

// Ping implements session.Pinger.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.usage.end()
	_, err := s.get([]byte{ownPrefix})
	if errors.Is(err, session.ErrNotFound) {
		return nil
	}
	return err
}

// badgerError turns what Badger returns into the contract's errors. Badger's
// own texts hold at most a key, which is a hash.
func badgerError(err error) error {
	if errors.Is(err, badger.ErrDBClosed) || errors.Is(err, badger.ErrBlockedWrites) {
		return session.ErrClosed
	}
	return err
}

// recoverTo turns a panic into an error. Badger panics on files that are not
// as it wrote them.
func recoverTo(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %v", ErrDamaged, r)
	}
}
