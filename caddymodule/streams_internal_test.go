package caddymodule

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"
)

// A session may end at the very moment when its request does. The deadlines of
// the connection have passed by then and its context is cancelled, so the next
// request on it, which behind a proxy is somebody else's, must find it closed.
func TestConnectionIsNotReusedIfItsRequestEndsWhileItLeaves(t *testing.T) {
	open := newOpenRequests(time.Hour, &App{Session: &SessionPolicy{IdleTimeout: caddy.Duration(time.Hour)}})
	for name, end := range map[string]bool{"session ended": true, "session lives": false} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				u := &userResponse{ResponseWriter: w, handler: new(Handler)}
				_ = open.serve(u, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
					w.Header().Set("Content-Length", "2")
					_, err := io.WriteString(w, "ok")
					if flushErr := http.NewResponseController(w).Flush(); flushErr != nil {
						return flushErr
					}
					if end {
						u.end()
					}
					return err
				}))
			}))
			defer server.Close()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"+"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			require.NoError(t, err)
			answers, err := io.ReadAll(conn)
			if end {
				require.Equal(t, 1, strings.Count(string(answers), "HTTP/1.1 "), "%q", answers)
				return
			}
			require.NoError(t, err)
			require.Equal(t, 2, strings.Count(string(answers), "HTTP/1.1 "), "%q", answers)
		})
	}
}
