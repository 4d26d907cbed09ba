package wechat

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
)

// ParseReply is parseReply, for fuzzing without a network.
var ParseReply = parseReply

// SetDialContext gives the client another network: the one in memory of a synctest bubble.
func (c *Client) SetDialContext(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	c.transport.(*pool).dial = dial
}

// OnDial calls f before each new connection.
func (c *Client) OnDial(f func()) {
	dial := c.transport.(*pool).dial
	c.SetDialContext(func(ctx context.Context, network, address string) (net.Conn, error) {
		f()
		return dial(ctx, network, address)
	})
}

// SetRootCAs makes the client trust a test server's certificate.
func (c *Client) SetRootCAs(roots *x509.CertPool) {
	switch t := c.transport.(type) {
	case *pool:
		t.tls.RootCAs = roots
	case *http.Transport:
		t.TLSClientConfig.RootCAs = roots
	}
}

// InFlight returns how many exchanges have a place.
func (c *Client) InFlight() int { return c.turns.inFlight() }

// InFlight returns how many calls have a place.
func (a *API) InFlight() int { return a.turns.inFlight() }

func (t *turns) inFlight() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.taken
}

// Get returns the access_token that a call is made with.
func (t *Tokens) Get(ctx context.Context, appID string) (string, error) {
	token, err := t.get(ctx, appID)
	if err != nil {
		return "", err
	}
	return token, nil
}

// UseOneConnectionEach makes the client use the transport that it has where there is a proxy.
func (c *Client) UseOneConnectionEach() { c.transport = newProxyTransport(Config{}, nil) }

// IdleConnections returns how many connections are kept.
func (c *Client) IdleConnections() int { return c.transport.(*pool).countIdle() }

// IdleConnections returns how many connections are kept.
func (a *API) IdleConnections() int { return a.transport.(*pool).countIdle() }

func (p *pool) countIdle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

// SetDialContext gives the API another network.
func (a *API) SetDialContext(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	a.transport.(*pool).dial = dial
}

// What fuzzing reads without a network.
var (
	ParsePhone = parsePhone
	ParseHead  = parseHead
	ReadHead   = readHead
)
