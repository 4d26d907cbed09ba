package wechat

import (
	"context"
	"crypto/x509"
	"net"
)

// ParseReply is parseReply, for fuzzing without a network.
var ParseReply = parseReply

// SetDialContext gives the client another network: the one in memory of a synctest bubble.
func (c *Client) SetDialContext(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	c.transport.DialContext = dial
}

// SetRootCAs makes the client trust a test server's certificate.
func (c *Client) SetRootCAs(pool *x509.CertPool) { c.transport.TLSClientConfig.RootCAs = pool }

// SetDialContext gives the API another network.
func (a *API) SetDialContext(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	a.once.DialContext, a.kept.DialContext = dial, dial
}

// What fuzzing reads without a network.
var (
	ParsePhone = parsePhone
	ParseHead  = parseHead
	ReadHead   = readHead
)
