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
	"sync/atomic"
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
// session, and holds the process to a bound on its memory. What it logs are the
// numbers of docs/security.md; how long a live request takes depends on the
// machine, and here the flood, the upstream and the asking share it.
func TestFloodsAreBounded(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "login_rate off"})
	g.Upstream.Handle(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Header.Get("X-OpenID")) })
	token := g.Login("alice").Token

	for _, tc := range []struct {
		name  string
		times int
		each  int           // kilobytes of memory that each may cost while it lasts
		every time.Duration // 0: as fast as they come to their ends
		work  func(t *testing.T, g *gatewaytest.Gateway) (done bool)
	}{
		{"half-open login bodies", flood(200, 10_000), 64, 0, halfOpenLogin},
		{"half-open heads", flood(200, 10_000), 64, 0, halfOpenHead},
		{"heads of 16 KiB", flood(200, 10_000), 0, 0, head(16<<10-200, http.StatusUnauthorized)},
		{"heads of 16 KiB, 1,000 a second", flood(200, 10_000), 0, time.Millisecond, head(16<<10-200, http.StatusUnauthorized)},
		{"heads of 24 KiB", flood(200, 10_000), 0, 0, head(24<<10, http.StatusRequestHeaderFieldsTooLarge)},
		{"bodies of 1 GiB", flood(16, 64), 0, 0, endlessBody},
		{"random tokens", flood(2_000, 100_000), 0, 0, randomTokens},
		{"random tokens, 2,000 a second", flood(2_000, 100_000), 0, 500 * time.Microsecond, randomTokens},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := residentKiB(t, g.Pid())
			quiet := askInPeace(t, g, token)
			live := keepAsking(g, token)
			var done atomic.Int64
			together := flood(64, 256)
			if tc.each > 0 {
				together = tc.times
			}
			flooded := startFlood(tc.times, together, tc.every, func() {
				if tc.work(t, g) {
					done.Add(1)
				}
			})
			peak := peakUntil(t, g.Pid(), flooded)
			times := live.stop()
			t.Logf("%d of %d came to their end; memory %d MiB, at most %d MiB, %d MiB afterwards; live requests: %d before, p50 %v, p99 %v; %d meanwhile, p50 %v, p99 %v",
				done.Load(), tc.times, before>>10, peak>>10, residentKiB(t, g.Pid())>>10,
				len(quiet), quiet[len(quiet)/2], quiet[len(quiet)*99/100], len(times), times[len(times)/2], times[len(times)*99/100])
			require.GreaterOrEqual(t, done.Load(), int64(tc.times/2), "the flood itself")
			require.LessOrEqual(t, peak, before+tc.times*tc.each+(256<<10), "KiB of memory")
			require.Empty(t, live.wrong)
			require.Equal(t, g.OpenID("alice"), g.Get("/", gatewaytest.Token(token)).Body)
		})
	}
}

// residentKiB is the memory that a process has in use.
func residentKiB(t testing.TB, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	_, line, _ := strings.Cut(string(status), "VmRSS:")
	var kib int
	_, err = fmt.Sscanf(line, "%d kB", &kib)
	require.NoError(t, err)
	return kib
}

// startFlood does work so many times, so many together, and not more often than
// every so long.
func startFlood(times, together int, every time.Duration, work func()) (over <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		defer wg.Wait()
		slots := make(chan struct{}, together)
		var next <-chan time.Time
		if every > 0 {
			ticker := time.NewTicker(every)
			defer ticker.Stop()
			next = ticker.C
		}
		for range times {
			if next != nil {
				<-next
			}
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				work()
			})
		}
	}()
	return done
}

// peakUntil is the most memory that a process had in use until something is
// over.
func peakUntil(t *testing.T, pid int, over <-chan struct{}) int {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	peak := residentKiB(t, pid)
	for {
		select {
		case <-over:
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

// askInPeace returns how long requests take without a flood, in order of length.
func askInPeace(t *testing.T, g *gatewaytest.Gateway, token string) []time.Duration {
	t.Helper()
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	times := make([]time.Duration, flood(200, 5_000))
	for i := range times {
		begin := time.Now()
		require.Equal(t, g.OpenID("alice"), askOnce(transport, g.URL, token))
		times[i] = time.Since(begin)
	}
	slices.Sort(times)
	return times
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
func halfOpenLogin(t *testing.T, g *gatewaytest.Gateway) bool {
	return exchange(t, g, "POST /login HTTP/1.1\r\nHost: "+g.Addr+"\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{\"code\":\"", http.StatusBadRequest)
}

// halfOpenHead leaves while the head of its request is not complete.
func halfOpenHead(_ *testing.T, g *gatewaytest.Gateway) bool {
	conn := dialFlood(g)
	if conn == nil {
		return false
	}
	defer conn.Close()
	_, err := io.WriteString(conn, "POST /login HTTP/1.1\r\nHost: "+g.Addr+"\r\nX: ")
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	_, _ = io.Copy(io.Discard, conn)
	return err == nil
}

// head sends a head of so many bytes.
func head(size, want int) func(t *testing.T, g *gatewaytest.Gateway) bool {
	return func(t *testing.T, g *gatewaytest.Gateway) bool {
		begin := "GET / HTTP/1.1\r\nHost: " + g.Addr + "\r\nX: "
		return exchange(t, g, begin+strings.Repeat("x", size-len(begin)-4)+"\r\n\r\n", want)
	}
}

// endlessBody announces a gigabyte and sends until the gateway hangs up.
func endlessBody(t *testing.T, g *gatewaytest.Gateway) bool {
	for _, path := range []string{"/login", "/logout", "/orders"} {
		conn := dialFlood(g)
		if conn == nil {
			return false
		}
		_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, g.Addr, 1<<30)
		sent, err := io.Copy(conn, io.LimitReader(zeros{}, 1<<30))
		if err == nil || sent >= 64<<20 {
			t.Errorf("the gateway took %d bytes of a body at %s", sent, path)
		}
		_ = conn.Close()
	}
	return true
}

type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func randomTokens(t *testing.T, g *gatewaytest.Gateway) bool {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	return exchange(t, g, "GET / HTTP/1.1\r\nHost: "+g.Addr+"\r\n3rd_session: "+base64.RawURLEncoding.EncodeToString(raw)+"\r\nConnection: close\r\n\r\n", http.StatusUnauthorized)
}

// exchange sends text and reports whether there was an answer, which must have
// a status. A machine that is flooded may lose some.
func exchange(t *testing.T, g *gatewaytest.Gateway, text string, want int) bool {
	conn := dialFlood(g)
	if conn == nil {
		return false
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, text)
	resp, err := gatewaytest.ReadResponse(http.ReadResponse(bufio.NewReader(conn), nil))
	if err == nil && resp.Status != want {
		t.Errorf("the answer is %d, not %d: %s", resp.Status, want, resp.Body)
	}
	return err == nil
}
