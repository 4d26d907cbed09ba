package sessiontest

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// A Clock is for session.Config.Now, and stands still until it is moved.
type Clock struct{ now atomic.Pointer[time.Time] }

// NewClock returns a clock that stands at a fixed date.
func NewClock() *Clock {
	c := new(Clock)
	begin := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	c.now.Store(&begin)
	return c
}

// Now returns where the clock stands.
func (c *Clock) Now() time.Time { return *c.now.Load() }

// Advance moves the clock, back if d is negative.
func (c *Clock) Advance(d time.Duration) {
	next := c.Now().Add(d)
	c.now.Store(&next)
}

// Key returns an encryption key made of one byte, for tests.
func Key(b byte) []byte { return bytes.Repeat([]byte{b}, session.KeySize) }

// Login returns a login of a user of the appid that the tests use.
func Login(openID string) session.Login {
	return session.Login{
		AppID:      "wx0123456789abcdef",
		OpenID:     openID,
		SessionKey: "dGhpcyBpcyAxNiBieXRlcw==",
	}
}

// runManager tests what users notice, through a Manager on the store.
func runManager(t *testing.T, open OpenFunc) {
	manage := func(t *testing.T, s session.Store) *session.Manager {
		m, err := session.NewManager(t.Context(), session.Config{Store: s, Keys: [][]byte{Key(1)}, MaxPerUser: 2})
		require.NoError(t, err)
		t.Cleanup(m.Close)
		return m
	}
	login := func(t *testing.T, m *session.Manager, openID string) string {
		created, err := m.Create(t.Context(), Login(openID))
		require.NoError(t, err)
		return created.Token
	}
	openIDOf := func(t *testing.T, m *session.Manager, token string) string {
		s, err := m.Lookup(t.Context(), token)
		require.NoError(t, err)
		return s.OpenID
	}
	dead := func(t *testing.T, m *session.Manager, token string) {
		_, err := m.Lookup(t.Context(), token)
		require.ErrorIs(t, err, session.ErrInvalid)
	}

	t.Run("lifecycle", func(t *testing.T) {
		store, _ := open(t)
		m := manage(t, store)
		alice, bob := login(t, m, "alice"), login(t, m, "bob")
		require.Equal(t, "alice", openIDOf(t, m, alice))
		require.Equal(t, "bob", openIDOf(t, m, bob))
		_, err := m.Revoke(t.Context(), alice)
		require.NoError(t, err)
		dead(t, m, alice)
		require.Equal(t, "bob", openIDOf(t, m, bob))

		oldest, newer, newest := login(t, m, "alice"), login(t, m, "alice"), login(t, m, "alice")
		dead(t, m, oldest)
		require.Equal(t, "alice", openIDOf(t, m, newer))
		ids, err := m.RevokeUser(t.Context(), Login("alice").AppID, "alice")
		require.NoError(t, err)
		require.Len(t, ids, 2)
		dead(t, m, newer)
		dead(t, m, newest)
		require.Equal(t, "bob", openIDOf(t, m, bob))
	})

	t.Run("reopen", func(t *testing.T) {
		store, reopen := open(t)
		if reopen == nil {
			return
		}
		m := manage(t, store)
		live, revoked := login(t, m, "alice"), login(t, m, "bob")
		_, err := m.Revoke(t.Context(), revoked)
		require.NoError(t, err)
		m.Close()
		require.NoError(t, store.Close())

		store = reopen()
		m = manage(t, store)
		require.Equal(t, "alice", openIDOf(t, m, live))
		dead(t, m, revoked)
		_, err = session.NewManager(t.Context(), session.Config{Store: store, Keys: [][]byte{Key(2)}})
		require.ErrorIs(t, err, session.ErrWrongKey)
		m.Close()
		require.NoError(t, store.Close())
	})

	// Two configurations work on one store while Caddy reloads.
	t.Run("two managers", func(t *testing.T) {
		store, _ := open(t)
		a, b := manage(t, store), manage(t, store)
		for range 20 {
			token := login(t, a, "alice")
			require.Equal(t, "alice", openIDOf(t, b, token))
			require.Equal(t, "alice", openIDOf(t, a, token))
			_, err := b.Revoke(t.Context(), token)
			require.NoError(t, err)
			dead(t, a, token)
			dead(t, b, token)
		}
	})

	t.Run("revoke all", func(t *testing.T) {
		store, reopen := open(t)
		a, b := manage(t, store), manage(t, store)
		alice, bob := login(t, a, "alice"), login(t, b, "bob")
		require.Equal(t, "bob", openIDOf(t, a, bob))
		require.NoError(t, b.RevokeAll(t.Context(), "wxffffffffffffffff"))
		require.Equal(t, "alice", openIDOf(t, b, alice))
		require.NoError(t, b.RevokeAll(t.Context(), Login("alice").AppID))
		dead(t, a, alice)
		dead(t, b, bob)
		alice, bob = login(t, a, "alice"), login(t, a, "bob")
		require.NoError(t, a.RevokeAll(t.Context(), ""))
		dead(t, a, alice)
		dead(t, b, bob)
		live := login(t, b, "bob")
		require.Equal(t, "bob", openIDOf(t, a, live))
		if reopen == nil {
			return
		}
		a.Close()
		b.Close()
		require.NoError(t, store.Close())
		store = reopen()
		m := manage(t, store)
		dead(t, m, alice)
		require.Equal(t, "bob", openIDOf(t, m, live))
		m.Close()
		require.NoError(t, store.Close())
	})

	// A session that was refused as expired stays dead, however long the
	// timeouts are afterwards.
	t.Run("expired", func(t *testing.T) {
		store, _ := open(t)
		clock := NewClock()
		with := func(lifetime time.Duration) *session.Manager {
			m, err := session.NewManager(t.Context(), session.Config{Store: store, Keys: [][]byte{Key(1)}, Lifetime: lifetime, Now: clock.Now})
			require.NoError(t, err)
			t.Cleanup(m.Close)
			return m
		}
		long := with(24 * time.Hour)
		alice := login(t, long, "alice")
		clock.Advance(2 * time.Hour)
		dead(t, with(time.Hour), alice)
		dead(t, long, alice)
		dead(t, with(48*time.Hour), alice)
	})

	// A revocation that was acknowledged counts for every reader, even for
	// readers that had the session in their hands at that moment.
	t.Run("revocation under load", func(t *testing.T) {
		store, _ := open(t)
		m := manage(t, store)
		for range 10 {
			token := login(t, m, "alice")
			var revoked, stop atomic.Bool
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for !stop.Load() {
						before := revoked.Load()
						_, err := m.Lookup(t.Context(), token)
						if before {
							assert.ErrorIs(t, err, session.ErrInvalid)
							return
						}
					}
				})
			}
			for range 20 {
				openIDOf(t, m, token)
			}
			_, err := m.RevokeUser(t.Context(), Login("alice").AppID, "alice")
			revoked.Store(true)
			wg.Wait()
			stop.Store(true)
			require.NoError(t, err)
		}
	})
}
