package session

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Revoke revokes the session of a token and returns it. The error is ErrInvalid
// if there is none: of several that revoke the same session at once, one
// succeeds. When Revoke returns nil, the session is dead on every node and stays
// dead whatever the store survives.
func (m *Manager) Revoke(ctx context.Context, token string) (*Session, error) {
	s, err := m.find(ctx, token, m.now())
	if err != nil {
		return nil, err
	}
	err = m.unlist(ctx, s.user, func(l listedSession) bool { return l.hash == s.hash })
	if errors.Is(err, ErrNoSuchUser) {
		err = errRevoked
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// RevokeSession revokes one session of a user by its id. The error is
// ErrNoSuchUser or ErrInvalid if there is no such user or session.
func (m *Manager) RevokeSession(ctx context.Context, appID, openID, id string) error {
	now := m.now()
	meta, err := m.currentMeta(ctx, m.cache.Load(), reader{calls: m.calls}, now)
	if err != nil {
		return err
	}
	return m.unlist(ctx, hashUser(appID, openID), func(l listedSession) bool {
		return l.hash.id() == id && now < m.endOfListed(l) && meta.accepts([]byte(appID), l)
	})
}

// RevokeUser revokes all sessions of a user and returns the ids of those that
// were within their lifetime: some may have idled out. The error is ErrNoSuchUser
// if the store has no record of the user.
func (m *Manager) RevokeUser(ctx context.Context, appID, openID string) (revoked []string, err error) {
	h := hashUser(appID, openID)
	now := m.now()
	meta, err := m.currentMeta(ctx, m.cache.Load(), reader{calls: m.calls}, now)
	if err != nil {
		return nil, err
	}
	err = m.calls.update(ctx, userKey(h), func(old []byte) ([]byte, time.Duration, error) {
		revoked = nil
		if old == nil {
			return nil, 0, ErrNoSuchUser
		}
		user, opened := m.openUser(h, old)
		if !opened { // whatever it lists
			user = userRecord{appID: []byte(appID), openID: []byte(openID)}
		}
		if !user.holds(appID, openID) {
			return nil, 0, ErrNoSuchUser
		}
		for l := range user.sessions.all() {
			if now < m.endOfListed(l) && meta.accepts(user.appID, l) {
				revoked = append(revoked, l.hash.id())
			}
		}
		user.sessions = nil
		value, ttl, err := m.sealUser(h, &user)
		if !opened && len(value) > len(old) {
			value = nil // a full store can delete
		}
		return value, ttl, err
	})
	if err == nil {
		err = m.calls.sync(ctx)
	}
	if err != nil {
		return nil, err
	}
	return revoked, nil
}

// RevokeAll revokes every session of a mini program, or of all if appID is
// empty, in one write.
func (m *Manager) RevokeAll(ctx context.Context, appID string) error {
	return m.changeMeta(ctx, func(meta *metaRecord, made bool) error {
		if !made { // else no session has its generation
			meta.revokeAll(appID)
		}
		return nil
	})
}

// unlist removes sessions from a user's record, for good. The error is
// ErrNoSuchUser or ErrInvalid if there is no record or it lists none of them.
func (m *Manager) unlist(ctx context.Context, h userHash, which func(listedSession) bool) error {
	err := m.calls.update(ctx, userKey(h), func(old []byte) ([]byte, time.Duration, error) {
		if old == nil {
			return nil, 0, ErrNoSuchUser
		}
		user, _ := m.openUser(h, old)
		left := encodeListed(slices.DeleteFunc(slices.Collect(user.sessions.all()), which))
		if len(left) == len(user.sessions) {
			return nil, 0, errRevoked
		}
		user.sessions = left
		return m.sealUser(h, &user)
	})
	if err != nil {
		return err
	}
	return m.calls.sync(ctx)
}

// endOfListed returns the absolute end of a listed session: what its login
// promised, or sooner if the lifetime has been shortened since.
func (m *Manager) endOfListed(l listedSession) int64 {
	return min(l.expires, l.created+m.lifetime)
}
