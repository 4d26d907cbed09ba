package session

import (
	"context"
	"errors"
	"slices"
	"time"
)

const eventUserEmptied = "a user record that does not open has been emptied: all sessions of the user have ended"

// Revoke revokes the session of a token and returns it. The error is ErrInvalid if
// there is none: of several that revoke the same session at once, one succeeds,
// or in a full store perhaps more.
// When Revoke returns nil, the session is dead on every node and stays dead
// whatever the store survives.
func (m *Manager) Revoke(ctx context.Context, token string) (*Session, error) {
	h, ok := hashToken(token)
	if !ok {
		return nil, ErrInvalid
	}
	s, err := m.find(ctx, h, m.clock.read())
	if err != nil {
		return nil, err
	}
	if err := m.revokeListed(ctx, s.user, func(l listedSession) bool { return l.hash == h }); err != nil {
		return nil, err
	}
	return s, nil
}

// RevokeSession revokes one session of a user by its id. The error is ErrNoSuchUser
// or ErrInvalid if there is no such user or session.
func (m *Manager) RevokeSession(ctx context.Context, appID, openID, id string) error {
	user, err := m.userHash(ctx, appID, openID)
	if err != nil {
		return err
	}
	now := m.clock.read()
	err = m.revokeListed(ctx, user, func(l listedSession) bool {
		return l.hash.id() == id && now < m.endOfListed(l)
	})
	if errors.Is(err, ErrInvalid) {
		if _, _, err := m.readUser(ctx, user); errors.Is(err, ErrNoSuchUser) {
			return ErrNoSuchUser
		}
	}
	return err
}

// RevokeUser revokes all sessions of a user and returns the ids of those that were
// listed and within their lifetime: some may have idled out, and after an end
// in a full store they stay listed. The error is ErrNoSuchUser if the store has nothing about the user.
func (m *Manager) RevokeUser(ctx context.Context, appID, openID string) (ended []string, err error) {
	h, err := m.userHash(ctx, appID, openID)
	if err != nil {
		return nil, err
	}
	var unopened error
	var sessions []listedSession
	now := m.clock.read()
	err = m.calls.update(ctx, userKey(h), func(old []byte) ([]byte, time.Duration, error) {
		ended, unopened, sessions = nil, nil, nil
		if old == nil {
			return nil, 0, ErrNoSuchUser
		}
		user, err := m.decodeUser(userKey(h), old)
		if errors.Is(err, errUnopened) {
			// Whatever it listed: a revocation must succeed.
			unopened = err
			user = &userRecord{appID: appID, openID: openID, generation: newGeneration()}
		} else if err != nil {
			return nil, 0, err
		}
		for _, s := range user.sessions {
			if now < m.endOfListed(s) {
				ended = append(ended, s.hash.id())
			}
		}
		sessions, user.sessions = user.sessions, nil
		user.generation++
		return m.sealer.seal(userKey(h), user.encode()), m.userTTL(user), nil
	})
	switch {
	case errors.Is(err, ErrFull):
		if err := m.revokeInFullStore(ctx, h, sessions, unopened != nil); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		m.deleteSessions(ctx, sessions)
	}
	if unopened != nil {
		m.reporter.tell(eventUserEmptied, unopened)
	}
	return ended, m.calls.sync(ctx)
}

// revokeInFullStore ends sessions of a user whose record cannot be written
// because the store is full. Redis takes deletions even then. A session whose
// own record is gone is as dead as one that the user's record no longer lists,
// and nothing puts it back: renewals do not write what has vanished. What the
// user's record says is kept, unless it does not open: then nobody knows which
// sessions it lists, and it goes itself.
func (m *Manager) revokeInFullStore(ctx context.Context, user hash, sessions []listedSession, unopened bool) error {
	if unopened {
		return m.calls.delete(ctx, userKey(user))
	}
	for _, s := range sessions {
		if err := m.calls.delete(ctx, sessionKey(s.hash)); err != nil {
			return err
		}
	}
	return nil
}

// revokeListed takes sessions out of a user's record, for good.
func (m *Manager) revokeListed(ctx context.Context, user hash, which func(listedSession) bool) error {
	ended, err := m.unlist(ctx, user, which)
	if errors.Is(err, errUnopened) {
		// Reading it again reports the damage, and heals it if it lasts.
		_, _, _ = m.readUser(ctx, user)
	}
	switch {
	case errors.Is(err, ErrFull):
		if err := m.revokeInFullStore(ctx, user, ended, false); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		m.deleteSessions(ctx, ended)
	}
	return m.calls.sync(ctx)
}

// unlist takes sessions out of a user's record in one atomic write, and returns
// them. The error is ErrInvalid if the record lists none of them. If it wraps
// ErrFull, those that are returned are still listed.
func (m *Manager) unlist(ctx context.Context, user hash, which func(listedSession) bool) ([]listedSession, error) {
	var taken []listedSession
	err := m.calls.update(ctx, userKey(user), func(old []byte) ([]byte, time.Duration, error) {
		taken = nil
		if old == nil {
			return nil, 0, ErrInvalid
		}
		record, err := m.decodeUser(userKey(user), old)
		if err != nil {
			return nil, 0, err
		}
		record.sessions = slices.DeleteFunc(record.sessions, func(s listedSession) bool {
			if which(s) {
				taken = append(taken, s)
				return true
			}
			return false
		})
		if len(taken) == 0 {
			return nil, 0, ErrInvalid
		}
		return m.sealer.seal(userKey(user), record.encode()), m.userTTL(record), nil
	})
	if err != nil && !errors.Is(err, ErrFull) {
		return nil, err
	}
	return taken, err
}

// endOfListed returns the absolute end of a listed session; see endOf.
func (m *Manager) endOfListed(s listedSession) int64 {
	return min(s.expires, s.created+m.lifetime)
}
