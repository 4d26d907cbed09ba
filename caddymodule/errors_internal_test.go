package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"
)

// Errors are left to error routes, wherever a server has them.
func TestHandlesErrors(t *testing.T) {
	routes := func(handler caddyhttp.MiddlewareHandler) caddyhttp.RouteList {
		return caddyhttp.RouteList{{Handlers: []caddyhttp.MiddlewareHandler{handler}}}
	}
	errorRoutes := &caddyhttp.HTTPErrorConfig{Routes: routes(new(caddyhttp.StaticResponse))}
	within := &caddyhttp.Subroute{Errors: errorRoutes}
	for name, tc := range map[string]struct {
		server *caddyhttp.Server
		want   bool
	}{
		"none":                    {&caddyhttp.Server{Routes: routes(new(caddyhttp.Subroute)), Errors: new(caddyhttp.HTTPErrorConfig)}, false},
		"of the server":           {&caddyhttp.Server{Errors: errorRoutes}, true},
		"of a subroute":           {&caddyhttp.Server{Routes: routes(within)}, true},
		"of a subroute in others": {&caddyhttp.Server{Routes: routes(&caddyhttp.Subroute{Routes: routes(within)})}, true},
		"no server":               {nil, true},
	} {
		require.Equal(t, tc.want, handlesErrors(tc.server), name)
	}
}

// In HTTP/2 that header would end the connection of other requests.
func TestOnlyHTTP1ConnectionsAreClosed(t *testing.T) {
	for version, want := range map[int]string{1: "close", 2: "", 3: ""} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.ProtoMajor = version
		r.Header.Set("Expect", "100-continue")
		w := httptest.NewRecorder()
		closeIfWaiting(w, r)
		require.Equal(t, want, w.Header().Get("Connection"))
	}
}
