package redistest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A TLS is a certificate for 127.0.0.1 and localhost that signs itself.
type TLS struct {
	// File has the certificate and its key: it is the CA file, too.
	File string

	// Client trusts the certificate.
	Client *tls.Config
}

// StartTLS runs a single server that speaks TLS only.
func StartTLS(t testing.TB, directives ...string) (*Server, *TLS) {
	t.Helper()
	certificate := NewTLS(t)
	return start(t, certificate, ready, directives), certificate
}

// NewTLS makes a certificate for servers and clients. That of net/http/httptest
// is always the same, is not for localhost, and not for clients.
func NewTLS(t testing.TB) *TLS {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "redistest"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:              []string{"localhost"},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	var text bytes.Buffer
	require.NoError(t, pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
	require.NoError(t, pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	file := filepath.Join(t.TempDir(), "tls.pem")
	require.NoError(t, os.WriteFile(file, text.Bytes(), 0o600))
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(text.Bytes()))
	return &TLS{file, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
}
