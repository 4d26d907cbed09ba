package badgerstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// A write is the newest value of a key on its way into the database.
type write struct {
	key       string
	value     []byte
	deleted   bool
	expiresAt uint64 // in seconds, 0: never
	held      bool   // the disk was too full for the database
}

// writeOverhead is a bound of what a write takes beside its key and value, in a
// transaction and in the reserve.
const writeOverhead = 128

func (w *write) size() int64 { return int64(len(w.key)+len(w.value)) + writeOverhead }

// A committer gathers writes while the disk is busy, and commits them together
// in one goroutine: Badger syncs once for each transaction.
type committer struct {
	store   *Store
	limit   int64 // of the size of a transaction
	urgent  chan struct{}
	written chan struct{}
	quit    chan struct{}

	mu       sync.Mutex
	next     map[string]*write // for the next transaction
	size     int64             // of next
	held     map[string]*write // for the first transaction that there is room for
	unsaved  []*write          // of held, those that are not in the reserve
	reserved int64             // how much of the reserve is taken
	round    *round            // of next and unsaved
	running  *round            // the one that is being committed
}

// A round ends when its writes are durable.
type round struct {
	done chan struct{}
	err  error // set before done is closed
}

func newRound() *round { return &round{done: make(chan struct{})} }

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
		store:   s,
		limit:   s.db.MaxBatchSize() - writeOverhead, // the store's own record
		urgent:  make(chan struct{}, 1),
		written: make(chan struct{}, 1),
		quit:    make(chan struct{}),
		next:    make(map[string]*write),
		held:    make(map[string]*write),
		round:   newRound(),
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// add makes a write visible, and lets it be committed soon. It waits while the
// next transaction is full. The caller holds the key's lock.
func (c *committer) add(ctx context.Context, w *write) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.next) > 0 && c.size+c.reserved+w.size() > c.limit {
		full := c.round
		signal(c.urgent)
		c.mu.Unlock()
		err := full.wait(ctx)
		c.mu.Lock()
		if err != nil {
			return err
		}
	}
	full := c.store.room.checkWrite()
	if full != nil && c.reserved+w.size() > reserveSize {
		return full
	}
	if old := c.next[w.key]; old != nil {
		c.size -= old.size()
		delete(c.next, w.key)
	}
	delete(c.held, w.key)
	if full != nil {
		if c.reserved == 0 {
			c.store.log.Warn("the disk is too full for the session store: sessions that are revoked are kept in its reserve until there is room", "dir", c.store.dir, "error", full)
		}
		w.held = true
		c.held[w.key] = w
		c.unsaved = append(c.unsaved, w)
		c.reserved += w.size()
	} else {
		c.next[w.key] = w
		c.size += w.size()
	}
	c.store.pending.Store(w.key, w)
	signal(c.written)
	return nil
}

const (
	// commitDelay is how long a write waits for Sync to be called.
	commitDelay = 10 * time.Millisecond

	// tickInterval is how often what is held is tried again, and noteTables is
	// called.
	tickInterval = time.Second
)

// run commits until quit is closed.
func (c *committer) run() {
	c.store.noteTables()
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	for {
		select {
		case <-c.written:
			select {
			case <-c.urgent:
			case <-time.After(commitDelay):
			case <-c.quit:
			}
		case <-c.urgent:
		case <-ticker.C:
			c.store.noteTables()
		case <-c.quit:
			c.commit()
			return
		}
		c.commit()
	}
}

