package main_test

// The adversarial suite: what an attacker may write, and what the upstream must
// then see. It is one place, in several files:
//
//	adversary_test.go              forge, double, hide and remove the identity
//	adversary_advisor*_test.go     what others have published, replayed by name
//	adversary_routes_test.go       error routes, paths, methods, several sites
//	adversary_errorroutes_test.go  error routes beside other directives and gates
//	adversary_cache_test.go        shared caches
//	adversary_refusals_test.go     all refusals are alike
//	adversary_streams_test.go      what stays open ends with its session
//	adversary_load_test.go         floods
//
// Every test asserts on the bytes that the upstream received. The fuzz target
// with the same oracle is FuzzGateway in caddymodule.

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// usual lets in what Caddy does by itself, and has an inject name in an odd
// case. Here the identity header comes in as it is, and with any sign for its
// dash but `_` and `.`.
func usual() gatewaytest.Config {
	return gatewaytest.Config{Site: "inject openid x-oPeNiD\npublic /public/*"}
}

// permissive is what a careless operator may configure: a server that lets the
// aliases with `_` and `.` in. Caddy then drops the one with a dash: what is
// about that one has to be tried with usual.
func permissive() gatewaytest.Config {
	cfg := usual()
	cfg.Servers = "expected_underscore_headers 3rd_session x_*\nexpected_dot_headers x.*"
	return cfg
}

// forgedOpenID is whom an attacker wants to be.
const forgedOpenID = "oVICTIM"

// aliases are names that some upstream reads as X-OpenID: every sign that a
// header's name may hold, in the place of its dash, and other cases.
func aliases() []string {
	names := []string{"X-OpenID", "x-openid", "X-OPENID", "X-oPENid"}
	for _, sign := range "_.!#$%&'*+^`|~" {
		names = append(names, "X"+string(sign)+"OpenID", "x"+string(sign)+"openid")
	}
	return names
}

// identityAttacks are header lines around a live token, by what they try.
func identityAttacks(own string) map[string][]string {
	attacks := map[string][]string{
		"repeated":                  {"X-OpenID: oVICTIM", "X-OpenID: oVICTIM", "x-openid: oVICTIM"},
		"doubled with the own one":  {"X-OpenID: " + own, "X-OpenID: oVICTIM"},
		"own one":                   {"X-OpenID: " + own},
		"empty":                     {"X-OpenID:"},
		"comma":                     {"X-OpenID: oVICTIM, " + own},
		"all aliases":               {"X-OpenID: oVICTIM", "X_OpenID: oVICTIM", "X.OpenID: oVICTIM"},
		"two aliases of one case":   {"x_openid: oVICTIM", "X_OPENID: oVICTIM"},
		"mark of open data":         {"X-WX-Open-Data: verified", "X_WX_Open_Data: verified", "X.WX.Open.Data: verified"},
		"other names for the token": {"3rd.session: x", "3rd~session: x", "3rd-session: x", "3RD!SESSION: x"},
	}
	for _, name := range aliases() {
		attacks["forged "+name] = []string{name + ": oVICTIM"}
	}
	return attacks
}

// connectionAttacks name the identity header as one that the proxy removes.
// HTTP/2 and HTTP/3 know no Connection header.
func connectionAttacks() map[string][]string {
	return map[string][]string{
		"removed":              {"Connection: X-OpenID"},
		"removed in lower":     {"connection: x-openid"},
		"removed with others":  {"Connection: close, X-OpenID, keep-alive"},
		"removed in two lines": {"Connection: close", "Connection: X-OpenID"},
		"removed among commas": {"Connection: ,, ,x-OpenID\t, ,"},
		"removed and forged":   {"Connection: x_openid, X-OpenID", "X-OpenID: oVICTIM", "X_OpenID: oVICTIM"},
		"token removed":        {"Connection: 3rd_session"},
		"upgrade and removed":  {"Connection: Upgrade, X-OpenID", "Upgrade: foo"},
		"by its relatives":     {"Proxy-Connection: X-OpenID", "Keep-Alive: X-OpenID", "TE: trailers, X-OpenID"},
	}
}

// requireOnlyIdentity asserts that the upstream received one request, and that
// no reading of it finds another identity, or none, or the token.
func requireOnlyIdentity(t *testing.T, g *gatewaytest.Gateway, openID, token string) {
	t.Helper()
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	require.Equal(t, []string{openID}, received[0].Lines("X-OpenID"))
	require.Empty(t, received[0].Lines("X-WX-Open-Data"))
	require.Empty(t, received[0].Lines("3rd_session"))
	require.NotContains(t, string(received[0].Raw), token)
	require.NotContains(t, string(received[0].Raw), forgedOpenID)
	require.Empty(t, g.Upstream.Pending())
}

