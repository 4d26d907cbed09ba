package caddymodule

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
)

// ExamineSites examines the sites of a configuration that was provisioned and
// does not run: whether anything leads around a gate, whether a probe reaches the
// health path, whether the upstreams answer, and whether tokens arrive at the
// running gateway. That the options are good and Caddy passes the headers was
// found out by provisioning.
func (a *App) ExamineSites(ctx context.Context, running *adminapi.Stats) Findings {
	var w walk
	if app, err := a.ctx.AppIfConfigured("http"); err == nil {
		w = walkServers(app.(*caddyhttp.App).Servers)
	}
	f := w.faults
	if len(w.gates) == 0 {
		f.Fault("sites", "no site has a gateway, so nothing is guarded", "write the directive `wxgate` into the block of each site")
	}
	examined := make(map[string]bool)
	for _, use := range w.gates {
		if use.gate.Health != "" && len(use.hosts) > 0 && !w.answersAnyHost(use.server) {
			f.Warn(use.site, fmt.Sprintf("health %s is answered for the Host %s only, and the probe of a balancer often sends the machine's address", use.gate.Health, strings.Join(use.hosts, " or ")),
				"let the probe send that Host; or give it a site without a name: http://:8081 { wxgate { health "+use.gate.Health+" } }")
		}
		if examined[use.site] {
			continue
		}
		examined[use.site] = true
		if !slices.ContainsFunc(w.faults, func(fault Finding) bool { return fault.Subject == use.site }) {
			f.OK(use.site, "configuration is valid; Caddy passes the required headers")
		}
		for _, proxy := range w.proxies {
			if at := use.site + proxy.address; proxy.site == use.site && !examined[at] {
				examined[at] = true
				examineUpstream(ctx, &f, use.site, strings.TrimPrefix(proxy.through, "reverse_proxy "))
			}
		}
	}
	if running != nil {
		w.examineKeySets(ctx, &f)
	}
	a.examineTraffic(&f, running)
	a.examineAPI(ctx, &f)
	return f
}

// answersAnyHost reports whether a site of the server without a name has a
// health path.
func (w *walk) answersAnyHost(server *caddyhttp.Server) bool {
	return slices.ContainsFunc(w.gates, func(use gateUse) bool {
		return use.server == server && len(use.hosts) == 0 && use.gate.Health != ""
	})
}

// dialTimeout bounds how long an upstream on a near network may take to answer.
const dialTimeout = 2 * time.Second

func examineUpstream(ctx context.Context, f *Findings, site, address string) {
	address = caddy.NewReplacer().ReplaceKnown(address, "")
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil || parsed.PortRangeSize() != 1 || strings.Contains(address, "{") {
		return // only a request decides, or a look-up
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, parsed.Network, parsed.JoinHostPort(0))
	if err != nil {
		f.Fault(site, fmt.Sprintf("the upstream does not answer: %v", err), "start the application, or correct its address after reverse_proxy")
		return
	}
	_ = conn.Close()
	f.OK(site, "the upstream %s answers", address)
}

// examineKeySets fetches the key set from the running gateway where assertions
// are used, as an application does that verifies them.
func (w *walk) examineKeySets(ctx context.Context, f *Findings) {
	asserts := false
	for _, use := range w.gates {
		if use.gate.Assertion != nil && !use.errors {
			asserts = true
			fetchKeySet(ctx, f, use, use.gate.Assertion.JWKS)
		}
	}
	for _, relay := range w.relays {
		if asserts {
			fetchKeySet(ctx, f, relay, DefaultJWKS)
		}
	}
}

