package session

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
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

// renewals allow one writer at a time per session or record, in a fixed table. An
// entry is the time from which what shares it may be written, or the mark of what
// is being written.
type renewals [1024]atomic.Int64

// claim returns false if what has the name is being written, or something of the
// same entry failed just now.
func (r *renewals) claim(name string, now int64) (release func(retryAt int64), ok bool) {
	h := binary.LittleEndian.Uint32([]byte(name[len(name)-4:]))
	entry := &r[h%uint32(len(r))]
	mark := -1 - int64(h)
	for {
		switch state := entry.Load(); {
		case state == mark, state > now:
			return nil, false
		case state < 0: // another's
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
	if now-s.written.Load() >= m.idleTimeout/renewalsPerIdle {
		m.later(string(s.hash[:]), now, eventNotRenewed, func(ctx context.Context) error {
			return m.renew(ctx, s)
		})
	}
}

// renew writes the last use of a session. It writes neither a session that is no
// longer listed nor a use before one that another node has written.
func (m *Manager) renew(ctx context.Context, s *Session) error {
	seen := s.seen.Load()
	err := m.calls.update(ctx, userKey(s.user), func(old []byte) ([]byte, time.Duration, error) {
		user, _ := m.openUser(s.user, old)
		list := slices.Collect(user.sessions.all())
		i := slices.IndexFunc(list, func(l listedSession) bool { return l.hash == s.hash })
		if i < 0 || seen <= list[i].seen {
			return nil, 0, errUnchanged
		}
		list[i].seen = seen
		user.sessions = encodeListed(list)
		return m.sealUser(s.user, &user)
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		return err
	}
	s.written.Store(seen)
	return nil
}

// resealLater seals a user record or the meta record again, with the newest
// key, because an old one opened it.
func (m *Manager) resealLater(key string) {
	m.later(key, m.now(), eventNotResealed, func(ctx context.Context) error {
		return m.reseal(ctx, key)
	})
}

func (m *Manager) reseal(ctx context.Context, key string) error {
	err := m.calls.update(ctx, key, func(sealed []byte) (value []byte, ttl time.Duration, err error) {
		if sealed == nil {
			return nil, 0, errUnchanged
		}
		plain, old, err := m.sealer.open(nil, key, sealed)
		if err == nil && !old {
			err = errUnchanged
		}
		if err == nil && key != metaKey {
			var user userRecord
			user, err = decodeUser(plain)
			ttl = m.userTTL(&user)
		}
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

// later writes in the background, unless what has the name is being written or
// the store has no room.
func (m *Manager) later(name string, now int64, event string, write func(context.Context) error) {
	release, ok := m.renewals.claim(name, now)
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

// userTTL keeps a user's record for a lifetime after its last change, and in
// any case as long as a session in it.
func (m *Manager) userTTL(r *userRecord) time.Duration {
	now := m.now()
	end := now + m.lifetime
	for s := range r.sessions.all() {
		end = max(end, s.expires)
	}
	return time.Duration(end-now) + ttlMargin
}
