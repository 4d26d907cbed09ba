package redisstore

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"
)

// renewPause is the least time between two renewals of all connections.
const renewPause = time.Second

// conns are all open connections. rueidis replaces a connection only when it
// breaks, so this breaks those that are of no more use.
type conns struct {
	logger     *slog.Logger
	subscribes bool     // there are Sentinels among the servers
	secrets    []string // passwords, which no error may hold
	paces      *paces

	mu      sync.Mutex
	open    map[*conn]struct{}
	renewed time.Time
	closed  bool
}

// A conn is one connection, known to conns until it is closed.
type conn struct {
	guardedConn
	address string
	all     *conns

	// How the attempt ended shows in the first answer: the one to HELLO. If
	// that is an error rueidis gives up, or goes on where HELLO is unknown.
	attempt  *attempt
	answered bool
	written  int // up to 2
}

func newConns(logger *slog.Logger, subscribes bool, secrets []string) *conns {
	return &conns{logger: logger, subscribes: subscribes, secrets: secrets, paces: newPaces(), open: make(map[*conn]struct{})}
}

// dial is rueidis' DialCtxFn.
func (c *conns) dial(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
	attempt, err := c.paces.begin(address)
	if err != nil {
		return nil, err
	}
	network := "tcp"
	if isSocket(address) {
		network = "unix"
	}
	var raw net.Conn
	if config != nil {
		raw, err = (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, network, address)
	} else {
		raw, err = dialer.DialContext(ctx, network, address)
	}
	if err != nil {
		attempt.end(err)
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = raw.Close() // nothing was sent
		attempt.end(net.ErrClosed)
		return nil, net.ErrClosed
	}
	opened := &conn{address: address, all: c, attempt: attempt}
	opened.Conn = raw
	opened.answers.subscribes = c.subscribes
	c.open[opened] = struct{}{}
	return opened, nil
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.guardedConn.Read(p)
	switch {
	case c.answered:
	case n > 0:
		c.answered = true
		if text, refused := bytes.CutPrefix(p[:n], []byte("-")); refused {
			text, _, _ = bytes.Cut(text, []byte("\r\n"))
			if !bytes.Contains(text, []byte("unknown command")) {
				// It gives up, though not without a last PING.
				c.attempt.end(newServerError(string(text), c.all.secrets))
			}
		} else {
			c.attempt.end(nil)
		}
	case err != nil:
		c.attempt.end(err)
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	if c.written < 2 {
		if c.written++; c.written == 2 {
			c.attempt.end(nil)
		}
	}
	return c.guardedConn.Write(p)
}

func (c *conn) Close() error {
	c.attempt.end(errUnanswered)
	c.all.mu.Lock()
	delete(c.all.open, c)
	c.all.mu.Unlock()
	return c.Conn.Close()
}

// renew closes all connections, so that the next command makes new ones. It
// does so at most once per renewPause, and says why in the log.
func (c *conns) renew(why string) {
	c.mu.Lock()
	due := time.Since(c.renewed) >= renewPause
	if due {
		c.renewed = time.Now()
	}
	c.mu.Unlock()
	if due {
		c.logger.Warn("making new connections to Redis", "reason", why)
		c.close("")
	}
}

// end closes all connections, for good.
func (c *conns) end() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.close("")
}

// close closes the connections to address, or all if it is empty.
func (c *conns) close(address string) {
	c.mu.Lock()
	var closing []*conn
	for opened := range c.open {
		if address == "" || strings.EqualFold(opened.address, address) {
			closing = append(closing, opened)
		}
	}
	c.mu.Unlock()
	for _, opened := range closing {
		_ = opened.Close() // an error would change nothing
	}
}
