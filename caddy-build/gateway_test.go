package main_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

func TestLoginGivesTokenAndUpstreamSeesOneOpenID(t *testing.T) {
	gatewaytest.Smoke(t)
	g := gatewaytest.Start(t, gatewaytest.Config{})

	resp := g.Post("/login", `{"code":"`+g.WeChat.IssueCode(gatewaytest.AppID, "alice")+`"}`)
	require.Equal(t, http.StatusOK, resp.Status)
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	var body map[string]any
	require.NoError(t, json.Unmarshal([]byte(resp.Body), &body))
	require.Len(t, body, 2, "nothing but the token and its life")
	require.Len(t, body["3rd_session"], 43)
	require.EqualValues(t, 30*24*60*60, body["expires_in"])
	g.RequireNothing(t)

	token := body["3rd_session"].(string)
	got := g.Get("/orders?id=1", gatewaytest.Token(token), "X-OpenID: forged")
	require.Equal(t, http.StatusOK, got.Status)
	g.RequireIdentity(t, g.OpenID("alice"), token)
}

func TestEveryTokenSourceAndField(t *testing.T) {
	gatewaytest.Smoke(t)
	g := gatewaytest.Start(t, gatewaytest.Config{Site: `
		token_from X-Session X-Other bearer
		inject openid X-OpenID
		inject unionid x-unionid
		inject appid X-App`})
	token := g.Login("alice").Token

	for name, line := range map[string]string{
		"header": "X-Session: " + token,
		"bearer": "Authorization: bearer " + token,
		"both":   "X-Session: " + token + "\nAuthorization: Bearer " + token,
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, http.StatusOK, g.Get("/", line).Status)
			received := g.Upstream.Take()
			require.Len(t, received, 1)
			require.Equal(t, []string{g.OpenID("alice")}, received[0].Lines("X-OpenID"))
			require.Equal(t, []string{g.WeChat.UnionID("alice")}, received[0].Lines("X-UnionID"))
			require.Equal(t, []string{gatewaytest.AppID}, received[0].Lines("X-App"))
			require.NotContains(t, string(received[0].Raw), token)
		})
	}
	other := g.Login("bob").Token
	resp := g.Get("/", "X-Session: "+token, "X-Other: "+other)
	require.Equal(t, http.StatusUnauthorized, resp.Status)
	require.Equal(t, "invalid_session", resp.ErrorName())
	g.RequireNothing(t)
}

// Without token_from the token may come in either way, and an Authorization that
// is not the gateway's own goes on.
func TestDefaultTokenSources(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: "public /public/*"})
	token := g.Login("alice").Token
	for name, tc := range map[string]struct {
		lines         []string
		path          string
		authorization []string // what the upstream receives
		status        int
	}{
		"header":                        {[]string{gatewaytest.Token(token)}, "/", nil, 200},
		"bearer":                        {[]string{"Authorization: Bearer " + token}, "/", nil, 200},
		"both":                          {[]string{gatewaytest.Token(token), "Authorization: Bearer " + token}, "/", nil, 200},
		"header and Basic":              {[]string{gatewaytest.Token(token), "Authorization: Basic eDp5"}, "/", []string{"Basic eDp5"}, 200},
		"header and another bearer":     {[]string{gatewaytest.Token(token), "Authorization: Bearer eyJ.eyJ.sig"}, "/", []string{"Bearer eyJ.eyJ.sig"}, 200},
		"bearer and Basic":              {[]string{"Authorization: Basic eDp5", "Authorization: Bearer " + token}, "/", []string{"Basic eDp5"}, 200},
		"Basic on a public path":        {[]string{"Authorization: Basic eDp5"}, "/public/a", []string{"Basic eDp5"}, 200},
		"a JWT on a public path":        {[]string{"Authorization: Bearer eyJ.eyJ.sig"}, "/public/a", []string{"Bearer eyJ.eyJ.sig"}, 200},
		"a JWT is no session":           {[]string{"Authorization: Bearer eyJ.eyJ.sig"}, "/", nil, 401},
		"Basic is no session":           {[]string{"Authorization: Basic eDp5"}, "/", nil, 401},
		"a dead header, a live bearer":  {[]string{gatewaytest.Token(strings.Repeat("A", 43)), "Authorization: Bearer " + token}, "/", nil, 401},
		"an empty header and a bearer":  {[]string{"3rd_session: ", "Authorization: Bearer " + token}, "/", nil, 200},
		"a token without white space":   {[]string{"Authorization: Bearer" + token}, "/", nil, 401},
		"a token in an unusual writing": {[]string{"Authorization: bEARER \t " + token}, "/", nil, 200},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.status, g.Get(tc.path, tc.lines...).Status)
			if tc.status != http.StatusOK {
				g.RequireNothing(t)
				return
			}
			received := g.Upstream.Take()
			require.Len(t, received, 1)
			require.Equal(t, tc.authorization, received[0].Lines("Authorization"))
			require.NotContains(t, string(received[0].Raw), token)
		})
	}
}

