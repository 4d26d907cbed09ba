package main_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// A directive that copies the request leaves the error routes with the one that
// the client sent: what the gate changed on its copy must be changed here too.
func TestTrailersOfErrorRoutesCarryNoIdentity(t *testing.T) {
	cfg := withErrorPages()
	cfg.Next = "tracing\n" + cfg.Next
	cfg.Env = []string{"OTEL_TRACES_EXPORTER=none"}
	g := gatewaytest.New(t)
	g.RunTLS(cfg)
	token := g.Login("alice").Token
	for _, protocol := range []string{"h1", "h2"} { // HTTP/3 has no trailers here
		for path, header := range map[string][]string{
			"/broken":        {gatewaytest.Token(token)},
			"/public/broken": {},
		} {
			t.Run(protocol+path, func(t *testing.T) {
				resp, err := g.Senders()[protocol](gatewaytest.RawRequest{
					Method: http.MethodPost, Path: path, Body: "a body",
					Header:  append(header, "Trailer: X-OpenID, x_openid, X-WX-Open-Data, X-Sum"),
					Trailer: []string{"X-OpenID: oVICTIM", "x_openid: oVICTIM", "X-WX-Open-Data: verified", "X-Sum: 1"},
				})
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, resp.Status)
				received := g.Upstream.Take()
				require.Len(t, received, 1)
				require.NotContains(t, string(received[0].Raw), forgedOpenID)
				require.Empty(t, received[0].Lines("X-WX-Open-Data"))
				require.Equal(t, http.Header{"X-Sum": {"1"}}, received[0].Trailer)
				require.Len(t, received[0].Lines("X-OpenID"), len(header))
			})
		}
	}
}

// gates is a Caddyfile with one site, whose gates are all its own.
func gates(site string) gatewaytest.Config {
	return gatewaytest.Config{Whole: fmt.Sprintf(`{
	admin $ADMIN
	auto_https off
	servers {
		expected_underscore_headers 3rd_session
	}
	wxgate {
		miniprogram %s {env.WX_SECRET}
		miniprogram %s {env.WX_OTHER_SECRET}
		wechat_api $WECHAT
	}
}
http://$LISTEN {
	%s
}
`, gatewaytest.AppID, gatewaytest.OtherAppID, site)}
}

// A gate that finds a request judged by another one, in front of it or before
// the error, keeps its session, and each adds its headers. What either injects
// comes in at neither.
func TestSeveralGatesOnOneWay(t *testing.T) {
	g := gatewaytest.Start(t, gates(`
	route {
	error /early* 500
	wxgate {
		public /a/public/* /b/public/*
		inject openid X-All
	}
	wxgate /a/* {
		inject openid X-A
		public /a/public/*
		logout /a/logout
	}
	wxgate /b/* {
		inject openid X-B
	}
	wxgate /other/* {
		inject openid X-Other
		miniprograms `+gatewaytest.OtherAppID+`
	}
	@broken path *broken
	reverse_proxy @broken 127.0.0.1:1
	reverse_proxy $UPSTREAM
	}
	handle_errors {
		wxgate {
			inject openid X-Errors
			public /early/public
		}
		reverse_proxy $UPSTREAM
	}`))
	token := g.LoginTo(gatewaytest.AppID, "alice").Token
	all := []string{"X-All", "X-A", "X-B", "X-Other", "X-Errors"}

	for name, tc := range map[string]struct {
		method, path string
		token        string
		status       int
		identity     string // the headers that name alice; the others are not there
	}{
		"outer gate":                    {"GET", "/x", token, 200, "X-All"},
		"outer gate, no session":        {"GET", "/x", "", 401, ""},
		"two gates":                     {"GET", "/a/x", token, 200, "X-All X-A"},
		"two gates, no session":         {"GET", "/a/x", "", 401, ""},
		"public at both":                {"GET", "/a/public/x", "", 200, ""},
		"public at both, session":       {"GET", "/a/public/x", token, 200, "X-All X-A"},
		"public at both, dead session":  {"GET", "/a/public/x", strings.Repeat("A", 43), 200, ""},
		"public at the outer":           {"GET", "/b/public/x", "", 401, ""},
		"public at the outer, session":  {"GET", "/b/public/x", token, 200, "X-All X-B"},
		"another mini program inside":   {"GET", "/other/x", token, 401, ""},
		"error behind a gate":           {"GET", "/x/broken", token, 200, "X-All X-Errors"},
		"error behind two gates":        {"GET", "/a/broken", token, 200, "X-All X-A X-Errors"},
		"error on a public path":        {"GET", "/a/public/broken", "", 401, ""},
		"error before the gates":        {"GET", "/early", "", 401, ""},
		"error before, session":         {"GET", "/early", token, 200, "X-Errors"},
		"error before, public":          {"GET", "/early/public", "", 200, ""},
		"error of the server":           {longMethod, "/a/x", "", 401, ""},
		"error of the server, session":  {longMethod, "/a/x", token, 200, "X-Errors"},
		"error, forged in the path":     {longMethod, "/a/x?X-All=oVICTIM", token, 200, "X-Errors"},
		"error of the server, at login": {longMethod, "/login", token, 405, ""},
	} {
		t.Run(name, func(t *testing.T) {
			request := gatewaytest.RawRequest{Method: tc.method, Path: tc.path}
			for _, header := range all {
				request.Header = append(request.Header, header+": oFORGED", "Connection: "+header)
			}
			if tc.token != "" {
				request.Header = append(request.Header, gatewaytest.Token(tc.token))
			}
			resp, err := g.SendH1(request)
			require.NoError(t, err)
			require.Equal(t, tc.status, resp.Status, resp.Body)
			if tc.status != http.StatusOK {
				g.RequireNothing(t)
				return
			}
			received := g.Upstream.Take()
			require.Len(t, received, 1)
			require.NotContains(t, string(received[0].Raw), "oFORGED")
			require.NotContains(t, string(received[0].Raw), token)
			for _, header := range all {
				if slices.Contains(strings.Fields(tc.identity), header) {
					require.Equal(t, []string{g.OpenID("alice")}, received[0].Lines(header))
				} else {
					require.Empty(t, received[0].Lines(header), header)
				}
			}
			if tc.identity != "" {
				require.Contains(t, resp.Header.Get("Cache-Control"), "private")
			}
		})
	}
	require.Equal(t, http.StatusNoContent, g.Post("/a/logout", "", gatewaytest.Token(token)).Status, "a logout path of the inner gate")
	require.Equal(t, "invalid_session", g.Get("/x", gatewaytest.Token(token)).ErrorName())
}

