package redisstore_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// roundTrip writes and reads in every way.
func roundTrip(t testing.TB, s session.Store) {
	t.Helper()
	ctx := t.Context()
	require.NoError(t, sessiontest.Put(ctx, s, "a", []byte("value"), time.Hour))
	value, err := s.Get(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, "value", string(value))
	require.NoError(t, increment(ctx, s, "n"))
	require.NoError(t, sessiontest.Delete(ctx, s, "a"))
	_, err = s.Get(ctx, "a")
	require.ErrorIs(t, err, session.ErrNotFound)
	require.NoError(t, s.(session.Pinger).Ping(ctx))
	n, err := s.(session.Counter).Count(ctx, "", one)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	seen := 0
	require.NoError(t, s.(session.Scanner).Scan(ctx, "", func(key string, value []byte, _ time.Duration) error {
		seen++
		require.Equal(t, "n", key)
		require.Equal(t, "1", string(value))
		return nil
	}))
	require.Equal(t, 1, seen)
}

// permissions are those that doc.go names.
const permissions = "~wxgate:* resetchannels -@all +get +mget +set +del +persist +eval " +
	"+ping +echo +select +client|tracking +client|caching +scan +pttl +dbsize +randomkey"

func TestWaysToConnect(t *testing.T) {
	t.Run("password", func(t *testing.T) {
		server := redistest.Start(t, "requirepass hunter2")
		o := patient(server.Addr)
		o.Password = "hunter2"
		roundTrip(t, open(t, o))
	})
	t.Run("password in the URL", func(t *testing.T) {
		server := redistest.Start(t, "requirepass hunter/2")
		roundTrip(t, open(t, patient("redis://:hunter%2F2@"+server.Addr)))
	})
	t.Run("user with no more permissions than needed", func(t *testing.T) {
		server := redistest.Start(t, "user gate on >hunter2 "+permissions)
		o := patient(server.Addr)
		o.Username, o.Password = "gate", "hunter2"
		roundTrip(t, open(t, o))
	})
	t.Run("user without client cache", func(t *testing.T) {
		server := redistest.Start(t, "user gate on >hunter2 "+strings.ReplaceAll(permissions, "+client|tracking +client|caching ", ""))
		o := patient("redis://gate:hunter2@" + server.Addr)
		o.ClientCache = false
		roundTrip(t, open(t, o))
	})
	t.Run("user of a cluster", func(t *testing.T) {
		servers := redistest.StartCluster(t, 3, "user gate on >hunter2 "+permissions+" +cluster|slots")
		o := patient(servers[0].Addr)
		o.Username, o.Password = "gate", "hunter2"
		roundTrip(t, open(t, o))
	})
	t.Run("TLS", func(t *testing.T) {
		server, tls := redistest.StartTLS(t)
		o := patient(server.Addr)
		o.TLS = tls.Client
		roundTrip(t, open(t, o))
	})
	t.Run("TLS with a rediss URL", func(t *testing.T) {
		server, tls := redistest.StartTLS(t, "requirepass hunter2")
		o := patient("rediss://:hunter2@" + server.Addr)
		o.TLS = tls.Client
		roundTrip(t, open(t, o))
	})
	t.Run("unix socket", func(t *testing.T) {
		path := t.TempDir() + "/redis.sock"
		redistest.Start(t, "unixsocket "+path)
		roundTrip(t, open(t, patient("unix://"+path+"?db=3")))
	})
	t.Run("server that knows no CLIENT TRACKING", func(t *testing.T) {
		server := redistest.Start(t, "rename-command CLIENT \"\"")
		o := patient(server.Addr)
		o.ClientCache = false
		roundTrip(t, open(t, o))
	})
}

