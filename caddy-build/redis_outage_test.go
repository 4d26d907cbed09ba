package main_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
)

const (
	unavailableLine = "session store is not available"
	availableLine   = "session store is available again"
)

// beside adds another site to a configuration of onRedis, which answers at the
// path of a unix socket.
func beside(cfg gatewaytest.Config, answer string) gatewaytest.Config {
	cfg.Next = "reverse_proxy $UPSTREAM\n}\n\nhttp:// {\n\tbind unix/$DIR/other.sock\n\trespond " + answer
	return cfg
}

// requireOther asserts what the other site answers.
func requireOther(t *testing.T, g *gatewaytest.Gateway, answer string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", g.Expand("$DIR/other.sock"))
	}}}
	resp, err := gatewaytest.ReadResponse(client.Get("http://other/"))
	require.NoError(t, err)
	require.Equal(t, answer, resp.Body)
}

func login(g *gatewaytest.Gateway, code string) gatewaytest.Response {
	return g.Post("/login", `{"code":"`+code+`"}`)
}

// requireNoCodeIsSpent asserts that a login is refused without WeChat's help,
// and returns its code, which is still good.
func requireNoCodeIsSpent(t *testing.T, g *gatewaytest.Gateway) (code string) {
	t.Helper()
	code = g.WeChat.IssueCode(gatewaytest.AppID, "late")
	for range 3 {
		refused := login(g, code)
		require.Equal(t, http.StatusServiceUnavailable, refused.Status, refused.Body)
		require.Equal(t, "store_unavailable", refused.ErrorName())
		require.NotEmpty(t, refused.Header.Get("Retry-After"))
	}
	require.Zero(t, g.WeChat.CallsWith(code), "the code was sent to WeChat")
	return code
}

// requireLogsRecovery waits until a code that was refused logs in, and asserts
// that the log has one line about the recovery.
func requireLogsRecovery(t *testing.T, g *gatewaytest.Gateway, code string) {
	t.Helper()
	g.Eventually(func() bool { return login(g, code).Status == http.StatusOK }, "the refused code logs in")
	require.Equal(t, 1, g.WeChat.CallsWith(code))
	g.Eventually(func() bool { return strings.Contains(g.Output(), availableLine) }, "the recovery is logged")
	require.Equal(t, 1, strings.Count(g.Output(), availableLine), "once")
	require.Contains(t, g.Output(), unavailableLine)
}

