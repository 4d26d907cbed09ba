package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
)

// RouteFaults walks the routes of all servers of the configuration, whose apps
// are provisioned, and returns where they lead around a gate: an upstream
// address that is reached behind a gate must be reached behind a gate
// everywhere. Addresses behind no gate are not examined.
//
// Not examined either: which addresses a name resolves to, handlers of other
// modules that reach an upstream by themselves, and another Caddy.
func (a *App) RouteFaults() (Findings, error) {
	app, err := a.ctx.AppIfConfigured("http")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return walkServers(app.(*caddyhttp.App).Servers).faults, nil
}

// checkRoutes is RouteFaults as one error. It runs once, when the App starts or
// at the first request, whichever is earlier: then every app is provisioned.
func (a *App) checkRoutes() error {
	faults, err := a.RouteFaults()
	for _, f := range faults {
		err = errors.Join(err, fmt.Errorf("%s: %s; %s", f.Subject, f.Message, f.Fix))
	}
	return err
}

// warnValidator logs the faults of a configuration that was only validated:
// `caddy validate` provisions it, and starts nothing that could refuse it.
func (a *App) warnValidator() {
	if a.routesChecked == nil {
		return // not provisioned
	}
	if cause := context.Cause(a.ctx); cause == nil || cause.Error() != "validation complete" {
		return
	}
	if err := a.routesChecked(); err != nil {
		a.logger.Error("this configuration will not start: requests get around a gate", zap.Error(err))
	}
}

// A way is what is known of all requests that come to one point of the routes.
type way struct {
	open  bool   // whether there are any
	ended string // the proxy that lets none through, save such as OPTIONS *, if that is why
	gated bool   // whether each has passed a gate
	some  bool   // whether a gate stands before this point, be it one with a matcher

	gates []*Handler         // the gates that one of them may have passed
	when  []string           // the matchers whose requests have passed a gate
	since []*caddyhttp.Route // the routes that they have entered since the last rewrite
}

// join is what is known of the requests of both ways.
func (w way) join(other way) way {
	switch {
	case !w.open && !other.open:
		return way{ended: cmp.Or(w.ended, other.ended)}
	case !w.open:
		return other
	case !other.open:
		return w
	}
	joined := way{open: true, gated: w.gated && other.gated, some: w.some || other.some}
	joined.gates = append(slices.Clone(w.gates), other.gates...)
	for _, key := range slices.Concat(w.when, other.when) {
		if w.gatedWhen(key) && other.gatedWhen(key) {
			joined.when = append(joined.when, key)
		}
	}
	for i := range min(len(w.since), len(other.since)) {
		if w.since[i] != other.since[i] {
			break
		}
		joined.since = append(joined.since, w.since[i])
	}
	return joined
}

func (w way) gatedWhen(key string) bool { return w.gated || slices.Contains(w.when, key) }

// A proxyUse is one place that leads to an upstream address.
type proxyUse struct {
	address string
	site    string
	through string // the directive and the address as they are written
	errors  bool   // in error routes
	auth    bool   // asks about a request, like forward_auth, instead of passing it on
	way     way
}

// A gateUse is one place where a gate stands.
type gateUse struct {
	gate   *Handler
	site   string
	server *caddyhttp.Server
	hosts  []string // that the site answers to; none: all
	errors bool     // in error routes
	way    way

	keepsOut []string // those of the gate's own paths that do not come to it
	passed   int      // how many proxies of the server stand before it
}

// A walk follows all requests of a server through its routes.
type walk struct {
	server *caddyhttp.Server
	site   string
	hosts  []string
	errors bool
	taken  map[string]way // what became of those that took a route of a group
	invoke []string       // the named routes that the walk is in
	guards map[*Handler]bool

	gates   []gateUse
	relays  []gateUse // of wxgate_api, which is no gate
	proxies []proxyUse
	faults  Findings
}