// A client that waits for 100 Continue gets its refusal at once, though its body
// has not come.
func TestRefusalsDoNotWaitForTheBody(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	token := g.Login("alice").Token
	const waits = "Expect: 100-continue\nContent-Length: 1000000\n\n"
	start := time.Now()
	for line, want := range map[string]int{
		"POST /up HTTP/1.1": 401, "PUT /login HTTP/1.1": 405, "TRACE /up HTTP/1.1": 405, "POST /logout HTTP/1.1": 401,
		"PUT /up HTTP/1.1\n" + gatewaytest.Token(strings.Repeat("A", 43)): 401,
		"POST /logout HTTP/1.1\n" + gatewaytest.Token(token):              204,
		"POST /login HTTP/1.1\nContent-Type: text/plain":                  415,
	} {
		resp := g.Raw(line + "\nHost: " + g.Addr + "\n" + waits)
		require.Equal(t, want, resp.Status, line)
	}
	require.Less(t, time.Since(start), 30*time.Second, "Caddy waits 60 seconds for a body")
	g.RequireNothing(t)
	// One with a session is asked for its body.
	token = g.Login("alice").Token
	req, err := http.NewRequest(http.MethodPost, g.URL+"/up", strings.NewReader("hello"))
	require.NoError(t, err)
	req.Header = http.Header{"3rd_session": {token}, "Expect": {"100-continue"}}
	transport := &http.Transport{ExpectContinueTimeout: time.Minute}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	g.RequireIdentity(t, g.OpenID("alice"), token)
}

// The client cannot tell why there is no session; the log at level debug can.
func TestReasonsOfRefusals(t *testing.T) {
	cfg := gatewaytest.Config{
		Options: "debug",
		App:     "miniprogram " + gatewaytest.OtherAppID + " {env.WX_OTHER_SECRET}",
		Site:    "token_from 3rd_session X-Other bearer\n}\nwxgate /other/* {\nminiprograms " + gatewaytest.OtherAppID,
	}
	g := gatewaytest.Start(t, cfg)
	token := g.LoginTo(gatewaytest.AppID, "alice").Token
	idle, old := g.LoginTo(gatewaytest.AppID, "bob").Token, g.LoginTo(gatewaytest.AppID, "carol").Token

	refused := func(reason, path string, lines ...string) {
		t.Helper()
		require.Equal(t, http.StatusUnauthorized, g.Get(path, lines...).Status, reason)
		g.Eventually(func() bool { return strings.Contains(g.Output(), `"reason":"`+reason+`"`) }, reason)
	}
	refused("missing", "/")
	refused("malformed", "/", gatewaytest.Token("undefined"))
	refused("unknown", "/", gatewaytest.Token(strings.Repeat("A", 43)))
	refused("two_tokens", "/", gatewaytest.Token(token), "X-Other: "+idle)
	refused("other_app", "/other/x", gatewaytest.Token(token))
	for option, reason := range map[string]string{"idle_timeout": "idle", "lifetime": "lifetime"} {
		shorter := cfg
		shorter.App += "\nsession {\n" + option + " 1ms\n}"
		out, err := g.Reload(shorter)
		require.NoError(t, err, out)
		refused(reason, "/", gatewaytest.Token(map[string]string{"idle": idle, "lifetime": old}[reason]))
	}
}

