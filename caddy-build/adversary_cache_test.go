package main_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// cacheHeaders are what an upstream may say that wants its answers cached, and
// what remains of it for the user's own cache.
var cacheHeaders = map[string]struct {
	upstream http.Header
	want     string
}{
	"nothing":            {http.Header{}, "private"},
	"public":             {http.Header{"Cache-Control": {"public, max-age=600"}}, "private, max-age=600"},
	"shared only":        {http.Header{"Cache-Control": {"s-maxage=600"}}, "private"},
	"upper case":         {http.Header{"Cache-Control": {"PUBLIC, S-MAXAGE=600, Max-Age=5"}}, "private, max-age=5"},
	"two lines":          {http.Header{"Cache-Control": {"public", "max-age=600, proxy-revalidate"}}, "private, max-age=600"},
	"private by field":   {http.Header{"Cache-Control": {`private="Set-Cookie, X-A", public, max-age=600`}}, "private, max-age=600"},
	"no-cache by field":  {http.Header{"Cache-Control": {`no-cache="X-A", max-age=600`}}, "private, no-cache, max-age=600"},
	"quotes left open":   {http.Header{"Cache-Control": {`max-age="600, public, s-maxage=600`}}, "private"},
	"unknown directive":  {http.Header{"Cache-Control": {"edge-ttl=600, immutable"}}, "private, immutable"},
	"stale":              {http.Header{"Cache-Control": {"public, stale-while-revalidate=60, stale-if-error=60"}}, "private, stale-while-revalidate=60, stale-if-error=60"},
	"not to be stored":   {http.Header{"Cache-Control": {"no-store"}}, "private, no-store"},
	"expires":            {http.Header{"Expires": {"Fri, 31 Dec 2099 23:59:59 GMT"}}, "private"},
	"for nginx":          {http.Header{"X-Accel-Expires": {"600"}, "Cache-Control": {"public"}}, "private"},
	"surrogate":          {http.Header{"Surrogate-Control": {"max-age=600"}}, "private"},
	"targeted":           {http.Header{"Cdn-Cache-Control": {"max-age=600"}, "Vercel-Cdn-Cache-Control": {"max-age=600"}, "Akamai-Cache-Control": {"max-age=600"}}, "private"},
	"edge":               {http.Header{"Edge-Control": {"cache-maxage=600s"}}, "private"},
	"vary on everything": {http.Header{"Vary": {"*"}, "Cache-Control": {"public"}}, "private"},
	"vary on the token":  {http.Header{"Vary": {"Accept, 3RD_SESSION"}, "Cache-Control": {"public"}}, "private"},
}

// answerWith makes the upstream answer with the headers that the query names,
// and with the user it was called for.
func answerWith(g *gatewaytest.Gateway) {
	g.Upstream.Handle(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range cacheHeaders[r.URL.Query().Get("headers")].upstream {
			w.Header()[name] = values
		}
		if r.URL.Query().Has("early") {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
		}
		if r.URL.Query().Has("not-modified") {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = fmt.Fprintf(w, "for %q", r.Header.Get("X-OpenID"))
	})
}

func TestResponsesOfUsersArePrivate(t *testing.T) {
	g := gatewaytest.New(t)
	g.RunTLS(permissive())
	answerWith(g)
	token := g.Login("alice").Token
	for protocol, send := range g.Senders() {
		for name, tc := range cacheHeaders {
			for _, more := range []string{"", "&not-modified"} {
				for _, path := range []string{"/", "/public/a"} {
					target := path + "?headers=" + url.QueryEscape(name) + more
					t.Run(protocol+target, func(t *testing.T) {
						resp, err := send(gatewaytest.RawRequest{Path: target, Header: []string{gatewaytest.Token(token)}})
						require.NoError(t, err)
						require.Equal(t, []string{tc.want}, resp.Header["Cache-Control"])
						require.Contains(t, strings.Join(resp.Header.Values("Vary"), ", "), varyLine(tc.upstream))
						for _, override := range []string{"X-Accel-Expires", "Surrogate-Control", "Edge-Control", "Cdn-Cache-Control", "Vercel-Cdn-Cache-Control", "Akamai-Cache-Control"} {
							require.Empty(t, resp.Header.Values(override))
						}
					})
				}
			}
		}
	}
	// A response to no user may be shared, among those who have no
	// session: what the upstream says stays.
	resp := g.Get("/public/a?headers=public")
	require.Equal(t, "public, max-age=600", resp.Header.Get("Cache-Control"))
	require.Contains(t, strings.Join(resp.Header.Values("Vary"), ", "), "3rd_session")
}

func varyLine(upstream http.Header) string {
	if vary := upstream.Get("Vary"); vary == "Accept, 3RD_SESSION" {
		return vary
	}
	return "3rd_session"
}