// A server that cannot be used at the start keeps no configuration out, and
// what it can do, it does.
func TestStartInARedisOutage(t *testing.T) {
	for name, tc := range map[string]struct {
		begin, end func(*testing.T, *redistest.Server)
		read       int // the status of a session made before
	}{
		"gone": {
			func(t *testing.T, s *redistest.Server) { s.Do(t, "save"); s.Kill() },
			func(t *testing.T, s *redistest.Server) { s.Restart(t) }, http.StatusServiceUnavailable,
		},
		"hung": {
			func(_ *testing.T, s *redistest.Server) { s.Stop() },
			func(_ *testing.T, s *redistest.Server) { s.Continue() }, http.StatusServiceUnavailable,
		},
		"loading": {
			func(t *testing.T, s *redistest.Server) {
				s.Do(t, "debug", "populate", "20000", "filler", "100")
				s.Do(t, "save")
				s.Kill()
				s.RestartLoading(t, "key-load-delay 5000", "loading-process-events-interval-bytes 1024")
			},
			func(t *testing.T, s *redistest.Server) { s.Do(t, "config", "set", "key-load-delay", "0") }, http.StatusServiceUnavailable,
		},
		"no replicas": {
			func(t *testing.T, s *redistest.Server) { s.Do(t, "config", "set", "min-replicas-to-write", "1") },
			func(t *testing.T, s *redistest.Server) { s.Do(t, "config", "set", "min-replicas-to-write", "0") }, http.StatusOK,
		},
		"cannot save": {
			func(t *testing.T, s *redistest.Server) {
				s.Do(t, "config", "set", "save", "3600 1")
				_, dir, _ := strings.Cut(s.Do(t, "config", "get", "dir"), "\n")
				require.NoError(t, os.Mkdir(dir+"/dump.rdb", 0o700)) // so no file can take its place
				s.Do(t, "bgsave")
				gatewaytest.Eventually(t, func() bool {
					return strings.Contains(s.Do(t, "info", "persistence"), "rdb_last_bgsave_status:err")
				}, "saving fails")
			},
			func(t *testing.T, s *redistest.Server) { s.Do(t, "config", "set", "stop-writes-on-bgsave-error", "no") }, http.StatusOK,
		},
		"replica": {
			func(t *testing.T, s *redistest.Server) { s.Do(t, "replicaof", "127.0.0.1", "1") },
			func(t *testing.T, s *redistest.Server) { s.Do(t, "replicaof", "no", "one") }, http.StatusOK,
		},
		"out of memory": {
			func(t *testing.T, s *redistest.Server) { s.Do(t, "config", "set", "maxmemory", "1") },
			func(t *testing.T, s *redistest.Server) { s.Do(t, "config", "set", "maxmemory", "0") }, http.StatusOK,
		},
		"script that does not end": {
			func(t *testing.T, s *redistest.Server) {
				s.Do(t, "config", "set", "busy-reply-threshold", "1")
				go func() { _, _ = s.Try(t, "eval", "while true do end", "0") }()
				gatewaytest.Eventually(t, func() bool {
					out, _ := s.Try(t, "get", "a")
					return strings.Contains(out, "BUSY")
				}, "the server is busy")
			},
			func(t *testing.T, s *redistest.Server) { s.Do(t, "script", "kill") }, http.StatusServiceUnavailable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t)
			cfg := beside(onRedis(redis.Addr, "timeout 2s"), "before")
			g := gatewaytest.Start(t, cfg)
			token := g.Login("early").Token
			g.Stop()

			tc.begin(t, redis)
			g.Run(cfg)
			requireOther(t, g, "before")
			require.Equal(t, "missing_session", g.Get("/").ErrorName())
			g.Eventually(func() bool {
				resp := g.Get("/", gatewaytest.Token(token))
				require.NotEqual(t, http.StatusUnauthorized, resp.Status)
				return resp.Status == tc.read
			}, fmt.Sprint("a session is answered ", tc.read))
			requireNoCodeIsSpent(t, g)
			out, err := g.Reload(beside(cfg, "after"))
			require.NoError(t, err, out)
			requireOther(t, g, "after")
			code := requireNoCodeIsSpent(t, g)

			tc.end(t, redis)
			g.Eventually(func() bool { return login(g, code).Status == http.StatusOK }, "the refused code logs in")
			require.Equal(t, 1, g.WeChat.CallsWith(code))
			g.Eventually(func() bool { return g.Get("/", gatewaytest.Token(token)).Status == http.StatusOK }, "no user was logged out")
			g.Eventually(func() bool { return strings.Contains(g.Output(), availableLine) }, "the recovery is logged")
			require.Equal(t, 1, strings.Count(g.Output(), availableLine), "once")
			require.Contains(t, g.Output(), unavailableLine)
			require.NotContains(t, g.Output(), "client_cache off")
		})
	}
}