func TestAlmostTheLoginPath(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	for path, hint := range map[string]bool{"//login": true, "/login/": true, "/./login": true, "/Login": true, "/logins": false, "/": false} {
		resp := g.Post(path, `{"code":"c"}`)
		require.Equal(t, "missing_session", resp.ErrorName(), path)
		require.Equal(t, hint, strings.Contains(resp.Body, "POST the code to /login exactly"), path)
	}
	g.RequireNothing(t)
}

// On a public path without a session there is no user, not one who is called
// like a placeholder.
func TestPlaceholdersWithoutSession(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{
		Site: "public /public/*",
		Next: `request_header X-User {http.auth.user.id}
			reverse_proxy $UPSTREAM {
				header_up X-Tenant {http.auth.user.appid}
				header_up X-Union {http.auth.user.unionid}
			}`,
	})
	require.Equal(t, http.StatusOK, g.Get("/public/a", "X-User: oVICTIM").Status)
	require.Equal(t, http.StatusOK, g.Get("/public/a", gatewaytest.Token(strings.Repeat("A", 43)), "X-Tenant: t").Status)
	for _, received := range g.Upstream.Take() {
		for _, name := range []string{"X-User", "X-Tenant", "X-Union"} {
			require.Equal(t, []string{""}, received.Lines(name), name)
		}
	}
}

// With inject wx_cloud no header that WeChat Cloud Hosting writes comes from a
// client.
func TestCloudHeaders(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{
		Site:    "inject wx_cloud\npublic /public/*",
		Servers: "expected_underscore_headers 3rd_session x_wx_*\ntrusted_proxies static 127.0.0.1",
	})
	token := g.Login("alice").Token
	forged := []string{
		"X-WX-OPENID: oVICTIM", "X-WX-FROM-OPENID: oVICTIM", "X-WX-SERVICE: oVICTIM", "x_wx_anything: oVICTIM", "X-WX-Open-Data: oVICTIM",
		"X-Original-Forwarded-For: oVICTIM", "X-Forwarded-For: 192.0.2.7", "Connection: X-WX-SOURCE, X-Original-Forwarded-For",
		"Trailer: X-WX-ENV", "X-WXtra: kept",
	}
	for path, identity := range map[string][]string{"/": {g.OpenID("alice")}, "/public/a": nil} {
		lines := forged
		if identity != nil {
			lines = append(lines[:len(lines):len(lines)], gatewaytest.Token(token))
		}
		require.Equal(t, http.StatusOK, g.Get(path, lines...).Status)
		received := g.Upstream.Take()
		require.Len(t, received, 1)
		require.NotContains(t, string(received[0].Raw), "oVICTIM")
		require.Equal(t, identity, received[0].Lines("X-WX-OPENID"))
		require.Equal(t, []string{"192.0.2.7"}, received[0].Lines("X-Original-Forwarded-For"))
		require.Equal(t, []string{"kept"}, received[0].Lines("X-WXtra"))
	}
}

func TestWithoutSessionNothingGoesOn(t *testing.T) {
	gatewaytest.Smoke(t)
	g := gatewaytest.Start(t, gatewaytest.Config{})
	for name, tc := range map[string]struct {
		lines []string
		want  string
	}{
		"no token":          {nil, "missing_session"},
		"empty token":       {[]string{"3rd_session: "}, "missing_session"},
		"unknown token":     {[]string{gatewaytest.Token(strings.Repeat("A", 43))}, "invalid_session"},
		"short token":       {[]string{gatewaytest.Token("abc")}, "invalid_session"},
		"token with a sign": {[]string{gatewaytest.Token(strings.Repeat("A", 42) + "/")}, "invalid_session"},
	} {
		t.Run(name, func(t *testing.T) {
			resp := g.Get("/orders", tc.lines...)
			require.Equal(t, http.StatusUnauthorized, resp.Status)
			require.Equal(t, tc.want, resp.ErrorName())
			require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
			require.NotEmpty(t, resp.Header.Get("WWW-Authenticate"))
			g.RequireNothing(t)
		})
	}
}

