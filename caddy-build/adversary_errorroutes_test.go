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

// manyGates is a site with a gate for each part, each with a header of its own,
// and with errors that go to the upstream. Nothing runs behind them.
func manyGates(parts string) gatewaytest.Config {
	return gatewaytest.Config{Whole: fmt.Sprintf(`{
	admin $ADMIN
	auto_https off
	servers {
		expected_underscore_headers 3rd_session
	}
	wxgate {
		miniprogram %s {env.WX_SECRET}
		wechat_api $WECHAT
	}
}
http://$LISTEN {
	%s
	handle_errors {
		reverse_proxy $UPSTREAM
	}
}
`, gatewaytest.AppID, parts)}
}

// A request that never came to a gate has to pass the one that it would have
// met, and keeps the header of no other.
func TestErrorRoutesBehindSeveralGates(t *testing.T) {
	g := gatewaytest.Start(t, manyGates(`
	wxgate {
		public /a/* /b/* /c/*
		inject openid X-All
		forward_token
	}
	wxgate /a/* {
		inject openid X-A
	}
	wxgate /b/* {
		inject openid X-B
		public /b/public/*
	}
	handle /c/* {
		error /c/early* 500
		wxgate {
			inject openid X-C
		}
	}
	handle /d/* {
		wxgate {
			inject openid X-D
		}
		reverse_proxy 127.0.0.1:1
	}
	reverse_proxy 127.0.0.1:1`))
	token := g.Login("alice").Token
	all := []string{"X-All", "X-A", "X-B", "X-C", "X-D"}

	for name, tc := range map[string]struct {
		method, path string
		token        bool
		status       int
		identity     string // the headers that name alice; the others are not there
	}{
		"early, first gate":             {longMethod, "/other", true, 200, "X-All"},
		"early, first gate, no session": {longMethod, "/other", false, 401, ""},
		"early, second gate":            {longMethod, "/a/x", false, 401, ""},
		"early, third gate":             {longMethod, "/b/x", false, 401, ""},
		"early, public at both":         {longMethod, "/b/public/x", false, 200, ""},
		"early, nested gate":            {longMethod, "/c/x", false, 401, ""},
		"early, first and nested gate":  {longMethod, "/d/x", true, 200, "X-All X-D"},
		"broken upstream":               {"GET", "/other", true, 200, "X-All"},
		"broken upstream, two gates":    {"GET", "/d/x", true, 200, "X-All X-D"},
		"broken upstream, public":       {"GET", "/b/public/x", false, 200, ""},
		"between the gates":             {"GET", "/c/early", false, 401, ""},
	} {
		t.Run(name, func(t *testing.T) {
			request := gatewaytest.RawRequest{Method: tc.method, Path: tc.path}
			for _, header := range all {
				request.Header = append(request.Header, header+": oVICTIM", "Connection: "+header)
			}
			if tc.token {
				request.Header = append(request.Header, gatewaytest.Token(token))
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
			require.NotContains(t, string(received[0].Raw), forgedOpenID)
			for _, header := range all {
				if slices.Contains(strings.Fields(tc.identity), header) {
					require.Equal(t, []string{g.OpenID("alice")}, received[0].Lines(header))
				} else {
					require.Empty(t, received[0].Lines(header), header)
				}
			}
		})
	}
}

// What a matcher keeps away from the gate has its own error pages. Nothing
// forged comes in through them, and where nobody can tell what the matcher
// would have said, the gate is in the way.
func TestErrorRoutesWhereNoGateIs(t *testing.T) {
	for name, tc := range map[string]struct {
		parts     string
		elsewhere string // ends in an error, and no gate is on the way
		gated     string
	}{
		"matcher": {`wxgate /api/*
			reverse_proxy /api/* 127.0.0.1:1
			file_server`, "/missing", "/api/x"},
		"named matcher": {`@api {
				path /api/*
				not path /api/open/*
			}
			wxgate @api
			file_server`, "/api/open/missing", "/api/x"},
		"handle": {`handle /api/* {
				wxgate
				reverse_proxy 127.0.0.1:1
			}
			handle {
				file_server
			}`, "/missing", "/api/x"},
		"the rest": {`handle /static/* {
				file_server
			}
			handle {
				wxgate
				reverse_proxy 127.0.0.1:1
			}`, "/static/missing", "/x"},
		"rewritten into it": {`rewrite /old/* /api{uri}
			wxgate /api/*
			file_server`, "/missing", "/old/x"},
		"stripped into it": {`handle_path /v1/* {
				handle /api/* {
					wxgate
				}
			}
			handle {
				file_server
			}`, "/missing", "/v1/api/x"},
		"a variable decides": {`map {path} {gate} {
				/api/x yes
				default no
			}
			@gate vars {gate} yes
			handle /static/* {
				file_server
			}
			handle {
				wxgate @gate
			}`, "/static/missing", "/api/x"},
		"a named route decides": {`route {
				handle /static/* {
					file_server
				}
				invoke norm
				handle /api/* {
					wxgate
				}
			}`, "/static/missing", "/v1/api/x"},
		"a placeholder decides": {`vars base api
			@gate path /{vars.base}/x
			route {
				handle /static/* {
					file_server
				}
				handle @gate {
					wxgate
				}
			}`, "/static/missing", "/api/x"},
	} {
		t.Run(name, func(t *testing.T) {
			g := gatewaytest.New(t)
			require.NoError(t, os.Mkdir(filepath.Join(g.Dir, "www"), 0o700))
			cfg := manyGates("root $DIR/www\n" + tc.parts)
			cfg.Whole = strings.Replace(cfg.Whole, "http://", "&(norm) {\n\turi strip_prefix /v1\n}\nhttp://", 1)
			g.Run(cfg)
			forged := []string{"X-OpenID: oVICTIM", "Connection: close"}
			for _, method := range []string{"GET", longMethod} {
				resp, err := g.SendH1(gatewaytest.RawRequest{Method: method, Path: tc.elsewhere, Header: forged})
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, resp.Status, "%s: the upstream's error page, not %s", method, resp.Body)
				requireAnonymous(t, g)

				resp, err = g.SendH1(gatewaytest.RawRequest{Method: method, Path: tc.gated, Header: forged})
				require.NoError(t, err)
				require.Equal(t, "missing_session", resp.ErrorName(), method)
				g.RequireNothing(t)
			}
		})
	}
}
