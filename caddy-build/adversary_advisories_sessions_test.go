package main_test

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// sessionAdvisories are about sessions that do not end, can be guessed or
// belong to somebody else.
func sessionAdvisories() []advisory {
	return []advisory{
		{"CVE-2024-21492", "caddy-security", "a logout leaves the session valid on the server", replayLogout},
		{"CVE-2024-21495", "caddy-security", "tokens come from a random source that can be predicted", replayRandomness},
		{"CVE-2026-33496", "Oathkeeper", "a cached token is accepted where it was never valid", replayCacheConfusion},
		{"CVE-2026-71326", "Traefik", "concurrent checks share one result under a key that two of them can make", replaySharedCheck},
		{"CVE-2026-33544", "tinyauth", "concurrent logins share state, and one user gets another's session", replayConcurrentLogins},
		{"CVE-2025-29923", "go-redis", "a late reply is taken for the answer to the next question", replayMixedRecords},
		{"CVE-2025-46815", "Zitadel", "a login that was used once can be used again", replayLoginTwice},
	}
}

// failureAdvisories are about gates that open when something fails, and about
// what is read without bound or expanded where it must not be.
func failureAdvisories() []advisory {
	return []advisory{
		{"CVE-2026-27586", "Caddy", "a file that cannot be read turns the check off", replayUnreadable},
		{"CVE-2026-30852", "Caddy", "placeholders in what the client sent are expanded", replayPlaceholders},
		{"CVE-2026-54762", "Traefik", "a secret that cannot be resolved leaves the route without its gate", replayUnresolved},
		{"CVE-2026-26998", "Traefik", "the answer of the authentication server is read without bound", replayEndlessReply},
		{"CVE-2026-41181", "Traefik", "error pages of another service receive the client's credentials", replayErrorPages},
	}
}

func replayLogout(t *testing.T, s *stage) {
	g := s.plain()
	token := g.Login("alice").Token
	kept := g.Login("alice").Token
	require.Equal(t, http.StatusNoContent, g.Post("/logout", "", gatewaytest.Token(token)).Status)
	require.Equal(t, "invalid_session", g.Get("/", gatewaytest.Token(token)).ErrorName())
	g.RequireNothing(t)
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(kept)).Status, "the user's other session lives")
}

func replayRandomness(t *testing.T, s *stage) {
	g := s.plain()
	const logins = 64
	seen := make(map[string]bool)
	var ones, zeros [32]byte
	for range logins {
		token := g.Login("alice").Token
		require.False(t, seen[token])
		seen[token] = true
		raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
		require.NoError(t, err)
		require.Len(t, raw, 32)
		for i, b := range raw {
			ones[i] |= b
			zeros[i] |= ^b
		}
	}
	// Each of the 256 bits was seen as 0 and as 1; by chance one would not be
	// in one of 10^16 runs.
	for i := range ones {
		require.Equal(t, byte(0xff), ones[i]&zeros[i])
	}
}

func replayCacheConfusion(t *testing.T, _ *stage) {
	g := gatewaytest.New(t)
	other := gatewaytest.FreeAddr(t)
	g.Run(gatewaytest.Config{
		App:     "miniprogram " + gatewaytest.OtherAppID + " {env.WX_OTHER_SECRET}",
		Site:    "miniprograms " + gatewaytest.AppID,
		Next:    "reverse_proxy $UPSTREAM\n}\nhttp://" + other + " {\nwxgate {\nminiprograms " + gatewaytest.OtherAppID + "\n}\nreverse_proxy $UPSTREAM",
		Servers: "expected_underscore_headers 3rd_session",
	})
	token := g.Login("alice").Token
	for range 3 {
		require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
		g.RequireIdentity(t, g.OpenID("alice"), token)
		resp, err := gatewaytest.SendRaw(other, "GET / HTTP/1.1\nHost: "+other+"\n"+gatewaytest.Token(token)+"\nConnection: close\n\n")
		require.NoError(t, err)
		require.Equal(t, "invalid_session", resp.ErrorName())
		g.RequireNothing(t)
	}
}

// eachUser does something for many users at once.
func eachUser(work func(user string)) {
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() { work("user" + string(rune('A'+i))) })
	}
	wg.Wait()
}

