package serverapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhoMayCall(t *testing.T) {
	private, err := newClients([]string{"10.1.2.3/8", "fe80::/10", "192.0.2.7"})
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		clients clients
		peer    string
		proven  bool
		header  string
		want    bool
	}{
		"loopback":                {nil, "127.0.0.1:1", false, "", true},
		"IPv6 loopback":           {nil, "[::1]:1", false, "", true},
		"another machine":         {nil, "10.0.0.1:1", false, "", false},
		"no address":              {nil, "", false, "", false},
		"no address with clients": {private, "@", false, "", false},
		"in a range":              {private, "10.200.0.1:1", false, "", true},
		"in a range, mapped":      {private, "[::ffff:10.0.0.1]:1", false, "", true},
		"with a zone":             {private, "[fe80::1%eth0]:1", false, "", true},
		"an address":              {private, "192.0.2.7:1", false, "", true},
		"beside the ranges":       {private, "192.0.2.8:1", false, "", false},
		"a key from anywhere":     {nil, "192.0.2.8:1", true, "", true},
		"a key beside the ranges": {private, "192.0.2.8:1", true, "", false},
		"X-Forwarded-For":         {nil, "127.0.0.1:1", false, "X-Forwarded-For", false},
		"Forwarded":               {nil, "127.0.0.1:1", false, "Forwarded", false},
		"Via":                     {nil, "127.0.0.1:1", false, "Via", false},
		"X-Real-IP":               {nil, "127.0.0.1:1", false, "X-Real-Ip", false},
		"Origin":                  {nil, "127.0.0.1:1", false, "Origin", false},
		"Sec-Fetch-Site":          {nil, "127.0.0.1:1", false, "Sec-Fetch-Site", false},
		"a key by a proxy":        {nil, "127.0.0.1:1", true, "X-Forwarded-For", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = tc.peer
			if tc.header != "" {
				r.Header[tc.header] = []string{"x"}
			}
			require.Equal(t, tc.want, tc.clients.check(r, tc.proven) == nil)
		})
	}
}

func TestASocketsPermissionsDecide(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "http://api.example.com/", nil)
	r.RemoteAddr = "@"
	require.Error(t, clients(nil).check(r, false))
	require.Error(t, checkHost(r))
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.UnixAddr{Net: "unix", Name: "/run/api.sock"}))
	require.NoError(t, clients(nil).check(r, false))
	require.NoError(t, checkHost(r))
}

func TestACertificateMustBeVerified(t *testing.T) {
	h, r := new(Handler), httptest.NewRequest(http.MethodGet, "/", nil)
	require.False(t, h.certified(r))
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}
	require.False(t, h.certified(r))
	r.TLS.VerifiedChains = [][]*x509.Certificate{{{}}}
	require.True(t, h.certified(r))
}
