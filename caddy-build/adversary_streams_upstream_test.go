package main_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// streams is an upstream whose answers do not end by themselves.
type streams struct {
	mu     sync.Mutex
	events map[string]chan string   // by the request's target
	gone   map[string]chan struct{} // closed when the gateway has let go
}

func newStreams(g *gatewaytest.Gateway) *streams {
	s := &streams{events: make(map[string]chan string), gone: make(map[string]chan struct{})}
	g.Upstream.Handle(s.serve)
	return s
}

func (s *streams) of(target string) (events chan string, gone chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.events[target] == nil {
		s.events[target] = make(chan string)
		s.gone[target] = make(chan struct{})
	}
	return s.events[target], s.gone[target]
}

// serve answers by the path: /events, /busy (never pauses), /silent (not even a
// head) or /websocket.
func (s *streams) serve(w http.ResponseWriter, r *http.Request) {
	events, gone := s.of(r.RequestURI)
	switch r.URL.Path {
	case "/events":
		defer close(gone)
		w.Header().Set("Content-Type", "text/event-stream")
		streamOut(w, "begin\n")
		for {
			select {
			case event := <-events:
				streamOut(w, event)
			case <-r.Context().Done():
				return
			}
		}
	case "/busy":
		defer close(gone)
		block := strings.Repeat("x", 32<<10)
		streamOut(w, "begin\n")
		for r.Context().Err() == nil {
			streamOut(w, block)
		}
	case "/silent":
		defer close(gone)
		<-r.Context().Done()
	case "/websocket":
		defer close(gone)
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbegin\n")
		_ = rw.Flush()
		_, _ = io.Copy(io.Discard, rw)
	}
}

func streamOut(w http.ResponseWriter, text string) {
	_, _ = io.WriteString(w, text)
	_ = http.NewResponseController(w).Flush()
}

// ends fails the test unless it is closed soon.
func ends(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(endsWithin):
		require.FailNow(t, what+" goes on")
	}
}

// drain reads a stream until it ends.
func drain(stream io.Reader) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, stream)
	}()
	return done
}

func requireLogout(t *testing.T, g *gatewaytest.Gateway, token string) {
	t.Helper()
	require.Equal(t, http.StatusNoContent, g.Post("/logout", "", gatewaytest.Token(token)).Status)
}

func requireBegin(t *testing.T, stream io.Reader) {
	t.Helper()
	begin := make([]byte, len("begin\n"))
	_, err := io.ReadFull(stream, begin)
	require.NoError(t, err)
	require.Equal(t, "begin\n", string(begin))
}
