package main_test

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// everySurface logs all there is, with the log filters of Caddyfile.example.
const everySurface = `{
	debug
	admin $ADMIN
	auto_https off
	servers {
		expected_underscore_headers 3rd_session
		metrics
	}
	log {
		level DEBUG
		format filter {
			request>headers>3rd_session delete
			request>headers>Authorization delete
			wrap json
		}
	}
	wxgate {
		miniprogram wx0000000000000001 {env.WX_SECRET}
		wechat_api $WECHAT
		exchange_timeout 1s
		encryption_key {env.WXGATE_KEY}
	}
}

http://$LISTEN {
	log {
		format filter {
			request>headers>3rd_session delete
			request>headers>Authorization delete
			request>uri query {
				replace code REDACTED
			}
			wrap json
		}
	}
	wxgate {
		token_from 3rd_session bearer
		public /public/*
	}
	reverse_proxy $UPSTREAM
	handle_errors {
		respond "{err.status_code} {err.message} {err.trace}"
	}
}
`

// TestProxyPasswordStaysSecret logs in through a proxy that wants a password.
func TestProxyPasswordStaysSecret(t *testing.T) {
	const password = "canary-of-the-proxy"
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		login := &http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
		if user, given, _ := login.BasicAuth(); user != "gate" || given != password {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		(&httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}}).ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	address := strings.TrimPrefix(proxy.URL, "http://")

	for name, url := range map[string]string{"the password": "http://gate:{env.PROXY_PASSWORD}@" + address, "the whole URL": "{env.PROXY}"} {
		t.Run(name, func(t *testing.T) {
			g := gatewaytest.Start(t, gatewaytest.Config{App: "wechat_proxy " + url, Env: []string{
				"PROXY_PASSWORD=" + password, "PROXY=http://gate:" + password + "@" + address,
			}})
			g.Login("alice")
			resp, err := gatewaytest.ReadResponse(g.AdminClient().Get("http://admin/config/"))
			require.NoError(t, err)
			autosave, err := os.ReadFile(filepath.Join(g.Dir, "config", "caddy", "autosave.json"))
			require.NoError(t, err)
			out, err := g.Try("wxgate", "check", "--config", filepath.Join(g.Dir, "Caddyfile"), "--address", g.Admin)
			require.NoError(t, err, out)
			require.NotContains(t, out, "written out")
			for what, text := range map[string]string{"/config": resp.Body, "autosave.json": string(autosave), "log": g.Output(), "check": out} {
				require.NotContains(t, text, password, what)
			}
			require.Contains(t, resp.Body, url)
		})
	}

	t.Run("written out", func(t *testing.T) {
		g := gatewaytest.New(t)
		path := g.WriteConfig(gatewaytest.Config{App: "wechat_proxy http://gate:" + password + "@" + address})
		for _, args := range [][]string{{"validate", "--adapter", "caddyfile"}, {"wxgate", "check", "--address", g.Admin}} {
			out, err := g.Try(append(args, "--config", path)...)
			require.NoError(t, err, out)
			require.Contains(t, out, "written out")
			require.Contains(t, out, "the password of wechat_proxy")
			require.NotContains(t, out, password)
		}
	})
}

func TestCanariesAppearNowhere(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Whole: everySurface, Env: []string{"WXGATE_KEY=" + someKey}})
	canaries := map[string]string{"secret": gatewaytest.Secret, "encryption key": someKey}
	var answers strings.Builder
	answer := func(resp gatewaytest.Response) {
		answers.WriteString(resp.Body)
		for name, values := range resp.Header {
			answers.WriteString(name + ": " + strings.Join(values, " ") + "\n")
		}
	}

	// A good login, and each way in which one goes wrong.
	code := g.WeChat.IssueCode(gatewaytest.AppID, "alice")
	canaries["code"] = code
	token := g.Login("alice").Token
	canaries["token"] = token
	canaries["session_key"] = g.WeChat.SessionKey(gatewaytest.AppID, "alice")
	secretInvalid := int64(40125)
	for i, script := range []fakewechat.Script{
		{Errcode: &secretInvalid, Errmsg: "invalid appsecret " + gatewaytest.Secret + " for canary-of-a-client-0"},
		{Redirect: "http://127.0.0.1:1/?secret=" + gatewaytest.Secret, Status: http.StatusFound},
		{HangUp: fakewechat.HangUpBefore},
		{Hold: true},
	} {
		g.WeChat.Script(script)
		madeUp := "canary-of-a-client-" + strconv.Itoa(i)
		canaries["made-up code "+madeUp] = madeUp
		answer(g.Post("/login", `{"code":"`+madeUp+`"}`))
	}
	g.WeChat.Release()
	answer(g.Post("/login", `{"code":"`+code+`","appid":"`+gatewaytest.Secret+`"}`))
	answer(g.Post("/login?code="+code, `{"code":"`+code+` "}`))

	// The token in every place, live, forged and dead, also where the proxy fails.
	g.Upstream.Handle(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for _, line := range []string{gatewaytest.Token(token), "Authorization: Bearer " + token} {
		answer(g.Get("/", line))
		answer(g.Get("/public/a", line))
		answer(g.Get("/", line, gatewaytest.Token(strings.Repeat("A", 43))))
	}
	g.Upstream.Handle(nil)
	answer(g.Get("/", gatewaytest.Token(token)))
	for _, r := range g.Upstream.Take() {
		require.NotContains(t, string(r.Raw), token)
	}
	answer(g.Post("/logout", "", gatewaytest.Token(token)))
	answer(g.Get("/", gatewaytest.Token(token)))

	surfaces := map[string]string{"answers": answers.String(), "log": g.Output()}
	for _, path := range []string{
		"/config/", "/metrics", "/debug/vars", "/debug/pprof/goroutine?debug=2", "/debug/pprof/cmdline",
		"/wxgate/stats", "/wxgate/users/" + gatewaytest.AppID + "/" + g.OpenID("alice"), "/wxgate/ready", "/reverse_proxy/upstreams",
	} {
		resp, err := gatewaytest.ReadResponse(g.AdminClient().Get("http://admin" + path))
		require.NoError(t, err)
		surfaces[path] = resp.Body
	}
	require.NoError(t, filepath.WalkDir(g.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		surfaces[path] = string(content)
		return err
	}))
	// In the store not even the openid stands in the clear.
	canaries["openid"] = g.OpenID("alice")
	for where, text := range surfaces {
		for what, canary := range canaries {
			if what == "openid" && !strings.Contains(where, "/sessions/") {
				continue
			}
			// Not NotContains: its message would print it all.
			require.False(t, strings.Contains(text, canary), "the %s appears in %s", what, where)
		}
	}
	require.Contains(t, surfaces["log"], "exchange with WeChat failed")
	require.Contains(t, surfaces["/metrics"], "wxgate_logins_total")
}

