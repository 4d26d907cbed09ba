package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"
)

// LoginRate limits how often one client address may log in.
type LoginRate struct {
	// How many logins in one window; they may come all at once. Default: 600
	Events int `json:"events,omitempty"`

	// The window. Default: 1m
	Window caddy.Duration `json:"window,omitempty"`

	// No limit at all.
	Off bool `json:"off,omitempty"`
}

const (
	defaultLoginEvents = 600
	defaultLoginWindow = time.Minute

	// maxAddresses bounds the memory: beyond it the addresses that were
	// quiet the longest start afresh.
	maxAddresses = 100_000
)

func (l *LoginRate) setDefaults() {
	if l.Events == 0 {
		l.Events = defaultLoginEvents
	}
	if l.Window == 0 {
		l.Window = caddy.Duration(defaultLoginWindow)
	}
}

func (l *LoginRate) check() error {
	if l.Off {
		return nil
	}
	if l.Events < 1 {
		return errors.New("events must be 1 or more, or off true")
	}
	if err := checkDuration(l.Window); err != nil {
		return fmt.Errorf("window: %w", err)
	}
	return nil
}

// loginRate counts logins by address: a token bucket for each. An address that
// was quiet for a whole window has a full bucket again, so forgetting it then
// changes nothing.
type loginRate struct {
	limit   rate.Limit
	burst   int
	buckets *otter.Cache[netip.Prefix, *rate.Limiter] // nil: no limit
}

func newLoginRate(cfg *LoginRate) *loginRate {
	l := new(loginRate)
	if cfg.Off {
		return l
	}
	window := time.Duration(cfg.Window)
	l.limit = rate.Limit(float64(cfg.Events) / window.Seconds())
	l.burst = cfg.Events
	l.buckets = otter.Must(&otter.Options[netip.Prefix, *rate.Limiter]{
		MaximumSize:      maxAddresses,
		ExpiryCalculator: otter.ExpiryAccessing[netip.Prefix, *rate.Limiter](window),
	})
	return l
}

// take returns nil, or how long the address has to wait. A client without an
// address (a unix socket whose peer is not a trusted proxy) is not limited:
// one bucket for all of them would let one user lock out the rest.
func (l *loginRate) take(r *http.Request) error {
	if l.buckets == nil {
		return nil
	}
	// The zero address, which is not valid, stands for none.
	address, _ := netip.ParseAddr(clientIP(r))
	if !address.IsValid() {
		return nil
	}
	prefix := addressPrefix(address)
	bucket, ok := l.buckets.GetIfPresent(prefix)
	if !ok {
		bucket, _ = l.buckets.SetIfAbsent(prefix, rate.NewLimiter(l.limit, l.burst))
	}
	reservation := bucket.Reserve()
	if delay := reservation.Delay(); delay > 0 {
		reservation.Cancel()
		return tooManyLogins{retryAfter: delay}
	}
	return nil
}

// addressPrefix is whom an address counts for: an IPv6 host has a whole /64.
func addressPrefix(address netip.Addr) netip.Prefix {
	address = address.Unmap().WithZone("")
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	prefix, _ := address.Prefix(bits) // an address has these bits
	return prefix
}

func (l *loginRate) close() {
	if l.buckets != nil {
		l.buckets.StopAllGoroutines()
	}
}

// clientIP is the client's address as Caddy sees it: behind a trusted proxy
// the forwarded one, and never one that a client made up.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}
