package session

import (
	"context"
	"errors"
)

// Lookup returns the live session of a token and marks it as used. The error
// is ErrInvalid if there is none; every other error means that the store could
// not answer.
func (m *Manager) Lookup(ctx context.Context, token string) (*Session, error) {
	now := m.now()
	s, err := m.find(ctx, token, now)
	if err != nil {
		return nil, err
	}
	m.touch(s, now)
	return s, nil
}

// Alive returns ErrInvalid if a session that was looked up before is no longer
// live, like Lookup, but without marking it as used. It is for connections that
// outlive their first request.
func (m *Manager) Alive(ctx context.Context, s *Session) error {
	_, err := m.again(ctx, s, m.now())
	return err
}

// Use is Alive for a connection that has moved data, and marks the session as
// used.
func (m *Manager) Use(ctx context.Context, s *Session) error {
	now := m.now()
	found, err := m.again(ctx, s, now)
	if err == nil {
		m.touch(found, now)
	}
	return err
}

// again finds a session that was found before.
func (m *Manager) again(ctx context.Context, s *Session, now int64) (*Session, error) {
	found, err := m.cached(s.hash, now), error(nil)
	if found == nil {
		found, err = m.load(ctx, s.hash, s.user, now)
	}
	if err == nil {
		s.used(found.seen.Load())
		return found, nil
	}
	if expired := m.expired(s, now); expired != nil {
		return nil, expired
	}
	return nil, err
}

// find returns the live session of a token.
func (m *Manager) find(ctx context.Context, token string, now int64) (*Session, error) {
	h, ok := hashToken(token)
	if !ok {
		return nil, errMalformedToken
	}
	if s := m.cached(h, now); s != nil {
		return s, nil
	}
	return m.load(ctx, h, userOf(token), now)
}

// cached returns the session under a hash if it is in memory and live, and nothing
// that decides about it may have changed.
func (m *Manager) cached(h hash, now int64) *Session {
	if c := m.cache.Load(); c != nil && m.freshMeta(c, now) != nil {
		s, ok := c.sessions.GetIfPresent(h)
		if ok && c.current(s, now) && m.expired(s, now) == nil {
			m.found(true)
			return s
		}
	}
	return nil
}

// load returns the live session of a user under a hash from the store. One that
// expired in memory may have been used on another node since.
func (m *Manager) load(ctx context.Context, h hash, user userHash, now int64) (*Session, error) {
	m.found(false)
	c := m.cache.Load()
	s, err := m.read(ctx, c, h, user, now)
	if err != nil {
		return nil, err
	}
	if c != nil {
		s = c.put(s, now)
	}
	if expired := m.expired(s, now); expired != nil {
		if err := m.revokeExpired(ctx, s, now, expired); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// expired returns why a session has expired, or nil. It decides from what is
// known of the session, never from the store's ttl.
func (m *Manager) expired(s *Session, now int64) *refusal {
	switch {
	case now >= s.Expires.UnixNano():
		return errLifetime
	case now >= s.seen.Load()+m.idleTimeout:
		return errIdle
	}
	return nil
}

// revokeExpired revokes a session that has expired, so that it stays dead when
// a longer timeout is configured later. It returns the refusal only when that
// is certain, and nil if another node has renewed the session since it was read.
func (m *Manager) revokeExpired(ctx context.Context, s *Session, now int64, expired *refusal) error {
	renewed := false
	err := m.unlist(ctx, s.user, func(l listedSession) bool {
		if l.hash != s.hash {
			return false
		}
		s.used(l.seen)
		renewed = m.expired(s, now) == nil // ends the update, because nothing is removed
		return !renewed
	})
	switch {
	case err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrNoSuchUser):
		return err
	case renewed:
		return nil
	}
	return expired
}

// read reads a session from the store, and the store's own record with it if it
// may have changed. The versions are read before the records, so that a change
// during the read shows afterwards.
func (m *Manager) read(ctx context.Context, c *cache, h hash, user userHash, now int64) (*Session, error) {
	var at versions
	if c != nil {
		at = versions{epoch: c.epoch.Load(), user: c.version(user).Load()}
	}
	from := reader{calls: m.calls}
	if m.freshMeta(c, now) == nil {
		var err error
		if from, err = m.calls.readAhead(ctx, userKey(user), metaKey); err != nil {
			return nil, err
		}
	}
	from.epoch = at.epoch
	record, err := m.readUser(ctx, from, user)
	if errors.Is(err, ErrInvalid) && m.meta.Load() != nil && (c != nil || len(from.keys) > 0) {
		_, _ = m.currentMeta(ctx, c, from, now) // reports a store that was emptied
	}
	if err != nil {
		return nil, err
	}
	listed, ok := record.sessions.find(h)
	if !ok {
		return nil, errUnknown
	}
	meta, err := m.currentMeta(ctx, c, from, now)
	if err != nil {
		return nil, err
	}
	if !meta.accepts(record.appID, listed) {
		return nil, errRevoked
	}
	s := m.newSession(user, &record, listed)
	s.read, s.versions = now, at
	return s, nil
}

// readUser reads and opens a user record. The error is ErrInvalid if there is
// none that opens.
func (m *Manager) readUser(ctx context.Context, from reader, h userHash) (userRecord, error) {
	key := userKey(h)
	value, err := from.get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return userRecord{}, errUnknown
	}
	if err != nil {
		return userRecord{}, err
	}
	var into []byte // the space of the ciphertext
	if len(value) >= sealHeader {
		into = value[sealHeader:sealHeader]
	}
	plain, old, err := m.sealer.open(into, key, value)
	var user userRecord
	if err == nil {
		user, err = decodeUser(plain)
	}
	if err != nil {
		return userRecord{}, m.unreadable(err)
	}
	if old {
		m.resealLater(key)
	}
	return user, nil
}

// Events that are reported.
const (
	eventUnknownKey = "a stored record is sealed with an encryption key that is not configured"
	eventVersion    = "a stored record was written by another version of wxgate"
	eventDamaged    = "a stored record is damaged"
)

// unreadable reports a record that does not open. It is no live session, and
// the user's next login replaces it.
func (m *Manager) unreadable(err error) error {
	event := eventDamaged
	switch {
	case errors.Is(err, ErrWrongKey):
		event = eventUnknownKey
	case errors.Is(err, ErrVersion):
		event = eventVersion
	}
	m.reporter.report(event, err)
	return errUnknown
}