// requireAnonymous asserts that the upstream received one request without any
// identity.
func requireAnonymous(t *testing.T, g *gatewaytest.Gateway) {
	t.Helper()
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	require.Empty(t, received[0].Lines("X-OpenID"))
	require.NotContains(t, string(received[0].Raw), forgedOpenID)
}

func TestIdentityHeaderHoldsAgainstTheClient(t *testing.T) {
	t.Run("usual", func(t *testing.T) { requireIdentityHolds(t, usual()) })
	t.Run("permissive", func(t *testing.T) { requireIdentityHolds(t, permissive()) })
}

func requireIdentityHolds(t *testing.T, cfg gatewaytest.Config) {
	g := gatewaytest.New(t)
	g.RunTLS(cfg)
	token := g.Login("alice").Token
	openID := g.OpenID("alice")
	dead := gatewaytest.Token(strings.Repeat("A", 43))

	for protocol, send := range g.Senders() {
		attacks := identityAttacks(openID)
		if protocol == "h1" {
			maps.Copy(attacks, connectionAttacks())
		}
		for name, lines := range attacks {
			t.Run(protocol+"/"+name, func(t *testing.T) {
				// Before and behind the token, for order must not matter.
				for _, header := range [][]string{
					append([]string{gatewaytest.Token(token)}, lines...),
					append(slices.Clone(lines), gatewaytest.Token(token)),
				} {
					resp, err := send(gatewaytest.RawRequest{Header: header})
					require.NoError(t, err)
					require.Equal(t, http.StatusOK, resp.Status)
					requireOnlyIdentity(t, g, openID, token)
				}

				resp, err := send(gatewaytest.RawRequest{Header: lines})
				require.NoError(t, err)
				require.Equal(t, "missing_session", resp.ErrorName())
				g.RequireNothing(t)

				for _, header := range [][]string{lines, append(slices.Clone(lines), dead)} {
					resp, err = send(gatewaytest.RawRequest{Path: "/public/a", Header: header})
					require.NoError(t, err)
					require.Equal(t, http.StatusOK, resp.Status)
					requireAnonymous(t, g)
				}
			})
		}
	}
}

func TestTrailersCarryNoIdentity(t *testing.T) {
	g := gatewaytest.New(t)
	g.RunTLS(permissive())
	token := g.Login("alice").Token
	openID := g.OpenID("alice")

	sent := 0
	for protocol, send := range g.Senders() {
		for name, tc := range map[string]struct{ announced, trailer []string }{
			"announced":            {[]string{"Trailer: X-OpenID"}, []string{"X-OpenID: oVICTIM"}},
			"unannounced":          {nil, []string{"X-OpenID: oVICTIM"}},
			"behind a harmless":    {[]string{"Trailer: X-Sum"}, []string{"X-Sum: 1", "X-OpenID: oVICTIM"}},
			"underscore":           {[]string{"Trailer: x_openid, X-Sum"}, []string{"x_openid: oVICTIM"}},
			"dot":                  {[]string{"Trailer: X-Sum", "Trailer: x.openid"}, []string{"x.openid: oVICTIM"}},
			"another sign":         {[]string{"Trailer: X-Sum,x~openid"}, []string{"x~openid: oVICTIM"}},
			"announced otherwise":  {[]string{"Trailer: x_openid"}, []string{"X-OpenID: oVICTIM"}},
			"mark of open data":    {[]string{"Trailer: X-WX-Open-Data"}, []string{"X-WX-Open-Data: verified"}},
			"another one's token":  {[]string{"Trailer: 3rd_session"}, []string{gatewaytest.Token(token)}},
			"connection":           {[]string{"Trailer: X-Sum"}, []string{"Connection: X-OpenID"}},
			"without a body":       {[]string{"Trailer: X-OpenID"}, []string{}},
			"many of one name":     {[]string{"Trailer: X-OpenID"}, slices.Repeat([]string{"X-OpenID: oVICTIM"}, 20)},
			"odd announcement":     {[]string{"Trailer: ,, X-OpenID ,\t,X-Sum"}, []string{"X-OpenID: oVICTIM"}},
			"announced repeatedly": {[]string{"Trailer: X-OpenID", "trailer: X-Sum", "TRAILER: x-openid"}, []string{"X-OpenID: oVICTIM"}},
		} {
			t.Run(protocol+"/"+name, func(t *testing.T) {
				for _, body := range []string{"", "a body"} {
					// A path of its own, because the upstream may notice only
					// later that the request before was broken off.
					sent++
					request := gatewaytest.RawRequest{
						Method: http.MethodPost, Path: "/" + strconv.Itoa(sent), Body: body, Trailer: tc.trailer,
						Header: append([]string{gatewaytest.Token(token)}, tc.announced...),
					}
					resp, err := send(request)
					if err == nil && resp.Status == http.StatusOK {
						requireAt(t, g, request.Path, []string{openID}, token)
					} else {
						// A server may refuse such a trailer altogether. The
						// proxy has then begun the request, with the identity.
						requireNoForgery(t, g, token)
					}

					request.Path, request.Header = "/public/"+strconv.Itoa(sent), tc.announced
					if resp, err := send(request); err == nil && resp.Status == http.StatusOK {
						requireAt(t, g, request.Path, nil, token)
					} else {
						requireNoForgery(t, g, token)
					}
				}
			})
		}
	}
}

