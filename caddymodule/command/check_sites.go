package command

import (
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
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/wxgate/wxgate/caddymodule"
)

// site is a route of a server with one or more gates.
type site struct {
	server    *caddyhttp.Server
	hosts     []string // that it matches; none: all
	gates     []*caddymodule.Handler
	upstreams []string // addresses that it proxies to
}

func (s site) subject() string {
	name := s.hosts
	if len(name) == 0 {
		name = s.server.Listen
	}
	return "site " + strings.Join(name, ", ")
}

// findSites returns the routes with a gate of servers that were provisioned.
func findSites(app *caddyhttp.App) []site {
	var sites []site
	for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
		server := app.Servers[name]
		routes := server.Routes
		if server.Errors != nil {
			routes = slices.Concat(routes, server.Errors.Routes)
		}
		for _, route := range routes {
			s := site{server: server}
			s.add(route)
			if len(s.gates) > 0 {
				sites = append(sites, s)
			}
		}
	}
	return sites
}

// add notes what a route has, however deep.
func (s *site) add(route caddyhttp.Route) {
	for _, set := range route.MatcherSets {
		for _, matcher := range set {
			if hosts, ok := matcher.(*caddyhttp.MatchHost); ok {
				s.hosts = append(s.hosts, *hosts...)
			}
		}
	}
	for _, handler := range route.Handlers {
		var below caddyhttp.RouteList
		switch h := handler.(type) {
		case *caddymodule.Handler:
			s.gates = append(s.gates, h)
		case *reverseproxy.Handler:
			for _, upstream := range h.Upstreams {
				s.upstreams = append(s.upstreams, upstream.Dial)
			}
		case *caddyhttp.Invoke:
			if named := s.server.NamedRoutes[h.Name]; named != nil {
				below = caddyhttp.RouteList{*named}
			}
		case *caddyhttp.Subroute:
			below = h.Routes
			if h.Errors != nil {
				below = slices.Concat(below, h.Errors.Routes)
			}
		}
		for _, route := range below {
			s.add(route)
		}
	}
}

// examineSite looks at what a site needs; that its options are good and Caddy
// passes its headers was found out by provisioning it.
func (c *checkup) examineSite(ctx context.Context, s site, all []site) {
	before := len(c.Findings)
	for _, gate := range s.gates {
		// A balancer's probe names no site but its own idea of the address.
		anyHost := func(other site) bool {
			return other.server == s.server && len(other.hosts) == 0 &&
				slices.ContainsFunc(other.gates, func(g *caddymodule.Handler) bool { return g.Health != "" })
		}
		if gate.Health != "" && len(s.hosts) > 0 && !slices.ContainsFunc(all, anyHost) {
			c.Warn(s.subject(), fmt.Sprintf("health %s is answered for the Host %s only, and the probe of a balancer often sends the machine's address", gate.Health, strings.Join(s.hosts, " or ")),
				"let the probe send that Host; or give it a site without a name: http://:8081 { wxgate { health "+gate.Health+" } }")
		}
	}
	for _, address := range slices.Compact(slices.Sorted(slices.Values(s.upstreams))) {
		c.examineUpstream(ctx, s.subject(), address)
	}
	if len(c.Findings) == before || count(c.Findings[before:], caddymodule.StatusOK) == len(c.Findings)-before {
		c.OK(s.subject(), "configuration is valid; Caddy passes the required headers")
	}
}

// dialTimeout bounds how long an upstream on a near network may take to answer.
const dialTimeout = 2 * time.Second

func (c *checkup) examineUpstream(ctx context.Context, subject, dial string) {
	resolved := caddy.NewReplacer().ReplaceKnown(dial, "")
	if strings.Contains(resolved, "{") {
		return // only a request decides
	}
	address, err := caddy.ParseNetworkAddress(resolved)
	if err != nil || address.PortRangeSize() != 1 {
		return // Caddy has accepted it
	}
	network, _, _ := strings.Cut(address.Network, "+")
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, network, address.JoinHostPort(0))
	if err != nil {
		c.Fault(subject, fmt.Sprintf("the upstream does not answer: %v", err), "start the application, or correct its address after reverse_proxy")
		return
	}
	_ = conn.Close()
	c.OK(subject, "the upstream %s answers", dial)
}

// fewLogins is how many logins say nothing about what follows them.
const fewLogins = 3

