package main_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
)

// onRedis is a gateway's configuration with sessions at addresses; options are
// the lines of the store's block. The timeout is for a machine that is busy.
func onRedis(addresses, options string) gatewaytest.Config {
	if !strings.Contains(options, "timeout") {
		options += "\ntimeout 3s"
	}
	return gatewaytest.Config{App: "login_rate off\nencryption_key {env.WXGATE_KEY}\nstore redis " + addresses + " {\n" + options + "\n}",
		Env: []string{"WXGATE_KEY=" + someKey, "REDIS_PASSWORD=redis-canary"}}
}

// requireShared asserts that sessions made on one gateway hold on the other,
// and end there when they end here.
func requireShared(t *testing.T, a, b *gatewaytest.Gateway) {
	t.Helper()
	token := a.Login("alice").Token
	for range 3 { // the second time it is kept in memory
		require.Equal(t, http.StatusOK, b.Get("/", gatewaytest.Token(token)).Status)
		b.RequireIdentity(t, b.OpenID("alice"), token)
	}
	require.Equal(t, http.StatusNoContent, a.Post("/logout", "", gatewaytest.Token(token)).Status)
	start := time.Now()
	require.Equal(t, http.StatusUnauthorized, a.Get("/", gatewaytest.Token(token)).Status, "where it was ended, at once")
	b.Eventually(func() bool {
		return b.Get("/", gatewaytest.Token(token)).ErrorName() == "invalid_session"
	}, "the other gateway hears of it")
	t.Logf("the revocation was in force on the other gateway after %v", time.Since(start))
	b.Upstream.Take()
}

// How the store works in a cluster, under Sentinels and over TLS is tested with
// the store; here is that the options get there.
func TestGatewaysShareRedis(t *testing.T) {
	single := func(t *testing.T, directives ...string) string { return redistest.Start(t, directives...).Addr }
	for name, start := range map[string]func(t *testing.T) (addresses, options string, env []string){
		"with client cache": func(t *testing.T) (string, string, []string) { return single(t), "", nil },
		"without client cache": func(t *testing.T) (string, string, []string) {
			return single(t), "client_cache off", nil
		},
		"password, prefix and database": func(t *testing.T) (string, string, []string) {
			return single(t, "requirepass redis-canary"), "password {env.REDIS_PASSWORD}\nkey_prefix shop:\ndb 3", nil
		},
		"cluster": func(t *testing.T) (string, string, []string) {
			var addresses []string
			for _, node := range redistest.StartCluster(t, 3) {
				addresses = append(addresses, node.Addr)
			}
			return strings.Join(addresses, " "), "", nil
		},
		"Sentinels": func(t *testing.T) (string, string, []string) {
			replicated := redistest.StartSentinel(t, "user gate on >redis-canary ~wxgate:* +@all")
			var addresses []string
			for _, sentinel := range replicated.Sentinels {
				sentinel.Do(t, "config", "set", "requirepass", "sentinel-canary")
				addresses = append(addresses, "redis://:{env.SENTINEL_PASSWORD}@"+sentinel.Addr)
			}
			return strings.Join(addresses, " "), "sentinel " + redistest.SentinelMaster + "\nusername gate\npassword {env.REDIS_PASSWORD}",
				[]string{"SENTINEL_PASSWORD=sentinel-canary"}
		},
		"TLS by the option": func(t *testing.T) (string, string, []string) {
			redis, certificate := redistest.StartTLS(t)
			return redis.Addr, "tls", []string{"SSL_CERT_FILE=" + certificate.File}
		},
		"TLS by the URL": func(t *testing.T) (string, string, []string) {
			redis, certificate := redistest.StartTLS(t)
			return "rediss://" + redis.Addr, "", []string{"SSL_CERT_FILE=" + certificate.File}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addresses, options, env := start(t)
			cfg := onRedis(addresses, options)
			cfg.Env = append(cfg.Env, env...)
			a, b := gatewaytest.Start(t, cfg), gatewaytest.Start(t, cfg)
			requireShared(t, a, b)
			require.NotContains(t, a.Output()+b.Output(), "canary")
		})
	}
}

// A node that has started, and not yet asked the store since, hears of the
// revocation of all sessions, too.
func TestRevokeAllReachesAFreshNode(t *testing.T) {
	cfg := onRedis(redistest.Start(t).Addr, "")
	a := gatewaytest.Start(t, cfg)
	token := a.Login("alice").Token
	b := gatewaytest.Start(t, cfg)
	require.Equal(t, http.StatusOK, deleteAdmin(t, a, "/wxgate/users").Status)
	requireDead(t, b, token, "on the fresh node")
	requireDead(t, a, token, "where it was revoked")
}

