package session

import (
	"cmp"
	"context"
	"errors"
	"iter"
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
	user, _, err := m.user(ctx, appID, openID)
	if errors.Is(err, ErrInvalid) {
		return nil, ErrNoSuchUser
	}
	if err != nil {
		return nil, err
	}
	return user, nil
}

// user reads a user's record and returns it with what callers see of it. The
// error is ErrInvalid if the store has none.
func (m *Manager) user(ctx context.Context, appID, openID string) (*User, *userRecord, error) {
	h, from := hashUser(appID, openID), reader{calls: m.calls}
	record, err := m.readUser(ctx, from, h)
	if err != nil {
		return nil, nil, err
	}
	if !record.holds(appID, openID) {
		return nil, nil, errUnknown
	}
	now := m.now()
	meta, err := m.currentMeta(ctx, m.cache.Load(), from, now)
	if err != nil {
		return nil, nil, err
	}
	user := &User{AppID: appID, OpenID: openID, UnionID: string(record.unionID)}
	for l := range m.live(&record, meta, now) {
		user.Sessions = append(user.Sessions, UserSession{
			ID:       l.hash.id(),
			Created:  time.Unix(0, l.created).UTC(),
			LastSeen: time.Unix(0, l.seen).UTC(),
			Expires:  time.Unix(0, min(m.endOfListed(l), l.seen+m.idleTimeout)).UTC(),
		})
	}
	slices.SortStableFunc(user.Sessions, func(a, b UserSession) int { return a.Created.Compare(b.Created) })
	return user, &record, nil
}

// live returns an iterator over the sessions of a record that are live as last
// written.
func (m *Manager) live(record *userRecord, meta *knownMeta, now int64) iter.Seq[listedSession] {
	return func(yield func(listedSession) bool) {
		for l := range record.sessions.all() {
			if meta.accepts(record.appID, l) && now < min(m.endOfListed(l), l.seen+m.idleTimeout) && !yield(l) {
				return
			}
		}
	}
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

// Count estimates how many sessions are live; false if the store cannot.
func (m *Manager) Count(ctx context.Context) (int64, bool) {
	now := m.now()
	meta, err := m.currentMeta(ctx, m.cache.Load(), reader{calls: m.calls}, now)
	if err != nil {
		return 0, false
	}
	return m.calls.count(ctx, userPrefix, func(key string, value []byte) (live int64) {
		plain, _, err := m.sealer.open(nil, key, value)
		if err != nil {
			return 0
		}
		if record, err := decodeUser(plain); err == nil {
			for range m.live(&record, meta, now) {
				live++
			}
		}
		return live
	})
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
	meta, err := m.currentMeta(ctx, m.cache.Load(), reader{calls: m.calls}, m.now())
	if err != nil {
		return nil, err
	}
	if l, ok := record.sessions.find(s.hash); !ok || !meta.accepts(record.appID, l) {
		return nil, errRevoked
	}
	return m.keysOf(&record), nil
}

// UserKeys returns what SessionKeys returns, of a user who has a live session.
// The error is ErrNoSessionKey if there is no live session or no key.
func (m *Manager) UserKeys(ctx context.Context, appID, openID string) ([]string, error) {
	user, record, err := m.user(ctx, appID, openID)
	switch {
	case errors.Is(err, ErrInvalid), err == nil && (len(user.Sessions) == 0 || len(record.key) == 0):
		return nil, ErrNoSessionKey
	case err != nil:
		return nil, err
	}
	return m.keysOf(record), nil
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