// An error that no error route answers is answered by Caddy itself, on a writer
// that is not the gate's.
func TestErrorsOfUsersArePrivate(t *testing.T) {
	g := gatewaytest.New(t)
	g.RunTLS(gatewaytest.Config{Site: "public /public/*", Next: `
	root $DIR
	error /gone* 410
	error /public/gone* 410
	intercept /late {
		@all status 2xx
		handle_response @all {
			error 410
		}
	}
	reverse_proxy /broken 127.0.0.1:1
	reverse_proxy /late $UPSTREAM
	file_server`})
	g.Upstream.Handle(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "public, s-maxage=600")
		w.Header().Set("Surrogate-Control", "max-age=600")
	})
	token := g.Login("alice").Token
	for protocol, send := range g.Senders() {
		for path, status := range map[string]int{"/gone": 410, "/public/gone": 410, "/missing": 404, "/broken": 502, "/late": 410} {
			t.Run(protocol+path, func(t *testing.T) {
				resp, err := send(gatewaytest.RawRequest{Path: path, Header: []string{gatewaytest.Token(token)}})
				require.NoError(t, err)
				require.Equal(t, status, resp.Status)
				require.Equal(t, []string{"private"}, resp.Header["Cache-Control"])
				require.Contains(t, strings.Join(resp.Header.Values("Vary"), ", "), "3rd_session")
				require.Empty(t, resp.Header.Values("Surrogate-Control"))
			})
		}
	}
}

// TestNginxCacheServesNoOtherUsersResponse puts a real cache in front that does
// not look at the token, and that keeps whatever it is not forbidden to.
func TestNginxCacheServesNoOtherUsersResponse(t *testing.T) {
	g := gatewaytest.Start(t, permissive())
	answerWith(g)
	front := startCache(t, g.Addr)
	alice, bob := g.Login("alice").Token, g.Login("bob").Token
	get := func(target, line string) gatewaytest.Response {
		resp, err := gatewaytest.SendRaw(front, "GET "+target+" HTTP/1.1\nHost: "+g.Addr+"\n"+line+"\nConnection: close\n\n")
		require.NoError(t, err)
		return resp
	}
	// The cache works at all.
	get("/public/a?headers=public", "X: y")
	require.Equal(t, "HIT", get("/public/a?headers=public", "X: y").Header.Get("X-Cache"))

	for name := range cacheHeaders {
		for _, path := range []string{"/", "/public/b"} {
			target := path + "?headers=" + url.QueryEscape(name)
			t.Run(target, func(t *testing.T) {
				for range 2 {
					require.Equal(t, fmt.Sprintf("for %q", g.OpenID("alice")), get(target, gatewaytest.Token(alice)).Body)
					require.Equal(t, fmt.Sprintf("for %q", g.OpenID("bob")), get(target, gatewaytest.Token(bob)).Body)
					stranger := get(target, "X: y")
					if path == "/" {
						require.Equal(t, "missing_session", stranger.ErrorName())
					} else {
						require.Equal(t, `for ""`, stranger.Body)
					}
				}
			})
		}
	}
	// Neither a login nor a refusal is kept.
	code := g.WeChat.IssueCode(gatewaytest.AppID, "carol")
	login := func() gatewaytest.Response {
		resp, err := gatewaytest.SendRaw(front, fmt.Sprintf("POST /login HTTP/1.1\nHost: %s\nContent-Type: application/json\nContent-Length: %d\nConnection: close\n\n", g.Addr, len(code)+11)+`{"code":"`+code+`"}`)
		require.NoError(t, err)
		return resp
	}
	require.Equal(t, http.StatusOK, login().Status)
	require.Equal(t, "code_used", login().ErrorName())
	require.Equal(t, "missing_session", get("/new", "X: y").ErrorName())
	require.Equal(t, http.StatusOK, get("/new", gatewaytest.Token(alice)).Status)
}

// startCache runs nginx as a cache in front of the gateway and returns its
// address. It is configured to keep all it may, for all clients.
func startCache(t *testing.T, gateway string) string {
	t.Helper()
	dir := t.TempDir()
	addr := gatewaytest.FreeAddr(t)
	config := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
daemon off;
master_process off;
pid %[1]s/pid;
error_log %[1]s/error.log;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	underscores_in_headers on;
	proxy_cache_path %[1]s/cache keys_zone=all:1m;
	server {
		listen %[2]s;
		location / {
			proxy_pass http://%[3]s;
			proxy_set_header Host $http_host;
			proxy_cache all;
			proxy_cache_key $request_uri;
			proxy_cache_methods GET HEAD POST;
			proxy_cache_valid any 10m;
			add_header X-Cache $upstream_cache_status always;
		}
	}
}
`, dir, addr, gateway), 0o600))
	cmd := gatewaytest.Command(t, "nginx", "-c", config, "-p", dir)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	gatewaytest.Eventually(t, func() bool {
		_, err := gatewaytest.SendRaw(addr, "GET /public/ready HTTP/1.1\nHost: a\nConnection: close\n\n")
		return err == nil
	}, "nginx listens")
	return addr
}