// examineTraffic compares the logins of the running gateway with what follows
// them: a client that has logged in sends its token, unless a proxy in between
// removes the header.
func (c *checkup) examineTraffic(sites []site) {
	if c.running == nil {
		return
	}
	logins, allowed, missing := c.running.Logins["ok"], c.running.Requests["allowed"], c.running.Requests["missing"]
	if logins < fewLogins || missing < logins || allowed >= logins {
		return
	}
	headers := strings.Join(tokenHeaders(sites), " or ")
	c.Warn("traffic", fmt.Sprintf("%s succeeded, but %d requests came without a token and only %d with one: something on the way removes the header %s, or clients do not send it", plural(int(logins), "login"), missing, allowed, headers),
		"nginx drops names with an underscore: underscores_in_headers on; with a CDN or a cloud balancer let clients send Authorization: Bearer <3rd_session>, and write token_from 3rd_session bearer")
}

// tokenHeaders are the headers in which sites look for tokens. Caddy itself keeps
// Authorization out of its logs.
func tokenHeaders(sites []site) []string {
	var headers []string
	for _, s := range sites {
		for _, gate := range s.gates {
			for _, source := range gate.TokenFrom {
				if source != "bearer" && !slices.Contains(headers, source) {
					headers = append(headers, source)
				}
			}
		}
	}
	return headers
}

// examineLogs looks for logs that show tokens: Caddy logs a request's headers as
// they came in. Requests that end in an error of Caddy's, such as 502, are logged
// even where there is no access log.
func (c *checkup) examineLogs(sites []site) {
	before := len(c.Findings)
	logs := make(map[string]*caddy.CustomLog)
	if c.logging != nil {
		maps.Copy(logs, c.logging.Logs)
	}
	if logs[caddy.DefaultLoggerName] == nil {
		logs[caddy.DefaultLoggerName] = new(caddy.CustomLog)
	}
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		for _, header := range tokenHeaders(sites) {
			if hides(logs[name].EncoderRaw, header) {
				continue
			}
			takes := func(base string, needed bool) bool {
				return slices.ContainsFunc(sites, func(s site) bool {
					return (s.server.Logs != nil || !needed) && accepts(logs[name], loggerNames(base, s.server.Logs))
				})
			}
			const fix = "give the log the format of the gateway: format wxgate"
			switch {
			case takes("http.log.access", true):
				c.Fault("logs", "the access log "+name+" shows the header "+header+", and anyone who reads it can act as the user", fix)
			case takes("http.log.error", false):
				c.Warn("logs", "the log "+name+" shows the header "+header+" of requests that end in an error of Caddy's, and anyone who reads it can act as the user", fix)
			}
		}
	}
	if len(c.Findings) == before {
		c.OK("logs", "no log of requests shows a token")
	}
}

// loggerNames are the loggers of a server's requests.
func loggerNames(base string, server *caddyhttp.ServerLogConfig) []string {
	if server == nil {
		return []string{base}
	}
	var names []string
	for _, own := range server.LoggerNames {
		for _, name := range own {
			names = append(names, strings.TrimSuffix(base+"."+name, "."))
		}
	}
	if len(names) == 0 || server.DefaultLoggerName != "" {
		names = append(names, strings.TrimSuffix(base+"."+server.DefaultLoggerName, "."))
	}
	return names
}

// accepts reports whether a log takes the lines of one of the loggers. Of the
// names that it includes and excludes, the longest that fits decides.
func accepts(log *caddy.CustomLog, loggers []string) bool {
	longest := func(patterns []string, logger string) int {
		n := -1
		for _, pattern := range patterns {
			if pattern == "*" || pattern == logger || strings.HasPrefix(logger, pattern+".") {
				n = max(n, len(pattern))
			}
		}
		return n
	}
	return slices.ContainsFunc(loggers, func(logger string) bool {
		in, out := longest(log.Include, logger), longest(log.Exclude, logger)
		return (len(log.Include) == 0 || in >= 0) && out <= in
	})
}

// hides reports whether a log's encoder removes a request header.
func hides(encoder json.RawMessage, header string) bool {
	var format struct {
		Format string `json:"format"`
		Fields map[string]struct {
			Filter string `json:"filter"`
		} `json:"fields"`
	}
	if len(encoder) == 0 || json.Unmarshal(encoder, &format) != nil {
		return false
	}
	if format.Format == "wxgate" {
		return true
	}
	for field, f := range format.Fields {
		name, ok := strings.CutPrefix(field, "request>headers>")
		if format.Format == "filter" && (field == "request>headers" && f.Filter == "delete" ||
			ok && strings.EqualFold(name, header) && slices.Contains([]string{"delete", "replace", "hash"}, f.Filter)) {
			return true
		}
	}
	return false
}
