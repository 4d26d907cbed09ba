package caddymodule

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A slowClient answers a client whose connection has deadlines.
type slowClient struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (s slowClient) SetReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }

var bodyReaders = map[string]struct {
	within time.Duration
	read   func(http.ResponseWriter, *http.Request) error
}{
	"login": {loginBodyTimeout, func(w http.ResponseWriter, r *http.Request) error {
		_, err := readLogin(w, r)
		return err
	}},
	"push": {pushBodyTimeout, func(w http.ResponseWriter, r *http.Request) error {
		_, err := readBody(w, r, maxPushBody, pushBodyTimeout)
		return err
	}},
	"open data": {openDataBodyTimeout, func(w http.ResponseWriter, r *http.Request) error {
		_, _, err := peekObject(w, r)
		return err
	}},
}

// A client that stops in the middle of its body is given up. What comes after a body that was
// read in time may take as long as it likes.
func TestBodiesHaveADeadline(t *testing.T) {
	for name, tc := range bodyReaders {
		request := func(body net.Conn) (http.ResponseWriter, *http.Request) {
			r := httptest.NewRequest(http.MethodPost, "/", body)
			r.Header.Set("Content-Type", "application/json")
			return slowClient{httptest.NewRecorder(), body}, r
		}
		t.Run(name+" stalls", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, body := net.Pipe()
				defer client.Close()
				go func() { _, _ = io.WriteString(client, `{"code":`) }()
				w, r := request(body)
				begin := time.Now()
				require.ErrorAs(t, tc.read(w, r), new(badRequest))
				require.Equal(t, tc.within, time.Since(begin))
			})
		})
		t.Run(name+" is read", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, body := net.Pipe()
				defer client.Close()
				go func() { _, _ = io.WriteString(client, `{"code":"abc"}`) }()
				w, r := request(body)
				r.Body = io.NopCloser(io.LimitReader(body, int64(len(`{"code":"abc"}`))))
				require.NoError(t, tc.read(w, r))
				go func() {
					<-time.After(time.Hour)
					_, _ = io.WriteString(client, "next")
				}()
				next := make([]byte, len("next"))
				_, err := io.ReadFull(body, next)
				require.NoError(t, err)
			})
		})
	}
}