// A secret with a mistake that can be seen is an error that does not print it.
func TestMistakesInSecrets(t *testing.T) {
	const canary = "c0ffee5ecretc0ffee5ecretc0ffee5e"
	miniProgram := func(text string) string { return `{"apps":{"wxgate":{"miniprogram":[` + text + `]}}}` }
	for name, tc := range map[string]struct {
		env    string // of the AppSecret
		app    string // lines in the Caddyfile
		config string // JSON in its place
		want   string
	}{
		"quotes":             {env: `"` + canary + `"`, want: "{env.WX_SECRET} is in quotes"},
		"single quotes":      {env: `'` + canary + `'`, want: "docker's --env-file keeps quotes"},
		"quotes and a space": {env: ` "` + canary + `" `, want: "is in quotes"},
		"quoted key":         {env: canary, app: "encryption_key {env.QUOTED}", want: "encryption_key 1: {env.QUOTED} is in quotes"},
		"quotes in JSON":     {config: miniProgram(`{"appid":"wx0000000000000001","secret":"\"` + canary + `\""}`), want: "is in quotes"},
		"swapped":            {env: canary, app: "miniprogram " + canary + " wx00000000000000aa", want: "appid and secret are swapped"},
		"swapped in JSON":    {config: miniProgram(`{"appid":"` + canary + `","secret":"wx0000000000000001"}`), want: "appid and secret are swapped"},
		"a secret alone":     {env: canary, app: "miniprogram " + canary + " " + canary, want: "the value is not an appid"},
		"served appid":       {config: "", env: canary, app: "miniprogram wx00000000000000aa {env.NOT_SET}" + canary, want: "{env.NOT_SET} is not set"},
	} {
		t.Run(name, func(t *testing.T) {
			g := gatewaytest.New(t)
			path := g.WriteConfig(gatewaytest.Config{App: tc.app, Env: []string{"WX_SECRET=" + tc.env, `QUOTED="` + someKey + `"`}})
			args := []string{"validate", "--config", path, "--adapter", "caddyfile"}
			if tc.config != "" {
				path = filepath.Join(g.Dir, "config.json")
				require.NoError(t, os.WriteFile(path, []byte(tc.config), 0o600))
				args = []string{"validate", "--config", path}
			}
			out, err := g.Try(args...)
			require.Error(t, err)
			require.Contains(t, out, tc.want)
			require.NotContains(t, out, canary)
			require.NotContains(t, out, someKey)
		})
	}
}

func TestTheKeyFileIsTheUsersWhateverTheUmask(t *testing.T) {
	for _, umask := range []string{"000", "0777"} {
		g := gatewaytest.New(t)
		path := g.WriteConfig(gatewaytest.Config{})
		// The data directory is made before, so that the umask is about the file.
		dir := filepath.Join(g.Dir, "data", "caddy", "wxgate")
		require.NoError(t, os.MkdirAll(dir, 0o700))
		run := g.Command("run", "--config", path, "--adapter", "caddyfile")
		run.Path, run.Args = "/bin/sh", append([]string{"sh", "-c", "umask " + umask + ` && exec "$0" "$@"`}, run.Args...)
		require.NoError(t, run.Start())
		key := filepath.Join(dir, "encryption.key")
		g.Eventually(func() bool {
			_, err := os.Stat(key)
			return err == nil
		}, "the key file is made")
		info, err := os.Stat(key)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), umask)
		require.NoError(t, run.Process.Kill())
		_ = run.Wait()
	}
}
