package caddymodule

import (
	"cmp"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/maypok86/otter/v2"
)

// LoginRate limits how often one client address may log in.
type LoginRate struct {
	// How many logins in one window; they may come all at once. Only what is
	// sent to WeChat counts. An IPv6 client counts for its /64, and for its /48
	// at ten times the rate. Default: 600
	Events int `json:"events,omitempty"`

	// The window. Default: 1m
	Window caddy.Duration `json:"window,omitempty"`

	// No limit at all.
	Off bool `json:"off,omitempty"`
}

const (
	defaultLoginEvents = 600
	defaultLoginWindow = time.Minute

	// siteFactor is how many times the rate of a /64 an IPv6 /48 has.
	siteFactor = 10

	// maxAddresses bounds the memory: beyond it the addresses that were
	// quiet the longest are forgotten.
	maxAddresses = 100_000
)

func (l *LoginRate) setDefaults() {
	l.Events = cmp.Or(l.Events, defaultLoginEvents)
	l.Window = cmp.Or(l.Window, caddy.Duration(defaultLoginWindow))
}

func (l *LoginRate) check() error {
	if l.Off {
		return nil
	}
	if l.Events < 1 {
		return errors.New("events must be 1 or more, or off true")
	}
	return named("window", checkDuration(l.Window))
}

// loginRate limits logins by address. An address that was quiet for a whole window has its
// whole allowance again, so forgetting it then changes nothing.
type loginRate struct {
	now        func() time.Time
	interval   time.Duration // between two logins at the rate
	window     time.Duration
	allowances *otter.Cache[netip.Prefix, *allowance] // nil: no limit
}

// A budget is one of the two things that an address has an allowance of. They are apart, so
// that requests that are no logins do not use up the logins of others behind the address.
type budget int

const (
	exchanges budget = iota // what is sent to WeChat
	refusals                // what the gateway refuses by itself
	budgets
)

// An allowance is the leaky buckets of an address (GCRA).
type allowance struct {
	mu   sync.Mutex
	next [budgets]time.Time // when the bucket is empty
}

func newLoginRate(cfg *LoginRate) *loginRate {
	l := &loginRate{now: time.Now}
	if cfg.Off {
		return l
	}
	l.window = time.Duration(cfg.Window)
	l.interval = max(l.window/time.Duration(cfg.Events), 1)
	l.allowances = otter.Must(&otter.Options[netip.Prefix, *allowance]{
		MaximumSize:      maxAddresses,
		ExpiryCalculator: otter.ExpiryAccessing[netip.Prefix, *allowance](l.window),
	})
	return l
}

// take charges a login to its source. It returns a function that takes the charge back, or
// tooManyLogins. The invalid source is not limited: see sourceOf.
func (l *loginRate) take(source netip.Prefix, b budget) (refund func(), err error) {
	if l.allowances == nil || !source.IsValid() {
		return func() {}, nil
	}
	refundHost, err := l.charge(source, b, l.interval)
	if err != nil || !source.Addr().Is6() {
		return refundHost, err
	}
	site, _ := source.Addr().Prefix(48) // an IPv6 address has these bits
	refundSite, err := l.charge(site, b, max(l.interval/siteFactor, 1))
	if err != nil {
		refundHost()
		return nil, err
	}
	return func() { refundHost(); refundSite() }, nil
}

func (l *loginRate) charge(prefix netip.Prefix, b budget, interval time.Duration) (refund func(), err error) {
	a, ok := l.allowances.GetIfPresent(prefix)
	if !ok {
		a, _ = l.allowances.SetIfAbsent(prefix, new(allowance))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := l.now()
	next := a.next[b]
	if next.Before(now) {
		next = now
	}
	next = next.Add(interval)
	if wait := next.Sub(now) - l.window; wait > 0 {
		return nil, tooManyLogins{retryAfter: wait}
	}
	a.next[b] = next
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.next[b] = a.next[b].Add(-interval)
	}, nil
}

// sourceOf returns the prefix that a client counts for: its IPv4 address or its IPv6 /64,
// which one host has for itself. It is invalid for a client without an address (a unix socket
// whose peer is not a trusted proxy): one allowance for all of them would let one user lock
// out the others.
func sourceOf(r *http.Request) netip.Prefix {
	address, err := netip.ParseAddr(clientIP(r))
	if err != nil {
		return netip.Prefix{}
	}
	address = address.Unmap()
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	prefix, _ := address.Prefix(bits) // an address has these bits
	return prefix
}

func (l *loginRate) close() {
	if l.allowances != nil {
		l.allowances.StopAllGoroutines()
	}
}

// clientIP returns the client's address as Caddy sees it: behind a trusted proxy
// the forwarded one, and never one that a client made up.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}