func TestLogoutEndsTheSession(t *testing.T) {
	gatewaytest.Smoke(t)
	g := gatewaytest.Start(t, gatewaytest.Config{})
	token := g.Login("alice").Token

	require.Equal(t, http.StatusMethodNotAllowed, g.Get("/logout", gatewaytest.Token(token)).Status)
	require.Equal(t, "missing_session", g.Post("/logout", "").ErrorName())
	require.Equal(t, http.StatusNoContent, g.Post("/logout", "", gatewaytest.Token(token)).Status)

	require.Equal(t, "invalid_session", g.Get("/", gatewaytest.Token(token)).ErrorName())
	require.Equal(t, "invalid_session", g.Post("/logout", "", gatewaytest.Token(token)).ErrorName())
	g.RequireNothing(t)
}

func TestSessionsSurvive(t *testing.T) {
	gatewaytest.Smoke(t)
	g := gatewaytest.Start(t, gatewaytest.Config{})
	token := g.Login("alice").Token
	ended := g.Login("bob").Token
	require.Equal(t, http.StatusNoContent, g.Post("/logout", "", gatewaytest.Token(ended)).Status)

	check := func(after string) {
		t.Helper()
		require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status, after)
		g.RequireIdentity(t, g.OpenID("alice"), token)
		require.Equal(t, "invalid_session", g.Get("/", gatewaytest.Token(ended)).ErrorName(), after)
	}
	g.Stop()
	g.Run(gatewaytest.Config{})
	check("restart")

	g.Kill()
	g.Run(gatewaytest.Config{})
	check("SIGKILL")

	out, err := g.Reload(gatewaytest.Config{Site: "inject appid X-App\ninject openid X-OpenID"})
	require.NoError(t, err, out)
	check("reload")
}

func TestRefusedReloadLeavesTheOldConfigurationServing(t *testing.T) {
	gatewaytest.Smoke(t)
	g := gatewaytest.Start(t, gatewaytest.Config{})
	token := g.Login("alice").Token
	for name, tc := range map[string]struct {
		cfg  gatewaytest.Config
		want string
	}{
		"unknown option":      {gatewaytest.Config{Site: "no_such_option"}, "no_such_option"},
		"header not expected": {gatewaytest.Config{Servers: "timeouts {\n}"}, "expected_underscore_headers 3rd_session"},
		"unset secret":        {gatewaytest.Config{App: "miniprogram wx00000000000000ff {env.NO_SUCH_SECRET}"}, "{env.NO_SUCH_SECRET} is not set"},
		"other store options": {gatewaytest.Config{App: "store badger {\nsync_writes off\n}"}, "restart Caddy to change them"},
		"unopenable store":    {gatewaytest.Config{App: "store badger /proc/nothing"}, "opening session store"},
		"undeclared appid":    {gatewaytest.Config{Site: "miniprograms " + gatewaytest.OtherAppID}, "not declared"},
		"redis without a key": {gatewaytest.Config{App: "store redis 127.0.0.1:1"}, "encryption_key is required"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := g.Reload(tc.cfg)
			require.Error(t, err)
			require.Contains(t, out, tc.want)
			require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
			g.RequireIdentity(t, g.OpenID("alice"), token)
		})
	}
}

// someKey is an encryption key for tests: the base64 text of 32 bytes.
const someKey = "c29tZSBrZXkgZm9yIHRlc3RzLCAzMiBieXRlcyBsb24="

