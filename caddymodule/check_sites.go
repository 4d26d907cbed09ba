package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/wxgate/wxgate/caddymodule/identity"
)

// site is one wxgate handler and what is around it.
type site struct {
	name      string // its hosts, or where the server listens
	server    *caddyhttp.Server
	handler   *Handler
	err       error    // why handler is not whole
	upstreams []string // addresses that its route proxies to
}

func (s site) subject() string { return "site " + s.name }

// sites finds all wxgate handlers of the configuration, however deep.
func (d *doctor) sites() []site {
	var app caddyhttp.App
	if err := json.Unmarshal(d.conf.Apps.HTTP, &app); err != nil {
		return nil
	}
	var sites []site
	for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
		server := app.Servers[name]
		for _, route := range server.Routes {
			sites = append(sites, routeSites(siteName(server, route), server, route)...)
		}
		// Those of `invoke`, which several sites may share.
		for _, name := range slices.Sorted(maps.Keys(server.NamedRoutes)) {
			sites = append(sites, routeSites("&("+name+")", server, *server.NamedRoutes[name])...)
		}
	}
	return sites
}

func routeSites(name string, server *caddyhttp.Server, route caddyhttp.Route) []site {
	gates := handlersIn(route.HandlersRaw, "wxgate")
	if len(gates) == 0 {
		return nil
	}
	upstreams := upstreamsIn(route.HandlersRaw)
	var sites []site
	for _, raw := range gates {
		s := site{name: name, server: server, handler: new(Handler), upstreams: upstreams}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		s.err = dec.Decode(s.handler)
		sites = append(sites, s)
		upstreams = nil // once is enough
	}
	return sites
}

// siteName names a route as the operator knows it.
func siteName(server *caddyhttp.Server, route caddyhttp.Route) string {
	var hosts []string
	for _, set := range route.MatcherSetsRaw {
		var host []string
		if json.Unmarshal(set["host"], &host) == nil {
			hosts = append(hosts, host...)
		}
	}
	if len(hosts) == 0 {
		hosts = server.Listen
	}
	return strings.Join(hosts, ", ")
}

// handlersIn returns the handlers of a name, without the name, wherever they
// stand below raw: in subroutes, error routes and other handlers.
func handlersIn(raw []json.RawMessage, name string) []json.RawMessage {
	var found []json.RawMessage
	var walk func(value any)
	walk = func(value any) {
		switch v := value.(type) {
		case []any:
			for _, element := range v {
				walk(element)
			}
		case map[string]any:
			if v["handler"] == name {
				delete(v, "handler")
				if text, err := json.Marshal(v); err == nil {
					found = append(found, text)
				}
			}
			for _, key := range slices.Sorted(maps.Keys(v)) {
				walk(v[key])
			}
		}
	}
	for _, r := range raw {
		var value any
		if json.Unmarshal(r, &value) == nil {
			walk(value)
		}
	}
	return found
}

// upstreamsIn returns the addresses of the reverse proxies below raw.
func upstreamsIn(raw []json.RawMessage) []string {
	var addresses []string
	for _, proxy := range handlersIn(raw, "reverse_proxy") {
		var config struct {
			Upstreams []struct {
				Dial string `json:"dial"`
			} `json:"upstreams"`
		}
		if json.Unmarshal(proxy, &config) != nil {
			continue
		}
		for _, upstream := range config.Upstreams {
			if !slices.Contains(addresses, upstream.Dial) {
				addresses = append(addresses, upstream.Dial)
			}
		}
	}
	return addresses
}

// checkSites examines each site with a gateway.
func (d *doctor) checkSites(ctx context.Context) {
	sites := d.sites()
	if len(sites) == 0 {
		d.fault("sites", "no site has a gateway, so nothing is guarded", "write the directive `wxgate` into the block of each site, before or after reverse_proxy")
	}
	for _, s := range sites {
		before := len(d.findings)
		d.checkSite(s)
		if len(d.findings) == before {
			d.ok(s.subject(), "its headers arrive, and its options fit together")
		}
		for _, address := range s.upstreams {
			d.checkUpstream(ctx, s.subject(), address)
		}
	}
}

func (d *doctor) checkSite(s site) {
	if s.err != nil {
		d.fault(s.subject(), s.err.Error(), "correct the site's wxgate block; see docs/configuration.md")
		return
	}
	h := s.handler
	h.app = d.app
	h.setDefaults()
	if err := h.check(); err != nil {
		d.fault(s.subject(), err.Error(), "correct the site's wxgate block; see docs/configuration.md")
		return
	}
	tokens := identity.NewTokens(h.TokenFrom, h.ForwardToken).Headers
	headers := identity.NewHeaders(h.Inject, tokens)
	if err := checkExpected(s.server, slices.Concat(tokens, headers.Names())); err != nil {
		message, fix, _ := strings.Cut(err.Error(), "; ")
		d.fault(s.subject(), message, fix)
	}
	for _, pattern := range h.Public {
		if covered := coveredBy(pattern, h); covered != "" {
			d.fault(s.subject(), fmt.Sprintf("public %s covers the %s: it is wider than it was meant to be, and what it covers needs no session", pattern, covered),
				"name only what everyone may see, such as public /static/*")
		}
	}
}

// coveredBy returns which of the gateway's own paths a public pattern covers.
// They do not need to be public, so a pattern that covers one is too wide.
func coveredBy(pattern string, h *Handler) string {
	switch {
	case identity.MatchPath(pattern, h.Login):
		return "login path " + h.Login
	case identity.MatchPath(pattern, h.Logout):
		return "logout path " + h.Logout
	}
	return ""
}

// dialTime bounds how long an upstream on a near network may take to answer.
const dialTime = 2 * time.Second

func (d *doctor) checkUpstream(ctx context.Context, subject, dial string) {
	resolved := caddy.NewReplacer().ReplaceKnown(dial, "")
	if strings.Contains(resolved, "{") {
		return // only a request tells where it goes
	}
	address, err := caddy.ParseNetworkAddress(resolved)
	if err != nil || address.PortRangeSize() != 1 {
		d.fault(subject, fmt.Sprintf("the upstream %q is not an address", dial), "write host:port or unix//path after reverse_proxy")
		return
	}
	network, _, _ := strings.Cut(address.Network, "+")
	dialer := net.Dialer{Timeout: dialTime}
	conn, err := dialer.DialContext(ctx, network, address.JoinHostPort(0))
	if err != nil {
		d.fault(subject, fmt.Sprintf("the upstream does not answer: %v", err), "start the application, or correct its address after reverse_proxy")
		return
	}
	_ = conn.Close()
	d.ok(subject, "the upstream %s answers", dial)
}
