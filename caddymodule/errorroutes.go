package caddymodule

import (
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/wxgate/wxgate/caddymodule/identity"
)

// errorGate stands at the head of a server's error routes (`handle_errors`).
// Caddy runs them also for requests that never came to the gate: it refuses a
// method of 33 letters or a malformed Host before any handler, and an earlier
// directive may fail. With a reverse_proxy among the error routes such a
// request would reach the upstream with all that the client wrote. Here it has
// to pass the gates first that it would have met.
type errorGate struct {
	handler *Handler
	server  *caddyhttp.Server
}

// A passage says how a request has passed a gate. It may have passed several.
type passage struct {
	handler *Handler
	user    *userResponse // nil: as nobody's, on a public path
	before  *passage
}

// passedVar is the request's variable that holds its last *passage.
const passedVar = "wxgate.passed"

// guardErrorRoutes puts a gate before the error routes of the server, behind
// those that requests meet earlier. Caddy provisions them after the handlers; a
// gate in a named route comes too late.
func (h *Handler) guardErrorRoutes(server *caddyhttp.Server) {
	if server == nil || server.Errors == nil || len(server.Errors.Routes) == 0 {
		return
	}
	h.markPassed = true
	gate := &errorGate{handler: h, server: server}
	behind := 0
	for behind < len(server.Errors.Routes) && isErrorGate(&server.Errors.Routes[behind]) {
		behind++
	}
	server.Errors.Routes = slices.Insert(server.Errors.Routes, behind, caddyhttp.Route{
		Handlers: []caddyhttp.MiddlewareHandler{gate},
	})
}

func isErrorGate(route *caddyhttp.Route) bool {
	if len(route.Handlers) != 1 {
		return false
	}
	_, is := route.Handlers[0].(*errorGate)
	return is
}

// passed notes that a request may go on, as a user's or, with nil, as nobody's,
// if error routes will ask.
func (h *Handler) passed(r *http.Request, u *userResponse) {
	if h.markPassed {
		caddyhttp.SetVar(r.Context(), passedVar, &passage{h, u, passages(r)})
	}
}

func passages(r *http.Request) *passage {
	last, _ := caddyhttp.GetVar(r.Context(), passedVar).(*passage)
	return last
}

// through finds the passage of one gate.
func (p *passage) through(h *Handler) *passage {
	for p != nil && p.handler != h {
		p = p.before
	}
	return p
}

// written are the headers that the gates themselves have left on the request.
func (p *passage) written() []string {
	var names []string
	for ; p != nil; p = p.before {
		names = append(names, p.handler.tokens.Headers...)
		if p.user != nil {
			names = append(append(names, p.handler.identity.Names()...), identity.HeaderOpenData)
		}
	}
	return names
}

// ServeHTTP implements caddyhttp.MiddlewareHandler. A request that has passed
// goes on as it is; what the error routes answer its user is private too.
//
// It is stripped in any case: a handler before the gate may have handed the
// gate a copy of the request, and the trailers of this one are still the
// client's; and where one gate has been passed, another may have been ahead.
func (g *errorGate) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	last := passages(r)
	mine := last.through(g.handler)
	if mine == nil && !g.guards(r) {
		return next.ServeHTTP(w, r)
	}
	g.handler.identity.StripBut(r, slices.Concat(g.handler.tokens.Headers, last.written()))
	switch {
	case mine == nil && g.ahead(r):
		return g.handler.ServeHTTP(w, r, next)
	case mine == nil || mine.user == nil:
		return next.ServeHTTP(w, r)
	}
	u := &userResponse{ResponseWriter: w, handler: g.handler, session: mine.user.session}
	return g.handler.open.serve(u, r, next)
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

// ahead reports whether a request of the gate's site would have come to the
// gate, or may have. It would not if a matcher keeps it away, as in
// `wxgate /api/*` or `handle /api/*`: then it gets the error page.
func (g *errorGate) ahead(r *http.Request) bool {
	way := walk{request: r, gate: g.handler}
	found, _ := way.along(g.server.Routes)
	return found
}