// requireAt asserts that the upstream received one request at a path, with that
// identity, and that nothing else it received holds a forged one.
func requireAt(t *testing.T, g *gatewaytest.Gateway, path string, identity []string, token string) {
	t.Helper()
	seen := g.Upstream.Pending()
	var found int
	for _, received := range g.Upstream.Take() {
		seen = append(seen, received.Raw...)
		if received.URI == path {
			found++
			require.Equal(t, identity, received.Lines("X-OpenID"))
		}
	}
	require.Equal(t, 1, found)
	require.NotContains(t, string(seen), forgedOpenID)
	require.NotContains(t, string(seen), token)
}

// requireNoForgery asserts that whatever the upstream got, no identity is in it
// but the gateway's own.
func requireNoForgery(t *testing.T, g *gatewaytest.Gateway, token string) {
	t.Helper()
	seen := g.Upstream.Pending()
	for _, received := range g.Upstream.Take() {
		require.LessOrEqual(t, len(received.Lines("X-OpenID")), 1)
		seen = append(seen, received.Raw...)
	}
	require.NotContains(t, string(seen), forgedOpenID)
	require.NotContains(t, string(seen), token)
}

func TestHarmlessTrailersArrive(t *testing.T) {
	g := gatewaytest.New(t)
	g.RunTLS(permissive())
	token := g.Login("alice").Token
	// quic-go leaves the trailers of a request where no handler finds them.
	for _, protocol := range []string{"h1", "h2"} {
		resp, err := g.Senders()[protocol](gatewaytest.RawRequest{
			Method: http.MethodPost, Body: "a body", Trailer: []string{"X-Sum: 1", "X-OpenID: oVICTIM"},
			Header: []string{gatewaytest.Token(token), "Trailer: X-Sum, X-OpenID"},
		})
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.Status)
		received := g.Upstream.Take()
		require.Len(t, received, 1)
		require.Equal(t, http.Header{"X-Sum": {"1"}}, received[0].Trailer, protocol)
		require.Equal(t, "a body", string(received[0].Body))
	}
}

func TestOnlyWebSocketsMayUpgrade(t *testing.T) {
	g := gatewaytest.Start(t, permissive())
	token := g.Login("alice").Token
	// An upstream that would switch to whatever it is asked for.
	g.Upstream.Handle(func(w http.ResponseWriter, r *http.Request) {
		if upgrade := r.Header.Get("Upgrade"); upgrade != "" {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", upgrade)
			w.WriteHeader(http.StatusSwitchingProtocols)
		}
	})
	// What the client would write on the tunnel: a request of its own.
	const behind = "\n\nGET /behind HTTP/1.1\nHost: upstream\nX-OpenID: oVICTIM\n\n"

	for name, lines := range map[string][]string{
		"h2c":                  {"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"},
		"h2c without settings": {"Connection: Upgrade", "Upgrade: h2c"},
		"TLS":                  {"Connection: Upgrade", "Upgrade: TLS/1.0"},
		"own protocol":         {"Connection: upgrade", "Upgrade: foo"},
		"list":                 {"Connection: Upgrade", "Upgrade: websocket, h2c"},
		"list the other way":   {"Connection: Upgrade", "Upgrade: h2c, websocket"},
		"two lines":            {"Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"},
		"version":              {"Connection: Upgrade", "Upgrade: websocket/2"},
		"HTTP":                 {"Connection: Upgrade", "Upgrade: HTTP/2.0"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/", "/public/a"} {
				text := "GET " + path + " HTTP/1.1\nHost: " + g.Addr + "\n" + gatewaytest.Token(token) + "\n" + strings.Join(lines, "\n")
				resp := g.Raw(text + behind)
				require.Equal(t, http.StatusOK, resp.Status)
				for _, received := range g.Upstream.Take() {
					require.Empty(t, received.Lines("Upgrade"))
					require.NotContains(t, string(received.Raw), forgedOpenID)
				}
				require.Empty(t, g.Upstream.Pending())
			}
		})
	}
}