func TestDatabasesAndPrefixesAreApart(t *testing.T) {
	server := redistest.Start(t)
	options := map[string]redisstore.Options{
		"default":                patient(server.Addr),
		"another prefix":         patient(server.Addr),
		"another database":       patient(server.Addr),
		"another one in the URL": patient("redis://" + server.Addr + "/2"),
	}
	for name, change := range map[string]func(*redisstore.Options){
		"another prefix":   func(o *redisstore.Options) { o.KeyPrefix = "wxgate:other:" },
		"another database": func(o *redisstore.Options) { o.DB = 1 },
	} {
		o := options[name]
		change(&o)
		options[name] = o
	}
	stores := make(map[string]session.Store)
	for name, o := range options {
		stores[name] = open(t, o)
		require.NoError(t, sessiontest.Put(t.Context(), stores[name], "k", []byte(name), 0))
	}
	for name, s := range stores {
		value, err := s.Get(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, name, string(value))
	}
	require.Equal(t, "default", server.Do(t, "get", "wxgate:k"))
	require.Equal(t, "another prefix", server.Do(t, "get", "wxgate:other:k"))
	require.Equal(t, "another database", server.Do(t, "-n", "1", "get", "wxgate:k"))
	require.Equal(t, "another one in the URL", server.Do(t, "-n", "2", "get", "wxgate:k"))
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	const password = "correct-horse"
	down := gatewaytest.FreeAddr(t)
	tests := []struct {
		name    string
		options func(t *testing.T) redisstore.Options
		is      error
		says    string
	}{
		{
			name:    "no address",
			options: func(*testing.T) redisstore.Options { return patient() },
			says:    "at least one address",
		},
		{
			name:    "server down",
			options: func(*testing.T) redisstore.Options { return patient("redis://:" + password + "@" + down) },
			says:    "connection refused",
		},
		{
			name: "no password given",
			options: func(t *testing.T) redisstore.Options {
				return patient(redistest.Start(t, "requirepass another").Addr)
			},
			says: "NOAUTH",
		},
		{
			name: "wrong password",
			options: func(t *testing.T) redisstore.Options {
				return patient("redis://:" + password + "@" + redistest.Start(t, "requirepass another").Addr)
			},
			says: "WRONGPASS",
		},
		{
			name: "user without permission to write",
			options: func(t *testing.T) redisstore.Options {
				o := patient(redistest.Start(t, "user gate on >"+password+" "+strings.Replace(permissions, "+set", "-set", 1)).Addr)
				o.Username, o.Password = "gate", password
				return o
			},
			says: "username: trying to write: updating redis: The user executing the script can't run this command",
		},
		{
			name: "user without permission for scripts",
			options: func(t *testing.T) redisstore.Options {
				o := patient(redistest.Start(t, "user gate on >"+password+" "+strings.Replace(permissions, "+eval", "-eval", 1)).Addr)
				o.Username, o.Password = "gate", password
				return o
			},
			says: "NOPERM",
		},
		{
			name: "user without permission for client-side caching",
			options: func(t *testing.T) redisstore.Options {
				o := patient(redistest.Start(t, "user gate on >"+password+" "+strings.Replace(permissions, "+client|tracking", "", 1)).Addr)
				o.Username, o.Password = "gate", password
				return o
			},
			is: redisstore.ErrNoClientCache, says: "client_cache off: NOPERM",
		},
		{
			name: "user of other keys",
			options: func(t *testing.T) redisstore.Options {
				o := patient(redistest.Start(t, "user gate on >"+password+" "+permissions).Addr)
				o.Username, o.Password, o.KeyPrefix = "gate", password, "other:"
				return o
			},
			says: "NOPERM",
		},
		{
			name: "no CLIENT TRACKING",
			options: func(t *testing.T) redisstore.Options {
				return patient(redistest.Start(t, "rename-command CLIENT \"\"").Addr)
			},
			is: redisstore.ErrNoClientCache, says: "client_cache off",
		},
		{
			name: "tracking that tells nothing",
			options: func(t *testing.T) redisstore.Options {
				server := redistest.Start(t)
				proxy := redistest.StartProxy(t, server.Addr)
				proxy.Edit(func(message []byte) [][]byte {
					if message[0] == '>' {
						return nil
					}
					return [][]byte{message}
				})
				return redisstore.Options{Addresses: []string{proxy.Addr}, DialTimeout: 20 * time.Second, Timeout: time.Second, ClientCache: true}
			},
			is: redisstore.ErrNoClientCache, says: "client_cache off",
		},
		{
			name: "SET renamed away",
			options: func(t *testing.T) redisstore.Options {
				return patient(redistest.Start(t, "rename-command SET \"\"").Addr)
			},
			says: "Unknown Redis command",
		},
		{
			name: "HELLO renamed away",
			options: func(t *testing.T) redisstore.Options {
				return patient("redis://:" + password + "@" + redistest.Start(t, "rename-command HELLO \"\"", "requirepass "+password).Addr)
			},
			is: redisstore.ErrNoClientCache,
		},
		{
			name: "no such database",
			options: func(t *testing.T) redisstore.Options {
				return patient("redis://" + redistest.Start(t).Addr + "/16")
			},
			says: "DB index is out of range",
		},
		{
			name: "several servers that are no cluster",
			options: func(t *testing.T) redisstore.Options {
				return patient(redistest.Start(t).Addr, redistest.Start(t).Addr)
			},
			says: "must be nodes of one cluster",
		},
		{
			name: "cluster without nodes",
			options: func(t *testing.T) redisstore.Options {
				return redisstore.Options{Addresses: []string{redistest.Start(t, "cluster-enabled yes").Addr}}
			},
			says: "slot",
		},
		{
			name: "database of a cluster",
			options: func(t *testing.T) redisstore.Options {
				o := patient(redistest.Start(t, "cluster-enabled yes").Addr)
				o.DB = 1
				return o
			},
			says: "a cluster has no database 1",
		},
		{
			name: "Sentinels without the master",
			options: func(t *testing.T) redisstore.Options {
				o := patient(redistest.StartSentinel(t).SentinelAddrs()...)
				o.SentinelMaster = "unknown"
				return o
			},
			says: `know no master "unknown"`,
		},
		{
			name: "TLS without a TLS server",
			options: func(t *testing.T) redisstore.Options {
				o := patient("rediss://:" + password + "@" + redistest.Start(t).Addr)
				o.DialTimeout = time.Second // it waits for more of what it takes for a command
				return o
			},
			says: "connecting",
		},
		{
			name: "TLS server without TLS",
			options: func(t *testing.T) redisstore.Options {
				server, _ := redistest.StartTLS(t)
				return patient("redis://:" + password + "@" + server.Addr)
			},
			says: "connecting",
		},
		{
			name: "certificate of an unknown authority",
			options: func(t *testing.T) redisstore.Options {
				server, _ := redistest.StartTLS(t)
				return patient("rediss://:" + password + "@" + server.Addr)
			},
			says: "certificate",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := redisstore.Open(t.Context(), tt.options(t))
			require.Error(t, err)
			require.Nil(t, s)
			require.NotErrorIs(t, err, session.ErrNotFound)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
			}
			require.Contains(t, err.Error(), tt.says)
			require.True(t, strings.HasPrefix(err.Error(), "opening redis: "), err)
			require.NotContains(t, fmt.Sprintf("%v %+v %q", err, err, err), password)
		})
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	server := redistest.Start(t)
	server.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := redisstore.Open(ctx, patient(server.Addr))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	server.Continue() // the attempt that goes on must come to its end
}

