package wechat

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// poolIdleTimeout is how long a connection is kept without a request.
	poolIdleTimeout = 15 * time.Second

	// poolLifetime bounds the age of a connection, so that a change of WeChat's address is noticed.
	poolLifetime = 5 * time.Minute

	// poolQuietTime is for how long a connection must be silent after a reply before it is used
	// again, so that surplus bytes which are on their way arrive before the next request is sent.
	poolQuietTime = 10 * time.Millisecond

	maxReplyHeader = 16 << 10
)

// A pool is a transport to one address that sends each request exactly once, over connections
// that are kept. A request is sent to its end before its reply is read.
//
// It exists because of two faults of http.Transport (Go 1.26). When a kept connection dies, it
// sends a GET again by itself (Transport.shouldRetryRequest), and the code would be burnt. And
// bytes beyond the end of one reply are read as the reply to the next request, so that one
// user would be taken for another; or are printed, with the session_key in them ("Unsolicited
// response received on idle HTTP channel"). HTTP/2 repeats requests, too, so this is HTTP/1.1.
type pool struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	address string
	tls     *tls.Config // nil for plain HTTP
	maxIdle int
	maxBody int64 // how much of a reply is read at most

	mu     sync.Mutex
	idle   []*poolConn // that are silent, the last used at the end
	closed bool
}

// A poolConn is a connection and what is needed to read replies from it.
type poolConn struct {
	net.Conn
	pool   *pool
	born   time.Time
	header io.LimitedReader // what the reader reads from, to bound a header
	reader *bufio.Reader
	writer *bufio.Writer
	quiet  chan bool // receives from watch whether the connection was silent until it was taken
}

// RoundTrip implements http.RoundTripper.
func (p *pool) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	conn, err := p.take(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	resp, err := conn.exchange(req)
	if err != nil {
		stop()
		_ = conn.Close()
		return nil, err
	}
	resp.Body = &poolBody{body: resp.Body, conn: conn, stop: stop, reusable: !resp.Close}
	return resp, nil
}

// exchange sends a request and reads the header of its reply.
func (c *poolConn) exchange(req *http.Request) (*http.Response, error) {
	if err := c.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if err := req.Context().Err(); err != nil {
		return nil, err // the deadline that its end set may have been removed just now
	}
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: c.Conn})
	}
	err := req.Write(c.writer)
	broken := c.writer.Flush()
	if err != nil && broken == nil {
		return nil, err // the request's body cannot be read
	}
	c.header.N = maxReplyHeader
	for {
		resp, err := http.ReadResponse(c.reader, req)
		switch {
		case err != nil && broken != nil:
			return nil, broken
		case err != nil:
			return nil, err
		case resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols:
			c.header.N = c.pool.maxBody + maxReplyHeader // chunks have a size in front
			// A server that refuses a long body replies and hangs up.
			resp.Close = resp.Close || broken != nil
			return resp, nil
		}
	}
}

// A poolBody is the body of a reply. When it is closed, its connection is kept if the reply
// ended where it said.
type poolBody struct {
	body     io.ReadCloser
	conn     *poolConn
	stop     func() bool // of the request's context
	reusable bool
	ended    bool
}

// Read implements io.Reader.
func (b *poolBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.ended = b.ended || err == io.EOF
	b.reusable = b.reusable && (err == nil || err == io.EOF)
	return n, err
}

// Close implements io.Closer.
func (b *poolBody) Close() error {
	// If stop comes too late, a deadline is set that is not the next request's.
	stopped := b.stop()
	if stopped && b.reusable && b.ended && b.conn.reader.Buffered() == 0 {
		b.conn.pool.keep(b.conn)
		return nil
	}
	return b.conn.Close()
}

// take returns a connection that is silent, or a new one.
func (p *pool) take(ctx context.Context) (*poolConn, error) {
	for {
		p.mu.Lock()
		if len(p.idle) == 0 {
			p.mu.Unlock()
			return p.connect(ctx)
		}
		conn := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		p.mu.Unlock()
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		if <-conn.quiet {
			return conn, nil
		}
	}
}

func (p *pool) connect(ctx context.Context) (*poolConn, error) {
	conn, err := p.dial(ctx, "tcp", p.address)
	if err != nil {
		return nil, err
	}
	if p.tls != nil {
		secure := tls.Client(conn, p.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		conn = secure
	}
	c := &poolConn{Conn: conn, pool: p, born: time.Now()}
	c.header.R = conn
	c.reader = bufio.NewReader(&c.header)
	// It must not see ReadFrom, after which a failed reader looks like a failed connection.
	c.writer = bufio.NewWriter(struct{ io.Writer }{conn})
	return c, nil
}

// keep makes a connection available again when it has been silent for a moment.
func (p *pool) keep(conn *poolConn) {
	if time.Since(conn.born) > poolLifetime {
		_ = conn.Close()
		return
	}
	conn.quiet = make(chan bool, 1)
	go conn.watch()
}

// watch reads from a connection that nothing is expected from. It ends when take interrupts
// it, or closes the connection: something came, the other side hung up, or it was idle too long.
func (c *poolConn) watch() {
	err := c.SetReadDeadline(time.Now().Add(poolQuietTime))
	if err != nil || !c.isSilent() {
		_ = c.Close()
		return
	}
	// Set before it is added, because take sets another.
	err = c.SetReadDeadline(time.Now().Add(poolIdleTimeout))
	if err != nil || !c.pool.add(c) {
		_ = c.Close()
		return
	}
	silent := c.isSilent()
	taken := !c.pool.remove(c)
	if !taken || !silent {
		_ = c.Close()
	}
	if taken {
		c.quiet <- silent
	}
}

// isSilent reads, and reports whether nothing came until the deadline.
func (c *poolConn) isSilent() bool {
	var one [1]byte
	_, err := c.Read(one[:])
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// add reports whether the connection is kept.
func (p *pool) add(conn *poolConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= p.maxIdle {
		return false
	}
	p.idle = append(p.idle, conn)
	return true
}

// remove reports whether the connection was idle.
func (p *pool) remove(conn *poolConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.idle, conn)
	if i < 0 {
		return false
	}
	p.idle = slices.Delete(p.idle, i, i+1)
	return true
}

// CloseIdleConnections closes the idle connections now and those in use after their reply.
func (p *pool) CloseIdleConnections() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, conn := range p.idle {
		// Its watch finds that something came, and closes it.
		_ = conn.Close()
	}
}
