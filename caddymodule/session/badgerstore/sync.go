package badgerstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// A syncer lets writers that come at the same time share a sync of the disk.
// Badger's own SyncWrites syncs once per transaction.
//
// While one sync runs, those who come wait together for the next, because the
// running one may have begun before their write.
type syncer struct {
	store   *Store
	enabled bool
	wal     walFiles
	marker  *marker
	during  func() // for tests: called between the sync and its acknowledgement

	files sync.Mutex // held while wal and marker are in use

	mu      sync.Mutex
	running bool
	next    *syncBatch
	stopped sync.WaitGroup
}

// A syncBatch is a sync that has not begun, and those who wait for it.
type syncBatch struct {
	done chan struct{}
	err  error // set before done is closed
}

// Sync implements session.Syncer.
func (s *Store) Sync(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.usage.end()
	if !s.syncing.enabled {
		return nil
	}
	batch := s.syncing.join()
	select {
	case <-batch.done:
		return batch.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join returns the next sync, and sees to it that somebody runs it.
func (s *syncer) join() *syncBatch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = &syncBatch{done: make(chan struct{})}
	}
	if !s.running {
		s.running = true
		s.stopped.Go(s.run)
	}
	return s.next
}

// run syncs until nobody waits.
func (s *syncer) run() {
	for {
		s.mu.Lock()
		batch := s.next
		s.next = nil
		s.running = batch != nil
		s.mu.Unlock()
		if batch == nil {
			return
		}
		batch.err = s.sync()
		close(batch.done)
	}
}

// sync makes everything that has been written durable, and leaves a witness of
// it twice: a number among the data, and the same number in the marker file.
// If the data is later found to be behind the marker, something that was
// acknowledged is lost; see inspect.go.
func (s *syncer) sync() error {
	s.files.Lock()
	defer s.files.Unlock()
	number := s.marker.state.synced + 1
	if err := s.store.put(syncedKey, binary.BigEndian.AppendUint64(nil, number)); err != nil {
		return err
	}
	if err := s.syncFiles(number); err != nil {
		// What the disk has is unknown from here on: Linux reports a failed
		// write-back once, and then forgets the pages.
		return s.store.fail(fmt.Errorf("syncing the session store: %w", err))
	}
	return nil
}

func (s *syncer) syncFiles(number uint64) error {
	if err := s.wal.sync(); err != nil {
		return err
	}
	if s.during != nil {
		s.during()
	}
	return s.marker.note(number, &s.wal)
}

// start begins with the files as Badger has opened them.
func (s *syncer) start(store *Store, enabled bool) error {
	s.store, s.enabled, s.marker = store, enabled, store.marker
	s.wal.dir = store.dir
	if err := s.wal.sync(); err != nil {
		return err
	}
	if err := s.marker.note(s.marker.state.synced, &s.wal); err != nil {
		return err
	}
	return s.marker.enter(phaseOpen)
}

// refresh follows the files of a store that nobody syncs, so that their blocks
// are allocated, and the marker knows the manifest if Badger has written it
// anew.
func (s *syncer) refresh() error {
	s.files.Lock()
	defer s.files.Unlock()
	if err := s.wal.find(); err != nil {
		return err
	}
	if manifestSize(s.marker.dir) >= s.marker.state.manifest {
		return nil
	}
	if err := s.wal.syncNames(); err != nil {
		return err
	}
	s.wal.passTables()
	return s.marker.note(s.marker.state.synced, &s.wal)
}

// stop waits for a sync that is under way. No call is left that would ask for
// another.
func (s *syncer) stop() { s.stopped.Wait() }

// syncedKey is the number of the last sync.
var syncedKey = []byte{ownPrefix, 's'}

// put writes a record of the store's own.
func (s *Store) put(key, value []byte) error {
	return s.commit(func(txn *badger.Txn) error { return txn.SetEntry(badger.NewEntry(key, value)) })
}

// getOwn returns 0 for a number that was never put.
func (s *Store) getOwn(key []byte) (uint64, error) {
	value, err := s.get(key)
	if errors.Is(err, session.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, ErrDamaged
	}
	return binary.BigEndian.Uint64(value), nil
}
