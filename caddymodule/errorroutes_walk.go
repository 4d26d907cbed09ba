package caddymodule

import (
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// A walk takes a request through routes without running them, to see whether
// it comes to a gate. Where nobody can say what a matcher would have said, the
// request goes both ways.
type walk struct {
	request *http.Request
	gate    *Handler

	rewritten bool // matchers would have judged another path or method
}

// along reports whether the request finds the gate, and whether it has come to
// a route behind which no other runs.
func (w *walk) along(routes caddyhttp.RouteList) (found, over bool) {
	taken := make(map[string]bool) // of a group, only the first match runs
	for i := range routes {
		route := &routes[i]
		if route.Group != "" && taken[route.Group] {
			continue
		}
		matches, sure := w.judge(route.MatcherSets)
		if sure && !matches {
			continue
		}
		if found, over := w.into(route); found || over && sure {
			return found, true
		}
		if sure && route.Terminal {
			return false, true
		}
		taken[route.Group] = sure
	}
	return false, false
}

func (w *walk) into(route *caddyhttp.Route) (found, over bool) {
	for _, handler := range route.Handlers {
		switch handler := handler.(type) {
		case *Handler:
			if handler == w.gate {
				return true, true
			}
		case *caddyhttp.Subroute:
			if found, over := w.along(handler.Routes); found || over {
				return found, true
			}
		case *rewrite.Rewrite:
			w.rewritten = true
		}
	}
	return false, false
}

// judge asks matchers; sure is false if they could say something else now than
// they would have on the way.
func (w *walk) judge(sets caddyhttp.MatcherSets) (matches, sure bool) {
	matches, err := sets.AnyMatchWithError(w.request)
	return matches, len(sets) == 0 || err == nil && !w.rewritten && !slices.ContainsFunc(sets, dependsOnHandlers)
}

// steadyMatchers look at nothing but the request as the client sent it.
var steadyMatchers = []caddy.ModuleID{
	"http.matchers.path", "http.matchers.path_regexp", "http.matchers.host", "http.matchers.method", "http.matchers.query",
	"http.matchers.protocol", "http.matchers.remote_ip", "http.matchers.client_ip",
}

// dependsOnHandlers reports whether a matcher may look at what handlers before
// it have set, such as variables, or at files, which come and go.
func dependsOnHandlers(set caddyhttp.MatcherSet) bool {
	return slices.ContainsFunc(set, func(matcher any) bool {
		if not, ok := matcher.(*caddyhttp.MatchNot); ok {
			return slices.ContainsFunc(not.MatcherSets, dependsOnHandlers)
		}
		module, ok := matcher.(caddy.Module)
		return !ok || !slices.Contains(steadyMatchers, module.CaddyModule().ID)
	})
}
