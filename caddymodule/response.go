package caddymodule

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

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
	stream  openRequest
}

// WriteHeader implements http.ResponseWriter.
func (u *userResponse) WriteHeader(status int) {
	// An informational response is not the one that caches keep.
	if !u.wrote && (status >= 200 || status == http.StatusSwitchingProtocols) {
		u.wrote = true
		makePrivate(u.Header())
		u.handler.varyByToken(u.Header())
	}
	u.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (u *userResponse) Write(p []byte) (int, error) {
	u.writeHeader()
	return u.ResponseWriter.Write(p)
}

func (u *userResponse) writeHeader() {
	if !u.wrote {
		u.WriteHeader(http.StatusOK)
	}
}

// ReadFrom implements io.ReaderFrom, so that files still go out by sendfile.
func (u *userResponse) ReadFrom(r io.Reader) (int64, error) {
	u.writeHeader()
	return io.Copy(u.ResponseWriter, r)
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
		u.handler.open.hijacked(u, conn)
	}
	return conn, rw, err
}

// Unwrap lets http.ResponseController reach the connection.
func (u *userResponse) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// cacheOverrides are response headers that some shared cache obeys instead of
// Cache-Control.
var cacheOverrides = []string{
	"Cdn-Cache-Control", "Cloudflare-Cdn-Cache-Control", "Edge-Control", "Surrogate-Control", "X-Accel-Expires",
}

// makePrivate keeps shared caches from storing a response that was made for
// one user, also if the upstream calls it public. What the upstream says about
// the user's own cache stays.
func makePrivate(header http.Header) {
	for _, name := range cacheOverrides {
		delete(header, name)
	}
	values, present := header["Cache-Control"]
	if !present {
		header["Cache-Control"] = []string{"private"}
		return
	}
	kept := []string{"private"}
	for _, value := range values {
		for directive := range strings.SplitSeq(value, ",") {
			directive = strings.TrimSpace(directive)
			name, _, _ := strings.Cut(strings.ToLower(directive), "=")
			switch strings.TrimSpace(name) {
			case "", "public", "private", "s-maxage", "proxy-revalidate":
			default:
				kept = append(kept, directive)
			}
		}
	}
	header["Cache-Control"] = []string{strings.Join(kept, ", ")}
}

// varyByToken tells caches that the response depends on who asks.
func (h *Handler) varyByToken(header http.Header) {
	for _, name := range h.tokens.vary {
		if !slices.ContainsFunc(header["Vary"], func(v string) bool { return strings.Contains(v, name) }) {
			header["Vary"] = append(header["Vary"], name)
		}
	}
}