// What stands behind an outer gate alone may read the header of an inner one, also where no
// proxy shows that.
func TestAnOuterGateProtectsTheHeadersOfAnInnerOne(t *testing.T) {
	g := gatewaytest.Start(t, gates(`
	route {
	wxgate {
		public /public/*
	}
	wxgate /admin/* {
		inject appid X-Admin
	}
	respond "<{header.X-Admin}>"
	}`))
	token := g.LoginTo(gatewaytest.AppID, "alice").Token
	require.Equal(t, "<>", g.Get("/public/x", "X-Admin: forged").Body)
	require.Equal(t, "<>", g.Get("/x", "X-Admin: forged", gatewaytest.Token(token)).Body)
	require.Equal(t, "<"+gatewaytest.AppID+">", g.Get("/admin/x", "X-Admin: forged", gatewaytest.Token(token)).Body)
}

// Each of two gates before one application removes what the other injects.
func TestGatesBesideEachOtherProtectTheSameHeaders(t *testing.T) {
	g := gatewaytest.Start(t, gates(`
	route {
	handle /a/* {
		wxgate {
			login /a/login
			logout /a/logout
			inject openid X-A
			public /a/*
		}
	}
	handle {
		wxgate {
			inject openid X-B
			public /b/*
		}
	}
	reverse_proxy $UPSTREAM
	}`))
	for _, path := range []string{"/a/x", "/b/x"} {
		require.Equal(t, http.StatusOK, g.Get(path, "X-A: oFORGED", "X-B: oFORGED").Status)
		received := g.Upstream.Take()
		require.Len(t, received, 1)
		require.NotContains(t, string(received[0].Raw), "oFORGED", path)
	}
}

// Two sites lead to one application, which trusts the headers of both gates.
func TestGatesOfOneApplicationProtectTheSameHeaders(t *testing.T) {
	cfg := gates(`
	wxgate {
		inject openid X-OpenID
		public /public/*
	}
	reverse_proxy $UPSTREAM
}
http://hooks.test:{$PORT} {
	wxgate {
		public /*
		inject unionid X-Union
	}
	reverse_proxy $UPSTREAM
}
http://other.test:{$PORT} {
	wxgate {
		public /*
		inject appid X-App
	}
	reverse_proxy 127.0.0.1:1`)
	g := gatewaytest.New(t)
	_, port, _ := strings.Cut(g.Addr, ":")
	cfg.Env = []string{"PORT=" + port}
	g.Run(cfg)
	for _, authority := range []string{g.Addr, "hooks.test"} {
		resp, err := g.SendH1(gatewaytest.RawRequest{Authority: authority, Path: "/public/x", Header: []string{"X-OpenID: oVICTIM", "x-union: oVICTIM", "X-App: kept"}})
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.Status)
		received := g.Upstream.Take()
		require.Len(t, received, 1)
		require.NotContains(t, string(received[0].Raw), "oVICTIM", authority)
		require.Equal(t, []string{"kept"}, received[0].Lines("X-App"), "another application's header is not this one's")
	}
}