func walkServers(servers map[string]*caddyhttp.Server) walk {
	var all walk
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		w := walk{server: servers[name], taken: make(map[string]way), guards: make(map[*Handler]bool)}
		w.sites(w.server.Routes)
		if w.server.Errors != nil {
			w.errors = true
			w.sites(w.server.Errors.Routes)
		}
		w.findIdleGates()
		all.gates = append(all.gates, w.gates...)
		all.relays = append(all.relays, w.relays...)
		all.proxies = append(all.proxies, w.proxies...)
		all.faults = append(all.faults, w.faults...)
	}
	all.joinGates()
	all.findStrayPaths()
	all.findOpenAddresses()
	return all
}

// sites walks the outermost routes: with a Caddyfile, one for each site.
// Requests come to error routes from anywhere, also before the first handler.
func (w *walk) sites(routes caddyhttp.RouteList) {
	before := way{open: true}
	for i := range routes {
		hosts := hostsOf(&routes[i])
		w.hosts = hosts
		w.site = "site " + strings.Join(hosts, ", ")
		if len(hosts) == 0 {
			w.site = "site " + strings.Join(w.server.Listen, ", ")
		}
		if w.errors {
			for _, use := range w.gates {
				if use.site == w.site || len(hosts) == 0 {
					before.gates = append(before.gates, use.gate)
				}
			}
		}
		before = w.route(&routes[i], before)
	}
}

func hostsOf(route *caddyhttp.Route) []string {
	var hosts []string
	for _, set := range route.MatcherSets {
		for _, matcher := range set {
			if host, ok := matcher.(*caddyhttp.MatchHost); ok {
				hosts = append(hosts, *host...)
			}
		}
	}
	return hosts
}

func (w *walk) routes(routes caddyhttp.RouteList, before way) way {
	for i := range routes {
		before = w.route(&routes[i], before)
	}
	return before
}

// route returns what is known behind a route.
func (w *walk) route(route *caddyhttp.Route, before way) (after way) {
	passedBy := before // those that do not enter
	taken := w.taken[route.Group]
	if len(route.MatcherSets) == 0 {
		passedBy = way{}
		if route.Group != "" {
			passedBy = taken
		}
	}
	inside := before
	inside.since = append(slices.Clone(before.since), route)
	key, steady := matchersKey(route.MatcherSets)
	inside.gated = before.gatedWhen(key)
	for _, handler := range route.Handlers {
		inside = w.handler(handler, inside)
	}
	if steady && passedBy.open && !taken.open {
		passedBy.when = append(slices.Clone(passedBy.when), key)
	}
	if inside.ended != "" && takesEveryPath(route.MatcherSets) {
		passedBy.ended = inside.ended
	}
	if route.Terminal {
		inside = way{}
	}
	if route.Group != "" {
		w.taken[route.Group] = taken.join(inside)
	}
	return passedBy.join(inside)
}

// handler returns what is known behind a handler of those that come to it.
func (w *walk) handler(handler caddyhttp.MiddlewareHandler, before way) (after way) {
	if gate, ok := handler.(*Handler); ok {
		return w.gate(gate, before)
	}
	for _, gate := range before.gates {
		w.guards[gate] = true
	}
	switch handler := handler.(type) {
	case *caddyhttp.Subroute:
		after = w.routes(handler.Routes, before)
		if handler.Errors != nil {
			after = after.join(w.routes(handler.Errors.Routes, before))
		}
		return after
	case *caddyhttp.Invoke:
		route, found := w.server.NamedRoutes[handler.Name]
		if !found || slices.Contains(w.invoke, handler.Name) {
			return before
		}
		w.invoke = append(w.invoke, handler.Name)
		after = w.route(route, before)
		w.invoke = w.invoke[:len(w.invoke)-1]
		return after
	case *reverseproxy.Handler:
		after = w.proxy(handler, before)
		// Only where a response is handled here may the request go on.
		for _, response := range handler.HandleResponse {
			if response.StatusCode == "" {
				after = after.join(w.routes(response.Routes, before))
			}
		}
		return after
	case *caddyhttp.StaticResponse:
		if handler.StatusCode != "103" {
			return way{}
		}
	case *caddyhttp.StaticError, *reverseproxy.CopyResponseHandler:
		return way{}
	case *intercept.Intercept:
		// The routes run after all the others, even for a request that a later
		// gate has refused.
		for _, response := range handler.HandleResponse {
			w.routes(response.Routes, before)
		}
		return before
	}
	after = before
	if module, ok := handler.(caddy.Module); ok && module.CaddyModule().ID == "http.handlers.wxgate_api" {
		w.relays = append(w.relays, gateUse{site: w.site, server: w.server, hosts: w.hosts})
	}
	if !isSteady(handler) {
		after.when, after.since = nil, nil
	}
	for _, routes := range routesIn(handler) {
		after = after.join(w.routes(routes, before))
	}
	return after
}