func TestOpenWhileFull(t *testing.T) {
	server := redistest.Start(t)
	require.NoError(t, sessiontest.Put(t.Context(), open(t, patient(server.Addr)), "kept", []byte("value"), 0))
	server.Do(t, "config", "set", "maxmemory", "1")
	s := open(t, patient(server.Addr))
	value, err := s.Get(t.Context(), "kept")
	require.NoError(t, err)
	require.Equal(t, "value", string(value))
	require.ErrorIs(t, sessiontest.Put(t.Context(), s, "more", []byte("v"), 0), session.ErrFull)
	require.NoError(t, sessiontest.Delete(t.Context(), s, "kept"), "deleting frees memory")
}

func TestOpenWarnsOfEviction(t *testing.T) {
	tests := []struct {
		policy string
		warns  bool
	}{
		{"noeviction", false},
		{"allkeys-lru", true},
		{"volatile-ttl", true},
	}
	for _, tt := range tests {
		t.Run(tt.policy, func(t *testing.T) {
			var log bytes.Buffer
			o := patient(redistest.Start(t, "maxmemory-policy "+tt.policy).Addr)
			o.Logger = slog.New(slog.NewTextHandler(&log, nil))
			require.NoError(t, open(t, o).Close())
			require.Equal(t, tt.warns, strings.Contains(log.String(), tt.policy), log.String())
		})
	}
}
