package caddymodule

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
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
		default:
			w.rewritten = w.rewritten || !isSteady(handler, steadyHandlers)
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

// steadyHandlers leave the path, the method and the host as they are. A rewrite
// does not, nor may a named route, nor one that we do not know.
var steadyHandlers = []caddy.ModuleID{
	"http.handlers.authentication", "http.handlers.encode", "http.handlers.error", "http.handlers.file_server",
	"http.handlers.headers", "http.handlers.intercept", "http.handlers.log_append", "http.handlers.map",
	"http.handlers.metrics", "http.handlers.request_body", "http.handlers.reverse_proxy",
	"http.handlers.static_response", "http.handlers.templates", "http.handlers.tracing", "http.handlers.vars",
}

// steadyMatchers look at nothing but the request as the client sent it.
var steadyMatchers = []caddy.ModuleID{
	"http.matchers.path", "http.matchers.path_regexp", "http.matchers.host", "http.matchers.method",
	"http.matchers.protocol", "http.matchers.remote_ip", "http.matchers.client_ip",
}

func isSteady(module any, steady []caddy.ModuleID) bool {
	known, ok := module.(caddy.Module)
	return ok && slices.Contains(steady, known.CaddyModule().ID)
}

// dependsOnHandlers reports whether a matcher may look at what handlers before
// it have set, such as variables, or at files, which come and go.
func dependsOnHandlers(set caddyhttp.MatcherSet) bool {
	return slices.ContainsFunc(set, func(matcher any) bool {
		var patterns []string // in which placeholders are expanded
		switch matcher := matcher.(type) {
		case *caddyhttp.MatchNot:
			return slices.ContainsFunc(matcher.MatcherSets, dependsOnHandlers)
		case *caddyhttp.MatchPath:
			patterns = *matcher
		case *caddyhttp.MatchHost:
			patterns = *matcher
		}
		return !isSteady(matcher, steadyMatchers) ||
			slices.ContainsFunc(patterns, func(pattern string) bool { return strings.Contains(pattern, "{") })
	})
}
