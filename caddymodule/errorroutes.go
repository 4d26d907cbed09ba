package caddymodule

import (
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// errorGate stands at the head of a server's error routes (`handle_errors`).
// Caddy runs them also for requests that never came to the gate: it refuses a
// method of 33 letters or a malformed Host before any handler, and an earlier
// directive may fail. With a reverse_proxy among the error routes such a
// request would reach the upstream with all that the client wrote. Here it has
// to pass the gate first.
type errorGate struct {
	handler *Handler
	server  *caddyhttp.Server
}

// passedVar is the request's variable that says how it passed a gate: it holds
// the *userResponse of its user, or the *Handler of a public path.
const passedVar = "wxgate.passed"

// guardErrorRoutes puts a gate before the error routes of the server. Caddy
// provisions them after the handlers; a gate in a named route comes too late.
func (h *Handler) guardErrorRoutes(server *caddyhttp.Server) {
	if server == nil || server.Errors == nil || len(server.Errors.Routes) == 0 {
		return
	}
	h.markPassed = true
	gate := &errorGate{handler: h, server: server}
	server.Errors.Routes = slices.Insert(server.Errors.Routes, 0, caddyhttp.Route{
		Handlers: []caddyhttp.MiddlewareHandler{gate},
	})
}

// passed notes that a request may go on, if error routes will ask.
func (h *Handler) passed(r *http.Request, how any) {
	if h.markPassed {
		caddyhttp.SetVar(r.Context(), passedVar, how)
	}
}

// ServeHTTP implements caddyhttp.MiddlewareHandler. A request that has passed
// goes on as it is; what the error routes answer its user is private too.
func (g *errorGate) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	switch passed := caddyhttp.GetVar(r.Context(), passedVar).(type) {
	case *userResponse:
		if passed.handler != g.handler {
			return next.ServeHTTP(w, r)
		}
		u := &userResponse{ResponseWriter: w, handler: g.handler, session: passed.session}
		return g.handler.open.serve(u, r, next)
	case *Handler:
		return next.ServeHTTP(w, r)
	}
	if !g.guards(r) {
		return next.ServeHTTP(w, r)
	}
	return g.handler.ServeHTTP(w, r, next)
}

// guards reports whether a request belongs to the gate's site: whether the
// first route that matches it leads to the gate. Other sites of the server
// have error routes of their own.
func (g *errorGate) guards(r *http.Request) bool {
	for i := range g.server.Routes {
		route := &g.server.Routes[i]
		matches, err := route.MatcherSets.AnyMatchWithError(r)
		if err != nil {
			return true // nobody can say, so it has to pass
		}
		if matches && leadsTo(route, g.handler) {
			return true
		}
		if matches && route.Terminal {
			return false
		}
	}
	return false
}

func leadsTo(route *caddyhttp.Route, h *Handler) bool {
	for _, handler := range route.Handlers {
		switch handler := handler.(type) {
		case *Handler:
			if handler == h {
				return true
			}
		case *caddyhttp.Subroute:
			for i := range handler.Routes {
				if leadsTo(&handler.Routes[i], h) {
					return true
				}
			}
		}
	}
	return false
}