// An outage under a running gateway spends no codes once it is known, keeps no
// reload out, and leaves no goroutines of the configurations that come and go.
func TestReloadInARedisOutage(t *testing.T) {
	redis := redistest.Start(t)
	cfg := beside(onRedis(redis.Addr, "timeout 500ms"), "0")
	g := gatewaytest.Start(t, cfg)
	g.Login("early")
	redis.Kill()
	known := g.WeChat.IssueCode(gatewaytest.AppID, "first")
	g.Eventually(func() bool { return g.AdminStatus("/wxgate/ready") == http.StatusServiceUnavailable }, "the outage is known")
	g.Eventually(func() bool {
		refused := login(g, known)
		require.Equal(t, http.StatusServiceUnavailable, refused.Status)
		return refused.ErrorName() == "store_unavailable"
	}, "logins are refused")
	requireNoCodeIsSpent(t, g)
	before, _ := g.Resources()
	for i := range 8 {
		// Every second one has a store of its own, which cannot be opened.
		options := "timeout 500ms"
		if i%2 == 1 {
			options = fmt.Sprintf("timeout %dms", 500+i)
		}
		next := beside(onRedis(redis.Addr, options), fmt.Sprint(i))
		out, err := g.Reload(next)
		require.NoError(t, err, out)
		requireOther(t, g, fmt.Sprint(i))
	}
	code := requireNoCodeIsSpent(t, g)
	redis.Restart(t)
	requireLogsRecovery(t, g, code)
	g.Eventually(func() bool {
		after, _ := g.Resources()
		return after < before+20
	}, "the former configurations have ended")
}

// A gateway that is ended while it waits for its store ends at once.
func TestStopInARedisOutage(t *testing.T) {
	redis := redistest.Start(t)
	redis.Stop()
	g := gatewaytest.Start(t, onRedis(redis.Addr, "timeout 20s\ndial_timeout 3s"))
	begin := time.Now()
	g.Stop()
	require.Less(t, time.Since(begin), soon)
}

// A revocation that a store refuses has failed; one that it does not answer may
// be tried again.
func TestRevokeInARedisOutage(t *testing.T) {
	redis := redistest.Start(t)
	g := gatewaytest.Start(t, onRedis(redis.Addr, "timeout 2s"))
	token := g.Login("alice").Token
	revoke := func() (int, string) {
		cmd := g.Command("wxgate", "revoke", g.OpenID("alice"), "--address", g.Admin)
		out, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(out)
	}
	redis.Do(t, "config", "set", "min-replicas-to-write", "1")
	code, out := revoke()
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "NOREPLICAS")
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
	redis.Stop()
	code, out = revoke()
	require.Equal(t, 4, code, out)
	redis.Continue()
	redis.Do(t, "config", "set", "min-replicas-to-write", "0")
	g.Eventually(func() bool {
		code, _ = revoke()
		return code == 0
	}, "the revocation succeeds")
	require.Equal(t, http.StatusUnauthorized, g.Get("/", gatewaytest.Token(token)).Status)
	g.Upstream.Take()
}

// What waiting does not fix is an error that names the option.
func TestRedisOptionsThatDoNotFit(t *testing.T) {
	plain := redistest.Start(t, "requirepass redis-canary", "databases 2")
	encrypted, _ := redistest.StartTLS(t)
	sentinels := redistest.StartSentinel(t)
	for name, tc := range map[string]struct{ addresses, options, want string }{
		"password":      {plain.Addr, "password wrong", "opening redis: username or password: connecting: WRONGPASS"},
		"no password":   {plain.Addr, "", "opening redis: password: connecting: NOAUTH"},
		"database":      {plain.Addr, "password {env.REDIS_PASSWORD}\ndb 3", "opening redis: db: connecting: DB index is out of range"},
		"TLS":           {plain.Addr, "password {env.REDIS_PASSWORD}\ntls", "opening redis: tls: connecting: TLS does not match: the server does not speak TLS"},
		"no TLS":        {encrypted.Addr, "", "opening redis: tls: connecting: TLS does not match: the server speaks TLS"},
		"certificate":   {encrypted.Addr, "tls", "opening redis: tls: connecting: tls: failed to verify certificate"},
		"sentinel name": {strings.Join(sentinels.SentinelAddrs(), " "), "sentinel unknown", "opening redis: sentinel: the Sentinels know no master"},
		"not a cluster": {plain.Addr + " " + encrypted.Addr, "password {env.REDIS_PASSWORD}", "opening redis: address: connecting: several addresses must be nodes of one cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gatewaytest.New(t)
			out, err := g.Try("run", "--config", g.WriteConfig(onRedis(tc.addresses, tc.options)), "--adapter", "caddyfile")
			require.Error(t, err)
			require.Contains(t, out, tc.want)
			require.NotContains(t, out, "canary")
		})
	}
}

