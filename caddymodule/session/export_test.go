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

// MoveUser seals the record of one user as that of another.
func MoveUser(ctx context.Context, m *Manager, appID, from, to string) error {
	record, err := m.readUser(ctx, reader{calls: m.calls}, hashUser(appID, from))
	if err != nil {
		return err
	}
	return m.calls.update(ctx, userKey(hashUser(appID, to)), func([]byte) ([]byte, time.Duration, error) {
		return m.sealUser(hashUser(appID, to), &record)
	})
}

// A Renewals is the table of what is being written.
type Renewals struct{ renewals }

func NewRenewals() *Renewals { return new(Renewals) }

func (r *Renewals) Claim(name string, now int64) (release func(retryAt int64), ok bool) {
	return r.claim(name, now)
}
