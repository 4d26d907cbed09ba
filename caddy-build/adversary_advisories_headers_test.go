package main_test

import (
	"net"
	"net/http"
	"net/http/fcgi"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// headerAdvisories are about aliases and duplicates, about hop-by-hop headers,
// and about trust in what a header says of the request.
func headerAdvisories() []advisory {
	return []advisory{
		{"CVE-2026-30851", "Caddy", "a client's own identity header stays when the gate has no value for it", replayKeptHeader},
		{"CVE-2026-52845", "Caddy", "an underscore alias becomes the identity in FastCGI's environment", replayFastCGIAlias},
		{"CVE-2025-64484", "oauth2-proxy", "an underscore alias passes the strip and a WSGI upstream folds it", replayAlias("X_OpenID", "x_openid")},
		{"CVE-2026-39858", "Traefik", "underscore aliases of forwarded headers are not removed and decide", replayForwardedAlias},
		{"CVE-2026-54763", "Traefik", "an underscore variant survives beside the identity header that was set", replayAlias("X_OPENID", "X_OpenId")},
		{"CVE-2026-88011", "Traefik", "a dot variant survives where only the underscore one is removed", replayAlias("X.OpenID", "x.openid")},
		{"CVE-2026-33433", "Traefik", "a header configured in another case is set beside the client's canonical one", replayAlias("X-Openid", "X-OpenID")},
		{"GHSA-2v25-cjjq-5f4w", "Envoy", "several values of one header are judged one way and read another", replayDuplicates},
		{"CVE-2026-44087", "APISIX", "identity headers are not removed on routes that let strangers pass", replayPublicHeader},
		{"CVE-2026-88004", "Traefik", "trailers are not looked at, and become headers upstream", replayTrailer},

		{"GHSA-w9mr-28mw-j8hg", "Oathkeeper", "the client names the gate's header in Connection, and the proxy removes it", replayConnection("Connection: X-OpenID")},
		{"CVE-2024-45410", "Traefik", "Connection removes the headers that the proxy itself had set", replayConnection("Connection: close, X-OpenID, X-Forwarded-For")},
		{"CVE-2026-29054", "Traefik", "a Connection token in another case passes the check for protected names", replayConnection("connection: x-openid")},
		{"CVE-2025-48865", "fabio", "Connection removes the forwarded headers and with them the client's address", replayConnection("Connection: X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, X-OpenID")},
		{"CVE-2026-71324", "Traefik", "CONNECT with a body poisons a connection that the proxy shares among users", replayConnect},

		{"CVE-2026-40575", "oauth2-proxy", "X-Forwarded-Uri is taken for the path that is judged", replayTrust("X-Forwarded-Uri: /public/a", "X-Original-Url: /public/a", "X-Rewrite-Url: /public/a", "X-Forwarded-Path: /public/a")},
		{"CVE-2026-34457", "oauth2-proxy", "the User-Agent of a health checker needs no session", replayTrust("User-Agent: GoogleHC/1.0", "User-Agent: kube-probe/1.33", "User-Agent: ELB-HealthChecker/2.0")},
		{"CVE-2026-33495", "Oathkeeper", "a client's own X-Forwarded-Proto decides which rule matches", replayTrust("X-Forwarded-Proto: https", "X-Forwarded-Host: 127.0.0.1", "X-Forwarded-Method: OPTIONS", "X-Forwarded-For: 127.0.0.1")},
	}
}

// requireHolds sends header lines with a live token, without one, and without
// one to a public path; to a server that lets aliases in, and to one that lets
// the header itself in.
func requireHolds(t *testing.T, s *stage, lines ...string) {
	t.Helper()
	for _, g := range []*gatewaytest.Gateway{s.usual(), s.permissive()} {
		requireHoldsAt(t, g, lines...)
	}
}

func requireHoldsAt(t *testing.T, g *gatewaytest.Gateway, lines ...string) {
	t.Helper()
	token := g.Login("alice").Token
	require.Equal(t, http.StatusOK, g.Get("/", append([]string{gatewaytest.Token(token)}, lines...)...).Status)
	requireOnlyIdentity(t, g, g.OpenID("alice"), token)
	require.Equal(t, "missing_session", g.Get("/", lines...).ErrorName())
	g.RequireNothing(t)
	require.Equal(t, http.StatusOK, g.Get("/public/a", lines...).Status)
	requireAnonymous(t, g)
}

func replayAlias(names ...string) func(*testing.T, *stage) {
	return func(t *testing.T, s *stage) {
		for _, name := range names {
			requireHolds(t, s, name+": "+forgedOpenID)
			requireHolds(t, s, "X-OpenID: "+forgedOpenID, name+": "+forgedOpenID)
		}
	}
}

func replayKeptHeader(t *testing.T, s *stage) {
	g := s.gateway("unionid", func(g *gatewaytest.Gateway) {
		g.Run(gatewaytest.Config{Site: "inject openid X-OpenID\ninject unionid X-UnionID"})
	})
	g.WeChat.Script(fakewechat.Body(`{"openid":"oCAROL","session_key":"AAAAAAAAAAAAAAAAAAAAAA=="}`))
	token := g.Login("carol").Token
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token), "X-UnionID: "+forgedOpenID).Status)
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	require.Empty(t, received[0].Lines("X-UnionID"), "this user has none, and the client's is not taken for it")
	require.NotContains(t, string(received[0].Raw), forgedOpenID)
}