func replaySharedCheck(t *testing.T, s *stage) {
	g := s.gateway("echo", func(g *gatewaytest.Gateway) { g.Run(gatewaytest.Config{}) })
	g.Upstream.Handle(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.Header.Get("X-OpenID"))) })
	var mu sync.Mutex
	tokens := make(map[string]string)
	eachUser(func(user string) {
		token := g.Login(user).Token
		mu.Lock()
		defer mu.Unlock()
		tokens[user] = token
	})
	for range 4 {
		eachUser(func(user string) {
			resp := g.Get("/", gatewaytest.Token(tokens[user]))
			mu.Lock()
			defer mu.Unlock()
			require.Equal(t, g.OpenID(user), resp.Body)
		})
	}
}

func replayConcurrentLogins(t *testing.T, s *stage) {
	g := s.gateway("echo", func(g *gatewaytest.Gateway) { g.Run(gatewaytest.Config{}) })
	g.Upstream.Handle(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.Header.Get("X-OpenID"))) })
	var mu sync.Mutex
	got := make(map[string]string)
	// WeChat answers in another order than it was asked.
	g.WeChat.Script(fakewechat.Script{Calls: 8, DelayMS: 100})
	eachUser(func(user string) {
		resp := g.Get("/", gatewaytest.Token(g.Login(user).Token))
		mu.Lock()
		defer mu.Unlock()
		got[user] = resp.Body
	})
	for user, openID := range got {
		require.Equal(t, g.OpenID(user), openID)
	}
	require.Len(t, got, 32)
}

// replayMixedRecords gives one user's key the record of another, as a store
// would whose replies are out of step.
func replayMixedRecords(t *testing.T, _ *stage) {
	server := redistest.Start(t)
	g := gatewaytest.New(t)
	g.Run(gatewaytest.Config{App: "encryption_key " + someKey + "\nstore redis " + server.Addr + " {\nclient_cache off\n}"})
	token := g.Login("alice").Token
	const users = "wxgate:user:*"
	require.Equal(t, "1", redisEval(t, server.Addr, `local keys = redis.call("keys", ARGV[1])
		redis.call("set", "alice", keys[1])
		return #keys`, users))
	victim := g.Login("bob").Token
	require.Equal(t, "2", redisEval(t, server.Addr, `local keys, alice = redis.call("keys", ARGV[1]), redis.call("get", "alice")
		for _, key in ipairs(keys) do
			if key ~= alice then redis.call("copy", key, alice, "REPLACE") end
		end
		return #keys`, users))
	resp := g.Get("/", gatewaytest.Token(token))
	require.GreaterOrEqual(t, resp.Status, 400, "alice's token does not open bob's session")
	g.RequireNothing(t)
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(victim)).Status)
	g.RequireIdentity(t, g.OpenID("bob"), victim)
}

// redisEval runs a script in the server, since the keys are not text.
func redisEval(t *testing.T, addr, script, arg string) string {
	t.Helper()
	_, port, _ := strings.Cut(addr, ":")
	out, err := gatewaytest.Command(t, "redis-cli", "-p", port, "eval", script, "0", arg).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

func replayLoginTwice(t *testing.T, s *stage) {
	g := s.plain()
	code := g.WeChat.IssueCode(gatewaytest.AppID, "alice")
	require.Equal(t, http.StatusOK, g.Post("/login", `{"code":"`+code+`"}`).Status)
	for range 3 {
		resp := g.Post("/login", `{"code":"`+code+`"}`)
		require.Equal(t, http.StatusUnauthorized, resp.Status)
		require.Equal(t, "code_used", resp.ErrorName())
		require.NotContains(t, resp.Body, "3rd_session")
	}
	require.Equal(t, 1, g.WeChat.CallsWith(code))
}

func replayUnreadable(t *testing.T, _ *stage) {
	g := gatewaytest.New(t)
	for name, line := range map[string]string{
		"secret file":   "miniprogram " + gatewaytest.OtherAppID + " {file.$DIR/nothing}",
		"empty secret":  "miniprogram " + gatewaytest.OtherAppID + " {file.$DIR/empty}",
		"key file":      "encryption_key {file.$DIR/nothing}",
		"unset secret":  "miniprogram " + gatewaytest.OtherAppID + " {env.NO_SUCH_SECRET}",
		"key too short": "encryption_key c2hvcnQ=",
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(filepath.Join(g.Dir, "empty"), nil, 0o600))
			config := g.WriteConfig(gatewaytest.Config{App: line})
			out, err := g.Try("run", "--config", config, "--adapter", "caddyfile")
			require.Error(t, err, "the gateway does not start")
			require.NotContains(t, out, "server running")
		})
	}
}