// A configuration in which requests get around the gate starts in no way.
func TestAroundTheGateIsRefused(t *testing.T) {
	around := gates("wxgate /api/*\nreverse_proxy $UPSTREAM")
	const fault = "also reached without its gate"
	g := gatewaytest.New(t)
	config := g.WriteConfig(around)
	out, err := g.Try("run", "--config", config, "--adapter", "caddyfile")
	require.Error(t, err)
	require.Contains(t, out, fault)
	out, err = g.Try("validate", "--config", config, "--adapter", "caddyfile")
	require.NoError(t, err)
	require.Contains(t, out, fault)

	g.Run(gates("wxgate\nreverse_proxy $UPSTREAM"))
	out, err = g.Reload(around)
	require.Error(t, err)
	require.Contains(t, out, fault)
	require.Equal(t, "missing_session", g.Get("/x").ErrorName(), "the old configuration serves on")
	g.RequireNothing(t)
}

// Error pages of other sites of a server stay their own, whether or not their
// site has a gate.
func TestGateInErrorRoutesLeavesOtherSitesAlone(t *testing.T) {
	cfg := gates(`
	wxgate
	reverse_proxy 127.0.0.1:1
	handle_errors {
		wxgate
		header X-Page one
		reverse_proxy $UPSTREAM
	}
}
http://two.test:{$PORT} {
	reverse_proxy 127.0.0.1:2
	handle_errors {
		header X-Page two
		respond "two" 200
	}
}
http://three.test:{$PORT} {
	wxgate
	reverse_proxy 127.0.0.1:1
	handle_errors {
		header X-Page three
		respond "three" 200
	}`)
	g := gatewaytest.New(t)
	_, port, _ := strings.Cut(g.Addr, ":")
	cfg.Env = []string{"PORT=" + port}
	g.Run(cfg)
	token := g.LoginTo(gatewaytest.AppID, "alice").Token
	for authority, page := range map[string]string{g.Addr: "one", "two.test": "two", "three.test": "three"} {
		resp, err := g.SendH1(gatewaytest.RawRequest{Authority: authority, Path: "/x", Header: []string{gatewaytest.Token(token)}})
		require.NoError(t, err)
		require.Equal(t, page, resp.Header.Get("X-Page"), authority)
	}
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	require.Equal(t, []string{g.OpenID("alice")}, received[0].Lines("X-OpenID"))
}

// Directives that copy requests, keep variables or make requests of their own
// are no way around the gate.
func TestDirectivesAreNoWayAround(t *testing.T) {
	g := gatewaytest.New(t)
	require.NoError(t, os.Mkdir(filepath.Join(g.Dir, "www"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(g.Dir, "www", "page.html"), []byte(`{{httpInclude "/api/x"}}`), 0o600))
	cfg := gates(`
	root $DIR/www
	vars wxgate.verdict forged
	tracing
	map {header.X-Kind} {kind} {
		default {header.X-OpenID}
	}
	route {
		wxgate {
			public /public/* /page.html /verdict
		}
		request_header X-Kind {kind}
		wxgate /inner/* {
			inject appid X-App
			public /inner/public
		}
		respond /verdict "{vars.wxgate.verdict}"
		handle /page.html {
			templates
			file_server
		}
		method /override POST
		uri strip_prefix /v1
		reverse_proxy $UPSTREAM
	}`)
	cfg.Env = []string{"OTEL_TRACES_EXPORTER=none"}
	g.Run(cfg)
	token := g.LoginTo(gatewaytest.AppID, "alice").Token
	forged := []string{"X-OpenID: oVICTIM", "X-Kind: k", "X-HTTP-Method-Override: CONNECT", "X-Original-URL: /public/x", "X-Rewrite-URL: /public/x"}

	for _, target := range []string{"/api/x", "/v1/public/x", "/override", "/inner/x", "/inner/public"} {
		require.Equal(t, "missing_session", g.Get(target, forged...).ErrorName(), target)
	}
	g.RequireNothing(t)

	// The page asks for a path that is not public, in a request without a token.
	resp := g.Get("/page.html", append(forged, gatewaytest.Token(token))...)
	require.Equal(t, http.StatusInternalServerError, resp.Status)
	g.Eventually(func() bool { return strings.Contains(g.Output(), "calling httpInclude: http 401") }, "the page's own request is refused")
	g.RequireNothing(t)

	// A variable of that name is none of a gate's, nor is its content shown.
	require.Equal(t, http.StatusOK, g.Get("/inner/x", append(forged, gatewaytest.Token(token))...).Status)
	requireOnlyIdentity(t, g, g.OpenID("alice"), token)
	require.NotContains(t, g.Get("/verdict", gatewaytest.Token(token)).Body, token)

	require.Equal(t, http.StatusOK, g.Get("/public/x", forged...).Status)
	requireAnonymous(t, g)
}