func fetchKeySet(ctx context.Context, f *Findings, use gateUse, path string) {
	listener, err := caddy.ParseNetworkAddressWithDefaults(use.server.Listen[0], "tcp", 0)
	if err != nil {
		return // what provisioning accepts is one
	}
	host, scheme := "localhost", "http"
	if len(use.hosts) > 0 && !strings.ContainsAny(use.hosts[0], "*{") {
		host = use.hosts[0]
	}
	if len(use.server.TLSConnPolicies) > 0 {
		scheme = "https"
	}
	client := asker(&http.Transport{
		// Whether the certificate is good is not the question.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // no secret is sent, and the keys are not used
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, listener.Network, listener.JoinHostPort(0))
		},
	})
	var set struct{ Keys []json.RawMessage }
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: scheme, Host: host, Path: path}).String(), nil)
	if err != nil {
		f.Error(use.site, err)
		return
	}
	resp, err := client.Do(req)
	if err == nil {
		defer resp.Body.Close()
		if json.NewDecoder(resp.Body).Decode(&set) != nil || len(set.Keys) == 0 {
			err = errors.New("the answer is another one, " + resp.Status)
		}
	}
	if err != nil {
		f.Fault(use.site, fmt.Sprintf("applications cannot fetch the keys of assertions, %s, from the running gateway: %v", path, err),
			"a route before wxgate, such as redir or respond, or another site answers that path: let it come to wxgate, or name another: assertion { jwks <path> }")
		return
	}
	f.OK(use.site, "applications can fetch the keys of assertions, %s", path)
}

// fewLogins is a number of logins too small to judge by.
const fewLogins = 3

// examineTraffic compares the logins of the running gateway with what follows
// them: a client that has logged in sends its token, unless a proxy in between
// removes the header.
func (a *App) examineTraffic(f *Findings, running *adminapi.Stats) {
	if running == nil {
		return
	}
	logins, allowed, missing := running.Logins["ok"], running.Requests["allowed"], running.Requests["missing"]
	if logins < fewLogins || missing < logins || allowed >= logins {
		return
	}
	f.Warn("traffic", fmt.Sprintf("%d logins succeeded, but %d requests came without a token and only %d with one: something on the way removes the header %s, or clients do not send it", logins, missing, allowed, strings.Join(a.tokenHeaders, " or ")),
		"nginx drops names with an underscore: underscores_in_headers on; with a CDN or a cloud balancer let clients send Authorization: Bearer <3rd_session>, and write token_from 3rd_session bearer")
}

// examineAPI examines what wxgate_api and phone numbers need: an access_token
// of each mini program, and a name of WeChat's API that does not lead here. It
// must come after the sites were provisioned.
func (a *App) examineAPI(ctx context.Context, f *Findings) {
	if !a.usesAPI.Load() {
		return
	}
	if u, err := url.Parse(a.WeChatAPI); err == nil && a.WeChatProxy == "" {
		lookup, cancel := context.WithTimeout(ctx, askTimeout)
		addresses, _ := net.DefaultResolver.LookupIP(lookup, "ip", u.Hostname()) // what fails, examineWeChat has told
		cancel()
		examineName(f, u.Hostname(), addresses)
	}
	for _, mp := range a.MiniPrograms {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		err := a.api.Tokens().Try(ctx, mp.AppID)
		cancel()
		subject := "access_token " + mp.AppID
		if err == nil {
			f.OK(subject, "WeChat gives one to this machine")
			continue
		}
		f.Fault(subject, err.Error(), cureOf(err, "fix the connection to WeChat; see docs/troubleshooting.md"))
	}
}

// examineName finds a name that was mapped to the gateway for applications from
// Cloud Hosting, and for the gateway too.
func examineName(f *Findings, host string, addresses []net.IP) {
	if host == "localhost" || net.ParseIP(host) != nil {
		return // what was written is what was meant
	}
	for _, ip := range addresses {
		if ip.IsLoopback() || ip.IsPrivate() {
			f.Fault("wechat", fmt.Sprintf("%s is %v on this machine, so the gateway would call itself or a neighbour", host, ip),
				"take the name out of /etc/hosts here, or set wechat_api https://api2.weixin.qq.com")
			return
		}
	}
}
