package redisstore_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// manage returns a gateway's Manager.
func manage(t testing.TB, s session.Store) *session.Manager {
	t.Helper()
	m, err := session.NewManager(t.Context(), session.Config{Store: s, Keys: [][]byte{sessiontest.Key(1)}})
	require.NoError(t, err)
	t.Cleanup(m.Close)
	return m
}

// awaitEnd looks a token up until it opens nothing, and returns how long that
// took and what it was in the end.
func awaitEnd(t testing.TB, m *session.Manager, token string) (time.Duration, error) {
	t.Helper()
	begin := time.Now()
	for time.Since(begin) < recovery {
		if _, err := m.Lookup(t.Context(), token); err != nil {
			return time.Since(begin), err
		}
	}
	t.Fatalf("a revoked session lives after %s", recovery)
	return 0, nil
}

// A session that is made on one gateway works on another one, and when it is
// ended there it dies here, although it was in memory.
func TestRevocationReachesOtherGateways(t *testing.T) {
	tests := []struct {
		name    string
		options func(t *testing.T) redisstore.Options
	}{
		{"single server", func(t *testing.T) redisstore.Options { return patient(redistest.Start(t).Addr) }},
		{"cluster", func(t *testing.T) redisstore.Options { return patient(redistest.StartCluster(t, 3)[0].Addr) }},
	}
	const rounds = 100
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := tt.options(t)
			here, there := manage(t, open(t, o)), manage(t, open(t, o))
			login := sessiontest.Login("alice")
			var delays []time.Duration
			for i := range rounds {
				created, err := there.Create(t.Context(), login)
				require.NoError(t, err)
				for range 3 {
					found, err := here.Lookup(t.Context(), created.Token)
					require.NoError(t, err)
					require.Equal(t, "alice", found.OpenID)
				}
				if i%2 == 0 {
					_, err = there.Revoke(t.Context(), created.Token)
				} else {
					_, err = there.RevokeUser(t.Context(), login.AppID, login.OpenID)
				}
				require.NoError(t, err)
				delay, err := awaitEnd(t, here, created.Token)
				require.ErrorIs(t, err, session.ErrInvalid)
				delays = append(delays, delay)
			}
			slices.Sort(delays)
			t.Logf("dead elsewhere after: median %s, 99%% %s, longest %s", delays[rounds/2], delays[rounds*99/100], delays[rounds-1])
		})
	}
}

// A gateway that cannot reach the server does not go on serving from memory.
func TestRevocationDuringPartition(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	o := patient(proxy.Addr)
	o.Timeout = 500 * time.Millisecond
	o.DialTimeout = time.Second
	var store session.Store
	require.Eventually(t, func() bool {
		var err error
		store, err = redisstore.Open(t.Context(), o)
		return err == nil
	}, recovery, 10*time.Millisecond)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	there := manage(t, open(t, patient(server.Addr)))
	here := manage(t, store)
	created, err := there.Create(t.Context(), sessiontest.Login("alice"))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := here.Lookup(t.Context(), created.Token)
		return err == nil
	}, recovery, 10*time.Millisecond)

	thaw := proxy.Freeze()
	defer thaw()
	_, err = there.Revoke(t.Context(), created.Token)
	require.NoError(t, err)
	delay, err := awaitEnd(t, here, created.Token)
	require.NotErrorIs(t, err, session.ErrInvalid, "it cannot know that")
	t.Logf("not served from memory after %s", delay)
	thaw()
	require.Eventually(t, func() bool {
		_, err := here.Lookup(t.Context(), created.Token)
		require.Error(t, err, "a revoked session came back")
		return errors.Is(err, session.ErrInvalid)
	}, recovery, 10*time.Millisecond)
}

