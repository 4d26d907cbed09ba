package session

import (
	"context"
	"errors"
	"slices"
	"time"
)

// previousKeyFor is how long the session_key before the newest is still given
// out: data that a mini program sealed just before its user logged in again is
// on its way for so long at most.
const previousKeyFor = 5 * time.Minute

// User returns what the store knows of a user. The error is ErrNoSuchUser if
// it knows nothing.
func (m *Manager) User(ctx context.Context, appID, openID string) (*User, error) {
	h, err := m.userHash(ctx, appID, openID)
	if err != nil {
		return nil, err
	}
	record, _, err := m.readUser(ctx, h)
	if errors.Is(err, ErrInvalid) {
		return nil, ErrNoSuchUser
	}
	if err != nil {
		return nil, err
	}
	user := &User{AppID: string(record.appID), OpenID: string(record.openID), UnionID: string(record.unionID)}
	now := m.clock.read()
	for _, listed := range record.record().sessions {
		s, err := m.readSessionOf(ctx, &record, listed.hash)
		if errors.Is(err, ErrInvalid) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if m.expired(s, now) {
			continue
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

// readSessionOf reads a session of a user whose record was read.
func (m *Manager) readSessionOf(ctx context.Context, user *userView, h hash) (*Session, error) {
	record, _, err := m.readSession(ctx, h)
	if err != nil {
		return nil, err
	}
	if !user.lists(&record, h) {
		return nil, ErrInvalid
	}
	return m.newSession(h, &record, user.unionID), nil
}

// SessionKeys returns WeChat's session_keys of the user of a live session,
// newest first. The one before the newest is among them for five minutes after
// it was replaced. The error is ErrInvalid if the session has ended.
func (m *Manager) SessionKeys(ctx context.Context, s *Session) (keys []string, err error) {
	record, _, err := m.readUser(ctx, s.user)
	if errors.Is(err, ErrNoSuchUser) {
		return nil, ErrInvalid
	}
	if err != nil {
		return nil, err
	}
	of := &sessionRecord{appID: []byte(s.AppID), openID: []byte(s.OpenID), generation: s.generation}
	if !record.lists(of, s.hash) {
		return nil, ErrInvalid
	}
	if len(record.key) > 0 {
		keys = append(keys, string(record.key))
	}
	if len(record.previous) > 0 && m.clock.read()-record.replaced < int64(previousKeyFor) {
		keys = append(keys, string(record.previous))
	}
	return keys, nil
}
