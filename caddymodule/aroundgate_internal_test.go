package caddymodule

import (
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"
)

// A handler of another module may keep its routes in any of these ways.
func TestRoutesOfOtherModules(t *testing.T) {
	routes := caddyhttp.RouteList{{Group: "g"}}
	for name, handler := range map[string]any{
		"routes":            &struct{ Routes caddyhttp.RouteList }{routes},
		"a slice":           &struct{ Routes []caddyhttp.Route }{routes},
		"response handlers": &struct{ R []caddyhttp.ResponseHandler }{[]caddyhttp.ResponseHandler{{Routes: routes}}},
		"a subroute":        &struct{ Sub *caddyhttp.Subroute }{&caddyhttp.Subroute{Routes: routes}},
		"another handler":   &struct{ H caddyhttp.MiddlewareHandler }{&caddyhttp.Subroute{Routes: routes}},
		"beside other fields": struct {
			Name   string
			hidden caddyhttp.RouteList
			Routes caddyhttp.RouteList
		}{"x", routes, routes},
	} {
		require.Len(t, routesIn(handler), 1, name)
	}
	for name, handler := range map[string]any{
		"no subroute": &struct{ Sub *caddyhttp.Subroute }{}, "no handler": &struct{ H caddyhttp.MiddlewareHandler }{}, "no struct": new(int),
	} {
		require.Empty(t, routesIn(handler), name)
	}
}

func TestMatchersOfEveryPath(t *testing.T) {
	every, get := &caddyhttp.MatchPath{"/*"}, &caddyhttp.MatchMethod{"GET"}
	require.True(t, takesEveryPath(caddyhttp.MatcherSets{{get}, {every}}))
	require.False(t, takesEveryPath(caddyhttp.MatcherSets{{every, get}}))
}