// A server that is full takes no new value, but a user who must be logged out
// is, on all gateways, and nothing else is lost by it.
func TestRevocationWhileFull(t *testing.T) {
	tests := []struct {
		name string
		end  func(t *testing.T, m *session.Manager, user session.Login, token string) error
		both bool // sessions of the user
	}{
		{
			name: "logout",
			end: func(t *testing.T, m *session.Manager, _ session.Login, token string) error {
				_, err := m.Revoke(t.Context(), token)
				return err
			},
		},
		{
			name: "one session of a user",
			end: func(t *testing.T, m *session.Manager, user session.Login, token string) error {
				s, err := m.Lookup(t.Context(), token)
				require.NoError(t, err)
				return m.RevokeSession(t.Context(), user.AppID, user.OpenID, s.ID)
			},
		},
		{
			name: "all sessions of a user",
			end: func(t *testing.T, m *session.Manager, user session.Login, _ string) error {
				ended, err := m.RevokeUser(t.Context(), user.AppID, user.OpenID)
				require.Len(t, ended, 2)
				return err
			},
			both: true,
		},
		{
			name: "all sessions of a mini program",
			end: func(t *testing.T, m *session.Manager, user session.Login, _ string) error {
				return m.RevokeAll(t.Context(), user.AppID)
			},
			both: true,
		},
		{
			name: "all sessions",
			end: func(t *testing.T, m *session.Manager, _ session.Login, _ string) error {
				return m.RevokeAll(t.Context(), "")
			},
			both: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := redistest.Start(t)
			o := patient(server.Addr)
			here, there := manage(t, open(t, o)), manage(t, open(t, o))
			login := sessiontest.Login("alice")
			login.UnionID = "union of alice"
			var tokens []string
			for range 2 {
				created, err := here.Create(t.Context(), login)
				require.NoError(t, err)
				_, err = there.Lookup(t.Context(), created.Token)
				require.NoError(t, err)
				tokens = append(tokens, created.Token)
			}

			server.Do(t, "config", "set", "maxmemory", "1")
			_, err := here.Create(t.Context(), login)
			require.ErrorIs(t, err, session.ErrFull)
			require.NoError(t, tt.end(t, here, login, tokens[0]))
			_, err = here.Lookup(t.Context(), tokens[0])
			require.ErrorIs(t, err, session.ErrInvalid)
			_, err = awaitEnd(t, there, tokens[0])
			require.ErrorIs(t, err, session.ErrInvalid)
			if !tt.both {
				_, err = there.Lookup(t.Context(), tokens[1])
				require.NoError(t, err)
			}

			server.Do(t, "config", "set", "maxmemory", "0")
			login.UnionID = ""
			created, err := there.Create(t.Context(), login)
			require.NoError(t, err)
			require.Equal(t, "union of alice", created.Session.UnionID)
			user, err := here.User(t.Context(), login.AppID, login.OpenID)
			require.NoError(t, err)
			if tt.both {
				require.Len(t, user.Sessions, 1)
			} else {
				require.Len(t, user.Sessions, 2)
			}
			_, err = here.Lookup(t.Context(), tokens[0])
			require.ErrorIs(t, err, session.ErrInvalid, "ended for good")
		})
	}
}

// The record of the user does not even open, so what it lists is unknown.
func TestRevocationOfDamagedUserWhileFull(t *testing.T) {
	server := redistest.Start(t)
	store := open(t, patient(server.Addr))
	m := manage(t, store)
	login := sessiontest.Login("alice")
	created, err := m.Create(t.Context(), login)
	require.NoError(t, err)
	var damaged string
	require.NoError(t, store.(session.Scanner).Scan(t.Context(), "u", func(key string, _ []byte, _ time.Duration) error {
		damaged = key
		return nil
	}))
	require.NoError(t, sessiontest.Put(t.Context(), store, damaged, []byte("damaged"), 0))

	server.Do(t, "config", "set", "maxmemory", "1")
	_, err = m.RevokeUser(t.Context(), login.AppID, login.OpenID)
	require.NoError(t, err)
	_, err = m.Lookup(t.Context(), created.Token)
	require.ErrorIs(t, err, session.ErrInvalid)
}

// Among many keys, the number is an estimate.
func TestCountOfManyKeys(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, patient(server.Addr))
	server.Do(t, "debug", "populate", "30000", "wxgate:session")
	server.Do(t, "debug", "populate", "15000", "wxgate:user")
	server.Do(t, "debug", "populate", "5000", "somebody else")
	for prefix, want := range map[string]float64{"session:": 30_000, "user:": 15_000, "": 45_000, "none:": 0} {
		n, err := s.(session.Counter).Count(t.Context(), prefix, one)
		require.NoError(t, err)
		require.InDelta(t, want, float64(n), 6000, prefix)
	}
}
