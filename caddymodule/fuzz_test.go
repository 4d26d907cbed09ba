package caddymodule_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// fuzzedSite is as permissive as an operator can make it: errors go to the
// upstream, and there are public paths. At port 80 aliases of the identity
// header come in, for which Caddy drops the header itself; at port 81 that one
// does. No request finds the logout, so the tokens live on.
const fuzzedSite = `{
	admin off
	log {
		output discard
	}
	servers :80 {
		expected_underscore_headers 3rd_session x_*
		expected_dot_headers x.*
	}
	servers :81 {
		expected_underscore_headers 3rd_session
	}
	wxgate {
		miniprogram wx0000000000000001 {env.WX_SECRET}
		wechat_api $WECHAT
		encryption_key c29tZSBrZXkgZm9yIHRlc3RzLCAzMiBieXRlcyBsb24=
		login_rate off
		store badger $DIR
	}
}

(gate) {
	wxgate {
		token_from 3rd_session bearer
		inject openid x-oPeNiD
		public /public/*
		open_data /open/*
		logout /hidden-logout
	}
}

(site) {
	import gate
	error /error* 500
	error /public/error* 500
	reverse_proxy 127.0.0.1:1
	handle_errors {
		import gate
		reverse_proxy 127.0.0.1:1
	}
}

http:// {
	import site
}

http://:81 {
	import site
}
`

const fuzzedAppID = "wx0000000000000001"

// A fuzzedGateway is Caddy's real server and proxy, with memory for a network.
type fuzzedGateway struct {
	doors    []*memoryListener // of each of its servers
	upstream *recordingUpstream
	wechat   *fakewechat.Server
	oracle   oracle
	names    *strings.Replacer // of the tokens in the inputs
}

func newFuzzedGateway(tb testing.TB) *fuzzedGateway {
	tb.Helper()
	g := &fuzzedGateway{
		upstream: newRecordingUpstream(),
		wechat:   fakewechat.New(fakewechat.Config{MiniPrograms: map[string]string{fuzzedAppID: "secret"}}),
		oracle:   oracle{users: make(map[string]string)},
	}
	sandbox := httptest.NewServer(g.wechat)
	dir, err := os.MkdirTemp("", "wxgate-fuzz")
	require.NoError(tb, err)
	tb.Setenv("WX_SECRET", "secret")

	config, err := adapt([]byte(strings.NewReplacer("$WECHAT", sandbox.URL, "$DIR", filepath.Join(dir, "sessions")).Replace(fuzzedSite)))
	require.NoError(tb, err)
	var cfg caddy.Config
	require.NoError(tb, json.Unmarshal(config, &cfg))
	ctx, err := caddy.ProvisionContext(&cfg)
	require.NoError(tb, err)
	app, err := ctx.App("http")
	require.NoError(tb, err)
	tb.Cleanup(func() {
		g.wechat.Close()
		sandbox.Close()
		_ = os.RemoveAll(dir)
	})
	for _, name := range []string{"srv0", "srv1"} {
		g.open(tb, app.(*caddyhttp.App).Servers[name])
	}
	alice, bob, gone := g.login(tb, "alice"), g.login(tb, "bob"), g.login(tb, "gone")
	g.oracle.users[alice] = g.wechat.OpenID(fuzzedAppID, "alice")
	g.oracle.users[bob] = g.wechat.OpenID(fuzzedAppID, "bob")
	answer := g.send(tb, []byte("POST /hidden-logout HTTP/1.1\r\nHost: a\r\n3rd_session: "+gone+"\r\nContent-Length: 0\r\n\r\n"))
	require.Contains(tb, string(answer), "HTTP/1.1 204 ")
	g.names = strings.NewReplacer("$ALICE", alice, "$BOB", bob, "$GONE", gone)
	return g
}

