package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// An outcome is what a command left behind.
type outcome struct {
	stdout, stderr string
	code           int
}

// operate runs `caddy wxgate` with args to its end.
func operate(t *testing.T, g *gatewaytest.Gateway, args ...string) outcome {
	t.Helper()
	return finish(t, g.Command(append([]string{"wxgate"}, args...)...))
}

func finish(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// require asserts on the exit code and shows what the command said if it differs.
func (o outcome) require(t *testing.T, code int) outcome {
	t.Helper()
	require.Equal(t, code, o.code, "stdout: %s\nstderr: %s", o.stdout, o.stderr)
	return o
}

// into reads what --json printed.
func (o outcome) into(t *testing.T, value any) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(o.stdout), value), o.stdout)
}

// What --json prints; see docs/operations.md.
type (
	stats struct {
		Build struct{ Version, Caddy, Go string }
		Store struct {
			Kind, Name string
			FreeBytes  uint64 `json:"free_bytes"`
		}
		Sessions     int
		Logins       map[string]int
		Requests     map[string]int
		Revocations  map[string]int
		MiniPrograms []struct {
			AppID  string
			Logins map[string]int
		} `json:"mini_programs"`
	}
	user struct {
		AppID, OpenID, UnionID string
		Sessions               []struct {
			ID                         string
			Created, LastSeen, Expires time.Time
		}
	}
)

// twoMiniPrograms declares the sandbox's second one as well.
const twoMiniPrograms = "miniprogram " + gatewaytest.OtherAppID + " {env.WX_OTHER_SECRET}"

// TestOperatorSeesAndEndsSessions runs every command that speaks with the admin
// endpoint, over a unix socket and, after a reload, over TCP.
func TestOperatorSeesAndEndsSessions(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	t.Run("unix", func(t *testing.T) { operateOn(t, g, g.Admin) })

	tcp := gatewaytest.FreeAddr(t)
	out, err := g.Reload(gatewaytest.Config{Options: "admin " + tcp})
	require.NoError(t, err, out)
	t.Run("tcp", func(t *testing.T) { operateOn(t, g, tcp) })
}

func operateOn(t *testing.T, g *gatewaytest.Gateway, address string) {
	admin := func(args ...string) outcome { return operate(t, g, append(args, "--address", address)...) }
	first, second, other := g.Login("alice").Token, g.Login("alice").Token, g.Login("bob").Token
	alive := func(token string) bool {
		return g.Get("/", gatewaytest.Token(token)).Status == http.StatusOK
	}

	var seen user
	admin("user", g.OpenID("alice"), "--json").require(t, 0).into(t, &seen)
	require.Equal(t, g.OpenID("alice"), seen.OpenID)
	require.Equal(t, gatewaytest.AppID, seen.AppID)
	require.Equal(t, g.WeChat.UnionID("alice"), seen.UnionID)
	require.Len(t, seen.Sessions, 2)
	require.True(t, seen.Sessions[0].Expires.After(time.Now()))
	table := admin("user", g.OpenID("alice"), "--appid", gatewaytest.AppID).require(t, 0).stdout
	require.Contains(t, table, "SESSION")
	require.Contains(t, table, seen.Sessions[0].ID)
	require.NotContains(t, table, first)

	var before, after stats
	admin("stats", "--json").require(t, 0).into(t, &before)
	require.Equal(t, "badger", before.Store.Kind)
	require.Contains(t, before.Store.Name, g.Dir)
	require.Regexp(t, `^v2\.`, before.Build.Caddy)
	require.NotEmpty(t, before.Build.Version)
	require.Positive(t, before.Store.FreeBytes)
	require.Equal(t, 3, before.Sessions)
	require.Equal(t, before.Logins["ok"], before.MiniPrograms[0].Logins["ok"])

	require.Equal(t, "1 session revoked\n", admin("revoke", g.OpenID("alice"), "--session", seen.Sessions[0].ID).require(t, 0).stdout)
	require.False(t, alive(first), "the session that was named")
	require.True(t, alive(second), "the user's other one")
	admin("revoke", g.OpenID("alice"), "--session", seen.Sessions[0].ID).require(t, 3)
	require.Equal(t, "{\n  \"revoked\": 1\n}\n", admin("revoke", g.OpenID("alice"), "--json").require(t, 0).stdout)
	require.False(t, alive(second))
	require.True(t, alive(other), "another user's")
	require.Equal(t, "0 sessions revoked\n", admin("revoke", g.OpenID("alice")).require(t, 0).stdout)
	admin("revoke", g.OpenID("bob")).require(t, 0)

	admin("stats", "--json").require(t, 0).into(t, &after)
	require.Equal(t, before.Revocations["admin"]+3, after.Revocations["admin"])
	require.Contains(t, admin("stats").require(t, 0).stdout, "live sessions")

	missing := admin("user", "nobody").require(t, 3)
	require.Equal(t, "Error: the gateway knows no such user of this mini program\n", missing.stderr)
	admin("revoke", "nobody").require(t, 3)
	admin("user", g.OpenID("alice"), "--appid", gatewaytest.OtherAppID).require(t, 3)
	admin("user", g.OpenID("alice"), "--appid", "wx1").require(t, 2)
	admin("revoke", g.OpenID("alice"), "--session", "all").require(t, 2)
	admin("revoke", "").require(t, 2)

	received := g.Upstream.Take()
	require.NotEmpty(t, received) // those of alive
}

