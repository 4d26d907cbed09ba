package caddymodule_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// memoryAddr is the address of everything here: loopback, so that it parses.
var memoryAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}

// A memoryListener hands the connections that a test makes to a server.
type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemoryListener() *memoryListener {
	return &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *memoryListener) Addr() net.Addr { return memoryAddr }

// A clientConn is a client's connection as the server sees it: it has sent all
// of its bytes, and waits for the answer before it hangs up.
type clientConn struct {
	done chan struct{} // closed when the server has closed the connection

	mu      sync.Mutex
	changed sync.Cond
	in      *bytes.Reader
	out     bytes.Buffer
	served  bool // a request is being served
	expired bool // the read deadline has passed
	tired   bool // the client does not wait any longer
	closed  bool
}

// patience is how long a client waits for a handler.
const patience = 5 * time.Second

func newClientConn(text []byte) *clientConn {
	c := &clientConn{in: bytes.NewReader(text), done: make(chan struct{})}
	c.changed.L = &c.mu
	return c
}

// Read implements net.Conn. While a request is served, net/http waits for one byte
// to notice when the client goes; that read ends by a deadline, or when the
// client's patience does. Every other read, of a request or a body that is not
// complete, finds the end.
func (c *clientConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case c.expired:
			return 0, os.ErrDeadlineExceeded
		case c.in.Len() > 0:
			return c.in.Read(p)
		case len(p) != 1 || !c.served || c.tired:
			return 0, io.EOF
		}
		timer := time.AfterFunc(patience, c.tire)
		c.changed.Wait()
		timer.Stop()
	}
}

func (c *clientConn) tire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tired = true
	c.changed.Broadcast()
}

// serve notes whether a request is being served.
func (c *clientConn) serve(served bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.served = served
}

// Write implements net.Conn.
func (c *clientConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	return c.out.Write(p)
}

// Close implements net.Conn.
func (c *clientConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		close(c.done)
		c.changed.Broadcast()
	}
	return nil
}

// SetReadDeadline implements net.Conn. Only deadlines in the past matter here.
func (c *clientConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired = !t.IsZero() && t.Before(time.Now())
	c.changed.Broadcast()
	return nil
}

// SetDeadline implements net.Conn.
func (c *clientConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (*clientConn) SetWriteDeadline(time.Time) error { return nil }

// LocalAddr implements net.Conn.
func (*clientConn) LocalAddr() net.Addr { return memoryAddr }

// RemoteAddr implements net.Conn.
func (*clientConn) RemoteAddr() net.Addr { return memoryAddr }

// answer returns what the server wrote.
func (c *clientConn) answer() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.out.Bytes())
}
