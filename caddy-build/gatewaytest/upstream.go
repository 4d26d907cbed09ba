package gatewaytest

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// A Received request is what the upstream got.
type Received struct {
	Raw     []byte // every byte of it, as it came over the wire
	Method  string
	URI     string
	Header  http.Header
	Trailer http.Header
	Body    []byte
}

// Lines returns the values of all header and trailer lines of the raw bytes
// whose name folds to name as CGI, WSGI and PHP fold names.
func (r Received) Lines(name string) []string {
	var values []string
	for line := range strings.SplitSeq(string(r.Raw), "\r\n") {
		if n, value, ok := strings.Cut(line, ":"); ok && Fold(n) == Fold(name) {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}

// Fold returns the name under which a CGI, WSGI or PHP application finds a
// header.
func Fold(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		default:
			return '_'
		}
	}, name)
}

// An Upstream records what it receives and answers 200, unless Handler says
// something else.
type Upstream struct {
	Addr string // host:port

	mu       sync.Mutex
	handler  http.HandlerFunc
	received []Received
	conns    map[*teeConn]struct{}
}

// connKey finds a request's connection in its context.
type connKey struct{}

func newUpstream(tb testing.TB) *Upstream {
	u := &Upstream{conns: make(map[*teeConn]struct{})}
	server := httptest.NewUnstartedServer(http.HandlerFunc(u.serve))
	server.Listener = teeListener{server.Listener, u}
	server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c)
	}
	server.Start()
	tb.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	u.Addr = server.Listener.Addr().String()
	return u
}

func (u *Upstream) serve(w http.ResponseWriter, r *http.Request) {
	conn := r.Context().Value(connKey{}).(*teeConn)
	u.mu.Lock()
	handler := u.handler
	u.mu.Unlock()
	got := Received{Method: r.Method, URI: r.RequestURI, Header: r.Header.Clone()}
	upgrade := r.Header.Get("Upgrade") != ""
	if !upgrade {
		got.Body, _ = io.ReadAll(r.Body)
		got.Trailer = r.Trailer.Clone()
		r.Body = io.NopCloser(bytes.NewReader(got.Body))
	}
	got.Raw = conn.take()
	u.mu.Lock()
	u.received = append(u.received, got)
	u.mu.Unlock()
	if handler != nil {
		handler(w, r)
	}
}

// Handle sets how the upstream answers; it has recorded the request by then.
func (u *Upstream) Handle(handler http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.handler = handler
}

// Received returns all requests so far.
func (u *Upstream) Received() []Received {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]Received(nil), u.received...)
}

// Take returns all requests so far and forgets them.
func (u *Upstream) Take() []Received {
	u.mu.Lock()
	defer u.mu.Unlock()
	taken := u.received
	u.received = nil
	return taken
}

// Pending returns what came over the open connections and is not, or not yet, a
// request.
func (u *Upstream) Pending() []byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	var pending []byte
	for conn := range u.conns {
		conn.mu.Lock()
		pending = append(pending, conn.raw.Bytes()...)
		conn.mu.Unlock()
	}
	return pending
}

// teeListener keeps what its connections read.
type teeListener struct {
	net.Listener
	upstream *Upstream
}

func (l teeListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tee := &teeConn{Conn: conn, upstream: l.upstream}
	l.upstream.mu.Lock()
	defer l.upstream.mu.Unlock()
	l.upstream.conns[tee] = struct{}{}
	return tee, nil
}

type teeConn struct {
	net.Conn
	upstream *Upstream

	mu  sync.Mutex
	raw bytes.Buffer
}

// Close implements net.Conn.
func (c *teeConn) Close() error {
	c.upstream.mu.Lock()
	delete(c.upstream.conns, c)
	c.upstream.mu.Unlock()
	return c.Conn.Close()
}

func (c *teeConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw.Write(p[:n])
	return n, err
}

// take returns what was read since the last time: one request, because a proxy
// sends the next only after the answer.
func (c *teeConn) take() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	raw := bytes.Clone(c.raw.Bytes())
	c.raw.Reset()
	return raw
}
