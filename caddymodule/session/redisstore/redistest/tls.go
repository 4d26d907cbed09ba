package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A TLS is a certificate for 127.0.0.1 and localhost that signs itself.
type TLS struct {
	CAFile, CertFile, KeyFile string

	// Client trusts the certificate.
	Client *tls.Config
}

// StartTLS runs a single server that speaks TLS only.
func StartTLS(t testing.TB, directives ...string) (*Server, *TLS) {
	t.Helper()
	certificate := NewTLS(t)
	return start(t, serverMode, certificate, directives), certificate
}

// NewTLS returns a certificate of 127.0.0.1 that signs itself, for servers and clients.
func NewTLS(t testing.TB) *TLS {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "redistest"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:              []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	certFile := write("cert.pem", "CERTIFICATE", der)
	return &TLS{
		CAFile:   certFile,
		CertFile: certFile,
		KeyFile:  write("key.pem", "PRIVATE KEY", keyDER),
		Client:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
}