// Where the server is and how to get in may be said in the environment, as
// many platforms do. What is said there is shown nowhere.
func TestRedisAddressInTheEnvironment(t *testing.T) {
	redis := redistest.Start(t, "requirepass redis-canary")
	cfg := onRedis("{env.REDIS_URL}", "")
	cfg.Env = append(cfg.Env, "REDIS_URL=redis://:redis-canary@"+redis.Addr+"/3")
	a, b := gatewaytest.Start(t, cfg), gatewaytest.Start(t, cfg)
	requireShared(t, a, b)
	require.Contains(t, redis.Do(t, "--no-auth-warning", "-a", "redis-canary", "info", "keyspace"), "db3:")
	shown, err := gatewaytest.ReadResponse(a.AdminClient().Get("http://admin/config/"))
	require.NoError(t, err)
	require.Contains(t, shown.Body, "{env.REDIS_URL}")
	redis.Kill()
	b.Eventually(func() bool { return b.AdminStatus("/wxgate/ready") == http.StatusServiceUnavailable }, "the store is gone")
	require.NotContains(t, a.Output()+b.Output()+shown.Body, "redis-canary")
}

// Other options of the store make other connections. Those of the former
// configuration go with it.
func TestReloadsLeaveNoConnectionsToRedis(t *testing.T) {
	redis := redistest.Start(t)
	cfgs := []gatewaytest.Config{onRedis(redis.Addr, "timeout 3s"), onRedis(redis.Addr, "timeout 4s"), onRedis(redis.Addr, "timeout 3s\nclient_cache off")}
	g := gatewaytest.Start(t, cfgs[0])
	token := g.Login("alice").Token
	const reloads = 12
	for i := range reloads {
		out, err := g.Reload(cfgs[(i+1)%len(cfgs)])
		require.NoError(t, err, out)
		require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
		g.Login("bob")
	}
	// One is for reading, and some more for updates.
	g.Eventually(func() bool {
		return strings.Count(redis.Do(t, "client", "list", "type", "normal"), "name=wxgate") < reloads/2
	}, "only the last configuration is connected")
	g.Eventually(func() bool {
		stacks, err := gatewaytest.ReadResponse(g.AdminClient().Get("http://admin/debug/pprof/goroutine?debug=2"))
		require.NoError(t, err)
		require.Contains(t, stacks.Body, "redisstore.(*Store).heartbeat(")
		return strings.Count(stacks.Body, "redisstore.(*Store).heartbeat(") == 1 && strings.Count(stacks.Body, "rueidis.") < 3*reloads
	}, "only the last configuration has goroutines")
	g.Upstream.Take()
}

func TestRedisTrouble(t *testing.T) {
	redis := redistest.Start(t)
	cfg := onRedis(redis.Addr, "timeout 1s") // shorter than the pause below
	a, b := gatewaytest.Start(t, cfg), gatewaytest.Start(t, cfg)
	redis.Do(t, "config", "set", "save", "")
	for _, tc := range []struct {
		name  string
		begin func()
		end   func()
		reads int // the status of a request with a session that b has not seen
	}{
		{"hung", redis.Stop, redis.Continue, 503},
		{"paused", func() { redis.Do(t, "client", "pause", "3000") }, func() {}, 503}, // and it ends by itself,
		{"out of memory", func() { redis.Do(t, "config", "set", "maxmemory", "1") }, func() { redis.Do(t, "config", "set", "maxmemory", "0") }, 200},
		{"read-only", func() { redis.Do(t, "replicaof", "127.0.0.1", "1") }, func() { redis.Do(t, "replicaof", "no", "one") }, 200},
		{"wrong password", func() {
			redis.Do(t, "config", "set", "requirepass", "changed")
			redis.Do(t, "-a", "changed", "client", "kill", "type", "normal")
		}, func() { redis.Do(t, "-a", "changed", "config", "set", "requirepass", "") }, 503},
		{"gone", func() { redis.Do(t, "save"); redis.Kill() }, func() { redis.Restart(t) }, 503},
	} {
		t.Run(tc.name, func(t *testing.T) {
			token := a.Login("alice of " + tc.name).Token
			tc.begin()
			code := b.WeChat.IssueCode(gatewaytest.AppID, "bob")
			b.Eventually(func() bool {
				start := time.Now()
				resp := b.Get("/", gatewaytest.Token(token))
				require.Less(t, time.Since(start), soon)
				require.NotEqual(t, http.StatusUnauthorized, resp.Status, "no user is logged out")
				if resp.Status == http.StatusServiceUnavailable {
					require.Equal(t, "store_unavailable", resp.ErrorName())
					require.NotEmpty(t, resp.Header.Get("Retry-After"))
				}
				return resp.Status == tc.reads
			}, "reads are answered "+http.StatusText(tc.reads))
			login := b.Post("/login", `{"code":"`+code+`"}`)
			require.Equal(t, http.StatusServiceUnavailable, login.Status, login.Body)
			require.Equal(t, "store_unavailable", login.ErrorName())
			tc.end()
			b.Eventually(func() bool {
				resp := b.Get("/", gatewaytest.Token(token))
				require.NotEqual(t, http.StatusUnauthorized, resp.Status, "no user is logged out")
				return resp.Status == http.StatusOK &&
					b.Post("/login", `{"code":"`+b.WeChat.IssueCode(gatewaytest.AppID, "carol")+`"}`).Status == http.StatusOK
			}, "it recovers without a restart")
			for _, r := range b.Upstream.Take() {
				require.Equal(t, []string{b.OpenID("alice of " + tc.name)}, r.Lines("X-OpenID"))
			}
		})
	}
	require.NotContains(t, a.Output()+b.Output(), "redis-canary")
}
