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

func TestGatewaysShareRedis(t *testing.T) {
	for name, tc := range map[string]struct {
		directives []string
		options    string
	}{
		"with client cache":    {nil, ""},
		"without client cache": {nil, "client_cache off"},
		"password and prefix":  {[]string{"requirepass redis-canary"}, "password {env.REDIS_PASSWORD}\nkey_prefix shop:\ndb 3"},
	} {
		t.Run(name, func(t *testing.T) {
			redis := redistest.Start(t, tc.directives...)
			cfg := onRedis(redis.Addr, tc.options)
			requireShared(t, gatewaytest.Start(t, cfg), gatewaytest.Start(t, cfg))
		})
	}
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

func TestSentinelsWithAPassword(t *testing.T) {
	replicated := redistest.StartSentinel(t, "user gate on >redis-canary ~wxgate:* +@all")
	var addresses []string
	for _, sentinel := range replicated.Sentinels {
		sentinel.Do(t, "config", "set", "requirepass", "sentinel-canary")
		addresses = append(addresses, "redis://:{env.SENTINEL_PASSWORD}@"+sentinel.Addr)
	}
	cfg := onRedis(strings.Join(addresses, " "), "sentinel "+redistest.SentinelMaster+"\nusername gate\npassword {env.REDIS_PASSWORD}")
	cfg.Env = append(cfg.Env, "SENTINEL_PASSWORD=sentinel-canary")
	a, b := gatewaytest.Start(t, cfg), gatewaytest.Start(t, cfg)
	requireShared(t, a, b)
	require.NotContains(t, a.Output()+b.Output(), "canary")
}

func TestRedisOverTLS(t *testing.T) {
	redis, certificate := redistest.StartTLS(t)
	for name, tc := range map[string]struct{ address, options string }{
		"option": {redis.Addr, "tls"},
		"URL":    {"rediss://" + redis.Addr, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := onRedis(tc.address, tc.options)
			late := gatewaytest.New(t)
			out, err := late.Try("run", "--config", late.WriteConfig(cfg), "--adapter", "caddyfile")
			require.Error(t, err, "nobody vouches for the certificate")
			require.Contains(t, out, "x509: certificate signed by unknown authority")

			cfg.Env = append(cfg.Env, "SSL_CERT_FILE="+certificate.CAFile)
			requireShared(t, gatewaytest.Start(t, cfg), gatewaytest.Start(t, cfg))
		})
	}
}

func TestGatewaysShareARedisCluster(t *testing.T) {
	var addresses []string
	for _, node := range redistest.StartCluster(t, 3) {
		addresses = append(addresses, node.Addr)
	}
	cfg := onRedis(strings.Join(addresses, " "), "")
	requireShared(t, gatewaytest.Start(t, cfg), gatewaytest.Start(t, cfg))
}

func TestSentinelFailover(t *testing.T) {
	replicated := redistest.StartSentinel(t)
	cfg := onRedis(strings.Join(replicated.SentinelAddrs(), " "), "sentinel "+redistest.SentinelMaster)
	a, b := gatewaytest.Start(t, cfg), gatewaytest.Start(t, cfg)
	requireShared(t, a, b)
	token := a.Login("bob").Token
	replicated.Master.Kill()
	b.Eventually(func() bool {
		resp := b.Get("/", gatewaytest.Token(token))
		require.NotEqual(t, http.StatusUnauthorized, resp.Status, "nobody is logged out by a failover")
		return resp.Status == http.StatusOK && b.Post("/login", `{"code":"`+b.WeChat.IssueCode(gatewaytest.AppID, "carol")+`"}`).Status == http.StatusOK
	}, "the replica takes over")
	a.Eventually(func() bool {
		return a.Post("/login", `{"code":"`+a.WeChat.IssueCode(gatewaytest.AppID, "dave")+`"}`).Status == http.StatusOK
	}, "the other gateway finds the replica, too")
	b.Upstream.Take()
	requireShared(t, a, b)
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
				require.NotEqual(t, http.StatusUnauthorized, resp.Status, "nobody is logged out")
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
				require.NotEqual(t, http.StatusUnauthorized, resp.Status, "nobody is logged out")
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
