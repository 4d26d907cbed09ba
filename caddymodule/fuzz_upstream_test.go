package caddymodule_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// A recordingUpstream is the other end of the proxy's connections. It keeps the
// raw bytes of each connection, one request long, and answers 200, or switches
// to whatever protocol it is asked for.
type recordingUpstream struct {
	mu       sync.Mutex
	idle     sync.Cond
	open     int
	received []recorded
}

// recorded is what came over one connection.
type recorded struct {
	raw      []byte // up to the answer
	tunnel   string // the protocol that was switched to, if any
	trailers http.Header
}

func newRecordingUpstream() *recordingUpstream {
	u := new(recordingUpstream)
	u.idle.L = &u.mu
	return u
}

// dial takes the place of the proxy's dialer.
func (u *recordingUpstream) dial(context.Context, string, string) (net.Conn, error) {
	proxy, upstream := net.Pipe()
	u.mu.Lock()
	u.open++
	u.mu.Unlock()
	go u.serve(upstream)
	return proxy, nil
}

func (u *recordingUpstream) serve(conn net.Conn) {
	var raw bytes.Buffer
	got := recorded{}
	defer func() {
		_ = conn.Close()
		u.mu.Lock()
		defer u.mu.Unlock()
		if got.raw != nil {
			u.received = append(u.received, got)
		}
		u.open--
		u.idle.Broadcast()
	}()
	reader := bufio.NewReader(io.TeeReader(conn, &raw))
	r, err := http.ReadRequest(reader)
	if err == nil {
		_, err = io.Copy(io.Discard, r.Body)
	}
	got.raw = bytes.Clone(raw.Bytes())
	if err != nil {
		return // broken off: what came is kept
	}
	got.trailers = r.Trailer
	if got.tunnel = r.Header.Get("Upgrade"); got.tunnel != "" {
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", got.tunnel)
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
}

// take waits until every connection is over and returns what came.
func (u *recordingUpstream) take() []recorded {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.open > 0 {
		u.idle.Wait()
	}
	received := u.received
	u.received = nil
	return received
}