// Every command has the whole timeout, so a slow link is slow and nothing else.
func TestRedisOverASlowLink(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	proxy := redistest.StartProxy(t, redis.Addr)
	// A login takes four round trips, 3.2s; one has the rest of 2.4s to spare
	// on a machine that is busy.
	proxy.Delay(400 * time.Millisecond)
	g := gatewaytest.Start(t, onRedis(proxy.Addr, "timeout 2400ms\ndial_timeout 5s"))
	g.Eventually(func() bool { return g.AdminStatus("/wxgate/ready") == http.StatusOK }, "the store is open")
	token := g.Login("alice").Token
	again := g.Login("alice").Token
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
	require.Equal(t, http.StatusNoContent, g.Post("/logout", "", gatewaytest.Token(again)).Status)

	// A new connection takes longer than a command.
	proxy.Cut()
	g.Eventually(func() bool {
		return login(g, g.WeChat.IssueCode(gatewaytest.AppID, "bob")).Status == http.StatusOK
	}, "the connection is made again")
	g.Upstream.Take()
}

// Many proxies speak the older protocol and know only commands with keys.
func TestRedisProxyOfTheOlderProtocol(t *testing.T) {
	var directives []string
	for _, command := range []string{"hello", "client", "cluster", "info", "echo", "select", "role"} {
		directives = append(directives, "rename-command "+command+` ""`)
	}
	redis := redistest.Start(t, directives...)
	cfg := onRedis(redis.Addr, "client_cache off")
	requireShared(t, gatewaytest.Start(t, cfg), gatewaytest.Start(t, cfg))
}

// A store that was emptied under the gateways, or lost the record by which they
// know it, is one line in each log. All sessions are lost, and then the gateways
// agree again.
func TestRedisThatWasEmptied(t *testing.T) {
	const line = "the session store was emptied while it was in use"
	for name, tc := range map[string]struct {
		options string
		empty   []string
	}{
		"flushed":                        {"", []string{"flushall"}},
		"flushed, without client cache":  {"client_cache off", []string{"flushall"}},
		"own record":                     {"", []string{"del", "wxgate:meta"}},
		"own record, without its notice": {"client_cache off", []string{"del", "wxgate:meta"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t)
			cfg := onRedis(redis.Addr, tc.options)
			a, b := gatewaytest.Start(t, cfg), gatewaytest.Start(t, cfg)
			token := a.Login("alice").Token
			require.Equal(t, http.StatusOK, a.Get("/", gatewaytest.Token(token)).Status)
			require.Equal(t, http.StatusOK, b.Get("/", gatewaytest.Token(token)).Status)
			redis.Do(t, tc.empty...)
			for _, g := range []*gatewaytest.Gateway{a, b} {
				g.Eventually(func() bool {
					return g.Get("/", gatewaytest.Token(token)).ErrorName() == "invalid_session"
				}, "the session is lost")
				g.Eventually(func() bool { return strings.Contains(g.Output(), line) }, "it is logged")
				require.Equal(t, 1, strings.Count(g.Output(), line))
				g.Upstream.Take()
			}
			requireShared(t, a, b)
			require.Equal(t, 2, strings.Count(a.Output()+b.Output(), line), "once each")
		})
	}
}

// What another version has written is said to be that.
func TestRedisOfAnotherVersion(t *testing.T) {
	redis := redistest.Start(t)
	cfg := onRedis(redis.Addr, "")
	g := gatewaytest.Start(t, cfg)
	g.Login("alice")
	g.Stop()
	redis.Do(t, "setrange", "wxgate:meta", "0", "\x63")
	out, err := g.Try("run", "--config", g.WriteConfig(cfg), "--adapter", "caddyfile")
	require.Error(t, err)
	require.Contains(t, out, "another version of wxgate")
	require.NotContains(t, out, "damage")
}
