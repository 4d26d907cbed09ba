package session

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Revoke revokes the session of a token and returns it. The error is ErrInvalid
// if there is none: of several that revoke the same session at once, one
// succeeds, or in a full store perhaps more.
// When Revoke returns nil, the session is dead on every node and stays dead
// whatever the store survives.
func (m *Manager) Revoke(ctx context.Context, token string) (*Session, error) {
	h, ok := hashToken(token)
	if !ok {
		return nil, errMalformedToken
	}
	s, err := m.find(ctx, h, m.now())
	if err != nil {
		return nil, err
	}
	err = m.revokeListed(ctx, s.user, func(l listedSession) bool { return l.hash == h })
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
	user := hashUser(appID, openID)
	now := m.now()
	return m.revokeListed(ctx, user, func(l listedSession) bool {
		return l.hash.id() == id && now < m.endOfListed(l)
	})
}

// RevokeUser revokes all sessions of a user and returns the ids of those that
// were listed and within their lifetime: some may have idled out, and after a
// revocation in a full store they stay listed. The error is ErrNoSuchUser if
// the store has no record of the user.
func (m *Manager) RevokeUser(ctx context.Context, appID, openID string) (revoked []string, err error) {
	h := hashUser(appID, openID)
	var opened bool
	var sessions []listedSession
	now := m.now()
	err = m.calls.update(ctx, userKey(h), func(old []byte) ([]byte, time.Duration, error) {
		if old == nil {
			return nil, 0, ErrNoSuchUser
		}
		var user userRecord
		if user, opened = m.openUser(h, old); !opened {
			user = userRecord{appID: []byte(appID), openID: []byte(openID)}
		}
		revoked, sessions = nil, user.sessions.decode()
		for _, s := range sessions {
			if now < m.endOfListed(s) {
				revoked = append(revoked, s.hash.id())
			}
		}
		user.sessions, user.generation = nil, newGeneration()
		return m.sealUser(h, &user)
	})
	if errors.Is(err, ErrFull) && !opened {
		// Which sessions it lists is not known.
		if err = m.calls.delete(ctx, userKey(h)); err != nil {
			return nil, err
		}
	}
	if err := m.finishRevocation(ctx, sessions, err); err != nil {
		return nil, err
	}
	return revoked, nil
}

// RevokeAll revokes every session of a mini program, or of all if appID is
// empty, in one write.
func (m *Manager) RevokeAll(ctx context.Context, appID string) error {
	err := m.changeMeta(ctx, func(meta *metaRecord, made bool) error {
		if !made { // else no session has its generation
			meta.revokeAll(appID)
		}
		return nil
	})
	if errors.Is(err, ErrFull) && appID == "" {
		// Redis takes deletions even then, and without the record no session
		// is live.
		if err = m.calls.delete(ctx, metaKey); err == nil {
			err = m.calls.sync(ctx)
		}
	}
	return err
}

// revokeListed removes sessions from a user's record, for good. The error is
// ErrNoSuchUser or ErrInvalid if there is no record or it lists none of them.
func (m *Manager) revokeListed(ctx context.Context, user hash, which func(listedSession) bool) error {
	sessions, err := m.unlist(ctx, user, which)
	return m.finishRevocation(ctx, sessions, err)
}

// finishRevocation deletes the records of sessions that their user's record no
// longer lists, and makes the revocation durable. err is that of writing the
// user's record. If the store was too full for it, the deletions decide: Redis
// takes them even then, a session without a record of its own is as dead as one
// that is not listed, and renewals do not write what has vanished.
func (m *Manager) finishRevocation(ctx context.Context, sessions []listedSession, err error) error {
	full := errors.Is(err, ErrFull)
	if err != nil && !full {
		return err
	}
	if err := m.deleteSessions(ctx, sessions); err != nil && full {
		return err
	}
	return m.calls.sync(ctx)
}

// deleteSessions deletes the records of sessions, up to the first error. Those of
// dead sessions go with their ttl otherwise.
func (m *Manager) deleteSessions(ctx context.Context, sessions []listedSession) error {
	for _, s := range sessions {
		if err := m.calls.delete(ctx, sessionKey(s.hash)); err != nil {
			return err
		}
	}
	return nil
}

// unlist removes sessions from a user's record in one atomic write, and returns
// them. If the error wraps ErrFull, they are still listed.
func (m *Manager) unlist(ctx context.Context, h hash, which func(listedSession) bool) ([]listedSession, error) {
	var removed []listedSession
	err := m.calls.update(ctx, userKey(h), func(old []byte) ([]byte, time.Duration, error) {
		removed = nil
		if old == nil {
			return nil, 0, ErrNoSuchUser
		}
		user, _ := m.openUser(h, old)
		left := slices.DeleteFunc(user.sessions.decode(), func(s listedSession) bool {
			if which(s) {
				removed = append(removed, s)
				return true
			}
			return false
		})
		if len(removed) == 0 {
			return nil, 0, errRevoked
		}
		user.sessions = encodeListed(left)
		return m.sealUser(h, &user)
	})
	return removed, err
}

// endOfListed returns the absolute end of a listed session: what its record
// promised, or sooner if the lifetime has been shortened since.
func (m *Manager) endOfListed(s listedSession) int64 {
	return min(s.expires, s.created+m.lifetime)
}
