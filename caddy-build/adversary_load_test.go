package main_test

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

var fullFlood = flag.Bool("flood", false, "flood the gateway with the numbers of docs/security.md instead of small ones")

// flood chooses between the numbers of every run and those of docs/security.md.
func flood(small, full int) int {
	if *fullFlood {
		return full
	}
	return small
}

// TestFloodsAreBounded floods the gateway, asks all the while with a live
// session, and holds the process to a bound on its memory.
func TestFloodsAreBounded(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "login_rate off"})
	g.Upstream.Handle(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Header.Get("X-OpenID")) })
	token := g.Login("alice").Token

	for _, tc := range []struct {
		name  string
		times int
		each  int // kilobytes of memory that each may cost while it lasts
		work  func(t *testing.T, g *gatewaytest.Gateway)
	}{
		{"half-open login bodies", flood(200, 10_000), 64, halfOpenLogin},
		{"half-open heads", flood(200, 10_000), 64, halfOpenHead},
		{"heads of 16 KiB", flood(200, 10_000), 0, largeHead},
		{"bodies of 1 GiB", flood(16, 64), 0, endlessBody},
		{"random tokens", flood(2_000, 100_000), 0, randomTokens},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := residentKiB(t, g.Pid())
			live := keepAsking(g, token)
			var wg sync.WaitGroup
			slots := make(chan struct{}, flood(64, 256))
			if tc.each > 0 {
				slots = make(chan struct{}, tc.times) // all at once
			}
			for range tc.times {
				slots <- struct{}{}
				wg.Go(func() {
					defer func() { <-slots }()
					tc.work(t, g)
				})
			}
			peak := peakWhile(t, g.Pid(), &wg)
			times := live.stop()
			t.Logf("%d: memory %d MiB, at most %d MiB; %d live requests, p50 %v, p99 %v",
				tc.times, before>>10, peak>>10, len(times), times[len(times)/2], times[len(times)*99/100])
			require.LessOrEqual(t, peak, before+tc.times*tc.each+(256<<10), "KiB of memory")
			require.Empty(t, live.wrong)
			require.Equal(t, g.OpenID("alice"), g.Get("/", gatewaytest.Token(token)).Body)
		})
	}
}

// residentKiB is the memory that a process has in use.
func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	_, line, _ := strings.Cut(string(status), "VmRSS:")
	var kib int
	_, err = fmt.Sscanf(line, "%d kB", &kib)
	require.NoError(t, err)
	return kib
}

func peakWhile(t *testing.T, pid int, wg *sync.WaitGroup) int {
	t.Helper()
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	peak := residentKiB(t, pid)
	for {
		select {
		case <-done:
			return peak
		case <-tick.C:
			peak = max(peak, residentKiB(t, pid))
		}
	}
}

// A liveUser asks one request after another, until it is stopped.
type liveUser struct {
	stopped chan struct{}
	done    chan struct{}
	times   []time.Duration
	wrong   []string
}

func keepAsking(g *gatewaytest.Gateway, token string) *liveUser {
	u := &liveUser{stopped: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(u.done)
		transport := new(http.Transport)
		defer transport.CloseIdleConnections()
		for {
			begin := time.Now()
			got := askOnce(transport, g.URL, token)
			u.times = append(u.times, time.Since(begin))
			if got != g.OpenID("alice") {
				u.wrong = append(u.wrong, got)
			}
			select {
			case <-u.stopped:
				return
			default:
			}
		}
	}()
	return u
}

func askOnce(transport *http.Transport, url, token string) string {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	req.Header["3rd_session"] = []string{token}
	resp, err := gatewaytest.ReadResponse(transport.RoundTrip(req))
	if err != nil {
		return err.Error()
	}
	return resp.Body
}

// stop returns how long each request took, in order of length.
func (u *liveUser) stop() []time.Duration {
	close(u.stopped)
	<-u.done
	slices.Sort(u.times)
	return u.times
}

// dialFlood returns nil if the machine has no room for one more connection.
func dialFlood(g *gatewaytest.Gateway) net.Conn {
	conn, err := net.DialTimeout("tcp", g.Addr, time.Minute)
	if err != nil {
		return nil
	}
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	return conn
}

// halfOpenLogin sends half a body and waits. The gateway must hang up on it.
func halfOpenLogin(t *testing.T, g *gatewaytest.Gateway) {
	conn := dialFlood(g)
	if conn == nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST /login HTTP/1.1\r\nHost: "+g.Addr+"\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{\"code\":\"")
	resp, err := gatewaytest.ReadResponse(http.ReadResponse(bufio.NewReader(conn), nil))
	if err == nil {
		requireStatus(t, resp, http.StatusBadRequest)
	}
}

// halfOpenHead leaves while the head of its request is not complete.
func halfOpenHead(_ *testing.T, g *gatewaytest.Gateway) {
	conn := dialFlood(g)
	if conn == nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST /login HTTP/1.1\r\nHost: "+g.Addr+"\r\nX: ")
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	_, _ = io.Copy(io.Discard, conn)
}

func largeHead(t *testing.T, g *gatewaytest.Gateway) {
	conn := dialFlood(g)
	if conn == nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+g.Addr+"\r\nX: "+strings.Repeat("x", 24<<10)+"\r\n\r\n")
	resp, err := gatewaytest.ReadResponse(http.ReadResponse(bufio.NewReader(conn), nil))
	if err == nil {
		requireStatus(t, resp, http.StatusRequestHeaderFieldsTooLarge)
	}
}

// endlessBody announces a gigabyte and sends until the gateway hangs up.
func endlessBody(t *testing.T, g *gatewaytest.Gateway) {
	for _, path := range []string{"/login", "/logout", "/orders"} {
		conn := dialFlood(g)
		if conn == nil {
			return
		}
		_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, g.Addr, 1<<30)
		sent, err := io.Copy(conn, io.LimitReader(zeros{}, 1<<30))
		if err == nil || sent >= 64<<20 {
			t.Errorf("the gateway took %d bytes of a body at %s", sent, path)
		}
		_ = conn.Close()
	}
}

type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func randomTokens(t *testing.T, g *gatewaytest.Gateway) {
	conn := dialFlood(g)
	if conn == nil {
		return
	}
	defer conn.Close()
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+g.Addr+"\r\n3rd_session: "+base64.RawURLEncoding.EncodeToString(raw)+"\r\nConnection: close\r\n\r\n")
	resp, err := gatewaytest.ReadResponse(http.ReadResponse(bufio.NewReader(conn), nil))
	if err == nil {
		requireStatus(t, resp, http.StatusUnauthorized)
	}
}

// requireStatus may be called from any goroutine.
func requireStatus(t *testing.T, resp gatewaytest.Response, want int) {
	if resp.Status != want {
		t.Errorf("answered %d instead of %d: %s", resp.Status, want, resp.Body)
	}
}
