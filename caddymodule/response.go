package caddymodule

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// userResponse is the way back to a user: it keeps shared caches from handing
// the response to somebody else, and it is what ends an open stream when the
// session ends.
type userResponse struct {
	http.ResponseWriter

	handler *Handler
	session *session.Session
	wrote   bool
	body    liveBody

	next, prev *userResponse // in the list of open requests, guarded by its lock
	over       atomic.Bool   // the session has ended
	moved      atomic.Bool   // data, since the last look

	mu     sync.Mutex // guards the next three
	left   bool       // the handlers have returned
	conn   net.Conn   // once a WebSocket has taken it over
	cancel context.CancelFunc

	// Room for header values: one piece of memory for each request is enough.
	identity [4]string // that the upstream gets
	own      [2]string // that the client gets
}

// used notes that data has moved: an open stream that moves data is use of its
// session.
func (u *userResponse) used() {
	if !u.moved.Load() {
		u.moved.Store(true)
	}
}

// errSessionEnded breaks off a response that outlived its session.
var errSessionEnded = errors.New("the session has ended")

// WriteHeader implements http.ResponseWriter.
func (u *userResponse) WriteHeader(status int) {
	// An informational response is not the one that caches keep.
	if !u.wrote && (status >= 200 || status == http.StatusSwitchingProtocols) {
		u.wrote = true
		u.makePrivate(u.Header())
	}
	u.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (u *userResponse) Write(p []byte) (int, error) {
	if u.over.Load() {
		return 0, errSessionEnded
	}
	u.writeHeader()
	u.used()
	return u.ResponseWriter.Write(p)
}

func (u *userResponse) writeHeader() {
	if !u.wrote {
		u.WriteHeader(http.StatusOK)
	}
}

// ReadFrom implements io.ReaderFrom, so that the server's own buffers serve.
func (u *userResponse) ReadFrom(r io.Reader) (int64, error) {
	u.writeHeader()
	return io.Copy(u.ResponseWriter, liveReader{r, u})
}

// A liveReader is read on behalf of a user, which is use of the session, and ends with it: a
// file, for example, goes out in one call, which would otherwise go on until the file's end.
type liveReader struct {
	io.Reader
	user *userResponse
}

// Read implements io.Reader.
func (l liveReader) Read(p []byte) (int, error) {
	if l.user.over.Load() {
		return 0, errSessionEnded
	}
	n, err := l.Reader.Read(p)
	if n > 0 {
		l.user.used()
	}
	return n, err
}

// A liveBody is a request's body.
type liveBody struct {
	liveReader
	io.Closer
}

// usedConn is the connection of a WebSocket. Moving data on it is use of the
// session.
type usedConn struct {
	net.Conn
	user *userResponse
}

// Read implements io.Reader.
func (c usedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.user.used()
	}
	return n, err
}

// Write implements io.Writer.
func (c usedConn) Write(p []byte) (int, error) {
	c.user.used()
	return c.Conn.Write(p)
}

// CloseWrite passes on that the upstream has finished sending.
func (c usedConn) CloseWrite() error {
	if conn, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return errors.ErrUnsupported
}

// FlushError implements what http.ResponseController looks for.
func (u *userResponse) FlushError() error {
	u.writeHeader()
	return http.NewResponseController(u.ResponseWriter).Flush()
}

// Hijack implements http.Hijacker: a WebSocket takes the connection over.
func (u *userResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err == nil {
		u.mu.Lock()
		u.conn = conn
		u.mu.Unlock()
		conn = usedConn{conn, u}
	}
	return conn, rw, err
}

// Unwrap lets http.ResponseController reach the connection.
func (u *userResponse) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// makePrivate keeps shared caches from storing a response that was made for
// one user, also if the upstream calls it public, and from handing it to
// another if they store it all the same. What the upstream says about the
// user's own cache stays.
func (u *userResponse) makePrivate(header http.Header) {
	for name := range header {
		if overridesCacheControl(name) {
			delete(header, name)
		}
	}
	u.own[0] = privateCacheControl(header["Cache-Control"])
	header["Cache-Control"] = u.own[:1:1]
	if _, present := header["Vary"]; !present {
		u.own[1] = u.handler.varyValue
		header["Vary"] = u.own[1:]
		return
	}
	u.handler.varyByToken(header)
}

// overridesCacheControl finds the response headers that some shared cache obeys
// instead of Cache-Control: those of RFC 9213 end like it, as in
// CDN-Cache-Control; the others are older.
func overridesCacheControl(name string) bool {
	switch name {
	case "Cache-Control":
		return false
	case "Edge-Control", "Surrogate-Control", "X-Accel-Expires":
		return true
	default:
		return strings.HasSuffix(name, "-Cache-Control")
	}
}

// privateCacheControl adds private, and keeps of what was said only the
// directives that cannot allow a shared cache anything (RFC 9111, RFC 5861,
// RFC 8246). Their quoted forms, which limit no-cache to some headers, are made
// whole: that is stricter, and no comma within quotes can be misread.
func privateCacheControl(values []string) string {
	if len(values) == 0 {
		return "private"
	}
	kept := []string{"private"}
	for _, value := range values {
		for directive := range strings.SplitSeq(strings.ToLower(value), ",") {
			name, argument, _ := strings.Cut(strings.TrimSpace(directive), "=")
			switch name {
			case "no-cache", "no-store", "no-transform", "must-revalidate", "immutable":
				kept = append(kept, name)
			case "max-age", "stale-while-revalidate", "stale-if-error":
				if isDigits(argument) {
					kept = append(kept, name+"="+argument)
				}
			}
		}
	}
	return strings.Join(kept, ", ")
}

func isDigits(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c < '0' || c > '9' })
}

// varyByToken makes the response depend on the token for caches. It is one line,
// because nginx before 1.23 looks at the last line only.
func (h *Handler) varyByToken(header http.Header) {
	fields := slices.Clone(header["Vary"])
	for _, name := range h.tokens.Vary {
		if !varies(fields, name) {
			fields = append(fields, name)
		}
	}
	header["Vary"] = []string{strings.Join(fields, ", ")}
}

func varies(values []string, name string) bool {
	for _, value := range values {
		for field := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(field), name) {
				return true
			}
		}
	}
	return false
}
