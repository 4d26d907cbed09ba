package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

// The meta record holds the key of the keyed hash that names users in the
// store. It is made once, by whichever node comes first. That it opens is the
// proof, at the start, that the configured encryption key is the store's.

// startMeta reads the store's meta record, or makes it.
func (m *Manager) startMeta(ctx context.Context) error {
	var mine metaRecord
	rand.Read(mine.index[:])
	meta, err := m.agreeOnMeta(ctx, mine, false)
	if err != nil {
		return err
	}
	m.setMeta(meta)
	// Logins see to it too, but a node may run long before the first.
	if err := m.reseal(ctx, metaKey); err != nil {
		m.reporter.tell(eventNotResealed, err)
	}
	return nil
}

// currentMeta returns the meta record as it is in the store now: the one that
// is known, if the store would have told of a change.
func (m *Manager) currentMeta(ctx context.Context) (metaRecord, error) {
	known := m.meta.Load()
	if m.cache == nil {
		return m.readMeta(ctx)
	}
	now, versions := m.clock.read(), m.cache.metaVersions()
	if known.versions == versions && m.cache.young(known.read, now) {
		return known.metaRecord, nil
	}
	meta, err := m.readMeta(ctx)
	if latest := m.meta.Load(); err == nil && latest.metaRecord == meta {
		m.meta.CompareAndSwap(latest, &knownMeta{meta, latest.storeID, versions, now})
	}
	return meta, err
}

// readMeta reads the meta record. Another node may have begun the store anew:
// two nodes that disagree would not see each other's revocations. If it has
// vanished under the running nodes, or is damaged, the first that notices puts
// its own back.
func (m *Manager) readMeta(ctx context.Context) (metaRecord, error) {
	mine := *m.meta.Load()
	value, err := m.calls.get(ctx, metaKey)
	if err == nil {
		meta, old, openErr := m.openMeta(value)
		if old {
			m.resealLater(metaKey)
		}
		if openErr == nil && meta == mine.metaRecord {
			return meta, nil
		}
	} else if !errors.Is(err, ErrNotFound) {
		return metaRecord{}, err
	}
	meta, err := m.agreeOnMeta(ctx, mine.metaRecord, true)
	if err != nil {
		return metaRecord{}, err
	}
	if meta != mine.metaRecord {
		m.setMeta(meta)
	}
	return meta, nil
}

// agreeOnMeta atomically returns the store's meta record or writes mine. Only
// a running node, whose own was good, may replace a damaged one.
func (m *Manager) agreeOnMeta(ctx context.Context, mine metaRecord, replaceDamaged bool) (metaRecord, error) {
	var agreed metaRecord
	var damage error
	sealed := m.sealer.seal(metaKey, mine.encode())
	err := m.calls.update(ctx, metaKey, func(old []byte) ([]byte, time.Duration, error) {
		damage = nil
		if old != nil {
			found, _, err := m.openMeta(old)
			if err == nil {
				agreed = found
				return nil, 0, errUnchanged
			}
			if !replaceDamaged || !errors.Is(err, ErrDamaged) {
				return nil, 0, err
			}
			damage = err
		}
		agreed = mine
		return sealed, 0, nil
	})
	if errors.Is(err, errUnchanged) {
		return agreed, nil
	}
	if err != nil {
		return metaRecord{}, err
	}
	if damage != nil {
		m.reporter.tell("the store's meta record was damaged and has been written again", damage)
	}
	return agreed, m.calls.sync(ctx)
}

func (m *Manager) openMeta(value []byte) (meta metaRecord, old bool, err error) {
	plain, old, err := m.sealer.open(metaKey, value)
	if err != nil {
		return metaRecord{}, false, fmt.Errorf("opening the store's meta record: %w", err)
	}
	if meta, err = decodeMeta(plain); err != nil {
		return metaRecord{}, false, fmt.Errorf("decoding the store's meta record: %w", err)
	}
	return meta, old, nil
}

// knownMeta is a metaRecord with what follows from it.
type knownMeta struct {
	metaRecord
	storeID  uint64
	versions cacheVersions // when it was read; of its record as of a session's
	read     int64         // 0: to be read before it is used
}

func (m *Manager) setMeta(meta metaRecord) {
	m.meta.Store(&knownMeta{metaRecord: meta, storeID: meta.id()})
}

// userHash names a user in the store.
func (m *Manager) userHash(ctx context.Context, appID, openID string) (hash, error) {
	meta, err := m.currentMeta(ctx)
	if err != nil {
		return hash{}, err
	}
	return meta.user(appID, openID), nil
}

// ours reports whether a session was made in the store as it is now.
func (m *Manager) ours(ctx context.Context, r *sessionRecord) (bool, error) {
	if r.store == m.meta.Load().storeID {
		return true, nil
	}
	if _, err := m.readMeta(ctx); err != nil {
		return false, err
	}
	return r.store == m.meta.Load().storeID, nil
}
