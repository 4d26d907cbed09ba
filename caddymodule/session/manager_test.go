package session_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

func TestCreateAndLookup(t *testing.T) {
	f := manage(t, openStore(t))
	login := sessiontest.Login("oAlice")
	login.UnionID = "uAlice"
	created := f.create(login)

	require.Len(t, created.Token, 43)
	require.Empty(t, created.Evicted)
	sum := sha256.Sum256([]byte(created.Token))
	want := created.Session
	require.Equal(t, hex.EncodeToString(sum[:8]), want.ID)
	require.Equal(t, appID, want.AppID)
	require.Equal(t, "oAlice", want.OpenID)
	require.Equal(t, "uAlice", want.UnionID)
	require.True(t, want.Created.Equal(f.clock.Now()))
	require.Equal(t, session.DefaultLifetime, want.Expires.Sub(want.Created))

	for range 3 {
		got := f.lives(created.Token, "oAlice")
		require.Equal(t, want.ID, got.ID)
		require.Equal(t, want.AppID, got.AppID)
		require.Equal(t, want.UnionID, got.UnionID)
		require.Equal(t, want.Created, got.Created)
		require.Equal(t, want.Expires, got.Expires)
	}
}

func TestTokensThatCannotBe(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, net)
	good := f.login("oAlice")
	net.taken()
	for name, token := range map[string]string{
		"empty":             "",
		"a character short": good[:42],
		"a character long":  good + "A",
		"padded":            good + "=",
		"standard alphabet": strings.Repeat("+/", 21) + "A",
		"a space":           good[:42] + " ",
		"a NUL":             "\x00" + good[1:],
		"not ASCII":         good[:41] + "é",
		"a megabyte":        strings.Repeat("A", 1<<20),
		"a storage key":     "user:" + good[5:],
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.Lookup(t.Context(), token)
			require.ErrorIs(t, err, session.ErrInvalid)
			_, err = f.Revoke(t.Context(), token)
			require.ErrorIs(t, err, session.ErrInvalid)
			require.Empty(t, net.taken(), "the store was asked")
		})
	}
	f.dead(strings.Repeat("A", 43))
	require.Equal(t, []string{"get user"}, net.taken())
}

func TestReason(t *testing.T) {
	store := openStore(t)
	f := manage(t, store, func(c *session.Config) { c.IdleTimeout, c.Lifetime = 2*time.Hour, 3*time.Hour })
	because := func(reason, token string) {
		t.Helper()
		_, err := f.Lookup(t.Context(), token)
		require.ErrorIs(t, err, session.ErrInvalid)
		require.Equal(t, reason, session.Reason(err))
	}
	because("malformed", "undefined")
	because("unknown", strings.Repeat("A", 43))
	token := f.login("oAlice")
	f.clock.Advance(2 * time.Hour)
	because("idle", token)
	because("unknown", token)
	token = f.login("oAlice")
	f.clock.Advance(time.Hour)
	f.lives(token, "oAlice")
	f.clock.Advance(time.Hour)
	f.lives(token, "oAlice")
	f.clock.Advance(time.Hour)
	because("lifetime", token)
	token = f.login("oAlice")
	require.NoError(t, f.RevokeAll(t.Context(), ""))
	because("revoked", token)
	require.Equal(t, "unknown", session.Reason(session.ErrInvalid))
}

// A store that refuses writes serves the sessions that it has.
func TestStartWhileWritesAreRefused(t *testing.T) {
	store := openStore(t)
	token := manage(t, store).login("oAlice")
	net := between(store)
	net.down(func(method, _ string) bool { return method != "get" && method != "update" })
	f := manage(t, net)
	f.lives(token, "oAlice")
	_, err := f.Create(t.Context(), sessiontest.Login("oAlice"))
	require.ErrorIs(t, err, errDown)
	net.up()
	f.lives(f.login("oAlice"), "oAlice")
}

func TestSameOpenIDOfAnotherMiniProgram(t *testing.T) {
	f := manage(t, openStore(t))
	here := f.login("oAlice")
	login := sessiontest.Login("oAlice")
	login.AppID = "wxffffffffffffffff"
	there := f.create(login)
	_, err := f.RevokeUser(t.Context(), appID, "oAlice")
	require.NoError(t, err)
	f.dead(here)
	require.Equal(t, "wxffffffffffffffff", f.lives(there.Token, "oAlice").AppID)
}