// replayFastCGIAlias speaks FastCGI with an application, as php_fastcgi does.
func replayFastCGIAlias(t *testing.T, _ *stage) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	seen := make(chan http.Header, 1)
	go func() {
		_ = fcgi.Serve(listener, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			seen <- r.Header
		}))
	}()
	t.Cleanup(func() { _ = listener.Close() })

	g := gatewaytest.New(t)
	cfg := permissive()
	cfg.Next = "reverse_proxy " + listener.Addr().String() + " {\n transport fastcgi\n}"
	g.Run(cfg)
	token := g.Login("alice").Token
	for _, alias := range aliases() {
		require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token), alias+": "+forgedOpenID).Status)
		require.Equal(t, []string{g.OpenID("alice")}, (<-seen)["X-Openid"], alias)
		require.Equal(t, http.StatusOK, g.Get("/public/a", alias+": "+forgedOpenID).Status)
		require.Empty(t, (<-seen)["X-Openid"], alias)
	}
}

func replayForwardedAlias(t *testing.T, s *stage) {
	g := s.permissive()
	lines := []string{"X_Forwarded_Proto: https", "X_Forwarded_Uri: /public/a", "X_Forwarded_Prefix: /public", "X.Forwarded.For: 127.0.0.1"}
	for _, line := range lines {
		require.Equal(t, "missing_session", g.Get("/", line).ErrorName(), line)
	}
	g.RequireNothing(t)
}

func replayDuplicates(t *testing.T, s *stage) {
	g := s.gateway("hyphen", func(g *gatewaytest.Gateway) {
		g.Run(gatewaytest.Config{Site: "token_from X-Session X-Other bearer"})
	})
	token, other := g.Login("alice").Token, g.Login("bob").Token
	for name, lines := range map[string][]string{
		"two lines":       {"X-Session: " + token, "X-Session: " + other},
		"a list":          {"X-Session: " + token + ", " + other},
		"dead one behind": {"X-Session: " + token, "X-Session: " + strings.Repeat("A", 43)},
		"two sources":     {"X-Session: " + token, "X-Other: " + other},
		"two bearers":     {"Authorization: Bearer " + token, "Authorization: Bearer " + other},
		"bearer and tab":  {"Authorization: bearer\t" + token, "Authorization: Bearer " + other},
	} {
		resp := g.Get("/", lines...)
		require.Equal(t, "invalid_session", resp.ErrorName(), name)
		g.RequireNothing(t)
	}
	require.Equal(t, "missing_session", g.Get("/", "Authorization: Bearer "+token+", Bearer "+other).ErrorName(), "a list is no credential")
	g.RequireNothing(t)
	// Where a header has the token, Authorization is the upstream's.
	require.Equal(t, http.StatusOK, g.Get("/", "Authorization: Bearer "+other, "X-Session: "+token).Status)
	g.RequireIdentity(t, g.OpenID("alice"), token)
	// The same one twice is one token.
	require.Equal(t, http.StatusOK, g.Get("/", "X-Session: "+token, "X-Session: "+token).Status)
	g.RequireIdentity(t, g.OpenID("alice"), token)
}

