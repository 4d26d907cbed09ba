package caddymodule

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// findOpenAddresses finds the addresses that are reached behind a gate here and
// without one there.
func (w *walk) findOpenAddresses() {
	for _, open := range w.proxies {
		if open.way.gated {
			continue
		}
		i := slices.IndexFunc(w.proxies, func(closed proxyUse) bool {
			return closed.way.some && !closed.auth && sameAddress(closed.address, open.address)
		})
		if i >= 0 {
			w.addOpenAddress(open, w.proxies[i])
		}
	}
}

func (w *walk) addOpenAddress(open, closed proxyUse) {
	behind := closed.through + " of " + closed.site + " stands behind a gate"
	if open.site == closed.site {
		behind = closed.through + " stands behind the gate"
	}
	hasGate := slices.ContainsFunc(w.gates, func(use gateUse) bool { return use.site == open.site })
	switch {
	case open.errors:
		w.faults.Fault(open.site, open.through+" in handle_errors is reached without a gate, while "+behind,
			"write wxgate into handle_errors, too, or answer there with respond or file_server")
	case open.way.some:
		w.faults.Fault(open.site, open.through+" is also reached without its gate, by the requests that the gate's matcher does not match",
			"write `public <path>...` inside wxgate instead of the matcher, or put wxgate and the proxy into the same `handle`")
	case hasGate:
		w.faults.Fault(open.site, open.through+" is reached without passing the gate, while "+behind,
			"inside `route` write wxgate before the proxy; elsewhere give wxgate no matcher and write `public <path>...` inside it")
	default:
		w.faults.Fault(open.site, open.through+" is reached without a gate, while "+behind,
			"write wxgate here, too; with `public /*` inside, it lets everyone through and still removes the identity headers")
	}
}

// checkOrder refuses an `order` that puts the gates of all sites behind their
// proxies. In the routes it cannot be told from a `route` in which a proxy
// stands before the gate on purpose.
func checkOrder(helper httpcaddyfile.Helper) error {
	order, _ := helper.Option("order").([]string)
	for _, directive := range order[:max(slices.Index(order, "wxgate"), 0)] {
		if directive == "reverse_proxy" || directive == "php_fastcgi" {
			return helper.Errf("the global `order` puts %s before wxgate, so requests get to the application without the gate: remove it; inside `route` the order of the lines counts", directive)
		}
	}
	return nil
}

// findIdleGates finds the gates of everything that have nothing behind them,
// while a proxy of the site stands before them.
func (w *walk) findIdleGates() {
	for _, use := range w.gates {
		if w.guards[use.gate] || slices.ContainsFunc(use.way.since, func(route *caddyhttp.Route) bool { return len(route.MatcherSets) > 0 && hostsOf(route) == nil }) {
			continue
		}
		i := slices.IndexFunc(w.proxies[:use.passed], func(p proxyUse) bool { return p.site == use.site && !p.auth && !p.way.some })
		if i >= 0 {
			w.faults.Fault(use.site, w.proxies[i].through+" stands before its gate, and nothing stands behind the gate", gateFirst)
		}
	}
}

// findStrayPaths finds the login and logout paths that a gate's matchers keep
// out, so that a login cannot work and its code goes elsewhere.
func (w *walk) findStrayPaths() {
	for _, use := range w.gates {
		for _, path := range use.keepsOut {
			if !w.anotherServes(use, path) {
				w.faults.Fault(use.site, "the matchers in front of its gate keep out "+path+", so the gate never receives it",
					"write `public <path>...` inside wxgate instead of the matcher, or give it `login` and `logout` paths that the matchers let in")
			}
		}
	}
}

// anotherServes reports whether a gate beside this one serves the path.
func (w *walk) anotherServes(use gateUse, path string) bool {
	return slices.ContainsFunc(w.gates, func(other gateUse) bool {
		return other.site == use.site && (other.gate.Login == path || other.gate.Logout == path) && !slices.Contains(other.keepsOut, path)
	})
}

// upstreamAddresses returns where a proxy sends requests. A source of dynamic
// upstreams is named by what it looks up; what that resolves to is not known.
func upstreamAddresses(p *reverseproxy.Handler) []string {
	var addresses []string
	for _, upstream := range p.Upstreams {
		addresses = append(addresses, upstream.Dial)
	}
	switch source := p.DynamicUpstreams.(type) {
	case nil:
	case *reverseproxy.AUpstreams:
		addresses = append(addresses, net.JoinHostPort(source.Name, source.Port))
	case *reverseproxy.SRVUpstreams:
		name := source.Name
		if source.Service != "" || source.Proto != "" {
			name = "_" + source.Service + "._" + source.Proto + "." + name
		}
		addresses = append(addresses, "srv "+name)
	case *reverseproxy.MultiUpstreams:
		addresses = append(addresses, "{multi}") // Caddy keeps its sources to itself
	default:
		config, _ := json.Marshal(source) // sources of one type that show no options are one
		addresses = append(addresses, strings.NewReplacer("{", "(", "}", ")").Replace(fmt.Sprintf("%T %s", source, config)))
	}
	return addresses
}

