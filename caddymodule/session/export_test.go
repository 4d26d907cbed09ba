package session

import (
	"context"
	"time"
	"weak"
)

// CacheOf returns a weak pointer to the cache of a Manager.
func CacheOf(m *Manager) weak.Pointer[cache] { return weak.Make(m.cache.Load()) }

// Cached returns how many sessions a Manager keeps in memory.
func Cached(m *Manager) int { return m.cache.Load().sessions.EstimatedSize() }

// List puts a session on the list of its user's record, under the generation that
// the record has.
func List(ctx context.Context, m *Manager, s *Session) error {
	return m.rewrite(ctx, userKey(s.user), func(plain []byte, _ bool) ([]byte, time.Duration, error) {
		user, err := decodeUser(plain)
		user.sessions = encodeListed([]listedSession{{s.hash, s.Created.UnixNano(), s.Expires.UnixNano()}})
		return user.encode(), 0, err
	})
}

// A Renewals is the table of records that are being written.
type Renewals struct{ renewals }

func NewRenewals() *Renewals { return new(Renewals) }

func (r *Renewals) Claim(key string, now int64) (release func(retryAt int64), ok bool) {
	return r.claim(key, now)
}
