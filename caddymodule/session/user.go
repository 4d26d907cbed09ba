package session

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"
)

// previousKeyLimit is how long the session_key before the newest is still
// returned: data that a mini program encrypted just before its user logged in
// again is on its way for so long at most.
const previousKeyLimit = 5 * time.Minute

// User returns what the store knows of a user. The error is ErrNoSuchUser if
// it has no record of the user.
func (m *Manager) User(ctx context.Context, appID, openID string) (*User, error) {
	record, err := m.readUser(ctx, reader{calls: m.calls}, hashUser(appID, openID))
	if errors.Is(err, ErrInvalid) {
		return nil, ErrNoSuchUser
	}
	if err != nil {
		return nil, err
	}
	user := &User{AppID: appID, OpenID: openID, UnionID: string(record.unionID)}
	for _, listed := range record.sessions.decode() {
		s, err := m.liveSession(ctx, &record, listed.hash)
		if errors.Is(err, ErrInvalid) {
			continue
		}
		if err != nil {
			return nil, err
		}
		seen := s.seen.Load()
		user.Sessions = append(user.Sessions, UserSession{
			ID:       s.ID,
			Created:  s.Created,
			LastSeen: time.Unix(0, seen).UTC(),
			Expires:  time.Unix(0, min(s.Expires.UnixNano(), seen+m.idleTimeout)).UTC(),
		})
	}
	slices.SortStableFunc(user.Sessions, func(a, b UserSession) int { return a.Created.Compare(b.Created) })
	return user, nil
}

// UsersByUnionID returns the users with a UnionID, one for each mini program in
// which the person has logged in. It reads every user of the store. The error is
// ErrNoSuchUser if there is none, and errors.ErrUnsupported if the store is no
// Scanner.
func (m *Manager) UsersByUnionID(ctx context.Context, unionID string) ([]*User, error) {
	var names [][2]string
	err := m.calls.scan(ctx, userPrefix, func(key string, value []byte, _ time.Duration) error {
		plain, _, err := m.sealer.open(nil, key, value)
		if err != nil {
			return nil //nolint:nilerr // it is no user, and reported when it is read
		}
		if record, err := decodeUser(plain); err == nil && string(record.unionID) == unionID {
			names = append(names, [2]string{string(record.appID), string(record.openID)})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var users []*User
	for _, name := range names {
		user, err := m.User(ctx, name[0], name[1])
		if errors.Is(err, ErrNoSuchUser) {
			continue
		}
		if err != nil {
			return nil, err
		}
		users = append(users, user)
	}
	if len(users) == 0 {
		return nil, ErrNoSuchUser
	}
	slices.SortFunc(users, func(a, b *User) int { return cmp.Compare(a.AppID, b.AppID) })
	return users, nil
}

// liveSession reads a session of a user whose record was read. The error is
// ErrInvalid if it is not live.
func (m *Manager) liveSession(ctx context.Context, user *userRecord, h hash) (*Session, error) {
	now, from := m.now(), reader{calls: m.calls}
	record, _, err := m.readSession(ctx, from, h)
	if err != nil {
		return nil, err
	}
	if err := m.listed(ctx, m.cache.Load(), from, &record, user, h, now); err != nil {
		return nil, err
	}
	s := m.newSession(h, &record, user.unionID)
	if expired := m.expired(s, now); expired != nil {
		return nil, expired
	}
	return s, nil
}

// SessionKeys returns WeChat's session_keys of the user of a session that was
// just looked up, newest first. The one before the newest is among them for five
// minutes after it was replaced. The error is ErrInvalid if the session is no
// longer live.
func (m *Manager) SessionKeys(ctx context.Context, s *Session) ([]string, error) {
	record, err := m.readUser(ctx, reader{calls: m.calls}, s.user)
	if err != nil {
		return nil, err
	}
	if !record.sessions.contain(s.hash) {
		return nil, errRevoked
	}
	return m.keysOf(&record), nil
}

// UserKeys returns what SessionKeys returns, of a user who has a live session.
// The error is ErrNoSessionKey if there is no live session or no key.
func (m *Manager) UserKeys(ctx context.Context, appID, openID string) ([]string, error) {
	record, err := m.readUser(ctx, reader{calls: m.calls}, hashUser(appID, openID))
	if errors.Is(err, ErrInvalid) {
		return nil, ErrNoSessionKey
	}
	if err != nil {
		return nil, err
	}
	for _, listed := range slices.Backward(record.sessions.decode()) {
		_, err := m.liveSession(ctx, &record, listed.hash)
		if err == nil && len(record.key) > 0 {
			return m.keysOf(&record), nil
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			return nil, err
		}
	}
	return nil, ErrNoSessionKey
}

// keysOf returns the session_keys of a user, newest first.
func (m *Manager) keysOf(user *userRecord) (keys []string) {
	if len(user.key) > 0 {
		keys = append(keys, string(user.key))
	}
	if len(user.previous) > 0 && m.now()-user.keyReceived < int64(previousKeyLimit) {
		keys = append(keys, string(user.previous))
	}
	return keys
}