// open lets clients in to one of the servers.
func (g *fuzzedGateway) open(tb testing.TB, handler *caddyhttp.Server) {
	tb.Helper()
	require.NotZero(tb, redirectProxies(handler.Routes, g.upstream)*redirectProxies(handler.Errors.Routes, g.upstream))
	door := newMemoryListener()
	server := &http.Server{
		MaxHeaderBytes:    handler.MaxHeaderBytes,
		ReadHeaderTimeout: time.Minute,
		// The server says so before it begins to wait for the client to go.
		ConnState: func(conn net.Conn, state http.ConnState) {
			conn.(*clientConn).serve(state == http.StateActive)
		},
		Handler: handler,
	}
	go func() { _ = server.Serve(door) }()
	tb.Cleanup(func() { _ = server.Close() })
	g.doors = append(g.doors, door)
}

// redirectProxies leads every reverse_proxy below routes to the upstream.
func redirectProxies(routes caddyhttp.RouteList, upstream *recordingUpstream) int {
	found := 0
	for _, route := range routes {
		for _, handler := range route.Handlers {
			switch handler := handler.(type) {
			case *caddyhttp.Subroute:
				found += redirectProxies(handler.Routes, upstream)
			case *reverseproxy.Handler:
				transport := handler.Transport.(*reverseproxy.HTTPTransport).Transport
				transport.DialContext = upstream.dial
				transport.DisableKeepAlives = true
				found++
			}
		}
	}
	return found
}

// send lets the gateway read text as it stands and returns what it wrote.
func (g *fuzzedGateway) send(tb testing.TB, text []byte) []byte {
	tb.Helper()
	return g.doors[0].send(tb, text)
}

func (l *memoryListener) send(tb testing.TB, text []byte) []byte {
	tb.Helper()
	conn := newClientConn(text)
	l.conns <- conn
	select {
	case <-conn.done:
	case <-time.After(time.Minute):
		tb.Fatalf("the gateway does not come to an end with %q", text)
	}
	return conn.answer()
}

func (g *fuzzedGateway) login(tb testing.TB, user string) string {
	tb.Helper()
	answer := g.post(tb, "application/json", `{"code":"`+g.wechat.IssueCode(fuzzedAppID, user)+`"}`)
	_, token, _ := strings.Cut(string(answer), `"3rd_session":"`)
	token, _, _ = strings.Cut(token, `"`)
	require.Len(tb, token, 43, string(answer))
	return token
}

