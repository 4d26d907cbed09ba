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
		{"gone", redis.Kill, nil, 503},
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
			if tc.end == nil {
				late := gatewaytest.New(t)
				out, err := late.Try("run", "--config", late.WriteConfig(cfg), "--adapter", "caddyfile")
				require.Error(t, err, "a gateway does not start without its store")
				require.Contains(t, out, redis.Addr)
				return
			}
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
