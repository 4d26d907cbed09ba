package session_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

func TestMaxPerUser(t *testing.T) {
	f := manage(t, openStore(t), func(c *session.Config) { c.MaxPerUser = 3 })
	var created []session.Created
	for range 5 {
		f.clock.Advance(time.Minute)
		created = append(created, f.create(sessiontest.Login("oAlice")))
	}
	other := f.login("oBob")
	require.Equal(t, []string{created[0].Session.ID}, created[3].Evicted)
	require.Equal(t, []string{created[1].Session.ID}, created[4].Evicted)
	for i, c := range created {
		if i < 2 {
			f.dead(c.Token)
		} else {
			f.lives(c.Token, "oAlice")
		}
	}
	f.lives(other, "oBob")
	user, err := f.User(t.Context(), appID, "oAlice")
	require.NoError(t, err)
	require.Len(t, user.Sessions, 3)
	require.Equal(t, created[2].Session.ID, user.Sessions[0].ID, "oldest first")

	// A lower limit ends all that are over it at the next login.
	lower := manage(t, openStore(t), func(c *session.Config) { c.MaxPerUser = 1 })
	first := lower.login("oAlice")
	second := lower.login("oAlice")
	lower.dead(first)
	lower.lives(second, "oAlice")
}

// A session that is no longer used must not push out one in use.
func TestMaxPerUserEvictsIdleSessionsFirst(t *testing.T) {
	f := manage(t, openStore(t), func(c *session.Config) { c.MaxPerUser, c.IdleTimeout = 2, 10*time.Hour })
	used := f.login("oAlice")
	f.clock.Advance(time.Minute)
	unused := f.login("oAlice")
	for range 6 {
		f.clock.Advance(2 * time.Hour)
		f.lives(used, "oAlice")
	}
	created := f.create(sessiontest.Login("oAlice"))
	require.Empty(t, created.Evicted)
	f.lives(used, "oAlice")
	f.lives(created.Token, "oAlice")
	f.dead(unused)
}

// The same holds in the tenth of the idle timeout by which a record may be behind:
// who has idled out as far as is known goes first.
func TestMaxPerUserEvictsWhatSeemsIdleFirst(t *testing.T) {
	f := manage(t, openStore(t), func(c *session.Config) { c.MaxPerUser, c.IdleTimeout = 2, 10*time.Hour })
	used := f.login("oAlice")
	f.clock.Advance(time.Minute)
	unused := f.create(sessiontest.Login("oAlice"))
	for range 6 {
		f.clock.Advance(100 * time.Minute)
		f.lives(used, "oAlice")
	}
	require.Equal(t, []string{unused.Session.ID}, f.create(sessiontest.Login("oAlice")).Evicted)
	f.lives(used, "oAlice")
	f.dead(unused.Token)
}

// Sessions that were revoked with all others take no place, are not evicted again,
// and need not be older by the clock of this node.
func TestMaxPerUserAfterRevokeAll(t *testing.T) {
	f := manage(t, openStore(t), func(c *session.Config) { c.MaxPerUser = 2 })
	old := []session.Created{f.create(sessiontest.Login("oAlice")), f.create(sessiontest.Login("oAlice"))}
	require.NoError(t, f.RevokeAll(t.Context(), ""))
	f.clock.Advance(-time.Second)
	for _, dead := range old {
		require.ErrorIs(t, f.RevokeSession(t.Context(), appID, "oAlice", dead.Session.ID), session.ErrInvalid)
	}
	one, two := f.create(sessiontest.Login("oAlice")), f.create(sessiontest.Login("oAlice"))
	require.Empty(t, one.Evicted)
	require.Empty(t, two.Evicted)
	f.lives(one.Token, "oAlice")
	f.lives(two.Token, "oAlice")
	require.NoError(t, f.RevokeAll(t.Context(), ""))
	f.login("oAlice")
	revoked, err := f.RevokeUser(t.Context(), appID, "oAlice")
	require.NoError(t, err)
	require.Len(t, revoked, 1, "the others have been")
}

func TestNoLimitPerUser(t *testing.T) {
	f := manage(t, openStore(t))
	var tokens []string
	for range 513 {
		tokens = append(tokens, f.login("oAlice"))
	}
	f.dead(tokens[0])
	for _, token := range tokens[1:] {
		f.lives(token, "oAlice")
	}
}

