package caddymodule

import (
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
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
				w.faults.Fault(use.site, "the matchers in front of its gate keep out "+path+", so a login would go around the gate",
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