// commit makes durable what has been added so far.
func (c *committer) commit() {
	c.mu.Lock()
	toDatabase := len(c.next) > 0 || len(c.held) > 0 && c.store.room.checkWrite() == nil
	if !toDatabase && len(c.unsaved) == 0 {
		c.mu.Unlock()
		return
	}
	current, unsaved := c.round, c.unsaved
	c.running, c.round, c.unsaved = current, newRound(), nil
	var writes map[string]*write
	if toDatabase {
		// What is held goes along, so that nothing newer overtakes it.
		writes = c.next
		maps.Copy(writes, c.held)
		c.next, c.held = make(map[string]*write), make(map[string]*write)
		c.size, c.reserved = 0, 0
	}
	c.mu.Unlock()

	if broken := c.store.broken.Load(); broken != nil {
		current.err = *broken
	} else if toDatabase {
		current.err = c.store.commit(writes)
	} else {
		current.err = c.store.save(unsaved)
	}
	if current.err != nil {
		current.err = c.store.fail(current.err)
	}

	c.mu.Lock()
	c.running = nil
	c.mu.Unlock()
	for key, w := range writes {
		c.store.pending.CompareAndDelete(key, w)
	}
	close(current.done)
}

// Sync implements session.Syncer.
func (s *Store) Sync(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.calls.Leave()
	return s.sync(ctx)
}

func (s *Store) sync(ctx context.Context) error {
	c := s.committer
	c.mu.Lock()
	current := c.running
	if len(c.next) > 0 || len(c.unsaved) > 0 {
		current = c.round
		signal(c.urgent)
	}
	c.mu.Unlock()
	if current == nil {
		return nil
	}
	return current.wait(ctx)
}

// numberKey has the number of the last commit.
var numberKey = []byte{ownPrefix, 'n'}

func (s *Store) readNumber() (uint64, error) {
	value, err := s.read(numberKey)
	if errors.Is(err, session.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("%w: the number of the last commit is none", ErrDamaged)
	}
	return binary.BigEndian.Uint64(value), nil
}

// commit writes to the database. Only one goroutine calls it.
func (s *Store) commit(writes map[string]*write) error {
	number, version := s.number+1, s.version.Load()+1
	size := int64(0)
	err := recovered(func() error {
		txn := s.db.NewTransactionAt(math.MaxUint64, true)
		defer txn.Discard()
		for _, w := range writes {
			size += w.size()
			var err error
			if w.deleted {
				err = txn.Delete(dataKey(w.key))
			} else {
				err = txn.SetEntry(&badger.Entry{Key: dataKey(w.key), Value: w.value, ExpiresAt: w.expiresAt})
			}
			if err != nil {
				return err
			}
		}
		if err := txn.SetEntry(badger.NewEntry(numberKey, binary.BigEndian.AppendUint64(nil, number))); err != nil {
			return err
		}
		return txn.CommitAt(version, nil)
	})
	if err != nil {
		return err
	}
	s.number = number
	s.version.Store(version)
	if err := s.acknowledge(); err != nil {
		return err
	}
	if s.unallocated += size; s.unallocated >= allocateInterval {
		s.unallocated = 0
		allocateFiles(s.dir)
	}
	if s.reserve.used > 0 {
		s.log.Info("the session store has room again: what its reserve held has been written", "dir", s.dir)
	}
	return s.reserve.reset()
}

// save writes to the reserve.
func (s *Store) save(writes []*write) error {
	if err := s.reserve.append(s.number+1, writes); err != nil {
		return err
	}
	s.number++
	return s.acknowledge()
}

// acknowledge notes a commit that the disk has. Without syncs the disk may have
// the note before the commit.
func (s *Store) acknowledge() error {
	if !s.syncs {
		return nil
	}
	s.witness.number = s.number
	return s.witness.write()
}

// noteTables keeps the newest version that is in a table. Before the disk has
// the note, compactions must not discard the version before it.
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
	s.scans.discard(s.db, s.witness.tables)
}

// checkTables requires that the version is there that noteTables kept.
func (s *Store) checkTables() error {
	want := s.witness.tables
	if want == 0 {
		return nil
	}
	return recovered(func() error {
		txn := s.db.NewTransactionAt(want, false)
		defer txn.Discard()
		item, err := txn.Get(numberKey)
		if err != nil || item.Version() != want {
			return fmt.Errorf("%w: tables are missing", ErrDamaged)
		}
		return nil
	})
}
