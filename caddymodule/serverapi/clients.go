package serverapi

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"go.uber.org/zap"

	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// clients are the addresses beside loopback from which calls are accepted.
type clients []netip.Prefix

func newClients(words []string) (clients, error) {
	var c clients
	for _, word := range words {
		ranges := []string{word}
		if word == "private_ranges" {
			ranges = caddyhttp.PrivateRangesCIDR()
		}
		for _, text := range ranges {
			prefix, err := parsePrefix(text)
			if err != nil {
				return nil, err
			}
			if prefix.Bits() == 0 {
				return nil, fmt.Errorf("%s is every address; give the callers a key instead: key <name> {env.WXGATE_API_KEY}", text)
			}
			c = append(c, prefix)
		}
	}
	return c, nil
}

// parsePrefix reads a CIDR, or an address that stands for itself.
func parsePrefix(text string) (netip.Prefix, error) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a range of addresses such as 10.0.0.0/8", text)
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

// proxyHeaders are set by proxies. Behind one, loopback means the whole world.
// Origin and Sec-Fetch-Site are set by browsers, which reach loopback for any page that they show.
var proxyHeaders = []string{"X-Forwarded-For", "Forwarded", "Via", "X-Real-Ip", "Origin", "Sec-Fetch-Site"}

// check refuses connections from elsewhere. proven is true if every caller must
// prove who it is in another way.
func (c clients) check(r *http.Request, proven bool) error {
	if !c.accept(r, proven) {
		return &refusal{status: http.StatusForbidden, errcode: codeForbidden, name: "forbidden",
			text: "this address may not call; see `clients` of wxgate_api"}
	}
	if proven {
		return nil
	}
	for _, name := range proxyHeaders {
		if len(r.Header[name]) > 0 {
			return &refusal{status: http.StatusForbidden, errcode: codeForbidden, name: "forbidden",
				text: "the header " + name + " shows that the call came through a proxy or from a browser; give wxgate_api a key"}
		}
	}
	return nil
}

// checkHost refuses the host names of others. Without a key a page in a browser on this machine
// must not reach the relay, and one whose own name resolves to this machine (DNS rebinding)
// sends none of proxyHeaders with a GET.
func checkHost(r *http.Request) error {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(host)
	_, err := netip.ParseAddr(host)
	if err == nil || !strings.Contains(host, ".") || strings.HasSuffix(host, ".weixin.qq.com") || onSocket(r) || isOfSite(r) {
		return nil
	}
	return &refusal{status: http.StatusForbidden, errcode: codeForbidden, name: "forbidden",
		text: "the call names a host that is not this site's: name it in the site's address, or give wxgate_api a key"}
}

// isOfSite reports whether the address of one of the server's sites has the host that a call names.
func isOfSite(r *http.Request) bool {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return server != nil && slices.ContainsFunc(server.Routes, func(route caddyhttp.Route) bool {
		return slices.ContainsFunc(route.MatcherSets, func(set caddyhttp.MatcherSet) bool {
			return slices.ContainsFunc(set, func(matcher any) bool {
				hosts, ok := matcher.(*caddyhttp.MatchHost)
				return ok && hosts.Match(r)
			})
		})
	})
}

func onSocket(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}

func (c clients) accept(r *http.Request, proven bool) bool {
	if proven && len(c) == 0 {
		return true
	}
	if onSocket(r) {
		return true // the socket's permissions decide
	}
	peer, _ := netip.ParseAddrPort(r.RemoteAddr) // no address is in no range
	addr := peer.Addr().Unmap().WithZone("")
	return addr.IsLoopback() || slices.ContainsFunc(c, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// checkReach refuses a server that everyone reaches, unless callers prove who they are.
func (h *Handler) checkReach(server *caddyhttp.Server) error {
	if len(h.keys) > 0 || len(h.clients) > 0 {
		return nil
	}
	if server == nil {
		return errNoServer
	}
	if requiresCertificate(server) {
		return nil
	}
	for _, address := range server.Listen {
		network, err := caddy.ParseNetworkAddress(address)
		if err != nil {
			return fmt.Errorf("wxgate_api: %w", err)
		}
		switch {
		case network.IsUnixNetwork():
			continue
		case wechat.IsLoopback(network.Host):
			h.logger.Warn("wxgate_api has no key: every program on this machine may call WeChat's API; give it a key, or bind a unix socket", zap.String("address", address))
			continue
		}
		return fmt.Errorf("wxgate_api listens on %s, where everybody reaches it: add \"bind 127.0.0.1\" to the site, or give the callers a key: key <name> {env.WXGATE_API_KEY}", address)
	}
	return nil
}

// requiresCertificate reports whether a server has TLS connections that need a
// verified client certificate. Caddy adds a policy for other names that needs
// none; a call that comes by that is refused, see accept.
func requiresCertificate(server *caddyhttp.Server) bool {
	return slices.ContainsFunc(server.TLSConnPolicies, func(p *caddytls.ConnectionPolicy) bool {
		auth := p.ClientAuthentication
		return auth != nil && (auth.Mode == "require_and_verify" || auth.Mode == "" && auth.Active())
	})
}

// certified reports whether a caller has shown a certificate that was verified.
func (h *Handler) certified(r *http.Request) bool {
	return r.TLS != nil && len(r.TLS.VerifiedChains) > 0
}