func (g *fuzzedGateway) post(tb testing.TB, contentType, body string) []byte {
	tb.Helper()
	return g.send(tb, []byte("POST /login HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: "+contentType+
		"\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body))
}

// FuzzGateway sends arbitrary bytes to the gateway and holds what the upstream
// received against guarantee 1: no reading of it finds an identity that the
// client does not have, two of them, or none where one is needed. In an input
// $ALICE and $BOB stand for live tokens and $GONE for a dead one.
func FuzzGateway(f *testing.F) {
	for _, seed := range gatewaySeeds() {
		f.Add([]byte(strings.ReplaceAll(seed, "\n", "\r\n")))
	}
	g := newFuzzedGateway(f)
	f.Fuzz(func(t *testing.T, input []byte) { g.requireGuarantee(t, string(input)) })
}

// FuzzRequest is FuzzGateway for parts of a request that fit together, so that
// more of them come through. session chooses the token and where it stands.
func FuzzRequest(f *testing.F) {
	for _, seed := range requestSeeds() {
		for session := range uint8(4) {
			f.Add(session, seed.method, seed.target, seed.line, seed.connection, seed.body, seed.trailer)
		}
	}
	g := newFuzzedGateway(f)
	f.Fuzz(func(t *testing.T, session uint8, method, target, line, connection, body, trailer string) {
		text := method + " " + target + " HTTP/1.1\r\nHost: a\r\n" + line + "\r\nConnection: " + connection + "\r\n"
		text += [...]string{"", "3rd_session: $ALICE\r\n", "Authorization: Bearer $BOB\r\n", "3rd_session: $GONE\r\n"}[session%4]
		if trailer == "" {
			g.requireGuarantee(t, text+"Content-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body)
			return
		}
		name, _, _ := strings.Cut(trailer, ":")
		text += "Transfer-Encoding: chunked\r\nTrailer: X-Sum, " + name + "\r\n\r\n"
		if body != "" {
			text += strconv.FormatInt(int64(len(body)), 16) + "\r\n" + body + "\r\n"
		}
		g.requireGuarantee(t, text+"0\r\n"+trailer+"\r\n\r\n")
	})
}

// requireGuarantee sends an input to each server and fails if the upstream
// received what guarantee 1 forbids.
func (g *fuzzedGateway) requireGuarantee(t *testing.T, input string) {
	text := []byte(g.names.Replace(input))
	for _, door := range g.doors {
		door.send(t, text)
		for _, got := range g.upstream.take() {
			if wrong := g.oracle.check(text, got); wrong != "" {
				t.Fatalf("%s\nsent:\n%q\nreceived:\n%q", wrong, input, got.raw)
			}
		}
	}
}

// TestOracleFindsWhatItIsFor guards against an oracle that is content with
// anything.
func TestOracleFindsWhatItIsFor(t *testing.T) {
	o := oracle{users: map[string]string{"tokenA": "oA", "tokenB": "oB"}}
	for name, tc := range map[string]struct {
		sent, raw string
		trailers  http.Header
		tunnel    string
		wrong     bool
	}{
		"own identity":          {"tokenA", "GET / HTTP/1.1\r\nX-Openid: oA\r\n\r\n", nil, "", false},
		"public path":           {"", "GET /public/a?x HTTP/1.1\r\nHost: a\r\n\r\n", nil, "", false},
		"WebSocket":             {"tokenA", "GET / HTTP/1.1\r\nX-Openid: oA\r\n\r\n", nil, "websocket", false},
		"another's identity":    {"tokenA", "GET / HTTP/1.1\r\nX-Openid: oB\r\n\r\n", nil, "", true},
		"forged on public path": {"", "GET /public/a HTTP/1.1\r\nx_openid: oA\r\n\r\n", nil, "", true},
		"doubled by an alias":   {"tokenA", "GET / HTTP/1.1\r\nX-Openid: oA\r\nX.OpenID: oA\r\n\r\n", nil, "", true},
		"doubled by a trailer":  {"tokenA", "POST / HTTP/1.1\r\nX-Openid: oA\r\n\r\n", http.Header{"X_openid": {"oA"}}, "", true},
		"behind a bare CR":      {"", "GET /public/a HTTP/1.1\r\nX: a\rX-OpenID: oB\r\n\r\n", nil, "", true},
		"removed":               {"tokenA", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", nil, "", true},
		"dot segment":           {"", "GET /public/../a HTTP/1.1\r\n\r\n", nil, "", true},
		"encoded twice":         {"", "GET /public/%252e%252e/a HTTP/1.1\r\n\r\n", nil, "", true},
		"backslash":             {"", `GET /public\..\a HTTP/1.1` + "\r\n\r\n", nil, "", true},
		"parameter":             {"", "GET /public/..;/a HTTP/1.1\r\n\r\n", nil, "", true},
		"open data":             {"tokenA", "GET / HTTP/1.1\r\nX-Openid: oA\r\nX_Wx_Open-Data: verified\r\n\r\n", nil, "", true},
		"tunnel":                {"tokenA", "GET / HTTP/1.1\r\nX-Openid: oA\r\n\r\n", nil, "h2c", true},
	} {
		t.Run(name, func(t *testing.T) {
			wrong := o.check([]byte(tc.sent), recorded{raw: []byte(tc.raw), trailers: tc.trailers, tunnel: tc.tunnel})
			require.Equal(t, tc.wrong, wrong != "", wrong)
		})
	}
}

// FuzzLogin sends arbitrary bodies to the login path. Whatever they are, the
// answer is one of the contract's, and WeChat is asked only about codes that
// could be codes.
func FuzzLogin(f *testing.F) {
	for _, body := range []string{
		`{"code":"0123456789abcdef0123456789abcdef"}`, `{"code":"c","appid":"wx0000000000000001"}`, `{"code":"c","code":"d"}`, `{"CODE":"c"}`,
		`{"code":""}`, `{"code":null}`, `{"code":1}`, `{"code":"a b"}`, `{"code":"\ud800"}`, `{"code":"\u0000"}`, `{"code":"c"} {}`, `[]`, `"`, ``,
		`code=c`, `code=c&appid=wx0000000000000001`, `code=c&code=d`, `code=%00`, `code=%zz`, `code=a+b`, `code=a;b`, "\xff\xfe", strings.Repeat("[", 4000),
		`{"code":"` + strings.Repeat("c", 129) + `"}`, strings.Repeat("x", 5000),
	} {
		for _, contentType := range []string{"application/json", "application/x-www-form-urlencoded", "application/json; charset=utf-8", "text/plain", ""} {
			f.Add(contentType, []byte(body))
		}
	}
	g := newFuzzedGateway(f)
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		if strings.ContainsAny(contentType, "\r\n") {
			return // that would be another request
		}
		g.wechat.Reset()
		answer := g.post(t, contentType, string(body))
		resp, err := http.ReadResponse(newReader(answer), nil)
		require.NoError(t, err, "%q", answer)
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		if resp.StatusCode == http.StatusBadRequest && !json.Valid(text) {
			return // refused by net/http, before Caddy
		}
		require.Contains(t, []int{400, 401, 413, 415}, resp.StatusCode, "%q", text)
		require.True(t, json.Valid(text), "%q", text)
		require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
		require.NotContains(t, string(text), "3rd_session", "no such code was issued")
		for _, call := range g.wechat.Calls() {
			require.LessOrEqual(t, len(call.Code), 128)
			require.NotEmpty(t, call.Code)
			require.NotContains(t, call.Code, " ")
			require.Equal(t, strings.ToValidUTF8(call.Code, ""), call.Code)
		}
		require.Empty(t, g.upstream.take())
	})
}

// FuzzCaddyfile lets operators write what they like into both blocks: it is
// adapted and validated, or refused with an error, and no secret is in it.
func FuzzCaddyfile(f *testing.F) {
	const secret = "5ec2e7-that-no-error-shows"
	for _, folder := range []string{"good", "bad"} {
		files, err := filepath.Glob(filepath.Join("testdata", folder, "*.caddyfiletest"))
		require.NoError(f, err)
		require.NotEmpty(f, files)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(f, err)
			caddyfile, _, _ := strings.Cut(string(text), fixtureSeparator)
			f.Add(block(caddyfile, "\twxgate {"), block(caddyfile, "\twxgate "))
		}
	}
	f.Setenv("WX_SECRET", secret)
	f.Setenv("XDG_DATA_HOME", f.TempDir())
	f.Fuzz(func(t *testing.T, global, site string) {
		if strings.Contains(global+site, "import") || strings.Contains(global+site, "{file.") || strings.Contains(global+site, "{$") {
			return // these read what is outside
		}
		caddyfile := "{\nservers {\nexpected_underscore_headers 3rd_session\n}\nwxgate {\n" + global +
			"\nminiprogram wx0000000000000001 {env.WX_SECRET}\n}\n}\nhttp://a.test {\nwxgate {\n" + site + "\n}\n}\n"
		config, err := adapt([]byte(caddyfile))
		if err == nil {
			err = validate(t, config)
		}
		if err != nil {
			require.NotContains(t, err.Error(), secret)
		}
		require.NotContains(t, string(config), secret)
	})
}

// block returns the lines of the first block that begins with a line.
func block(caddyfile, begin string) string {
	_, lines, _ := strings.Cut(caddyfile, begin)
	_, lines, _ = strings.Cut(lines, "\n")
	lines, _, _ = strings.Cut(lines, "\n\t}")
	return lines
}
