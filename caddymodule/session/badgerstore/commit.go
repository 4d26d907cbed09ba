package badgerstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

// A write is the newest value of a key on its way into the database.
type write = storekit.Record

// writeOverhead is a bound of what a write takes beside its key and value, in a
// transaction and in the reserve.
const writeOverhead = 128

func sizeOf(w *write) int64 { return int64(len(w.Key)+len(w.Value)) + writeOverhead }

// A committer gathers writes while the disk is busy, and commits them together
// in one goroutine: Badger syncs once for each transaction.
type committer struct {
	store  *Store
	urgent chan struct{} // something is to be committed at once
	quit   chan struct{}

	mu       sync.Mutex
	next     map[string]*write // to be committed
	size     int64             // of next
	held     map[string]*write // in the reserve, until there is room
	reserved int64             // size of what was written to the reserve
	waiting  *round            // of next
	running  *round            // the one that is being committed
}

// A round ends when its writes are durable.
type round struct {
	done chan struct{}
	err  error // set before done is closed
}

func (r *round) wait(ctx context.Context) error {
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func newCommitter(s *Store) *committer {
	return &committer{
		store: s, urgent: make(chan struct{}, 1), quit: make(chan struct{}),
		next: make(map[string]*write), held: make(map[string]*write), waiting: &round{done: make(chan struct{})},
	}
}

func (c *committer) hurry() {
	select {
	case c.urgent <- struct{}{}:
	default:
	}
}

// add makes a write visible, and lets it be committed soon. It waits while the
// next transaction is full. The caller holds the key's lock.
func (c *committer) add(ctx context.Context, w *write) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	limit := c.store.db.MaxBatchSize() - writeOverhead // of the number
	for len(c.next) > 0 && c.reserved+c.size+sizeOf(w) > limit {
		full := c.waiting
		c.hurry()
		c.mu.Unlock()
		err := full.wait(ctx)
		c.mu.Lock()
		if err != nil {
			return err
		}
	}
	if err := c.store.room.check(writeReserve); err != nil && c.reserved+c.size+sizeOf(w) > reserveSize {
		return err
	}
	if old := c.next[w.Key]; old != nil {
		c.size -= sizeOf(old)
	}
	if len(c.next) == 0 {
		time.AfterFunc(commitDelay, c.hurry)
	}
	c.next[w.Key] = w
	c.size += sizeOf(w)
	c.store.pending.Store(w.Key, w)
	return nil
}

const (
	allocateInterval = 256 << 10 // how many bytes are written between calls of allocateFiles

	commitDelay  = 10 * time.Millisecond // how long a write waits for Sync to be called
	tickInterval = time.Second           // how often it is asked whether there is room for what is held
)

// run commits until quit is closed.
func (c *committer) run() {
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	for quit := false; !quit; {
		select {
		case <-c.urgent:
		case <-ticker.C:
			c.store.noteTables()
		case <-c.quit:
			quit = true
		}
		c.commit()
	}
}

// commit makes durable what has been added so far.
func (c *committer) commit() {
	c.mu.Lock()
	full := c.store.room.check(writeReserve)
	if len(c.next) == 0 && (len(c.held) == 0 || full != nil) {
		c.mu.Unlock()
		return
	}
	writes, current := c.next, c.waiting
	toReserve := full != nil && c.reserved+c.size <= reserveSize
	if toReserve {
		if len(c.held) == 0 {
			c.store.log.Warn("the disk is too full for the session store: sessions that are revoked are kept in its reserve until there is room", "dir", c.store.dir, "error", full)
		}
		maps.Copy(c.held, writes)
		c.reserved += c.size
	} else {
		// What is held goes along, so that nothing newer overtakes it.
		maps.Copy(c.held, writes)
		writes, c.held, c.reserved = c.held, make(map[string]*write), 0
	}
	c.next, c.size = make(map[string]*write), 0
	c.waiting, c.running = &round{done: make(chan struct{})}, current
	c.mu.Unlock()

	if broken := c.store.broken.Load(); broken != nil {
		current.err = *broken
	} else if !toReserve {
		current.err = c.store.commit(writes)
	} else if current.err = c.store.reserve.append(c.store.number+1, writes); current.err == nil {
		current.err = c.store.acknowledge()
	}
	if current.err != nil {
		current.err = c.store.fail(current.err)
	}

	c.mu.Lock()
	c.running = nil
	c.mu.Unlock()
	if !toReserve {
		for key, w := range writes {
			c.store.pending.CompareAndDelete(key, w)
		}
	}
	close(current.done)
}

// Sync implements session.Syncer.
func (s *Store) Sync(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.calls.Leave()
	c := s.committer
	c.mu.Lock()
	current := c.running
	if len(c.next) > 0 {
		current = c.waiting
		c.hurry()
	}
	c.mu.Unlock()
	if current == nil {
		return nil
	}
	return current.wait(ctx)
}

// numberKey has the number of the last commit in the database.
var numberKey = []byte("number")

// commit writes to the database, and empties the reserve.
func (s *Store) commit(writes map[string]*write) error {
	version := s.version.Load() + 1
	err := recovered(func() error {
		txn := s.db.NewTransactionAt(math.MaxUint64, true)
		defer txn.Discard()
		for _, w := range writes {
			s.unallocated += sizeOf(w)
			var err error
			if w.Deleted {
				err = txn.Delete(dataKey(w.Key))
			} else {
				err = txn.SetEntry(&badger.Entry{Key: dataKey(w.Key), Value: w.Value, ExpiresAt: w.ExpiresAt})
			}
			if err != nil {
				return err
			}
		}
		number := binary.BigEndian.AppendUint64(nil, s.number+1)
		if err := txn.SetEntry(badger.NewEntry(numberKey, number)); err != nil {
			return err
		}
		return txn.CommitAt(version, nil)
	})
	if err != nil {
		return err
	}
	s.version.Store(version)
	if s.unallocated >= allocateInterval {
		s.unallocated = 0
		allocateFiles(s.dir)
	}
	if s.reserve.used > 0 {
		s.log.Info("the session store has room again: what its reserve held has been written", "dir", s.dir)
	}
	if err := s.acknowledge(); err != nil {
		return err
	}
	return s.reserve.reset()
}

// acknowledge notes a commit that the disk has, as it has only with syncs.
func (s *Store) acknowledge() error {
	s.number++
	if !s.syncs {
		return nil
	}
	s.witness.number = s.number
	return s.witness.write()
}

// numberAt returns the number of the newest commit up to a version, and the
// version of that commit; zeros if there is none.
func (s *Store) numberAt(version uint64) (number, at uint64, err error) {
	err = s.view(version, numberKey, func(item *badger.Item) error {
		at = item.Version()
		return item.Value(func(value []byte) error { return binary.Read(bytes.NewReader(value), binary.BigEndian, &number) })
	})
	if errors.Is(err, session.ErrNotFound) {
		err = nil
	}
	return number, at, err
}

// noteTables notes the newest version that is in a table. Compactions may
// discard older ones than that, but not before the disk has the note.
func (s *Store) noteTables() {
	var newest uint64
	for _, table := range s.db.Tables() {
		newest = max(newest, table.MaxVersion)
	}
	if newest > s.witness.tables && s.broken.Load() == nil {
		s.witness.tables = newest
		if err := errors.Join(s.witness.write(), s.witness.file.Sync()); err != nil {
			_ = s.fail(err)
			return
		}
	}
	if s.scanning.TryLock() {
		s.db.SetDiscardTs(s.witness.tables)
		s.scanning.Unlock()
	}
}