func TestRevoke(t *testing.T) {
	f := manage(t, openStore(t))
	token, other := f.login("oAlice"), f.login("oAlice")
	s := f.lives(token, "oAlice")
	ended, err := f.Revoke(t.Context(), token)
	require.NoError(t, err)
	require.Equal(t, s.ID, ended.ID)
	f.dead(token)
	require.ErrorIs(t, f.Alive(t.Context(), s), session.ErrInvalid)
	_, err = f.SessionKeys(t.Context(), s)
	require.ErrorIs(t, err, session.ErrInvalid)
	_, err = f.Revoke(t.Context(), token)
	require.ErrorIs(t, err, session.ErrInvalid)
	f.lives(other, "oAlice")

	t.Run("one of many succeeds", func(t *testing.T) {
		token := f.login("oBob")
		var succeeded count
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				_, err := f.Revoke(t.Context(), token)
				if err == nil {
					succeeded.Add(1)
				} else {
					assert.ErrorIs(t, err, session.ErrInvalid)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, succeeded.Load())
	})
}

// A record that vanishes while its session is revoked is no outage.
func TestRevocationOfWhatHasVanished(t *testing.T) {
	for name, look := range map[string]func(f *fixture, token string) error{
		"revoked": func(f *fixture, token string) error {
			_, err := f.Revoke(f.t.Context(), token)
			return err
		},
		"expired": func(f *fixture, token string) error {
			f.clock.Advance(session.DefaultLifetime)
			_, err := f.Lookup(f.t.Context(), token)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			net := between(openStore(t))
			f := manage(t, net)
			token := f.login("oAlice")
			net.set(func() {
				net.before = func(method, key string) error {
					if method == "update" {
						return sessiontest.Delete(t.Context(), net.Store, key)
					}
					return nil
				}
			})
			require.ErrorIs(t, look(f, token), session.ErrInvalid)
		})
	}
}

func TestEndSession(t *testing.T) {
	f := manage(t, openStore(t))
	one, two := f.create(sessiontest.Login("oAlice")), f.create(sessiontest.Login("oAlice"))
	require.ErrorIs(t, f.RevokeSession(t.Context(), appID, "oNobody", one.Session.ID), session.ErrNoSuchUser)
	require.ErrorIs(t, f.RevokeSession(t.Context(), appID, "oAlice", "0123456789abcdef"), session.ErrInvalid)
	require.ErrorIs(t, f.RevokeSession(t.Context(), "wxffffffffffffffff", "oAlice", one.Session.ID), session.ErrNoSuchUser)
	require.NoError(t, f.RevokeSession(t.Context(), appID, "oAlice", one.Session.ID))
	f.dead(one.Token)
	f.lives(two.Token, "oAlice")
	require.ErrorIs(t, f.RevokeSession(t.Context(), appID, "oAlice", one.Session.ID), session.ErrInvalid)
}

func TestEndUser(t *testing.T) {
	store := openStore(t)
	f := manage(t, store)
	_, err := f.RevokeUser(t.Context(), appID, "oAlice")
	require.ErrorIs(t, err, session.ErrNoSuchUser)
	var tokens, ids []string
	for range 3 {
		token := f.login("oAlice")
		tokens, ids = append(tokens, token), append(ids, f.lives(token, "oAlice").ID)
	}
	other := f.login("oBob")
	ended, err := f.RevokeUser(t.Context(), appID, "oAlice")
	require.NoError(t, err)
	require.ElementsMatch(t, ids, ended)
	for _, token := range tokens {
		f.dead(token)
	}
	f.lives(other, "oBob")
	ended, err = f.RevokeUser(t.Context(), appID, "oAlice")
	require.NoError(t, err)
	require.Empty(t, ended)
	after := f.login("oAlice")
	f.lives(after, "oAlice")
	for _, token := range tokens {
		f.dead(token)
	}
	f.clock.Advance(session.DefaultLifetime)
	ended, err = f.RevokeUser(t.Context(), appID, "oAlice")
	require.NoError(t, err)
	require.Empty(t, ended, "its lifetime is over")
}

