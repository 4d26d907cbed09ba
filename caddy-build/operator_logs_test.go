package main_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
)

// logLine is one line of a log in JSON.
type logLine map[string]any

func parseLog(t *testing.T, text string, keep func(logLine) bool) (lines []logLine) {
	t.Helper()
	for line := range strings.Lines(text) {
		var parsed logLine
		if json.Unmarshal([]byte(line), &parsed) == nil && keep(parsed) {
			lines = append(lines, parsed)
		}
	}
	return lines
}

// TestStartIsLogged looks for the line of a start, and the warning of the first.
func TestStartIsLogged(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	own := func(msg string) []logLine {
		return parseLog(t, g.Output(), func(l logLine) bool { return l["logger"] == "wxgate" && l["msg"] == msg })
	}
	starts := own("starting")
	require.Len(t, starts, 1)
	require.NotEmpty(t, starts[0]["version"])
	require.Equal(t, []any{gatewaytest.AppID}, starts[0]["miniprograms"])
	require.Contains(t, starts[0]["store"], "badger "+g.Dir)
	require.Contains(t, starts[0]["encryption_key"], "encryption.key")
	require.Len(t, own("made the encryption key file; back it up: without it no session in the store can be read"), 1)

	out, err := g.Reload(gatewaytest.Config{})
	require.NoError(t, err, out)
	g.Eventually(func() bool { return len(own("starting")) == 2 }, "the reload is logged")
	require.Len(t, own("made the encryption key file; back it up: without it no session in the store can be read"), 1, "only once")
}

// TestEachActionLeavesOneLine follows the audit trail: each login, logout,
// revocation and view leaves one line, with who, what and how it ended.
func TestEachActionLeavesOneLine(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{
		App:  "session {\nmax_per_user 2\n}",
		Next: "log {\noutput file $DIR/access.log\nformat filter {\nrequest>headers>3rd_session delete\nwrap json\n}\n}\nreverse_proxy $UPSTREAM",
	})
	alice := g.OpenID("alice")
	tokens := []string{g.Login("alice").Token, g.Login("alice").Token, g.Login("alice").Token}
	require.Equal(t, "invalid_code", g.Post("/login", `{"code":"made-up"}`).ErrorName())
	require.Equal(t, http.StatusOK, g.Get("/orders", gatewaytest.Token(tokens[1])).Status)
	require.Equal(t, "missing_session", g.Get("/orders").ErrorName())
	require.Equal(t, http.StatusNoContent, g.Post("/logout", "", gatewaytest.Token(tokens[1])).Status)

	var seen struct {
		LogName  string `json:"log_name"`
		Sessions []struct{ ID string }
	}
	admin := func(args ...string) outcome { return operate(t, g, append(args, "--address", g.Admin)...) }
	admin("user", alice, "--json").require(t, 0).into(t, &seen)
	admin("revoke", alice, "--session", seen.Sessions[0].ID).require(t, 0)
	admin("revoke", alice).require(t, 0)
	admin("revoke", "nobody").require(t, 3)
	tokens = append(tokens, g.Login("bob").Token)
	admin("revoke", g.OpenID("bob")).require(t, 0)
	admin("backup", "-o", filepath.Join(g.Dir, "backup")).require(t, 0)
	g.Stop()

	// Beside them are the lines about the start, which have no result.
	lines := parseLog(t, g.Output(), func(l logLine) bool { return l["logger"] == "wxgate" && l["result"] != nil })
	ids := make([]any, 3) // of the sessions, as the logins were logged
	for i := range ids {
		ids[i] = lines[i]["session"]
	}
	require.Equal(t, seen.Sessions[0].ID, ids[2])
	for i, want := range []logLine{
		{"msg": "login", "user": seen.LogName, "session": ids[0], "client_ip": "127.0.0.1", "result": "ok"},
		{"msg": "login", "user": seen.LogName, "session": ids[1], "client_ip": "127.0.0.1", "result": "ok"},
		{"msg": "login", "user": seen.LogName, "session": ids[2], "client_ip": "127.0.0.1", "result": "ok", "evicted": []any{ids[0]}},
		{"msg": "login", "client_ip": "127.0.0.1", "result": "invalid_code", "errcode": 40029.0},
		{"msg": "logout", "user": seen.LogName, "session": ids[1], "client_ip": "127.0.0.1", "result": "ok"},
		{"msg": "user viewed", "user": seen.LogName, "client_ip": "", "result": "ok"},
		{"msg": "revocation", "user": seen.LogName, "session": ids[2], "client_ip": "", "result": "ok"},
		{"msg": "revocation", "user": seen.LogName, "revoked": []any{}, "client_ip": "", "result": "ok"},
		{"msg": "revocation", "revoked": []any{}, "client_ip": "", "result": "not_found"},
		{"msg": "login", "client_ip": "127.0.0.1", "result": "ok"},
		{"msg": "revocation", "revoked": []any{lines[9]["session"]}, "client_ip": "", "result": "ok"},
		{"msg": "backup", "client_ip": "", "result": "ok"},
	} {
		require.Less(t, i, len(lines))
		require.Equal(t, "info", lines[i]["level"])
		if want["msg"] != "backup" {
			want["appid"] = gatewaytest.AppID
		} else {
			require.Positive(t, lines[i]["bytes"])
		}
		if want["errcode"] != nil {
			require.NotEmpty(t, lines[i]["rid"], "WeChat's support asks for it")
		}
		for field, value := range want {
			require.Equal(t, value, lines[i][field], "field %s of line %d: %v", field, i, lines[i])
		}
	}
	require.Len(t, lines, 12, "one line each, and none for a request that was rejected")

	access, err := os.ReadFile(filepath.Join(g.Dir, "access.log"))
	require.NoError(t, err)
	served := parseLog(t, string(access), func(l logLine) bool {
		return l["request"].(map[string]any)["uri"] == "/orders" && l["status"] == 200.0
	})
	require.Len(t, served, 1)
	require.Equal(t, alice, served[0]["user_id"], "the access log says who it was")

	own, err := json.Marshal(lines)
	require.NoError(t, err)
	require.NotContains(t, string(own), alice, "the gateway's own lines do not say who it was")
	for _, text := range []string{string(own), g.Output(), string(access)} {
		for _, secret := range append(tokens, "made-up", gatewaytest.Secret, g.WeChat.SessionKey(gatewaytest.AppID, "alice")) {
			require.NotContains(t, text, secret)
		}
	}
}

