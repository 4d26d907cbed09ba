package session

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// The meta record is made once for a store, by the node that comes first, and
// is never put back from memory: if it is lost, every session is refused and
// the next login makes another one. So nodes cannot disagree about it.

// knownMeta is the meta record as it was read.
type knownMeta struct {
	metaRecord
	epoch uint32 // the cache's, from before it was read
	read  int64
}

// accepts reports whether a session is of the store's generation. A store without
// a meta record accepts none.
func (k *knownMeta) accepts(appID []byte, l listedSession) bool {
	return k != nil && k.generationOf(appID) == l.generation
}

const (
	eventEmptied     = "the session store was emptied while it was in use: all sessions are lost"
	eventMetaDamaged = "the session store's own record is damaged: all sessions are refused"
)

// startMeta reads the store's meta record, or makes it.
func (m *Manager) startMeta(ctx context.Context) error {
	if _, err := m.makeMeta(ctx); err != nil {
		return err
	}
	// Logins reseal it too, but a node may run long before the first.
	if err := m.reseal(ctx, metaKey); err != nil {
		m.reporter.report(eventNotResealed, err)
	}
	return nil
}

// freshMeta returns the store's meta record as it is known, or nil if it may
// have changed since it was read.
func (m *Manager) freshMeta(c *cache, now int64) *knownMeta {
	known := m.meta.Load()
	if c != nil && known != nil && known.epoch == c.epoch.Load() && c.fresh(known.read, now) {
		return known
	}
	return nil
}

// currentMeta returns the store's meta record, or nil if the store has none.
func (m *Manager) currentMeta(ctx context.Context, c *cache, from reader, now int64) (*knownMeta, error) {
	if known := m.freshMeta(c, now); known != nil {
		return known, nil
	}
	known := m.meta.Load()
	found := &knownMeta{read: now}
	if c != nil {
		found.epoch = c.epoch.Load()
		if len(from.keys) > 0 {
			found.epoch = from.epoch
		}
	}
	value, err := from.get(ctx, metaKey)
	switch {
	case errors.Is(err, ErrNotFound):
		found = nil
	case err != nil:
		return nil, err
	default:
		var old bool
		found.metaRecord, old, err = m.openMeta(value)
		if errors.Is(err, ErrDamaged) {
			m.reporter.report(eventMetaDamaged, err)
			m.meta.CompareAndSwap(known, nil)
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if old {
			m.resealLater(metaKey)
		}
	}
	m.learnMeta(known, found)
	return found, nil
}

// learnMeta keeps the meta record that was read. If it has changed and no change
// was reported, sessions in memory are read again. It reports once if the store
// has been emptied since the one before.
func (m *Manager) learnMeta(known, found *knownMeta) {
	if !m.meta.CompareAndSwap(known, found) || known == nil {
		return
	}
	changed := found == nil || known.epoch == found.epoch && !bytes.Equal(found.encode(), known.encode())
	if c := m.cache.Load(); c != nil && changed {
		c.epoch.Add(1)
	}
	if found == nil || found.id != known.id {
		m.reporter.report(eventEmptied, ErrNotFound)
	}
}

// makeMeta returns the store's meta record, and makes one if there is none that
// opens.
func (m *Manager) makeMeta(ctx context.Context) (*knownMeta, error) {
	meta := new(knownMeta) // long ago: Redis reports no change of what only an Update has read
	known := m.meta.Load()
	err := m.changeMeta(ctx, func(found *metaRecord, made bool) error {
		meta.metaRecord = *found
		if !made {
			return errUnchanged
		}
		return nil
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		return nil, err
	}
	m.learnMeta(known, meta)
	return meta, nil
}

// changeMeta atomically changes the store's meta record. made reports that
// there was none that opens, so that the record is a new one.
func (m *Manager) changeMeta(ctx context.Context, change func(meta *metaRecord, made bool) error) error {
	var damage error
	err := m.calls.update(ctx, metaKey, func(old []byte) ([]byte, time.Duration, error) {
		meta, made := metaRecord{id: newGeneration(), generation: newGeneration()}, true
		damage = nil
		if old != nil {
			found, _, err := m.openMeta(old)
			switch {
			case err == nil:
				meta, made = found, false
			case errors.Is(err, ErrDamaged):
				damage = err
			default:
				return nil, 0, err
			}
		}
		if err := change(&meta, made); err != nil {
			return nil, 0, err
		}
		return m.sealer.seal(metaKey, meta.encode()), 0, nil
	})
	if err != nil {
		return err
	}
	if damage != nil {
		m.reporter.report(eventMetaDamaged, damage)
	}
	return m.calls.sync(ctx)
}

func (m *Manager) openMeta(value []byte) (meta metaRecord, old bool, err error) {
	plain, old, err := m.sealer.open(nil, metaKey, value)
	if err == nil {
		meta, err = decodeMeta(plain)
	}
	if err != nil {
		return metaRecord{}, false, fmt.Errorf("opening the store's own record: %w", err)
	}
	return meta, old, nil
}

// CheckKeys reports whether wxgate has used a store before. The error wraps
// ErrWrongKey, ErrVersion or ErrDamaged if the keys do not open it.
func CheckKeys(ctx context.Context, store Store, keys [][]byte) (used bool, err error) {
	sealer, err := newSealer(keys)
	if err != nil {
		return false, err
	}
	value, err := store.Get(ctx, metaKey)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading session store: %w", err)
	}
	_, _, err = (&Manager{sealer: sealer}).openMeta(value)
	return true, err
}

// newGeneration returns a random number, which no earlier one equals.
func newGeneration() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}
