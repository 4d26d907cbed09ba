package caddymodule_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"
)

// passed is what a handler behind the gate saw of a request.
type passed struct {
	header http.Header
	user   string // {http.auth.user.id}
}

// call sends a request through the gate, and returns what came behind it, if
// anything did.
func call(t *testing.T, gate caddyhttp.MiddlewareHandler, r *http.Request) (*httptest.ResponseRecorder, *passed) {
	t.Helper()
	var behind *passed
	w := httptest.NewRecorder()
	require.NoError(t, gate.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		behind = &passed{r.Header.Clone(), repl.ReplaceAll("{http.auth.user.id}", "")}
		_, err := w.Write([]byte("ok"))
		return err
	})))
	return w, behind
}

func request(method, target string, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		// As net/http does it, which leaves a name with an underscore alone.
		r.Header[http.CanonicalHeaderKey(name)] = append(r.Header[http.CanonicalHeaderKey(name)], value)
	}
	return prepare(r)
}

func TestHandlerSendsEachPathItsWay(t *testing.T) {
	g := newBenchSite(t, t.TempDir(), `{"public": ["/public/*"], "health": "/healthz"}`)
	token := g.login(t, "alice")
	openID := g.wechat.OpenID(benchAppID, "alice")

	for name, tc := range map[string]struct {
		request *http.Request
		status  int
		openID  []string // behind the gate; nil and 200: without a user
		passes  bool
	}{
		"with a session":            {request("GET", "/x", "3rd_session: "+token), 200, []string{openID}, true},
		"bearer":                    {request("GET", "/x", "Authorization: Bearer "+token), 200, []string{openID}, true},
		"forged":                    {request("GET", "/x", "3rd_session: "+token, "X-OpenID: oVICTIM"), 200, []string{openID}, true},
		"without":                   {request("GET", "/x"), 401, nil, false},
		"unknown":                   {request("GET", "/x", "3rd_session: "+strings.Repeat("A", 43)), 401, nil, false},
		"two":                       {request("GET", "/x", "3rd_session: "+token, "3rd_session: "+strings.Repeat("A", 43)), 401, nil, false},
		"public":                    {request("GET", "/public/x", "X-OpenID: oVICTIM"), 200, nil, true},
		"public with a session":     {request("GET", "/public/x", "3rd_session: "+token), 200, []string{openID}, true},
		"public, written otherwise": {request("GET", "/public/../x"), 401, nil, false},
		"health":                    {request("GET", "/healthz"), 200, nil, false},
		"GET on login":              {request("GET", "/login"), 405, nil, false},
		"GET on logout":             {request("GET", "/logout", "3rd_session: "+token), 405, nil, false},
		"logout without":            {request("POST", "/logout"), 401, nil, false},
		"TRACE":                     {request("TRACE", "/x", "3rd_session: "+token), 405, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			w, behind := call(t, g, tc.request)
			require.Equal(t, tc.status, w.Code, w.Body.String())
			require.Equal(t, tc.passes, behind != nil)
			require.NotContains(t, w.Body.String(), token)
			if behind != nil {
				require.Equal(t, tc.openID, behind.header["X-Openid"])
				require.Empty(t, behind.header["3rd_session"])
				require.Empty(t, behind.header["Authorization"])
			}
		})
	}
}

// A handler may turn a refusal into an error, and an error route sees the very
// request that the gate refused.
func TestRefusalLeavesNoForgedHeader(t *testing.T) {
	g := newBenchGate(t, t.TempDir())
	r := request("POST", "/x", "X-OpenID: oVICTIM", "X_openid: oVICTIM")
	w, behind := call(t, g, r)
	require.Equal(t, 401, w.Code)
	require.Nil(t, behind)
	require.Empty(t, r.Header, "an error route would see this request")
}

func TestPlaceholdersAndCachesOfAUser(t *testing.T) {
	g := newBenchSite(t, t.TempDir(), `{"public": ["/public/*"]}`)
	token := g.login(t, "alice")
	w, behind := call(t, g, request("GET", "/x", "3rd_session: "+token))
	require.Equal(t, g.wechat.OpenID(benchAppID, "alice"), behind.user)
	require.Equal(t, "private", w.Header().Get("Cache-Control"))
	require.Equal(t, "3rd_session, Authorization", w.Header().Get("Vary"))

	w, behind = call(t, g, request("GET", "/public/x"))
	require.Empty(t, behind.user)
	require.Empty(t, w.Header().Get("Cache-Control"), "what is public may be cached")
	require.Equal(t, []string{"3rd_session, Authorization"}, w.Header()["Vary"])
}

// What the handlers behind return goes on to Caddy, and the answer that Caddy
// then writes is the user's own, too.
func TestErrorsBehindTheGateStayPrivate(t *testing.T) {
	g := newBenchGate(t, t.TempDir())
	failed := errors.New("the upstream is gone")
	w := httptest.NewRecorder()
	err := g.ServeHTTP(w, request("GET", "/x", "3rd_session: "+g.login(t, "alice")), caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		return failed
	}))
	require.ErrorIs(t, err, failed)
	require.Equal(t, "private", w.Header().Get("Cache-Control"))
}

func TestLogoutEndsTheSessionAtTheHandler(t *testing.T) {
	g := newBenchGate(t, t.TempDir())
	token := g.login(t, "alice")
	w, behind := call(t, g, request("POST", "/logout", "3rd_session: "+token))
	require.Equal(t, http.StatusNoContent, w.Code)
	require.Nil(t, behind)
	w, behind = call(t, g, request("GET", "/x", "3rd_session: "+token))
	require.Equal(t, http.StatusUnauthorized, w.Code)
	require.Nil(t, behind)
}