// TestOperatorFindsByUnionIDAndRevokesAll works on a gateway of two mini programs.
func TestOperatorFindsByUnionIDAndRevokesAll(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: twoMiniPrograms})
	admin := func(args ...string) outcome { return operate(t, g, append(args, "--address", g.Admin)...) }
	alive := func(token string) bool { return g.Get("/", gatewaytest.Token(token)).Status == http.StatusOK }
	login := func(appID, user string) string {
		t.Helper()
		resp := g.Post("/login", `{"appid":"`+appID+`","code":"`+g.WeChat.IssueCode(appID, user)+`"}`)
		require.Equal(t, http.StatusOK, resp.Status, resp.Body)
		var login gatewaytest.Login
		require.NoError(t, json.Unmarshal([]byte(resp.Body), &login))
		return login.Token
	}
	here, there := login(gatewaytest.AppID, "bob"), login(gatewaytest.OtherAppID, "bob")
	login(gatewaytest.AppID, "alice")

	var users struct{ Users []user }
	admin("user", g.WeChat.UnionID("bob"), "--json").require(t, 0).into(t, &users)
	require.Len(t, users.Users, 2)
	require.Equal(t, g.OpenID("bob"), users.Users[0].OpenID)
	require.Equal(t, g.WeChat.OpenID(gatewaytest.OtherAppID, "bob"), users.Users[1].OpenID)
	require.Len(t, users.Users[1].Sessions, 1)
	require.Contains(t, admin("user", g.WeChat.UnionID("bob")).require(t, 0).stdout, g.OpenID("bob"))
	require.Contains(t, admin("user", g.WeChat.UnionID("nobody")).require(t, 2).stderr, "--appid", "it may have been an openid")
	admin("user", g.WeChat.UnionID("nobody"), "--appid", gatewaytest.AppID).require(t, 3)

	require.Equal(t, "all sessions of "+gatewaytest.OtherAppID+" revoked\n", admin("revoke", "--all", "--appid", gatewaytest.OtherAppID).require(t, 0).stdout)
	require.False(t, alive(there))
	require.True(t, alive(here), "of another mini program")
	require.Equal(t, "all sessions revoked\n", admin("revoke", "--all").require(t, 0).stdout)
	require.False(t, alive(here))
	require.True(t, alive(login(gatewaytest.AppID, "bob")), "users may log in again")
	admin("revoke", "--all", g.OpenID("bob")).require(t, 2)
	admin("revoke", "--all", "--session", "0123456789abcdef").require(t, 2)
	admin("revoke", "--all", "--appid", "wx1").require(t, 2)
	require.NotEmpty(t, g.Upstream.Take())
}