// normalAddress spells an upstream address in one way: all the names of this
// machine's loopback are one, since an application that listens on every
// address answers to each of them. Names are not resolved. A placeholder that
// only a request fills in stays as it is.
func normalAddress(address string) string {
	address = caddy.NewReplacer().ReplaceKnown(address, "")
	network, host, port, err := caddy.SplitNetworkAddress(address)
	if err != nil || port == "" && strings.Contains(host, "{") {
		return strings.ToLower(address)
	}
	if caddy.IsUnixNetwork(network) {
		return "unix/" + path.Clean(host)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		port = strconv.FormatUint(n, 10)
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap().WithZone("")
		host = ip.String()
		if ip.IsLoopback() || ip.IsUnspecified() {
			host = "localhost"
		}
	}
	if host == "" || strings.HasSuffix(host, ".localhost") {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// sameAddress reports whether two normal addresses may be the same. A
// placeholder may be anything.
func sameAddress(a, b string) bool {
	if a == b || !strings.Contains(a+b, "{") {
		return a == b
	}
	beforeA, afterA := literalEnds(a)
	beforeB, afterB := literalEnds(b)
	return (strings.HasPrefix(beforeA, beforeB) || strings.HasPrefix(beforeB, beforeA)) &&
		(strings.HasSuffix(afterA, afterB) || strings.HasSuffix(afterB, afterA))
}

// literalEnds returns what stands before the first placeholder and behind the
// last one.
func literalEnds(address string) (before, after string) {
	before, _, _ = strings.Cut(address, "{")
	return before, address[strings.LastIndex(address, "}")+1:]
}

// matchersKey spells matchers out, so that equal ones are recognized. steady is
// false for those that may judge one request differently at two places, such as
// matchers of headers, which the gate itself removes.
func matchersKey(sets caddyhttp.MatcherSets) (key string, steady bool) {
	var alternatives []string
	for _, set := range sets {
		var all []string
		for _, matcher := range set {
			text, steady := matcherKey(matcher)
			if !steady {
				return "", false
			}
			all = append(all, text)
		}
		slices.Sort(all)
		alternatives = append(alternatives, strings.Join(all, " and "))
	}
	return strings.Join(alternatives, " or "), len(sets) > 0
}

// takesEveryPath reports whether matchers let every path in.
func takesEveryPath(sets caddyhttp.MatcherSets) bool {
	return slices.ContainsFunc(sets, func(set caddyhttp.MatcherSet) bool {
		path, ok := set[0].(*caddyhttp.MatchPath)
		return ok && len(set) == 1 && (slices.Contains(*path, "/*") || slices.Contains(*path, "*"))
	})
}

func matcherKey(matcher any) (key string, steady bool) {
	switch matcher := matcher.(type) {
	case *caddyhttp.MatchPath:
		text := fmt.Sprintf("path %q", []string(*matcher))
		return text, !strings.Contains(text, "{")
	case *caddyhttp.MatchPathRE:
		return fmt.Sprintf("path_regexp %q", matcher.Pattern), true
	case *caddyhttp.MatchMethod:
		return fmt.Sprintf("method %q", []string(*matcher)), true
	case *caddyhttp.MatchRemoteIP:
		return fmt.Sprintf("remote_ip %q", matcher.Ranges), true
	case *caddyhttp.MatchNot:
		key, steady := matchersKey(matcher.MatcherSets)
		return "not (" + key + ")", steady
	default:
		return "", false
	}
}

// steadyHandlers leave the path and the method as they are.
var steadyHandlers = []caddy.ModuleID{
	"http.handlers.authentication", "http.handlers.encode", "http.handlers.error", "http.handlers.file_server",
	"http.handlers.headers", "http.handlers.log_append", "http.handlers.map", "http.handlers.metrics",
	"http.handlers.request_body", "http.handlers.static_response", "http.handlers.templates",
	"http.handlers.tracing", "http.handlers.vars",
}

func isSteady(handler any) bool {
	known, ok := handler.(caddy.Module)
	return ok && slices.Contains(steadyHandlers, known.CaddyModule().ID)
}

// keptOut returns those of a gate's login and logout paths that one of the
// routes around it does not let in.
func keptOut(h *Handler, server *caddyhttp.Server, routes []*caddyhttp.Route) []string {
	var out []string
	for _, path := range []string{h.Login, h.Logout} {
		r, err := http.NewRequest(http.MethodPost, "http://localhost"+path, nil)
		if err != nil {
			continue // a path that was checked is one of a URL
		}
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, server)
		if slices.ContainsFunc(routes, func(route *caddyhttp.Route) bool {
			return len(route.MatcherSets) > 0 && !slices.ContainsFunc(route.MatcherSets, func(set caddyhttp.MatcherSet) bool { return mayMatch(set, r) })
		}) {
			out = append(out, path)
		}
	}
	return out
}

// mayMatch reports whether a request may match, as far as its method and path
// decide that.
func mayMatch(set caddyhttp.MatcherSet, r *http.Request) bool {
	for _, matcher := range set {
		switch matcher := matcher.(type) {
		case *caddyhttp.MatchPath, *caddyhttp.MatchPathRE, *caddyhttp.MatchMethod, *caddyhttp.MatchNot:
			if _, steady := matcherKey(matcher); !steady {
				continue
			}
			if matches, err := (caddyhttp.MatcherSet{matcher}).MatchWithError(r); err == nil && !matches {
				return false
			}
		}
	}
	return true
}
