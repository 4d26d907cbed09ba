package sessiontest

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wxgate/wxgate/caddymodule/session"
)

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

// A manager checks what users notice.
type manager struct {
	*session.Manager
	t *testing.T
}

func manage(t *testing.T, store session.Store) manager {
	t.Helper()
	return manageWith(t, session.Config{Store: store})
}

func manageWith(t *testing.T, config session.Config) manager {
	t.Helper()
	config.Keys, config.MaxPerUser = [][]byte{Key(1)}, 2
	m, err := session.NewManager(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(m.Close)
	return manager{m, t}
}

func (m manager) login(openID string) (token string) {
	m.t.Helper()
	created, err := m.Create(m.t.Context(), Login(openID))
	require.NoError(m.t, err)
	return created.Token
}

func (m manager) revoke(token string) {
	m.t.Helper()
	_, err := m.Revoke(m.t.Context(), token)
	require.NoError(m.t, err)
}

func (m manager) requireLive(token, openID string) {
	m.t.Helper()
	s, err := m.Lookup(m.t.Context(), token)
	require.NoError(m.t, err)
	require.Equal(m.t, openID, s.OpenID)
}

func (m manager) requireDead(tokens ...string) {
	m.t.Helper()
	for _, token := range tokens {
		_, err := m.Lookup(m.t.Context(), token)
		require.ErrorIs(m.t, err, session.ErrInvalid)
	}
}

func testLifecycle(t *testing.T, store session.Store) {
	m := manage(t, store)
	alice, bob := m.login("alice"), m.login("bob")
	m.requireLive(alice, "alice")
	m.requireLive(bob, "bob")
	m.revoke(alice)
	m.requireDead(alice)
	m.requireLive(bob, "bob")

	oldest, newer, newest := m.login("alice"), m.login("alice"), m.login("alice")
	m.requireDead(oldest)
	m.requireLive(newer, "alice")
	ids, err := m.RevokeUser(t.Context(), Login("alice").AppID, "alice")
	require.NoError(t, err)
	require.Len(t, ids, 2)
	m.requireDead(newer, newest)
	m.requireLive(bob, "bob")
}

func testManagerReopen(t *testing.T, store session.Store, reopen func() session.Store) {
	m := manage(t, store)
	early := m.login("alice")
	require.NoError(t, m.RevokeAll(t.Context(), ""))
	live, revoked := m.login("alice"), m.login("bob")
	m.revoke(revoked)
	m.Close()
	require.NoError(t, store.Close())

	store = reopen()
	m = manage(t, store)
	m.requireLive(live, "alice")
	m.requireDead(early, revoked)
	_, err := session.NewManager(t.Context(), session.Config{Store: store, Keys: [][]byte{Key(2)}})
	require.ErrorIs(t, err, session.ErrWrongKey)
	m.Close()
	require.NoError(t, store.Close())
}

// testTwoManagers is what happens while Caddy reloads: two configurations work
// on one store.
func testTwoManagers(t *testing.T, store session.Store) {
	a, b := manage(t, store), manage(t, store)
	for range 20 {
		token := a.login("alice")
		b.requireLive(token, "alice")
		a.requireLive(token, "alice")
		b.revoke(token)
		a.requireDead(token)
		b.requireDead(token)
	}
}

func testRevokeAll(t *testing.T, store session.Store) {
	a, b := manage(t, store), manage(t, store)
	alice, bob := a.login("alice"), b.login("bob")
	a.requireLive(bob, "bob")
	require.NoError(t, b.RevokeAll(t.Context(), "wxffffffffffffffff"))
	b.requireLive(alice, "alice")
	require.NoError(t, b.RevokeAll(t.Context(), Login("alice").AppID))
	a.requireDead(alice)
	b.requireDead(bob)
	alice, bob = a.login("alice"), a.login("bob")
	require.NoError(t, a.RevokeAll(t.Context(), ""))
	a.requireDead(alice)
	b.requireDead(bob)
	b.requireLive(b.login("bob"), "bob")
}

// testExpired: a session that was refused as expired stays dead, however long
// the timeouts are afterwards.
func testExpired(t *testing.T, store session.Store) {
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	with := func(lifetime time.Duration) manager {
		return manageWith(t, session.Config{Store: store, Lifetime: lifetime, Now: now})
	}
	long := with(24 * time.Hour)
	alice := long.login("alice")
	ahead.Store(int64(2 * time.Hour))
	with(time.Hour).requireDead(alice)
	long.requireDead(alice)
	with(48 * time.Hour).requireDead(alice)
}

// testRevokeUnderLoad: a revocation that was acknowledged counts for every
// reader, even for readers that had the session in their hands at that moment.
func testRevokeUnderLoad(t *testing.T, store session.Store) {
	m := manage(t, store)
	for range 10 {
		token := m.login("alice")
		var revoked atomic.Bool
		var readers errgroup.Group
		for range 4 {
			readers.Go(func() error {
				for {
					before := revoked.Load()
					_, err := m.Lookup(t.Context(), token)
					if before && !errors.Is(err, session.ErrInvalid) {
						return errors.Join(err, errors.New("a revoked session was not refused as invalid"))
					} else if before {
						return nil
					}
				}
			})
		}
		for range 20 {
			m.requireLive(token, "alice")
		}
		_, err := m.RevokeUser(t.Context(), Login("alice").AppID, "alice")
		revoked.Store(true)
		require.NoError(t, readers.Wait())
		require.NoError(t, err)
	}
}