func TestRevokeAll(t *testing.T) {
	const otherApp = "wxffffffffffffffff"
	observed := func(s session.Store) session.Store { return s }
	unobserved := func(s session.Store) session.Store { return between(s) }
	for name, wrap := range map[string]func(session.Store) session.Store{"observed": observed, "unobserved": unobserved} {
		t.Run(name, func(t *testing.T) {
			store := openStore(t)
			net := between(store)
			a, b := manage(t, net), manage(t, wrap(store))
			login := func(f *fixture, app string) string {
				return f.create(session.Login{AppID: app, OpenID: "oAlice", SessionKey: "key"}).Token
			}
			ours, theirs := login(a, appID), login(b, otherApp)
			b.lives(ours, "oAlice")
			b.lives(theirs, "oAlice")

			net.taken()
			require.NoError(t, a.RevokeAll(t.Context(), appID))
			require.Equal(t, []string{"update meta", "sync "}, net.taken(), "one write")
			a.dead(ours)
			b.dead(ours)
			a.lives(theirs, "oAlice")
			b.lives(theirs, "oAlice")
			user, err := b.User(t.Context(), appID, "oAlice")
			require.NoError(t, err)
			require.Empty(t, user.Sessions)
			ours = login(b, appID)
			a.lives(ours, "oAlice")

			require.NoError(t, b.RevokeAll(t.Context(), ""))
			for _, token := range []string{ours, theirs} {
				a.dead(token)
				b.dead(token)
			}
			ours, theirs = login(a, appID), login(a, otherApp)
			b.lives(ours, "oAlice")
			require.NoError(t, a.RevokeAll(t.Context(), appID))
			require.NoError(t, a.RevokeAll(t.Context(), appID))
			b.dead(ours)
			b.lives(theirs, "oAlice")
			require.NoError(t, b.RevokeAll(t.Context(), "wx0000000000000000"), "no user has ever logged in there")
			a.lives(theirs, "oAlice")

			// On an emptied store, too, nothing lives afterwards.
			require.NoError(t, sessiontest.Delete(t.Context(), store, "meta"))
			require.NoError(t, a.RevokeAll(t.Context(), appID))
			b.dead(theirs)
			b.lives(login(b, appID), "oAlice")
		})
	}
	t.Run("while the store is down", func(t *testing.T) {
		net := between(openStore(t))
		f := manage(t, net)
		token := f.login("oAlice")
		net.down(func(method, _ string) bool { return method == "sync" })
		require.ErrorIs(t, f.RevokeAll(t.Context(), ""), errDown)
		net.up()
		f.dead(token)
	})
}

// A session that is dead is listed nowhere, so nothing depends on the store
// deleting anything.
func TestRevocationsDeleteNothing(t *testing.T) {
	cases := map[string]func(f *fixture, token string){
		"revoked":      func(f *fixture, token string) { _, _ = f.Revoke(f.t.Context(), token) },
		"user revoked": func(f *fixture, _ string) { _, _ = f.RevokeUser(f.t.Context(), appID, "oAlice") },
		"all revoked":  func(f *fixture, _ string) { _ = f.RevokeAll(f.t.Context(), "") },
		"evicted":      func(f *fixture, _ string) { f.login("oAlice") },
	}
	for name, end := range cases {
		t.Run(name, func(t *testing.T) {
			net := between(openStore(t))
			f := manage(t, net, func(c *session.Config) { c.MaxPerUser = 1 })
			token := f.login("oAlice")
			net.taken()
			end(f, token)
			calls := slices.DeleteFunc(net.taken(), func(call string) bool { return strings.HasPrefix(call, "get ") })
			require.Len(t, calls, 2, "one write and its sync")
			f.dead(token)
			f.login("oAlice")
			f.dead(token)
			require.Len(t, dump(t, net.Store.(session.Scanner), "user:"), 1)
		})
	}
}

// Where two users have one hash, the second cannot log in, and neither is taken
// for the other.
func TestUsersOfOneHash(t *testing.T) {
	store := openStore(t)
	f := manage(t, store)
	bob := f.login("oBob")
	require.NoError(t, session.MoveUser(t.Context(), f.Manager, appID, "oBob", "oAlice"))
	before := dump(t, store, "user:")
	_, err := f.Create(t.Context(), sessiontest.Login("oAlice"))
	require.Error(t, err)
	require.NotErrorIs(t, err, session.ErrInvalid)
	_, err = f.User(t.Context(), appID, "oAlice")
	require.ErrorIs(t, err, session.ErrNoSuchUser)
	_, err = f.UserKeys(t.Context(), appID, "oAlice")
	require.ErrorIs(t, err, session.ErrNoSessionKey)
	_, err = f.RevokeUser(t.Context(), appID, "oAlice")
	require.ErrorIs(t, err, session.ErrNoSuchUser)
	require.Equal(t, before, dump(t, store, "user:"))
	f.lives(bob, "oBob")
}