// TestWhyAnActionFailed proves that the line of an action that failed says
// whether the store is to blame, and why it failed.
func TestWhyAnActionFailed(t *testing.T) {
	action := func(g *gatewaytest.Gateway, msg string) (line logLine) {
		g.Eventually(func() bool {
			for _, line = range parseLog(t, g.Output(), func(l logLine) bool { return l["logger"] == "wxgate" && l["msg"] == msg }) {
				return true
			}
			return false
		}, msg+" is in the log")
		return line
	}
	t.Run("the store", func(t *testing.T) {
		redis := redistest.Start(t)
		g := gatewaytest.Start(t, gatewaytest.Config{
			App: "encryption_key {env.KEY}\nstore redis " + redis.Addr, Env: []string{"KEY=" + someKey},
		})
		alice := g.OpenID("alice")
		g.Login("alice")
		redis.Kill()
		operate(t, g, "revoke", alice, "--address", g.Admin).require(t, 4)
		line := action(g, "revocation")
		require.Equal(t, "error", line["level"])
		require.Equal(t, "store_unavailable", line["result"])
		require.Contains(t, line["error"], "redis")
		require.NotContains(t, line["error"], alice)
	})
	t.Run("the one who asked", func(t *testing.T) {
		g := gatewaytest.Start(t, gatewaytest.Config{App: "login_rate off"})
		conn, _ := beginBackup(t, g)
		require.NoError(t, conn.Close())
		line := action(g, "backup")
		require.Equal(t, "info", line["level"])
		require.Equal(t, "canceled", line["result"])
	})
}