func TestLoginsThatNoRecordHolds(t *testing.T) {
	f := manage(t, openStore(t))
	for name, change := range map[string]func(*session.Login){
		"no appid":       func(l *session.Login) { l.AppID = "" },
		"no openid":      func(l *session.Login) { l.OpenID = "" },
		"a huge openid":  func(l *session.Login) { l.OpenID = strings.Repeat("o", 1025) },
		"a huge unionid": func(l *session.Login) { l.UnionID = strings.Repeat("o", 1025) },
	} {
		login := sessiontest.Login("oAlice")
		change(&login)
		_, err := f.Create(t.Context(), login)
		require.Error(t, err, name)
	}
}

// Wherever a login fails, nothing is left that its token opens, and the next
// one succeeds.
func TestCreateFailsAtEachStep(t *testing.T) {
	steps := []string{"get meta", "update user", "sync "}
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			net := between(openStore(t))
			f := manage(t, net, func(c *session.Config) { c.MaxPerUser = 2 })
			before := f.login("oAlice")
			net.down(func(method, key string) bool {
				kind, _, _ := strings.Cut(key, ":")
				return method+" "+kind == step
			})
			_, err := f.Create(t.Context(), sessiontest.Login("oAlice"))
			require.ErrorIs(t, err, errDown)
			net.up()
			f.lives(before, "oAlice")
			user, err := f.User(t.Context(), appID, "oAlice")
			require.NoError(t, err)
			require.Len(t, user.Sessions, 1)
			f.lives(f.login("oAlice"), "oAlice")
		})
	}
	t.Run("no room", func(t *testing.T) {
		net := between(openStore(t))
		f := manage(t, net)
		token := f.login("oAlice")
		net.set(func() { net.room = session.ErrFull })
		_, err := f.Create(t.Context(), sessiontest.Login("oAlice"))
		require.ErrorIs(t, err, session.ErrFull)
		f.lives(token, "oAlice")
		_, err = f.Revoke(t.Context(), token)
		require.NoError(t, err, "a revocation does not ask for room")
		f.dead(token)
	})
	t.Run("caller gone", func(t *testing.T) {
		f := manage(t, openStore(t))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := f.Create(ctx, sessiontest.Login("oAlice"))
		require.ErrorIs(t, err, context.Canceled)
	})
}

// What is acknowledged has been synced, once, after the last write that
// counts.
func TestSyncBeforeAcknowledgement(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, net, func(c *session.Config) { c.MaxPerUser = 1 })
	check := func(name string, err error) {
		t.Helper()
		require.NoError(t, err, name)
		calls := net.taken()
		require.Equal(t, "sync ", calls[len(calls)-1], name)
		require.NotContains(t, calls[:len(calls)-1], "sync ", name)
	}
	net.taken()
	_, err := f.Create(t.Context(), sessiontest.Login("oAlice"))
	check("create", err)
	created, err := f.Create(t.Context(), sessiontest.Login("oAlice"))
	check("create over the cap", err)
	_, err = f.Revoke(t.Context(), created.Token)
	check("end", err)
	created, err = f.Create(t.Context(), sessiontest.Login("oAlice"))
	check("create again", err)
	check("end session", f.RevokeSession(t.Context(), appID, "oAlice", created.Session.ID))
	_, err = f.RevokeUser(t.Context(), appID, "oAlice")
	check("end user", err)

	created, err = f.Create(t.Context(), sessiontest.Login("oAlice"))
	check("create", err)
	f.clock.Advance(session.DefaultLifetime)
	f.dead(created.Token)
	check("refusal of an expired session", nil)

	token := f.login("oAlice")
	net.set(func() { net.syncing = errDown })
	_, err = f.Revoke(t.Context(), token)
	require.ErrorIs(t, err, errDown, "what could not be synced is not acknowledged")
}

// An outage is never taken for "no session".
func TestStoreDown(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, net)
	token := f.login("oAlice")
	s := f.lives(token, "oAlice")
	for _, part := range []string{"", "meta", "user:"} {
		net.down(func(_, key string) bool { return strings.HasPrefix(key, part) })
		require.ErrorIs(t, f.unanswered(token), errDown)
		require.ErrorIs(t, f.Alive(t.Context(), s), errDown)
		_, err := f.Revoke(t.Context(), token)
		require.ErrorIs(t, err, errDown)
	}
	_, err := f.RevokeUser(t.Context(), appID, "oAlice")
	require.ErrorIs(t, err, errDown)
	_, err = f.User(t.Context(), appID, "oAlice")
	require.ErrorIs(t, err, errDown)
	_, err = f.SessionKeys(t.Context(), s)
	require.ErrorIs(t, err, errDown)
	net.up()
	f.lives(token, "oAlice")
}