func replayPublicHeader(t *testing.T, s *stage) {
	for _, g := range []*gatewaytest.Gateway{s.usual(), s.permissive()} {
		for _, token := range []string{"", "short", strings.Repeat("A", 43)} {
			require.Equal(t, http.StatusOK, g.Get("/public/a", "3rd_session: "+token, "X-OpenID: "+forgedOpenID, "X_OpenID: "+forgedOpenID).Status)
			requireAnonymous(t, g)
		}
	}
}

func replayTrailer(t *testing.T, s *stage) {
	g := s.secure()
	token := g.Login("alice").Token
	for protocol, send := range g.Senders() {
		for _, name := range []string{"X-OpenID", "X_OpenID", "x.openid"} {
			resp, err := send(gatewaytest.RawRequest{
				Method: http.MethodPost, Body: "a body", Trailer: []string{name + ": " + forgedOpenID},
				Header: []string{gatewaytest.Token(token), "Trailer: " + name},
			})
			require.NoError(t, err, protocol)
			require.Equal(t, http.StatusOK, resp.Status)
			requireOnlyIdentity(t, g, g.OpenID("alice"), token)
		}
	}
}

func replayConnection(line string) func(*testing.T, *stage) {
	return func(t *testing.T, s *stage) {
		g := s.permissive()
		token := g.Login("alice").Token
		resp, err := g.SendH1(gatewaytest.RawRequest{Header: []string{gatewaytest.Token(token), line, "X-Forwarded-For: 192.0.2.1"}})
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.Status)
		received := g.Upstream.Take()
		require.Len(t, received, 1)
		require.Equal(t, []string{g.OpenID("alice")}, received[0].Lines("X-OpenID"))
		require.Equal(t, []string{"127.0.0.1"}, received[0].Lines("X-Forwarded-For"), "the real peer's")
		require.Equal(t, []string{"http"}, received[0].Lines("X-Forwarded-Proto"))
	}
}

func replayConnect(t *testing.T, s *stage) {
	g := s.secure()
	token := g.Login("alice").Token
	const smuggled = "GET /behind HTTP/1.1\r\nHost: upstream\r\nX-OpenID: oVICTIM\r\n\r\n"
	for protocol, send := range g.Senders() {
		for _, target := range []string{"/", "upstream:80", "/public/a"} {
			resp, err := send(gatewaytest.RawRequest{
				Method: http.MethodConnect, Path: target, Authority: g.Addr, Body: smuggled,
				Header: []string{gatewaytest.Token(token)},
			})
			// HTTP/3 may end the stream; for the host of another site, Caddy
			// answers 200 with nothing.
			if err == nil && target != "upstream:80" {
				require.Equal(t, http.StatusMethodNotAllowed, resp.Status, protocol)
			}
			g.RequireNothing(t)
		}
	}
}

func replayTrust(lines ...string) func(*testing.T, *stage) {
	return func(t *testing.T, s *stage) {
		g := s.public()
		for _, line := range lines {
			for _, path := range []string{"/", "/orders", "/healthz/x"} {
				require.Equal(t, "missing_session", g.Get(path, line).ErrorName(), line)
				g.RequireNothing(t)
			}
		}
	}
}
