package main_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// withErrorPages is a site whose errors go to the upstream, behind a gate. The
// proxy of /broken leads nowhere.
func withErrorPages() gatewaytest.Config {
	cfg := permissive()
	cfg.Next = `
	handle /broken* {
		reverse_proxy 127.0.0.1:1
	}
	handle /public/broken* {
		reverse_proxy 127.0.0.1:1
	}
	reverse_proxy $UPSTREAM
	handle_errors {
		wxgate {
			` + cfg.Site + `
		}
		reverse_proxy $UPSTREAM
	}`
	return cfg
}

// longMethod is refused by Caddy before any handler runs.
var longMethod = strings.Repeat("M", 33)

func TestErrorRoutesAreBehindTheGate(t *testing.T) {
	g := gatewaytest.Start(t, withErrorPages())
	token := g.Login("alice").Token
	forged := []string{"X-OpenID: oVICTIM", "x_openid: oVICTIM", "X.OpenID: oVICTIM", "Connection: X-OpenID"}

	for name, tc := range map[string]struct {
		request  gatewaytest.RawRequest
		identity bool // the request passes, as alice's
	}{
		"method, no session":          {gatewaytest.RawRequest{Method: longMethod}, false},
		"method, session":             {gatewaytest.RawRequest{Method: longMethod, Header: []string{gatewaytest.Token(token)}}, true},
		"method, dead session":        {gatewaytest.RawRequest{Method: longMethod, Header: []string{gatewaytest.Token(strings.Repeat("A", 43))}}, false},
		"broken upstream, session":    {gatewaytest.RawRequest{Path: "/broken", Header: []string{gatewaytest.Token(token)}}, true},
		"broken upstream, no session": {gatewaytest.RawRequest{Path: "/broken"}, false},
		"method, path not plain":      {gatewaytest.RawRequest{Method: longMethod, Path: "/public/../a"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			tc.request.Header = append(tc.request.Header, forged...)
			resp, err := g.SendH1(tc.request)
			require.NoError(t, err)
			if tc.identity {
				require.Equal(t, http.StatusOK, resp.Status)
				requireOnlyIdentity(t, g, g.OpenID("alice"), token)
				require.Contains(t, resp.Header.Get("Cache-Control"), "private")
				return
			}
			require.Equal(t, http.StatusUnauthorized, resp.Status)
			g.RequireNothing(t)
		})
	}
	// A public path keeps its error page, without identity.
	for _, path := range []string{"/public/broken", "/public/a"} {
		resp, err := g.SendH1(gatewaytest.RawRequest{Method: longMethod, Path: path, Header: forged})
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.Status)
		requireAnonymous(t, g)
	}
	require.Equal(t, http.StatusOK, g.Get("/public/broken", forged...).Status)
	requireAnonymous(t, g)
}

// A malformed Host is refused even earlier. Here the site answers on every
// host, so that its error routes run.
func TestMalformedHostMeetsTheGate(t *testing.T) {
	cfg := withErrorPages()
	cfg.Address = "http://:{$PORT}"
	g := gatewaytest.New(t)
	_, port, _ := strings.Cut(g.Addr, ":")
	cfg.Env = []string{"PORT=" + port}
	g.Run(cfg)
	token := g.Login("alice").Token
	for _, host := range []string{"a b", "..", "a/b", `a"b`} {
		resp := g.Raw("GET / HTTP/1.1\nHost: " + host + "\nX-OpenID: oVICTIM\nConnection: close\n\n")
		require.GreaterOrEqual(t, resp.Status, 400, host)
		g.RequireNothing(t)
		resp = g.Raw("GET / HTTP/1.1\nHost: " + host + "\nX-OpenID: oVICTIM\n" + gatewaytest.Token(token) + "\nConnection: close\n\n")
		requireNoForgery(t, g, token)
		require.NotZero(t, resp.Status)
	}
}

// Two sites share a server: the one without a gate keeps its own error pages.
func TestErrorPagesOfOtherSitesAreTheirOwn(t *testing.T) {
	cfg := withErrorPages()
	cfg.Address = "http://gated.test:{$PORT}"
	cfg.Next += `
}
http://other.test:{$PORT} {
	respond /gone 410
	error /error 418
	handle_errors {
		respond "other's page"
	}`
	g := gatewaytest.New(t)
	_, port, _ := strings.Cut(g.Addr, ":")
	cfg.Env = []string{"PORT=" + port}
	g.Run(cfg)

	for _, request := range []gatewaytest.RawRequest{
		{Authority: "other.test", Path: "/error"},
		{Authority: "other.test", Method: longMethod},
	} {
		resp, err := g.SendH1(request)
		require.NoError(t, err)
		require.Equal(t, "other's page", resp.Body)
		g.RequireNothing(t)
	}
	resp, err := g.SendH1(gatewaytest.RawRequest{Authority: "gated.test", Method: longMethod, Header: []string{"X-OpenID: oVICTIM"}})
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, resp.Status)
	g.RequireNothing(t)
}

