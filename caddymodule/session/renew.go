package session

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sync/atomic"
	"time"
)

const (
	// renewalsPerIdle is how many times in an idle timeout the last use of a
	// session is written.
	renewalsPerIdle = 10

	// renewalRetry is how soon a renewal is tried again that failed.
	renewalRetry = time.Second

	// ttlMargin keeps a record in the store past its end: the end is decided
	// from the record, and clocks differ.
	ttlMargin = time.Hour

	eventNotRenewed  = "a session could not be renewed"
	eventNotResealed = "a record could not be sealed with the new encryption key"
)

// renewals keeps one writer at a time per record, in a fixed table: records
// that share an entry wait for each other, which nobody notices. An entry is
// the time from which on it is free.
type renewals [1024]atomic.Int64

// claim returns false if the record is being written or failed just now.
func (r *renewals) claim(key string, now int64) (release func(retryAt int64), ok bool) {
	entry := &r[binary.LittleEndian.Uint32([]byte(key[len(key)-4:]))%uint32(len(r))]
	free := entry.Load()
	if now < free || !entry.CompareAndSwap(free, math.MaxInt64) {
		return nil, false
	}
	return entry.Store, true
}

// touch marks a session as used at now. It writes to memory at most once a
// second, so that many requests of one session do not contend, and to the
// store at most once in a tenth of the idle timeout, without being waited for:
// a store that cannot be written must not turn anybody away.
func (m *Manager) touch(s *Session, now int64) {
	seen := s.seen.Load()
	if now-seen >= min(int64(time.Second), m.idleTimeout/1000) {
		s.seen.CompareAndSwap(seen, now)
	}
	if now-s.written.Load() >= m.idleTimeout/renewalsPerIdle || s.oldKey {
		m.later(sessionKey(s.hash), now, eventNotRenewed, func(ctx context.Context) error {
			return m.renew(ctx, s)
		})
	}
}

// renew writes the last use of a session. It never writes a record that has
// vanished, nor one that was written later by another node.
func (m *Manager) renew(ctx context.Context, s *Session) error {
	key := sessionKey(s.hash)
	seen := s.seen.Load()
	written := seen
	err := m.calls.update(ctx, key, func(old []byte) ([]byte, time.Duration, error) {
		if old == nil {
			return nil, 0, errUnchanged
		}
		plain, oldKey, err := m.sealer.open(key, old)
		if err != nil {
			return nil, 0, err
		}
		record, err := decodeSession(plain)
		if err != nil {
			return nil, 0, err
		}
		written = max(seen, record.seen)
		if written == record.seen && !oldKey {
			return nil, 0, errUnchanged
		}
		record.seen = written
		return m.sealer.seal(key, record.encode()), m.ttlUntil(record.expires), nil
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		return err
	}
	s.written.Store(written)
	return nil
}

// resealLater seals a user record or the meta record again, with the newest
// key, because an old one opened it.
func (m *Manager) resealLater(key string) {
	m.later(key, m.clock.read(), eventNotResealed, func(ctx context.Context) error {
		return m.reseal(ctx, key)
	})
}

func (m *Manager) reseal(ctx context.Context, key string) error {
	err := m.calls.update(ctx, key, func(old []byte) ([]byte, time.Duration, error) {
		if old == nil {
			return nil, 0, errUnchanged
		}
		plain, oldKey, err := m.sealer.open(key, old)
		if err != nil {
			return nil, 0, err
		}
		if !oldKey {
			return nil, 0, errUnchanged
		}
		var ttl time.Duration // meta stays for ever
		if key != metaKey {
			user, err := viewUser(plain)
			if err != nil {
				return nil, 0, err
			}
			ttl = m.userTTL(user.record())
		}
		return m.sealer.seal(key, plain), ttl, nil
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// later writes a record without being waited for, unless it is being written
// or the store has no room.
func (m *Manager) later(key string, now int64, event string, write func(context.Context) error) {
	release, ok := m.renewals.claim(key, now)
	if !ok {
		return
	}
	if m.Room() != nil {
		release(now + int64(renewalRetry))
		return
	}
	started := m.background(func(ctx context.Context) {
		if err := write(ctx); err != nil {
			m.reporter.tell(event, err)
			release(m.clock.read() + int64(renewalRetry))
			return
		}
		release(0)
	})
	if !started {
		release(0)
	}
}

// ttlUntil is the ttl of a record that ends at a time.
func (m *Manager) ttlUntil(end int64) time.Duration {
	return max(0, time.Duration(end-m.clock.read())) + ttlMargin
}

// userTTL keeps a user's record for a lifetime after its last change, and in
// any case as long as a session in it.
func (m *Manager) userTTL(r *userRecord) time.Duration {
	end := m.clock.read() + m.lifetime
	for _, s := range r.sessions {
		end = max(end, s.expires)
	}
	return m.ttlUntil(end)
}