func replayPlaceholders(t *testing.T, s *stage) {
	g := s.gateway("placeholders", func(g *gatewaytest.Gateway) {
		g.Run(gatewaytest.Config{
			Options: "debug",
			Site:    "token_from X-Session\npublic /public/*",
			Next: `log
			header X-User {http.auth.user.id}
			reverse_proxy $UPSTREAM {
				header_up X-User {http.auth.user.id}
			}`,
			Servers: "timeouts {\n}",
		})
	})
	for _, text := range []string{"{env.WX_SECRET}", "{http.request.header.X}", "{file.$DIR/Caddyfile}", `\{env.WX_SECRET\}`} {
		text = g.Expand(text)
		for _, resp := range []gatewaytest.Response{
			g.Get("/public/"+text, "X: {env.WX_SECRET}"),
			g.Get("/public/a?q="+text, "X-OpenID: "+text, "X-Session: "+text),
			g.Get("/", "X-Session: "+text, "X: {env.WX_SECRET}"),
			g.Get("/", "X-OpenID: "+text, "User-Agent: "+text),
			g.Post("/login", `{"code":"`+strings.ReplaceAll(text, `\`, `\\`)+`"}`, "X: {env.WX_SECRET}"),
			g.Post("/login", `{"code":"c","appid":"`+strings.ReplaceAll(text, `\`, `\\`)+`"}`, "Referer: https://servicewechat.com/"+text+"/"),
		} {
			require.NotContains(t, resp.Body, gatewaytest.Secret)
			for _, values := range resp.Header {
				require.NotContains(t, strings.Join(values, " "), gatewaytest.Secret)
			}
		}
		for _, received := range g.Upstream.Take() {
			require.NotContains(t, string(received.Raw), gatewaytest.Secret)
		}
	}
	require.NotContains(t, g.Output(), gatewaytest.Secret)
}

func replayUnresolved(t *testing.T, s *stage) {
	g := s.plain()
	token := g.Login("alice").Token
	for _, line := range []string{"miniprogram " + gatewaytest.OtherAppID + " {env.NO_SUCH_SECRET}", "encryption_key {env.NO_SUCH_KEY}"} {
		out, err := g.Reload(gatewaytest.Config{App: line})
		require.Error(t, err)
		require.Contains(t, out, "NO_SUCH")
		require.Equal(t, "missing_session", g.Get("/").ErrorName())
		g.RequireNothing(t)
		require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
		g.RequireIdentity(t, g.OpenID("alice"), token)
	}
}

func replayEndlessReply(t *testing.T, s *stage) {
	g := s.plain()
	for name, script := range map[string]fakewechat.Script{
		"endless": {Endless: true},
		"large":   fakewechat.Body(`{"openid":"o","session_key":"` + strings.Repeat("A", 1<<20) + `"}`),
	} {
		g.WeChat.Script(script)
		resp := g.Post("/login", `{"code":"`+g.WeChat.IssueCode(gatewaytest.AppID, "alice")+`"}`)
		require.Equal(t, "wechat_bad_reply", resp.ErrorName(), name)
		require.NotContains(t, resp.Body, "3rd_session")
	}
}

func replayErrorPages(t *testing.T, s *stage) {
	g := s.errorPages()
	token := g.Login("alice").Token
	// The upstream behind the gate is gone; the one behind the error route is not.
	resp := g.Get("/broken", gatewaytest.Token(token), "X-OpenID: "+forgedOpenID)
	require.Equal(t, http.StatusOK, resp.Status)
	g.RequireIdentity(t, g.OpenID("alice"), token)
}