func TestCommandsTellScriptsWhatHappened(t *testing.T) {
	g := gatewaytest.New(t)
	config := g.WriteConfig(gatewaytest.Config{})
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no command":             {nil, 0, "Available Commands"},
		"version":                {[]string{"version"}, 0, "wxgate "},
		"unknown command":        {[]string{"revok", "x"}, 2, "unknown command"},
		"unknown flag":           {[]string{"stats", "--verbose"}, 2, "unknown flag"},
		"argument missing":       {[]string{"user"}, 2, "usage: caddy wxgate user <openid or unionid>"},
		"argument too many":      {[]string{"stats", "x"}, 2, "usage"},
		"no gateway":             {[]string{"stats", "--address", g.Admin}, 4, "no gateway answers"},
		"no gateway, configured": {[]string{"stats", "--config", config}, 4, g.Admin},
		"no gateway, tcp":        {[]string{"user", "o1", "--address", "127.0.0.1:1"}, 4, "no gateway answers"},
		"no address":             {[]string{"stats", "--address", "localhost:2019-2021"}, 2, "not the address"},
		"a URL for an address":   {[]string{"stats", "--address", "http://localhost:2019"}, 2, "such as localhost:2019"},
		"a path behind it":       {[]string{"stats", "--address", "localhost:2019/"}, 2, "such as localhost:2019"},
		"no configuration":       {[]string{"stats", "--config", g.Dir + "/nothing"}, 1, "reading configuration"},
		"no such demo":           {[]string{"demo", "x"}, 2, "usage: caddy wxgate demo"},
		"no output":              {[]string{"backup"}, 2, "-o"},
		"no directory":           {[]string{"restore", config}, 2, "--dir"},
		"nothing to restore":     {[]string{"restore", g.Dir + "/nothing", "--dir", g.Dir + "/new"}, 1, "opening the backup"},
		"no store to copy from":  {[]string{"migrate"}, 2, "--from"},
	} {
		t.Run(name, func(t *testing.T) {
			out := operate(t, g, tc.args...).require(t, tc.code)
			require.Contains(t, out.stdout+out.stderr, tc.want)
		})
	}
}

// TestOpenIDsOfAnyKindAreNamed proves that an openid, which WeChat calls
// opaque, stays one path segment on the way to the gateway.
func TestOpenIDsOfAnyKindAreNamed(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: twoMiniPrograms})
	for _, openID := range []string{
		".", "..", "../stats", "a//../b/", "%2F%", "?x=y#z", `a;b+c\~!*'()`, "-x", "oABC/sessions/0123456789abcdef",
	} {
		t.Run(openID, func(t *testing.T) {
			body, err := json.Marshal(map[string]string{"openid": openID, "session_key": "tiihtNczf5v6AKRyjwEUhQ=="})
			require.NoError(t, err)
			g.WeChat.Script(fakewechat.Body(string(body)))
			login := g.Post("/login", `{"appid":"`+gatewaytest.AppID+`","code":"`+g.WeChat.IssueCode(gatewaytest.AppID, "x")+`"}`)
			require.Equal(t, http.StatusOK, login.Status, login.Body)

			var seen user
			operate(t, g, "user", "--json", "--appid", gatewaytest.AppID, "--address", g.Admin, "--", openID).require(t, 0).into(t, &seen)
			require.Equal(t, openID, seen.OpenID)
			require.Len(t, seen.Sessions, 1)
		})
	}
	several := operate(t, g, "user", "a/b", "--address", g.Admin).require(t, 2)
	require.Contains(t, several.stderr, "--appid: "+gatewaytest.AppID+", "+gatewaytest.OtherAppID)
}

func TestAdminRoutesAnswerInCaddysWay(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	token := g.Login("alice").Token
	users := "/wxgate/users/" + gatewaytest.AppID + "/"
	for name, tc := range map[string]struct {
		method, path string
		status       int
	}{
		"live":                  {"GET", "/wxgate/live", 200},
		"ready, for a balancer": {"HEAD", "/wxgate/ready", 200},
		"ready":                 {"GET", "/wxgate/ready", 200},
		"stats":                 {"GET", "/wxgate/stats", 200},
		"user":                  {"GET", users + g.OpenID("alice"), 200},
		"no such user":          {"GET", users + "nobody", 404},
		"no such user to end":   {"DELETE", users + "nobody", 404},
		"no such session":       {"DELETE", users + g.OpenID("alice") + "/sessions/0123456789abcdef", 404},
		"not an appid":          {"GET", "/wxgate/users/wx1/x", 400},
		"no route":              {"GET", "/wxgate/", 404},
		"not for that method":   {"DELETE", "/wxgate/stats", 405},
		"a token is no openid":  {"GET", users + token, 404},
		"a token is no session": {"DELETE", users + g.OpenID("alice") + "/sessions/" + token, 404},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest(tc.method, "http://admin"+tc.path, nil)
			require.NoError(t, err)
			resp, err := gatewaytest.ReadResponse(g.AdminClient().Do(req))
			require.NoError(t, err)
			require.Equal(t, tc.status, resp.Status, resp.Body)
			require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
			require.NotContains(t, resp.Body, token)
			if tc.status >= 400 && tc.method != "HEAD" {
				require.NotEmpty(t, resp.ErrorName(), resp.Body)
			}
		})
	}
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status, "nothing has ended the session")
	own, err := json.Marshal(parseLog(t, g.Output(), func(l logLine) bool { return l["logger"] == "wxgate" }))
	require.NoError(t, err)
	require.Contains(t, string(own), "not_found")
	require.NotContains(t, string(own), token, "what was not a session's id may be a token")
}