func TestOddMethods(t *testing.T) {
	g := gatewaytest.New(t)
	g.RunTLS(usual())
	token := g.Login("alice").Token
	for protocol, send := range g.Senders() {
		for _, method := range []string{"TRACE", "trace", "Trace", "CONNECT", "connect", "Connect"} {
			t.Run(protocol+"/"+method, func(t *testing.T) {
				resp, err := send(gatewaytest.RawRequest{Method: method, Header: []string{gatewaytest.Token(token)}})
				if err == nil {
					require.GreaterOrEqual(t, resp.Status, 400)
					require.NotContains(t, resp.Body, token)
				}
				g.RequireNothing(t)
			})
		}
		for _, method := range []string{"OPTIONS", "HEAD", "PROPFIND", "get", "M-SEARCH", "PRI", "X'Y"} {
			t.Run(protocol+"/"+method, func(t *testing.T) {
				_, err := send(gatewaytest.RawRequest{Method: method})
				_ = err // what counts is what came through
				g.RequireNothing(t)
				resp, err := send(gatewaytest.RawRequest{Method: method, Header: []string{gatewaytest.Token(token), "X-OpenID: oVICTIM"}})
				if err == nil && resp.Status == http.StatusOK {
					requireOnlyIdentity(t, g, g.OpenID("alice"), token)
				}
				g.RequireNothing(t)
			})
		}
	}
}

// TestSmuggling sends what two servers may take for one request or for two.
func TestSmuggling(t *testing.T) {
	g := gatewaytest.Start(t, usual())
	token := g.Login("alice").Token
	// Also as a request of its own it needs a session.
	behind := "GET /behind HTTP/1.1\r\nHost: " + g.Addr + "\r\nX-OpenID: oVICTIM\r\n\r\n"
	head := "POST /public/a HTTP/1.1\r\nHost: " + g.Addr + "\r\n"
	for name, text := range map[string]string{
		"length and chunked":       head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + behind,
		"chunked and length":       head + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + behind,
		"two lengths":              head + "Content-Length: 0\r\nContent-Length: 80\r\n\r\n" + behind,
		"list of lengths":          head + "Content-Length: 0, 80\r\n\r\n" + behind,
		"signed length":            head + "Content-Length: +0\r\n\r\n" + behind,
		"obscured encoding":        head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + behind,
		"space before the colon":   head + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + behind,
		"identity and chunked":     head + "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + behind,
		"two encodings":            head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + behind,
		"bare line feeds":          strings.ReplaceAll(head+"Content-Length: 0\r\n\r\n", "\r\n", "\n") + behind,
		"bare carriage return":     head + "X: a\rX-OpenID: oVICTIM\r\n\r\n",
		"folded line":              head + "X: a\r\n X-OpenID: oVICTIM\r\n\r\n",
		"folded identity":          head + "X-OpenID:\r\n oVICTIM\r\n\r\n",
		"space in the name":        head + "X-OpenID : oVICTIM\r\n\r\n",
		"line break in a value":    head + "X: a%0d%0aX-OpenID: oVICTIM\r\n\r\n",
		"NUL in the name":          head + "X-OpenID\x00: oVICTIM\r\n\r\n",
		"non-ASCII name":           head + "X-OpenıD: oVICTIM\r\n\r\n",
		"chunk extension":          head + "Transfer-Encoding: chunked\r\n\r\n1;\r\n" + behind,
		"chunk size overflow":      head + "Transfer-Encoding: chunked\r\n\r\n100000000000000000\r\n" + behind,
		"pipelined":                "GET /public/a HTTP/1.1\r\nHost: " + g.Addr + "\r\n\r\n" + behind,
		"pipelined behind a 401":   "GET / HTTP/1.1\r\nHost: " + g.Addr + "\r\n\r\n" + behind,
		"HTTP/0.9":                 "GET /public/a\r\nX-OpenID: oVICTIM\r\n\r\n",
		"HTTP/1.0":                 "GET /public/a HTTP/1.0\r\nX-OpenID: oVICTIM\r\nConnection: X-OpenID\r\n\r\n",
		"HTTP/2.0 without preface": "GET /public/a HTTP/2.0\r\nHost: " + g.Addr + "\r\nX-OpenID: oVICTIM\r\n\r\n",
		"HTTP/2 preface":           "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"expecting":                head + "Expect: 100-continue\r\nContent-Length: 0\r\nX-OpenID: oVICTIM\r\n\r\n" + behind,
		"two hosts":                head + "Host: other\r\nX-OpenID: oVICTIM\r\n\r\n",
		"line before the request":  "\r\n\r\nGET /public/a HTTP/1.1\r\nHost: " + g.Addr + "\r\nX-OpenID: oVICTIM\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			g.SendAndDrain(text)
			pending := g.Upstream.Pending()
			for _, received := range g.Upstream.Take() {
				require.Empty(t, received.Lines("X-OpenID"))
				require.NotEqual(t, "/behind", received.URI)
				pending = append(pending, received.Raw...)
			}
			require.NotContains(t, string(pending), token)
		})
	}
	// The gateway still serves. What was broken off, or came late, may be recorded only now.
	require.Equal(t, http.StatusOK, g.Get("/alive", gatewaytest.Token(token)).Status)
	alive, seen := 0, g.Upstream.Pending()
	for _, received := range g.Upstream.Take() {
		seen = append(seen, received.Raw...)
		if received.URI == "/alive" {
			alive++
			require.Equal(t, []string{g.OpenID("alice")}, received.Lines("X-OpenID"))
			continue
		}
		require.Empty(t, received.Lines("X-OpenID"))
		require.NotEqual(t, "/behind", received.URI)
	}
	require.Equal(t, 1, alive)
	require.NotContains(t, string(seen), token)
}