const gateFirst = "write wxgate before reverse_proxy inside `route`, or remove the `order` of wxgate from the global options"

func (w *walk) gate(h *Handler, before way) way {
	if before.ended != "" {
		w.faults.Fault(w.site, before.ended+" stands before its gate, so no request comes to the gate", gateFirst)
	}
	use := gateUse{gate: h, site: w.site, server: w.server, hosts: w.hosts, errors: w.errors, way: before, passed: len(w.proxies)}
	if !w.errors {
		use.keepsOut = keptOut(h, w.server, before.since)
	}
	w.gates = append(w.gates, use)
	before.gated, before.some = true, true
	before.gates = append(slices.Clone(before.gates), h)
	return before
}

// proxy notes where a proxy leads. Behind it there are no requests.
func (w *walk) proxy(p *reverseproxy.Handler, before way) way {
	if !before.open {
		return before
	}
	addresses := upstreamAddresses(p)
	// forward_auth asks a service about the request. That does not make the
	// service an application behind the gate.
	auth := p.Rewrite != nil && p.Rewrite.Method == http.MethodGet && slices.ContainsFunc(p.HandleResponse, func(response caddyhttp.ResponseHandler) bool {
		return response.Match != nil && slices.Equal(response.Match.StatusCode, []int{2})
	})
	for _, address := range addresses {
		w.proxies = append(w.proxies, proxyUse{
			address: normalAddress(address), site: w.site, through: "reverse_proxy " + address,
			errors: w.errors, auth: auth, way: before,
		})
	}
	return way{ended: "reverse_proxy " + strings.Join(addresses, " ")}
}

// routesIn finds the routes of a handler of another module in its exported
// fields.
func routesIn(handler any) []caddyhttp.RouteList {
	value := reflect.Indirect(reflect.ValueOf(handler))
	if value.Kind() != reflect.Struct {
		return nil
	}
	var found []caddyhttp.RouteList
	for i := range value.NumField() {
		if !value.Type().Field(i).IsExported() {
			continue
		}
		switch field := value.Field(i).Interface().(type) {
		case caddyhttp.RouteList:
			found = append(found, field)
		case []caddyhttp.Route:
			found = append(found, field)
		case []caddyhttp.ResponseHandler:
			for _, response := range field {
				found = append(found, response.Routes)
			}
		case *caddyhttp.Subroute:
			if field != nil {
				found = append(found, field.Routes)
			}
		case caddyhttp.MiddlewareHandler:
			if v := reflect.ValueOf(field); v.Kind() == reflect.Pointer && !v.IsNil() {
				found = append(found, caddyhttp.RouteList{{Handlers: []caddyhttp.MiddlewareHandler{field}}})
			}
		}
	}
	return found
}

// joinGates lets gates know of each other: those on one way, and those in front
// of one application, whose identity headers are then protected at each.
func (w *walk) joinGates() {
	for _, use := range w.gates {
		for _, outer := range use.way.gates {
			outer.followed, use.gate.follows = true, true
			outer.identity.Protect(&use.gate.identity)
			use.gate.identity.Protect(&outer.identity)
		}
	}
	inFront := make(map[string][]*Handler)
	for _, use := range w.proxies {
		if use.way.some {
			inFront[use.address] = append(inFront[use.address], use.way.gates...)
		}
	}
	for _, gates := range inFront {
		for _, gate := range gates {
			for _, other := range gates {
				gate.identity.Protect(&other.identity)
			}
		}
	}
}
