package redisstore

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wxgate/wxgate/caddymodule/session/redisstore/respguard"
)

// renewInterval is the least time between two renewals of all connections.
const renewInterval = time.Second

// conns are all open connections. rueidis replaces a connection only when it
// breaks, so this breaks those that are of no more use.
type conns struct {
	logger     *slog.Logger
	subscribes bool     // there are Sentinels among the servers
	secrets    []string // passwords, which no error may hold
	paces      *paces
	outage     atomic.Bool // a connection failed for another reason than a mistake in the options

	mu      sync.Mutex
	open    map[*conn]struct{}
	renewed time.Time
	closed  bool
}

// A conn is one connection, known to conns until it is closed.
type conn struct {
	*respguard.Conn
	address string
	all     *conns

	// The first reply, which is the one to HELLO, shows how the attempt ended.
	// If it is an error rueidis gives up, or goes on where HELLO is unknown.
	attempt  *attempt
	answered bool
}

func newConns(logger *slog.Logger, subscribes bool, secrets []string) *conns {
	return &conns{logger: logger, subscribes: subscribes, secrets: secrets, paces: newPaces(), open: make(map[*conn]struct{})}
}

// dial is rueidis' DialCtxFn.
func (c *conns) dial(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
	attempt, err := c.paces.startAttempt(address)
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
		if !isMistake(err) {
			c.outage.Store(true)
		}
		attempt.settle(err)
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = raw.Close() // nothing was sent
		attempt.settle(net.ErrClosed)
		return nil, net.ErrClosed
	}
	opened := &conn{Conn: respguard.New(raw, c.subscribes), address: address, all: c, attempt: attempt}
	c.open[opened] = struct{}{}
	return opened, nil
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	switch {
	case c.answered:
	case n > 0:
		c.answered = true
		text, _, _ := bytes.Cut(p[:n], []byte("\r\n"))
		if text[0] == '-' && !bytes.Contains(text, []byte("unknown command")) {
			c.attempt.settle(newServerError(string(text[1:]), c.all.secrets))
		} else {
			c.attempt.settle(nil)
		}
	case err != nil:
		c.attempt.settle(err)
	}
	return n, err
}

func (c *conn) Close() error {
	c.attempt.settle(errUnanswered)
	c.all.mu.Lock()
	delete(c.all.open, c)
	c.all.mu.Unlock()
	return c.Conn.Close()
}

// renew closes all connections, so that the next command makes new ones. It
// does so at most once per renewInterval, and logs why.
func (c *conns) renew(why string) {
	c.mu.Lock()
	due := time.Since(c.renewed) >= renewInterval
	if due {
		c.renewed = time.Now()
	}
	c.mu.Unlock()
	if due {
		c.logger.Warn("making new connections to Redis", "reason", why)
		c.closeTo("")
	}
}

// closeForever closes all connections and lets no more be made.
func (c *conns) closeForever() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.closeTo("")
}

// closeTo closes the connections to address, or all if it is empty.
func (c *conns) closeTo(address string) {
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

// While connections to an address cannot be made, the attempts are this far
// apart: short at first, since most failures pass, and longer with each one.
const (
	shortestRest = 10 * time.Millisecond
	longestRest  = 160 * time.Millisecond
)

// paces keep attempts to connect apart. Every call that finds no connection
// makes one, so without this a gateway with many requests would connect
// thousands of times in a second to a server that is down, has too many
// clients, or no longer takes the password, which with TLS costs that server
// more than anything else.
type paces struct {
	mu sync.Mutex
	of map[string]*pace // by address
}

// A pace is what is known of one address.
type pace struct {
	failures int       // since the last success
	next     time.Time // when the next attempt may begin
	trying   bool      // it is under way; the others wait for how it ends
	reason   error     // why the last one failed
}

func newPaces() *paces { return &paces{of: make(map[string]*pace)} }

// errUnanswered is the reason of an attempt whose connection was closed before
// the server sent anything.
var errUnanswered = fmt.Errorf("server did not answer on the last connection: %w", os.ErrDeadlineExceeded)

// errResting is returned when no attempt to connect was made.
var errResting = errors.New("connecting again in a moment")

// An attempt is one connection on its way.
type attempt struct {
	paces *paces
	pace  *pace
	alone bool // no other attempt may begin until this one has ended
	once  sync.Once
}

// startAttempt returns an attempt, or why none may be made now.
func (p *paces) startAttempt(address string) (*attempt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.of[address]
	if known == nil {
		known = new(pace)
		p.of[address] = known
	}
	a := &attempt{paces: p, pace: known}
	if known.failures == 0 {
		return a, nil
	}
	if known.trying || time.Now().Before(known.next) {
		return nil, fmt.Errorf("%w: %w", errResting, known.reason)
	}
	known.trying, a.alone = true, true
	return a, nil
}

// settle records how an attempt ended: nil if the server has accepted the
// connection. Only the first call counts.
func (a *attempt) settle(err error) {
	a.once.Do(func() {
		a.paces.mu.Lock()
		defer a.paces.mu.Unlock()
		known, now := a.pace, time.Now()
		if a.alone {
			known.trying = false
		}
		switch {
		case err == nil:
			known.failures = 0
		case a.alone || known.failures == 0: // and not one of several that fail together
			known.failures++
			known.reason = err
			known.next = now.Add(min(longestRest, shortestRest<<min(known.failures-1, 8)))
		}
	})
}
