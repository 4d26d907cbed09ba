package gatewaytest

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

// A RawRequest is written as it stands: nothing in it is checked, made
// canonical or put in order, as by a client that attacks.
type RawRequest struct {
	Method    string   // default GET
	Path      string   // the request target; default /
	Authority string   // default: the gateway's address
	Protocol  string   // of an extended CONNECT (HTTP/2 and HTTP/3), which stays open
	Header    []string // lines "Name: value"
	Body      string   // chunked, in HTTP/1.1
	Trailer   []string // lines "Name: value"; announced only if Header says so
}

// A Sender sends a request over a connection of its own and reads the answer.
// An error means that the server ended the stream or the connection instead.
type Sender func(RawRequest) (Response, error)

// Senders has a Sender for each protocol that a TLS site speaks.
func (g *Gateway) Senders() map[string]Sender {
	return map[string]Sender{"h1": g.SendH1, "h2": g.SendH2, "h3": g.SendH3}
}

// An Opener sends a request over a connection of its own and returns when the
// head of the answer is there.
type Opener func(RawRequest) (*Stream, error)

// Openers has an Opener for each protocol that a TLS site speaks.
func (g *Gateway) Openers() map[string]Opener {
	return map[string]Opener{"h1": g.OpenH1, "h2": g.OpenH2, "h3": g.OpenH3}
}

// A Stream is an answer whose body is still coming. Reading ends with io.EOF
// only if the server ended it in good order.
type Stream struct {
	Status int
	Header http.Header
	io.Reader
	close func()
}

// Close hangs up.
func (s *Stream) Close() { s.close() }

// response reads a Stream to its end.
func response(s *Stream, err error) (Response, error) {
	if err != nil {
		return Response{}, err
	}
	defer s.Close()
	body, err := io.ReadAll(s)
	return Response{Status: s.Status, Header: s.Header, Body: string(body)}, err
}

func (g *Gateway) withDefaults(r RawRequest) RawRequest {
	if r.Method == "" {
		r.Method = http.MethodGet
	}
	if r.Path == "" {
		r.Path = "/"
	}
	if r.Authority == "" {
		r.Authority = g.Addr
	}
	return r
}

// splitLine takes a line "Name: value" apart.
func splitLine(line string) (name, value string) {
	name, value, _ = strings.Cut(line, ":")
	return name, strings.TrimSpace(value)
}

// SendH1 is the Sender of HTTP/1.1, over TLS if the site has it.
func (g *Gateway) SendH1(r RawRequest) (Response, error) { return response(g.OpenH1(r)) }

// OpenH1 is the Opener of HTTP/1.1. After 101 the Stream is the connection.
func (g *Gateway) OpenH1(r RawRequest) (*Stream, error) {
	r = g.withDefaults(r)
	conn, err := g.dial()
	if err != nil {
		return nil, err
	}
	s, err := openH1(conn, r)
	if err != nil {
		_ = conn.Close()
	}
	return s, err
}

func openH1(conn net.Conn, r RawRequest) (*Stream, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, r.text()); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, &http.Request{Method: r.Method})
	if err != nil {
		return nil, err
	}
	s := &Stream{Status: resp.StatusCode, Header: resp.Header, Reader: resp.Body, close: func() { _ = conn.Close() }}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		s.Reader = reader
	}
	return s, nil
}

// text is the request in HTTP/1.1.
func (r RawRequest) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.Method, r.Path, r.Authority)
	for _, line := range r.Header {
		b.WriteString(line + "\r\n")
	}
	if r.Body == "" && r.Trailer == nil {
		b.WriteString("\r\n")
		return b.String()
	}
	b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
	if r.Body != "" {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(r.Body), r.Body)
	}
	b.WriteString("0\r\n")
	for _, line := range r.Trailer {
		b.WriteString(line + "\r\n")
	}
	b.WriteString("\r\n")
	return b.String()
}

func (g *Gateway) dial() (net.Conn, error) {
	if g.roots == nil {
		return net.Dial("tcp", g.Addr)
	}
	return tls.Dial("tcp", g.Addr, g.TLSConfig("http/1.1"))
}

// WithTLS makes the site of a Config have a certificate of Caddy's internal
// authority and speak HTTP/1.1, HTTP/2 and HTTP/3. It has no Address.
func (c Config) WithTLS() Config {
	c.Address = "https://$LISTEN"
	c.Next = "tls internal\n" + c.next()
	c.Options += "\nskip_install_trust\nauto_https disable_redirects"
	return c
}

// RunTLS is Run for a Config WithTLS, and trusts its certificate.
func (g *Gateway) RunTLS(cfg Config) {
	g.tb.Helper()
	g.URL = "https://" + g.Addr
	g.Run(cfg.WithTLS())
	root := filepath.Join(g.Dir, "data", "caddy", "pki", "authorities", "local", "root.crt")
	g.Eventually(func() bool {
		pem, err := os.ReadFile(root)
		g.roots = x509.NewCertPool()
		return err == nil && g.roots.AppendCertsFromPEM(pem)
	}, "Caddy has its internal authority")
	g.Eventually(func() bool {
		conn, err := g.dial()
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, "Caddy has the site's certificate")
}

// Revoke ends all sessions of a user of the first mini program, at the admin
// endpoint.
func (g *Gateway) Revoke(user string) {
	g.tb.Helper()
	req, err := http.NewRequest(http.MethodDelete, "http://admin/wxgate/users/"+AppID+"/"+g.OpenID(user), nil)
	require.NoError(g.tb, err)
	resp, err := ReadResponse(g.AdminClient().Do(req))
	require.NoError(g.tb, err)
	require.Less(g.tb, resp.Status, 300, resp.Body)
}

// TLSConfig trusts Caddy's internal authority and offers one protocol.
func (g *Gateway) TLSConfig(protocol string) *tls.Config {
	require.NotNil(g.tb, g.roots, "the site has no TLS: start it with RunTLS")
	return &tls.Config{RootCAs: g.roots, NextProtos: []string{protocol}, MinVersion: tls.VersionTLS12}
}

// SendAndDrain sends text as it stands, byte for byte, and reads until the
// server hangs up or has nothing more to say.
func (g *Gateway) SendAndDrain(text string) string {
	g.tb.Helper()
	conn, err := g.dial()
	require.NoError(g.tb, err)
	defer conn.Close()
	_, _ = io.WriteString(conn, text)
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	answer, _ := io.ReadAll(conn)
	return string(answer)
}
