package main_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// pathAdvisories are about a path that the gate reads one way and the upstream
// another: what is public to one is protected to the other.
func pathAdvisories() []advisory {
	return []advisory{
		{"CVE-2026-33494", "Oathkeeper", "a dot segment leaves the public prefix after the rule has matched", replayPaths(
			"/public/../orders", "/public/./../orders", "/public/a/../../orders", "/public/..", "/public/.", "/public/.../orders")},
		{"CVE-2026-48020", "Traefik", "an encoded dot segment matches the public route and is cleaned afterwards", replayPaths(
			"/public/%2e%2e/orders", "/public/%2E%2E/orders", "/public/.%2e/orders", "/public/%2e./orders", "/public/%2e/a")},
		{"CVE-2023-33189", "Pomerium", "a specially crafted request target is judged as another one", replayPaths(
			"*", "orders", "http:public/a", "//public/a", "http://$LISTEN//public/a", "http://$LISTEN/public/../orders", "http://$LISTEN", "public/a")},
		{"CVE-2025-66490", "Traefik", "encoded reserved characters match the public route and mean something upstream", replayPaths(
			"/public/a%2forders", "/public/a%2Forders", "/public/a%5corders", "/public/a%5Corders", "/public/a%00", "/public/a%3borders",
			"/public/a%3Borders", "/public/a%25", "/public/a%3forders", "/public/a%3Forders", "/public/a%23orders", "/public/%252e%252e/orders")},
		{"CVE-2025-54576", "oauth2-proxy", "the pattern of a public path is matched against the query as well", replayPaths(
			"/orders?/public/a", "/orders?x=/about", "/orders?a.css", "/orders?/../public/a", "/?/public/")},
		{"CVE-2026-41059", "oauth2-proxy", "a hash ends the path for the upstream and not for the pattern", replayPaths(
			"/orders#/public/a", "/orders%23/public/a", "/orders%23.css", "/orders%3f.css", "/orders;.css", "/orders%3b.css", "/orders%00.css")},
		{"CVE-2026-73553", "Envoy", "a path that is not normal matches before it is normalised", replayPaths(
			`/public\..\orders`, `/public/\../orders`, `\public\a`, "/public/..\\orders", "/public/%c0%ae%c0%ae/orders", "/public/%c0%af..%c0%aforders",
			"/public/.. /orders", "/public/%20../orders", "/public/..%20/orders", "/public/a%0a", "/public/a%0d%0aX-OpenID:%20oVICTIM", "/public/a%7f", "/public/a%c2%85")},
		{"CVE-2021-31920", "Istio", "several slashes, or an encoded one, pass a rule that is written with one", replayPaths(
			"/public//a", "//public/a", "///public/a", "/public/%2fa", "/%2fpublic/a", "/public/a//", "/about//", "//about")},
		{"CVE-2026-27587", "Caddy", "a path in another case, or with an escape, passes a matcher that folds only one of them", replayPaths(
			"/PUBLIC/a", "/Public/a", "/%50ublic/a", "/%70ublic/a", "/abou%74", "/About", "/ABOUT", "/a.CSS", "/orders/%2ecss", "/HEALTHZ", "/Login", "/LOGOUT", "/Healthz")},
	}
}

// replayPaths asserts that none of the paths passes without a session, and that
// with one each is the user's.
func replayPaths(paths ...string) func(*testing.T, *stage) {
	return func(t *testing.T, s *stage) {
		g := s.public()
		requireRefused(t, g, paths...)

		token := g.Login("alice").Token
		for _, path := range paths {
			resp, err := g.SendH1(gatewaytest.RawRequest{Path: g.Expand(path), Header: []string{gatewaytest.Token(token), "Connection: close"}})
			require.NoError(t, err, path)
			if resp.Status != http.StatusOK {
				g.RequireNothing(t)
				continue
			}
			g.RequireIdentity(t, g.OpenID("alice"), token)
		}
	}
}
