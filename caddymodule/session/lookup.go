package session

import (
	"context"
	"errors"
)

// Lookup returns the live session of a token and marks it as used. The error
// is ErrInvalid if there is none; every other error means that the store could
// not answer.
func (m *Manager) Lookup(ctx context.Context, token string) (*Session, error) {
	h, ok := hashToken(token)
	if !ok {
		return nil, errMalformedToken
	}
	now := m.now()
	s, err := m.find(ctx, h, now)
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
	found, err := m.find(ctx, s.hash, now)
	if err == nil {
		s.used(found.seen.Load())
	}
	if err != nil {
		if expired := m.expired(s, now); expired != nil {
			return nil, expired
		}
	}
	return found, err
}

// find returns the live session under a hash.
func (m *Manager) find(ctx context.Context, h hash, now int64) (*Session, error) {
	c := m.cache.Load()
	var stale *Session
	if c != nil {
		if s, ok := c.sessions.GetIfPresent(h); ok {
			if c.current(s, now) && m.expired(s, now) == nil {
				m.found(true)
				return s, nil
			}
			stale = s // if it has expired, another node may have seen it since
		}
	}
	m.found(false)
	s, err := m.read(ctx, c, h, stale, now)
	if err != nil {
		return nil, err
	}
	if c != nil {
		s = c.put(s, now)
	}
	if expired := m.expired(s, now); expired != nil {
		return nil, m.revokeExpired(ctx, s, expired)
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
// is certain. A full store returns its error: what is left of it is for
// revocations.
func (m *Manager) revokeExpired(ctx context.Context, s *Session, expired *refusal) error {
	sessions, err := m.unlist(ctx, s.user, func(l listedSession) bool { return l.hash == s.hash })
	if err == nil {
		_ = m.deleteSessions(ctx, sessions)
		err = m.calls.sync(ctx)
	}
	if err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrNoSuchUser) {
		return err
	}
	return expired
}

// read reads a session from the store. stale, if not nil, is the session as it
// was before. The versions are read before the records, so that a change during
// the read shows afterwards.
func (m *Manager) read(ctx context.Context, c *cache, h hash, stale *Session, now int64) (*Session, error) {
	var at versions
	if c != nil {
		at.epoch = c.epoch.Load()
		at.session = c.version(h).Load()
	}
	from := reader{calls: m.calls}
	var err error
	switch {
	case stale != nil:
		at.user = c.version(stale.user).Load()
		keys := []string{sessionKey(h), userKey(stale.user)}
		if m.freshMeta(c, now) == nil {
			keys = append(keys, metaKey)
		}
		from, err = m.calls.readAhead(ctx, keys...)
	case c == nil:
		from, err = m.calls.readAhead(ctx, sessionKey(h), metaKey)
	}
	if err != nil {
		return nil, err
	}

	from.epoch = at.epoch // from before the values were read
	record, old, err := m.readSession(ctx, from, h)
	if err != nil {
		if stale != nil || len(from.keys) > 0 {
			_, _ = m.currentMeta(ctx, c, from, now) // reports a store that was emptied
		}
		return nil, err
	}
	if c != nil && (stale == nil || stale.user != record.user) {
		at.user = c.version(record.user).Load()
	}
	user, err := m.readUser(ctx, from, record.user)
	if err != nil {
		return nil, err
	}
	if err := m.listed(ctx, c, from, &record, &user, h, now); err != nil {
		return nil, err
	}
	s := m.newSession(h, &record, user.unionID)
	s.oldKey, s.read, s.versions = old, now, at
	return s, nil
}

// listed returns an ErrInvalid unless the session is of the generations of its
// store and its user, and its user's record lists it.
func (m *Manager) listed(ctx context.Context, c *cache, from reader, record *sessionRecord, user *userRecord, h hash, now int64) error {
	if !user.lists(record, h) {
		return errRevoked
	}
	meta, err := m.currentMeta(ctx, c, from, now)
	if err != nil {
		return err
	}
	if meta == nil || meta.generationOf(record.appID) != record.storeGeneration {
		return errRevoked
	}
	return nil
}

// readSession reads and opens a session record. The error is ErrInvalid if
// there is none that opens.
func (m *Manager) readSession(ctx context.Context, from reader, h hash) (sessionRecord, bool, error) {
	key := sessionKey(h)
	plain, old, err := m.readRecord(ctx, from, key)
	if err != nil {
		return sessionRecord{}, false, err
	}
	record, err := decodeSession(plain)
	if err != nil {
		return sessionRecord{}, false, m.unreadable(err)
	}
	return record, old, nil
}

// readUser reads and opens a user record, like readSession.
func (m *Manager) readUser(ctx context.Context, from reader, h hash) (userRecord, error) {
	key := userKey(h)
	plain, old, err := m.readRecord(ctx, from, key)
	if err != nil {
		return userRecord{}, err
	}
	user, err := decodeUser(plain)
	if err != nil {
		return userRecord{}, m.unreadable(err)
	}
	if old {
		m.resealLater(key)
	}
	return user, nil
}

func (m *Manager) readRecord(ctx context.Context, from reader, key string) (plain []byte, old bool, err error) {
	value, err := from.get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return nil, false, errUnknown
	}
	if err != nil {
		return nil, false, err
	}
	if len(value) >= sealHeader {
		plain = value[sealHeader:sealHeader]
	}
	if plain, old, err = m.sealer.open(plain, key, value); err != nil {
		return nil, false, m.unreadable(err)
	}
	return plain, old, nil
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
