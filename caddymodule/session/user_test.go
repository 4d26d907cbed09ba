package session_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

func TestUnionIDIsKept(t *testing.T) {
	f := manage(t, openStore(t))
	first := f.login("oAlice")
	require.Empty(t, f.lives(first, "oAlice").UnionID)
	login := sessiontest.Login("oAlice")
	login.UnionID = "uAlice"
	second := f.create(login)
	require.Equal(t, "uAlice", second.Session.UnionID)
	third := f.create(sessiontest.Login("oAlice"))
	require.Equal(t, "uAlice", third.Session.UnionID)
	require.Equal(t, "uAlice", f.lives(first, "oAlice").UnionID)
}

func TestSessionKeys(t *testing.T) {
	f := manage(t, openStore(t))
	login := sessiontest.Login("oAlice")
	login.SessionKey = "first"
	one := f.create(login)
	keys := func() []string {
		keys, err := f.SessionKeys(t.Context(), one.Session)
		require.NoError(t, err)
		return keys
	}
	require.Equal(t, []string{"first"}, keys())
	login.SessionKey = "second"
	f.create(login)
	require.Equal(t, []string{"second", "first"}, keys(), "newest first")
	f.create(login)
	require.Equal(t, []string{"second", "first"}, keys(), "the same key again replaces nothing")
	f.clock.Advance(5*time.Minute - 1)
	require.Len(t, keys(), 2)
	f.clock.Advance(1)
	require.Equal(t, []string{"second"}, keys())
	login.SessionKey = ""
	f.create(login)
	require.Equal(t, []string{"second"}, keys(), "a login without one keeps it")
	require.NoError(t, f.RevokeAll(t.Context(), appID))
	_, err := f.SessionKeys(t.Context(), one.Session)
	require.ErrorIs(t, err, session.ErrInvalid)
}

// UserKeys is for a caller that has no token of the user: it gets keys only
// while the user has a live session.
func TestUserKeys(t *testing.T) {
	f := manage(t, openStore(t), func(c *session.Config) { c.IdleTimeout, c.MaxPerUser = time.Hour, 2 })
	none := func(why string) {
		t.Helper()
		keys, err := f.UserKeys(t.Context(), appID, "oAlice")
		require.ErrorIs(t, err, session.ErrNoSessionKey, why)
		require.Empty(t, keys)
	}
	none("unknown user")
	login := sessiontest.Login("oAlice")
	login.SessionKey = "first"
	f.create(login)
	f.clock.Advance(time.Minute)
	login.SessionKey = "second"
	f.create(login)

	keys, err := f.UserKeys(t.Context(), appID, "oAlice")
	require.NoError(t, err)
	require.Equal(t, []string{"second", "first"}, keys)
	f.clock.Advance(5 * time.Minute)
	keys, err = f.UserKeys(t.Context(), appID, "oAlice")
	require.NoError(t, err)
	require.Equal(t, []string{"second"}, keys)

	f.clock.Advance(time.Hour)
	none("idle")
	token := f.login("oAlice")
	_, err = f.UserKeys(t.Context(), appID, "oAlice")
	require.NoError(t, err)
	_, err = f.Revoke(t.Context(), token)
	require.NoError(t, err)
	none("logged out")
	f.login("oAlice")
	_, err = f.RevokeUser(t.Context(), appID, "oAlice")
	require.NoError(t, err)
	none("revoked")
	f.login("oAlice")
	require.NoError(t, f.RevokeAll(t.Context(), appID))
	none("all revoked")
	login.SessionKey = ""
	login.OpenID = "oKeyless"
	f.create(login)
	_, err = f.UserKeys(t.Context(), appID, "oKeyless")
	require.ErrorIs(t, err, session.ErrNoSessionKey)

	net := between(openStore(t))
	f = manage(t, net)
	f.login("oAlice")
	for _, part := range []string{"user:", "meta"} {
		net.down(func(_, key string) bool { return strings.HasPrefix(key, part) })
		_, err = f.UserKeys(t.Context(), appID, "oAlice")
		require.ErrorIs(t, err, errDown, part)
	}
}

func TestCount(t *testing.T) {
	f := manage(t, openStore(t), func(c *session.Config) { c.IdleTimeout, c.Lifetime = 10*time.Hour, 24*time.Hour })
	counted := func(want int64) {
		t.Helper()
		n, ok := f.Count(t.Context())
		require.True(t, ok)
		require.Equal(t, want, n)
	}
	counted(0)
	f.login("oAlice")
	f.login("oAlice")
	bob := f.login("oBob")
	counted(3)
	_, err := f.Revoke(t.Context(), bob)
	require.NoError(t, err)
	counted(2)
	require.NoError(t, f.RevokeAll(t.Context(), appID))
	counted(0)
	alice := f.login("oAlice")
	counted(1)
	for range 3 {
		f.clock.Advance(8*time.Hour - 1)
		f.lives(alice, "oAlice")
		f.Close() // waits for the renewal
		f.restart()
	}
	counted(1)
	f.clock.Advance(3)
	counted(0) // its lifetime is over
	f.login("oBob")
	f.clock.Advance(10 * time.Hour)
	counted(0)
}