// TestReadyNeedsAGateway looks at a Caddy whose configuration has none.
func TestReadyNeedsAGateway(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	out, err := g.Reload(gatewaytest.Config{Whole: "{\n\tadmin $ADMIN\n}\nhttp://$LISTEN {\n\trespond ok\n}\n"})
	require.NoError(t, err, out)
	for path, status := range map[string]int{"/wxgate/live": 200, "/wxgate/ready": 503, "/wxgate/stats": 503} {
		resp, err := gatewaytest.ReadResponse(g.AdminClient().Get("http://admin" + path))
		require.NoError(t, err)
		require.Equal(t, status, resp.Status, path)
	}
	require.Contains(t, operate(t, g, "stats", "--address", g.Admin).require(t, 4).stderr, "no wxgate runs")
}

// TestAdminEndpointByEveryNameOfIt proves that the commands reach an admin
// endpoint wherever curl does, and one that demands an origin, too.
func TestAdminEndpointByEveryNameOfIt(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	for name, tc := range map[string]struct {
		admin     string
		addresses []string
	}{
		"all interfaces": {"admin :$PORT", []string{":$PORT", "localhost:$PORT", "127.0.0.1:$PORT"}},
		"loopback":       {"admin 127.0.0.1:$PORT", []string{"127.0.0.1:$PORT", "localhost:$PORT", ":$PORT", "tcp/127.0.0.1:$PORT"}},
		"enforce_origin": {"admin 127.0.0.1:$PORT {\nenforce_origin\n}", []string{"localhost:$PORT", "127.0.0.1:$PORT"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, port, err := net.SplitHostPort(gatewaytest.FreeAddr(t))
			require.NoError(t, err)
			out, err := g.Try("reload", "--force", "--adapter", "caddyfile", "--address", g.Admin,
				"--config", g.WriteConfig(gatewaytest.Config{Options: strings.ReplaceAll(tc.admin, "$PORT", port)}))
			require.NoError(t, err, out)
			for _, address := range tc.addresses {
				address = strings.ReplaceAll(address, "$PORT", port)
				operate(t, g, "stats", "--address", address).require(t, 0)
				operate(t, g, "revoke", "nobody", "--address", address).require(t, 3)
			}
			g.Admin = strings.ReplaceAll(tc.addresses[0], "$PORT", port) // for the next reload
		})
	}
}

// TestAnotherProgramIsNoGateway proves that its 404 is not taken for a user who
// has no sessions: a script would believe that they have ended.
func TestAnotherProgramIsNoGateway(t *testing.T) {
	g := gatewaytest.New(t)
	for name, tc := range map[string]struct {
		status int
		want   string
	}{
		"a Caddy without wxgate": {http.StatusNotFound, "this Caddy has no wxgate"},
		"a web server":           {http.StatusMethodNotAllowed, "no admin endpoint of Caddy: 405"},
	} {
		t.Run(name, func(t *testing.T) {
			other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "something else", tc.status)
			}))
			defer other.Close()
			out := operate(t, g, "revoke", "o1", "--appid", gatewaytest.AppID, "--address", strings.TrimPrefix(other.URL, "http://"))
			require.Contains(t, out.require(t, 4).stderr, tc.want)
		})
	}
}

// secretish is what no output may hold: 43 characters of base64url, as tokens
// are written, or a session_key.
var secretish = regexp.MustCompile(`[A-Za-z0-9_-]{43}|[A-Za-z0-9+/]{22}==`)

func TestNothingSecretInWhatOperatorsSee(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	g.Login("alice")
	for _, args := range [][]string{{"stats"}, {"stats", "--json"}, {"user", g.OpenID("alice")}, {"user", g.OpenID("alice"), "--json"}} {
		out := operate(t, g, append(args, "--address", g.Admin)...).require(t, 0)
		require.NotRegexp(t, secretish, strings.ReplaceAll(out.stdout, g.Dir, ""), args)
		require.NotContains(t, out.stdout, gatewaytest.Secret)
	}
}
