package caddymodule

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"
)

func TestLoginRateRefillsAndRefunds(t *testing.T) {
	l := newLoginRate(&LoginRate{Events: 6, Window: caddy.Duration(time.Minute)})
	t.Cleanup(l.close)
	now := time.Now()
	l.now = func() time.Time { return now }
	source := netip.MustParsePrefix("192.0.2.1/32")
	take := func(b budget) error {
		_, err := l.take(source, b)
		return err
	}
	for range 6 {
		require.NoError(t, take(exchanges))
	}
	require.Equal(t, tooManyLogins{retryAfter: 10 * time.Second}, take(exchanges))
	require.NoError(t, take(refusals), "the other budget is apart")

	now = now.Add(10 * time.Second)
	refund, err := l.take(source, exchanges)
	require.NoError(t, err)
	require.Error(t, take(exchanges))
	refund()
	require.NoError(t, take(exchanges))
	require.Error(t, take(exchanges))

	now = now.Add(time.Hour)
	for range 6 {
		require.NoError(t, take(exchanges))
	}
	require.Error(t, take(exchanges))
}

func TestARefusedSiteIsNotChargedToTheHost(t *testing.T) {
	l := newLoginRate(&LoginRate{Events: 1, Window: caddy.Duration(time.Minute)})
	t.Cleanup(l.close)
	now := time.Now()
	l.now = func() time.Time { return now }
	host := func(n byte) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 7: n}), 64)
	}
	for n := range byte(10) {
		_, err := l.take(host(n), exchanges)
		require.NoError(t, err)
	}
	_, err := l.take(host(10), exchanges)
	require.Equal(t, tooManyLogins{retryAfter: 6 * time.Second}, err, "the /48 is used up")
	now = now.Add(6 * time.Second)
	refund, err := l.take(host(10), exchanges)
	require.NoError(t, err)
	refund()
	_, err = l.take(host(11), exchanges)
	require.NoError(t, err, "the /48 has its place back")
}

func TestSourcesOfLogins(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
		"": "invalid Prefix", "@": "invalid Prefix",
	} {
		r := httptest.NewRequest(http.MethodPost, "/login", nil)
		r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: ip}))
		require.Equal(t, want, sourceOf(r).String(), ip)
	}
}

func TestIsEarlyData(t *testing.T) {
	for name, tc := range map[string]struct {
		tls    *tls.ConnectionState
		header string
		want   bool
	}{
		"plain":               {nil, "", false},
		"TLS":                 {&tls.ConnectionState{HandshakeComplete: true}, "", false},
		"0-RTT":               {&tls.ConnectionState{}, "", true},
		"a proxy has it":      {&tls.ConnectionState{HandshakeComplete: true}, "1", true},
		"a proxy without TLS": {nil, "1", true},
		"another value":       {nil, "0", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/login", nil)
			r.TLS = tc.tls
			if tc.header != "" {
				r.Header.Set("Early-Data", tc.header)
			}
			require.Equal(t, tc.want, isEarlyData(r))
		})
	}
}
