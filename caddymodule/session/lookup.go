package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

// Lookup returns the live session of a token and marks it as used. The error
// is ErrInvalid if there is none; every other error means that the store could
// not answer.
func (m *Manager) Lookup(ctx context.Context, token string) (*Session, error) {
	h, ok := hashToken(token)
	if !ok {
		return nil, ErrInvalid
	}
	now := m.clock.read()
	s, err := m.find(ctx, h, now)
	if err != nil {
		return nil, err
	}
	m.touch(s, now)
	return s, nil
}

// Alive says of a session that was looked up before whether it still is live,
// like Lookup, but without marking it as used. It is for connections that
// outlive their first request.
func (m *Manager) Alive(ctx context.Context, s *Session) error {
	_, err := m.find(ctx, s.hash, m.clock.read())
	return err
}

// find returns the live session under a hash.
func (m *Manager) find(ctx context.Context, h hash, now int64) (*Session, error) {
	if m.cache != nil {
		// One that looks expired is read again: another node may have seen
		// it since.
		if s := m.cache.get(&h, now); s != nil && !m.expired(s, now) {
			return s, nil
		}
	}
	s, err := m.read(ctx, h, now)
	if err != nil {
		return nil, err
	}
	if m.cache != nil {
		s = m.cache.put(s, now)
	}
	if m.expired(s, now) {
		return nil, ErrInvalid
	}
	return s, nil
}

// expired decides from what is known of the session, never from the store.
func (m *Manager) expired(s *Session, now int64) bool {
	return now >= s.Expires.UnixNano() || now >= s.seen.Load()+m.idleTimeout
}

// read reads a session from the store. Its versions are taken before each
// read, so that a change during the read shows afterwards.
func (m *Manager) read(ctx context.Context, h hash, now int64) (*Session, error) {
	var versions cacheVersions
	if m.cache != nil {
		versions.epoch = m.cache.epoch.Load()
		versions.session = m.cache.version(h).Load()
	}
	record, oldSession, err := m.readSession(ctx, h)
	if err != nil {
		return nil, err
	}
	if now >= m.endOf(&record) {
		return nil, ErrInvalid
	}
	if ours, err := m.ours(ctx, &record); err != nil {
		return nil, err
	} else if !ours {
		return nil, ErrInvalid
	}

	if m.cache != nil {
		versions.user = m.cache.version(record.user).Load()
	}
	user, oldUser, err := m.readUser(ctx, record.user)
	if errors.Is(err, ErrNoSuchUser) {
		return nil, ErrInvalid
	}
	if err != nil {
		return nil, err
	}
	if !user.lists(&record, h) {
		return nil, ErrInvalid
	}

	s := m.newSession(h, &record, user.unionID)
	s.oldKey = oldSession
	s.read, s.versions = now, versions
	if oldUser {
		m.resealLater(userKey(record.user))
	}
	return s, nil
}

// newSession makes what callers see of the two records.
func (m *Manager) newSession(h hash, r *sessionRecord, unionID []byte) *Session {
	s := &Session{
		AppID:      m.appIDs.intern(r.appID),
		Created:    time.Unix(0, r.created).UTC(),
		Expires:    time.Unix(0, m.endOf(r)).UTC(),
		hash:       h,
		user:       r.user,
		generation: r.generation,
	}
	s.name(r.openID, unionID)
	s.seen.Store(r.seen)
	s.written.Store(r.seen)
	return s
}

// endOf returns the absolute end of a session: what its record promised, or
// sooner if the lifetime has been shortened since.
func (m *Manager) endOf(r *sessionRecord) int64 {
	return min(r.expires, r.created+m.lifetime)
}

// readSession reads and opens a session record.
func (m *Manager) readSession(ctx context.Context, h hash) (sessionRecord, bool, error) {
	key := sessionKey(h)
	value, err := m.calls.get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return sessionRecord{}, false, ErrInvalid
	}
	if err != nil {
		return sessionRecord{}, false, err
	}
	plain, old, err := m.openRecord(ctx, key, value)
	if err != nil {
		return sessionRecord{}, false, err
	}
	record, err := decodeSession(plain)
	if err != nil {
		m.reporter.tell(eventMalformed, err)
		return sessionRecord{}, false, err
	}
	return record, old, nil
}

// readUser reads and opens a user record. The error is ErrNoSuchUser if there
// is none, and ErrInvalid if it is sealed with a key that is not configured.
func (m *Manager) readUser(ctx context.Context, h hash) (userView, bool, error) {
	key := userKey(h)
	value, err := m.calls.get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return userView{}, false, ErrNoSuchUser
	}
	if err != nil {
		return userView{}, false, err
	}
	plain, old, err := m.openRecord(ctx, key, value)
	if err != nil {
		return userView{}, false, err
	}
	user, err := viewUser(plain)
	if err != nil {
		m.reporter.tell(eventMalformed, err)
		return userView{}, false, err
	}
	return user, old, nil
}

// Events that are reported.
const (
	eventUnknownKey = "a stored record is sealed with an encryption key that is not configured"
	eventDamaged    = "a stored record is damaged"
	eventRemoved    = "a damaged record has been removed"
	eventMalformed  = "a stored record has an unknown form: was it written by a newer version?"
)

// openRecord opens what was read. A record under an unknown key belongs to no
// live session. A damaged one is an error, not "no session", because the
// damage may be on the way and not in the store; see heal.
func (m *Manager) openRecord(ctx context.Context, key string, value []byte) (plain []byte, old bool, err error) {
	plain, old, err = m.sealer.open(key, value)
	switch {
	case errors.Is(err, ErrWrongKey):
		m.reporter.tell(eventUnknownKey, err)
		return nil, false, ErrInvalid
	case err != nil:
		m.reporter.tell(eventDamaged, err)
		m.heal(ctx, key, value)
		return nil, false, fmt.Errorf("opening what the session store returned: %w", err)
	}
	return plain, old, nil
}

// heal removes a record that is damaged in the store itself, so that the next
// request is answered "no session" and the user logs in again. A connection
// that mixes up replies shows damage where there is none; hence the store is
// asked again, atomically, and must return the very same bytes.
func (m *Manager) heal(ctx context.Context, key string, damaged []byte) {
	err := m.calls.update(ctx, key, func(old []byte) ([]byte, time.Duration, error) {
		if !bytes.Equal(old, damaged) {
			return nil, 0, errUnchanged
		}
		return nil, 0, nil
	})
	if err == nil {
		m.reporter.tell(eventRemoved, ErrDamaged)
	}
}