func TestMeasure(t *testing.T) {
	net := between(openStore(t))
	var mu sync.Mutex
	errs := map[string]int{}
	ops := map[string]int{}
	f := manage(t, net, func(c *session.Config) {
		c.Measure = func(op string, took time.Duration, err error) {
			mu.Lock()
			defer mu.Unlock()
			assert.GreaterOrEqual(t, took, time.Duration(0))
			ops[op]++
			if err != nil {
				errs[op]++
			}
		}
	})
	token := f.login("oAlice")
	f.lives(token, "oAlice")
	f.dead(strings.Repeat("A", 43))
	_, err := f.Revoke(t.Context(), token)
	require.NoError(t, err)
	_, err = f.RevokeUser(t.Context(), appID, "oNobody")
	require.ErrorIs(t, err, session.ErrNoSuchUser)
	require.NoError(t, f.Ping(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = f.Lookup(ctx, token)
	require.Error(t, err)
	require.Empty(t, errs, "absence and callers who left are no faults of the store")
	for _, op := range []string{"get", "update", "sync", "ping"} {
		require.Positive(t, ops[op], op)
	}
	net.down(func(string, string) bool { return true })
	f.unanswered(token)
	require.Equal(t, map[string]int{"get": 1}, errs)
}

// Neither the engine nor a thief of its disk learns who logs in.
func TestNothingInTheClear(t *testing.T) {
	store := openStore(t)
	f := manage(t, store)
	login := session.Login{AppID: appID, OpenID: "oCanaryOpenID", UnionID: "uCanaryUnionID", SessionKey: "Q2FuYXJ5U2Vzc2lvbktleQ=="}
	created := f.create(login)
	f.create(login)
	secrets := []string{login.AppID, login.OpenID, login.UnionID, login.SessionKey, created.Token}
	for _, prefix := range []string{"user:", "meta"} {
		records := dump(t, store, prefix)
		require.NotEmpty(t, records, prefix)
		for key, value := range records {
			for _, secret := range secrets {
				require.NotContains(t, key, secret)
				require.False(t, bytes.Contains(value, []byte(secret)), "%s is in a value under %s", secret, prefix)
			}
		}
	}
}

func TestAttach(t *testing.T) {
	f := manage(t, openStore(t))
	token := f.login("oAlice")
	var built count
	header := func(s *session.Session) any {
		built.Add(1)
		return []string{s.OpenID}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s, err := f.Lookup(t.Context(), token)
			if assert.NoError(t, err) {
				assert.Equal(t, []string{"oAlice"}, s.Attach(header))
			}
		})
	}
	wg.Wait()
	n := built.Load()
	f.lives(token, "oAlice").Attach(header)
	require.Equal(t, n, built.Load(), "made once per opened session")
}

func TestConfigsThatCannotBe(t *testing.T) {
	good := session.Config{Store: openStore(t), Keys: [][]byte{sessiontest.Key(1)}}
	for name, change := range map[string]func(*session.Config){
		"no store":          func(c *session.Config) { c.Store = nil },
		"no key":            func(c *session.Config) { c.Keys = nil },
		"a short key":       func(c *session.Config) { c.Keys = [][]byte{sessiontest.Key(1), make([]byte, 31)} },
		"negative idle":     func(c *session.Config) { c.IdleTimeout = -1 },
		"negative lifetime": func(c *session.Config) { c.Lifetime = -1 },
		"negative cap":      func(c *session.Config) { c.MaxPerUser = -1 },
		"negative cache":    func(c *session.Config) { c.CacheSize = -1 },
	} {
		cfg := good
		change(&cfg)
		_, err := session.NewManager(t.Context(), cfg)
		require.Error(t, err, name)
	}
}

func TestAbilitiesThatAStoreLacks(t *testing.T) {
	type plain struct{ session.Store }
	f := manage(t, plain{openStore(t)})
	_, ok := f.Count(t.Context())
	require.False(t, ok)
	_, ok = f.Free()
	require.False(t, ok)
	require.NoError(t, f.Room())
	require.NoError(t, f.Ping(t.Context()))
	require.ErrorIs(t, f.Backup(t.Context(), new(bytes.Buffer)), errors.ErrUnsupported)
	f.lives(f.login("oAlice"), "oAlice")
}

// dump returns everything under a prefix.
func dump(t testing.TB, store session.Scanner, prefix string) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	require.NoError(t, store.Scan(t.Context(), prefix, func(key string, value []byte, _ time.Duration) error {
		all[key] = value
		return nil
	}))
	return all
}
