package session

import (
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"time"
)

const (
	// renewalsPerIdle is how many times in an idle timeout the last use of a
	// session is written.
	renewalsPerIdle = 10

	// renewalRetryInterval is how soon a renewal that failed is tried again.
	renewalRetryInterval = time.Second

	// ttlMargin keeps a record in the store past its end: the end is decided
	// from the record, and clocks differ.
	ttlMargin = time.Hour

	eventNotRenewed  = "a session could not be renewed"
	eventNotResealed = "a record could not be sealed with the new encryption key"
)

// renewals allow one writer at a time per record, in a fixed table. An entry is
// the time from which its records may be written, or the mark of the record that
// is being written.
type renewals [1024]atomic.Int64

// claim returns false if the record is being written, or one of the same entry
// failed just now.
func (r *renewals) claim(key string, now int64) (release func(retryAt int64), ok bool) {
	h := binary.LittleEndian.Uint32([]byte(key[len(key)-4:]))
	entry := &r[h%uint32(len(r))]
	mark := -1 - int64(h)
	for {
		switch state := entry.Load(); {
		case state == mark, state > now:
			return nil, false
		case state < 0: // another record's
			return func(int64) {}, true
		case entry.CompareAndSwap(state, mark):
			return entry.Store, true
		}
	}
}

// touch marks a session as used at now. It writes to memory at most once a
// second, so that many requests of one session do not contend, and to the
// store at most once in a tenth of the idle timeout, in the background: a
// request is not refused because the store cannot be written.
func (m *Manager) touch(s *Session, now int64) {
	if now-s.seen.Load() >= min(int64(time.Second), m.idleTimeout/1000) {
		s.used(now)
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
	seen := s.seen.Load()
	written := seen
	err := m.rewrite(ctx, sessionKey(s.hash), func(plain []byte, old bool) ([]byte, time.Duration, error) {
		record, err := decodeSession(plain)
		if err != nil {
			return nil, 0, err
		}
		written = max(seen, record.seen)
		if written == record.seen && !old {
			return nil, 0, errUnchanged
		}
		record.seen = written
		return record.encode(), m.ttlUntil(record.expires), nil
	})
	if err == nil {
		s.written.Store(written)
	}
	return err
}

// resealLater seals a user record or the meta record again, with the newest
// key, because an old one opened it.
func (m *Manager) resealLater(key string) {
	m.later(key, m.now(), eventNotResealed, func(ctx context.Context) error {
		return m.reseal(ctx, key)
	})
}

func (m *Manager) reseal(ctx context.Context, key string) error {
	return m.rewrite(ctx, key, func(plain []byte, old bool) ([]byte, time.Duration, error) {
		if !old {
			return nil, 0, errUnchanged
		}
		if key == metaKey {
			return plain, 0, nil
		}
		user, err := decodeUser(plain)
		return plain, m.userTTL(&user), err
	})
}

// rewrite changes the plain text of a record that is there. old reports that it
// is sealed with an old key.
func (m *Manager) rewrite(ctx context.Context, key string, change func(plain []byte, old bool) ([]byte, time.Duration, error)) error {
	err := m.calls.update(ctx, key, func(sealed []byte) ([]byte, time.Duration, error) {
		if sealed == nil {
			return nil, 0, errUnchanged
		}
		plain, old, err := m.sealer.open(nil, key, sealed)
		if err != nil {
			return nil, 0, err
		}
		plain, ttl, err := change(plain, old)
		if err != nil {
			return nil, 0, err
		}
		return m.sealer.seal(key, plain), ttl, nil
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// later writes a record in the background, unless it is being written or the
// store has no room.
func (m *Manager) later(key string, now int64, event string, write func(context.Context) error) {
	release, ok := m.renewals.claim(key, now)
	if !ok {
		return
	}
	if m.Room() != nil {
		release(now + int64(renewalRetryInterval))
		return
	}
	m.background(func(ctx context.Context) {
		if err := write(ctx); err != nil {
			m.reporter.report(event, err)
			release(m.now() + int64(renewalRetryInterval))
			return
		}
		release(0)
	})
}

// ttlUntil is the ttl of a record that ends at a time.
func (m *Manager) ttlUntil(end int64) time.Duration {
	return max(0, time.Duration(end-m.now())) + ttlMargin
}

// userTTL keeps a user's record for a lifetime after its last change, and in
// any case as long as a session in it.
func (m *Manager) userTTL(r *userRecord) time.Duration {
	end := m.now() + m.lifetime
	for _, s := range r.sessions.decode() {
		end = max(end, s.expires)
	}
	return m.ttlUntil(end)
}