func TestValidateBesideTheRunningGateway(t *testing.T) {
	gatewaytest.Smoke(t)
	g := gatewaytest.Start(t, gatewaytest.Config{})
	token := g.Login("alice").Token
	for _, args := range [][]string{{"validate"}, {"adapt", "--validate"}} {
		out, err := g.Try(append(args, "--config", filepath.Join(g.Dir, "Caddyfile"), "--adapter", "caddyfile")...)
		require.NoError(t, err, out)
	}
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
}

func TestValidateLeavesNoTrace(t *testing.T) {
	gatewaytest.Smoke(t)
	g := gatewaytest.New(t)
	out, err := g.Try("validate", "--config", g.WriteConfig(gatewaytest.Config{}), "--adapter", "caddyfile")
	// The environment is known only after WriteConfig.
	require.NoError(t, err, out)
	require.NoDirExists(t, filepath.Join(g.Dir, "data", "caddy", "wxgate"))
}

func TestSecondProcessIsToldAboutTheFirst(t *testing.T) {
	gatewaytest.Smoke(t)
	g := gatewaytest.Start(t, gatewaytest.Config{})
	second := gatewaytest.New(t)
	config := second.WriteConfig(gatewaytest.Config{App: "encryption_key " + someKey + "\nstore badger " + filepath.Join(g.Dir, "data", "caddy", "wxgate", "sessions")})
	out, err := second.Try("run", "--config", config, "--adapter", "caddyfile")
	require.Error(t, err)
	require.Contains(t, out, "another process")
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(g.Login("alice").Token)).Status)
}

func TestPlaceholderSecretsStayOutOfConfigAndAutosave(t *testing.T) {
	gatewaytest.Smoke(t)
	g := gatewaytest.Start(t, gatewaytest.Config{App: "encryption_key {env.WXGATE_KEY}", Env: []string{"WXGATE_KEY=" + someKey}})
	resp, err := gatewaytest.ReadResponse(g.AdminClient().Get("http://admin/config/"))
	require.NoError(t, err)
	autosave, err := os.ReadFile(filepath.Join(g.Dir, "config", "caddy", "autosave.json"))
	require.NoError(t, err)
	for what, text := range map[string]string{"/config": resp.Body, "autosave.json": string(autosave), "log": g.Output()} {
		require.NotEmpty(t, text)
		require.NotContains(t, text, gatewaytest.Secret, what)
		require.NotContains(t, text, someKey, what)
	}
	require.Contains(t, resp.Body, "{env.WX_SECRET}")
}

func TestPublicPathsPassWithoutIdentity(t *testing.T) {
	gatewaytest.Smoke(t)
	g := gatewaytest.Start(t, gatewaytest.Config{Site: "public /static/* /about\nhealth /healthz"})
	token := g.Login("alice").Token
	require.Equal(t, http.StatusOK, g.Get("/healthz").Status)
	g.RequireNothing(t)

	for name, tc := range map[string]struct {
		path   string
		lines  []string
		openID []string
	}{
		"without a token": {"/static/a.css", nil, nil},
		"dead token":      {"/about", []string{gatewaytest.Token(strings.Repeat("A", 43))}, nil},
		"live token":      {"/static/a.css", []string{gatewaytest.Token(token)}, []string{g.OpenID("alice")}},
		"forged identity": {"/about", []string{"X-OpenID: forged"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, http.StatusOK, g.Get(tc.path, tc.lines...).Status)
			received := g.Upstream.Take()
			require.Len(t, received, 1)
			require.Equal(t, tc.openID, received[0].Lines("X-OpenID"))
			require.Empty(t, received[0].Lines("3rd_session"))
		})
	}
	for _, path := range []string{
		"/static", "/Static/a.css", "/static/../orders", "/static//a", "/static/%2e%2e/orders", "/static/a%2fb",
		"/static/;/orders", `/static/\..\orders`, "/static/a%00", "/static/%252e%252e/orders", "/about/", "//about",
	} {
		require.Equal(t, "missing_session", g.Get(path).ErrorName(), path)
	}
	g.RequireNothing(t)
}
