package caddymodule_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// Compare with benchstat: go test -run '^$' -bench . -count 10 ./caddymodule
//
// The gate is called as Caddy calls it. Behind it is a handler that sends a
// header and a short body.

const benchAppID = "wx0000000000000001"

// A benchGate is a provisioned handler on a Badger store, and its WeChat.
type benchGate struct {
	*caddymodule.Handler
	app    *caddymodule.App
	wechat *fakewechat.Server
}

func newBenchGate(b testing.TB, dir string) benchGate { return newBenchSite(b, dir, `{}`) }

// newBenchSite is newBenchGate with options of the site, as JSON.
func newBenchSite(b testing.TB, dir, site string) benchGate {
	b.Helper()
	const secret = "0123456789abcdef0123456789abcdef"
	sandbox := fakewechat.New(fakewechat.Config{MiniPrograms: map[string]string{benchAppID: secret}})
	server := httptest.NewServer(sandbox)
	b.Cleanup(func() {
		sandbox.Close()
		server.Close()
	})
	config, err := json.Marshal(map[string]any{
		"miniprogram":    []map[string]any{{"appid": benchAppID, "secret": secret}},
		"wechat_api":     server.URL,
		"login_rate":     map[string]any{"off": true},
		"encryption_key": []string{base64.StdEncoding.EncodeToString(make([]byte, 32))},
		"store":          map[string]any{"module": "badger", "dir": dir},
	})
	require.NoError(b, err)
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}}}},
		AppsRaw: caddy.ModuleMap{"wxgate": config},
	})
	require.NoError(b, err)
	app, err := ctx.App("wxgate")
	require.NoError(b, err)
	handler, err := ctx.LoadModuleByID("http.handlers.wxgate", json.RawMessage(site))
	require.NoError(b, err)
	g := benchGate{Handler: handler.(*caddymodule.Handler), app: app.(*caddymodule.App), wechat: sandbox}
	require.NoError(b, g.app.Start())
	b.Cleanup(func() { require.NoError(b, g.app.Cleanup()) })
	return g
}

// login returns a token for a user.
func (g benchGate) login(b testing.TB, user string) string {
	b.Helper()
	r := prepare(httptest.NewRequest(http.MethodPost, "/login", strings.NewReader(`{"code":"`+g.wechat.IssueCode(benchAppID, user)+`"}`)))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	require.NoError(b, g.ServeHTTP(w, r, nil))
	require.Equal(b, http.StatusOK, w.Code, w.Body.String())
	var answer map[string]any
	require.NoError(b, json.Unmarshal(w.Body.Bytes(), &answer))
	return answer["3rd_session"].(string)
}

// prepare does what Caddy's server does before its handlers.
func prepare(r *http.Request) *http.Request {
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, nil)
}

// quietWriter keeps nothing.
type quietWriter struct{ header http.Header }

func (w *quietWriter) Header() http.Header         { return w.header }
func (w *quietWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *quietWriter) WriteHeader(int)             {}

// behind is what the gate is in front of.
var behind = caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
	w.WriteHeader(http.StatusOK)
	_, err := w.Write(body)
	return err
})

var body = []byte(`{"data":"short"}`)

// run calls the gate with the request of a mini program, each time with another
// token and as change leaves it. What the gate changes is put back, which is
// part of the figures.
func run(b *testing.B, gate caddyhttp.MiddlewareHandler, token func() string, change func(http.Header)) {
	b.Helper()
	r := prepare(userRequest())
	// A few headers are there when the upstream's have come.
	w := &quietWriter{header: http.Header{
		"Via": {"1.1 Caddy"}, "Date": {"Sun, 22 Nov 2026 21:00:00 GMT"},
		"Content-Type": {"application/json"}, "Content-Length": {"16"},
	}}
	tokens := make([][]string, 1<<12)
	for i := range tokens {
		tokens[i] = []string{token()}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Header["3rd_session"] = tokens[i%len(tokens)]
		delete(r.Header, "X-Openid")
		delete(w.header, "Cache-Control")
		delete(w.header, "Vary")
		if change != nil {
			change(r.Header)
		}
		if err := gate.ServeHTTP(w, r, behind); err != nil {
			b.Fatal(err)
		}
	}
}

// userRequest is what a mini program sends from a telephone.
func userRequest() *http.Request {
	return &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: "/api/orders", RawQuery: "page=1"}, Host: "api.example.com",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RemoteAddr: "192.0.2.1:1234", Body: http.NoBody,
		Header: http.Header{
			"User-Agent":      {"Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) MicroMessenger/8.0.54"},
			"Referer":         {"https://servicewechat.com/" + benchAppID + "/42/page-frame.html"},
			"Content-Type":    {"application/json"},
			"Accept-Encoding": {"gzip,compress,br,deflate"},
		},
	}
}

func BenchmarkGuard(b *testing.B) {
	dir := b.TempDir()
	g := newBenchGate(b, dir)
	tokens := make([]string, 1000)
	for i := range tokens {
		tokens[i] = g.login(b, fmt.Sprint("user", i))
	}
	anyone := func() string { return tokens[rand.IntN(len(tokens))] }

	b.Run("hit", func(b *testing.B) { run(b, g, anyone, nil) })
	b.Run("hit with an assertion", func(b *testing.B) {
		signing := newBenchSite(b, dir, `{
			"inject": [{"field": "openid", "header": "X-OpenID"}, {"field": "assertion", "header": "X-Wxgate-Assertion"}],
			"assertion": {"lifetime": "10m"}
		}`)
		run(b, signing, anyone, func(h http.Header) { delete(h, "X-Wxgate-Assertion") })
	})
	b.Run("hit of a forger", func(b *testing.B) {
		forged := []string{"oSomebodyElse"}
		hiding := []string{"keep-alive, X-OpenID"}
		run(b, g, anyone, func(h http.Header) {
			h["X-Openid"], h["X_openid"], h["Connection"] = forged, forged, hiding
		})
	})
	b.Run("miss", func(b *testing.B) {
		// A configuration that has gone keeps no session in memory, while
		// another one keeps the store open.
		gone := newBenchGate(b, dir)
		require.NoError(b, gone.app.Cleanup())
		run(b, gone, anyone, nil)
	})
	b.Run("refused unknown", func(b *testing.B) {
		run(b, g, func() string { return fmt.Sprintf("%043d", rand.Uint64()) }, nil)
	})
	b.Run("refused missing", func(b *testing.B) {
		run(b, g, func() string { return "" }, nil)
	})
}

// The exchange goes over loopback to a WeChat that answers at once.
func BenchmarkLogin(b *testing.B) {
	g := newBenchGate(b, b.TempDir())
	for i := 0; b.Loop(); i++ {
		g.login(b, fmt.Sprint("user", i))
	}
}
