package main_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// BenchmarkMemory measures the resident memory of a gateway that is idle, of
// each session in use, and of each connection that stays open, beside a Caddy
// that only proxies.
//
//	go test ./caddy-build -run '^$' -bench Memory -benchtime 1x -timeout 20m
func BenchmarkMemory(b *testing.B) {
	const sessions, connections = 100_000, 5_000
	// Each figure is of a fresh process: what one has freed, the next would use.
	gate := gatewaytest.Config{App: "login_rate off"}
	bare := gatewaytest.Config{Whole: "{\n\tadmin $ADMIN\n\tauto_https off\n}\nhttp://$LISTEN {\n\treverse_proxy $UPSTREAM\n}\n"}
	grows := func(cfg gatewaytest.Config, work func(g *gatewaytest.Gateway) (end func())) (idle, growth float64) {
		g := gatewaytest.Start(b, cfg)
		g.Upstream.Handle(holdWebSockets)
		before := residentKiB(b, g.Pid())
		end := work(g)
		after := residentKiB(b, g.Pid())
		end()
		g.Stop()
		return float64(before), float64(after - before)
	}
	b.ReportMetric(0, "ns/op")
	for kind, path := range map[string]string{"connection": "/", "websocket": "/websocket"} {
		idle, growth := grows(bare, func(g *gatewaytest.Gateway) func() { return hold(b, g.Addr, path, "", connections) })
		b.ReportMetric(idle/1024, "bare-MiB")
		b.ReportMetric(growth/connections, "bare-KiB/"+kind)
		idle, growth = grows(gate, func(g *gatewaytest.Gateway) func() {
			return hold(b, g.Addr, path, g.Login("alice").Token, connections)
		})
		b.ReportMetric(idle/1024, "gate-MiB")
		b.ReportMetric(growth/connections, "gate-KiB/"+kind)
	}
	_, growth := grows(gate, func(g *gatewaytest.Gateway) func() { return logInAndUse(b, g, sessions) })
	b.ReportMetric(growth/sessions, "gate-KiB/session")
}

// BenchmarkReloads measures how much the heap grows in 60 reloads, one every two
// seconds, while clients use their sessions. The limit is asserted.
//
//	go test ./caddy-build -run '^$' -bench Reloads -benchtime 1x
func BenchmarkReloads(b *testing.B) {
	const reloads, interval, limit = 60, 2 * time.Second, 100 << 20
	const clients, sessions = 16, 1000 // of each client
	cfg := gatewaytest.Config{App: "login_rate off"}
	g := gatewaytest.Start(b, cfg)
	var stop atomic.Bool
	var served, ready atomic.Int64
	var all sync.WaitGroup
	for c := range clients {
		all.Go(func() {
			client := &http.Client{Transport: new(http.Transport)}
			var tokens []string
			for !stop.Load() {
				g.Upstream.Take()
				if len(tokens) < sessions {
					// Caddy's hand-over of the listener resets a few connections.
					if token, err := loginWith(client, g, fmt.Sprint(c, "-", len(tokens))); err == nil {
						tokens = append(tokens, token)
						ready.Add(1)
					}
					continue
				}
				resp, err := getWith(client, g.URL, tokens[rand.IntN(sessions)])
				if err == nil && resp.Status != http.StatusOK {
					b.Errorf("a request failed during a reload: %d %s", resp.Status, resp.Body)
				}
				served.Add(1)
			}
		})
	}
	g.Eventually(func() bool { return ready.Load() == clients*sessions }, "all have logged in")
	before := heapStat(b, g, "HeapInuse")
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for range reloads {
		<-tick.C
		out, err := g.Reload(cfg)
		require.NoError(b, err, out)
	}
	grown := heapStat(b, g, "HeapInuse") - before
	stop.Store(true)
	all.Wait()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(before)/(1<<20), "before-MiB")
	b.ReportMetric(float64(grown)/(1<<20), "grown-MiB")
	b.ReportMetric(float64(served.Load()), "requests")
	require.Less(b, grown, limit)
}

// logInAndUse makes so many sessions, of a user each, and a request of each.
func logInAndUse(b *testing.B, g *gatewaytest.Gateway, sessions int) (end func()) {
	const together = 64
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: together}}
	var all sync.WaitGroup
	for worker := range together {
		all.Go(func() {
			for i := worker; i < sessions; i += together {
				code := g.WeChat.IssueCode(gatewaytest.AppID, fmt.Sprint("user-", i))
				resp, err := gatewaytest.ReadResponse(client.Post(g.URL+"/login", "application/json", strings.NewReader(`{"code":"`+code+`"}`)))
				if err != nil || resp.Status != http.StatusOK {
					b.Errorf("%v %v", err, resp)
					return
				}
				_, token, _ := strings.Cut(resp.Body, `"3rd_session":"`)
				token, _, _ = strings.Cut(token, `"`)
				req, _ := http.NewRequest(http.MethodGet, g.URL+"/", nil)
				req.Header.Set("Authorization", "Bearer "+token)
				if resp, err = gatewaytest.ReadResponse(client.Do(req)); err != nil || resp.Status != http.StatusOK {
					b.Errorf("%v %v", err, resp)
					return
				}
			}
		})
	}
	all.Wait()
	return client.CloseIdleConnections
}

// hold opens connections on which a request has been answered.
func hold(b *testing.B, addr, path, token string, n int) (end func()) {
	head := "GET " + path + " HTTP/1.1\r\nHost: " + addr + "\r\n" + gatewaytest.Token(token) + "\r\n"
	if path == "/websocket" {
		head += "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	}
	var conns []net.Conn
	for range n {
		conn, err := net.Dial("tcp", addr)
		require.NoError(b, err)
		conns = append(conns, conn)
		_, err = io.WriteString(conn, head+"\r\n")
		require.NoError(b, err)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(b, err)
		require.Contains(b, []int{http.StatusOK, http.StatusSwitchingProtocols}, resp.StatusCode)
	}
	return func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}
}

// holdWebSockets keeps a WebSocket until its client closes it.
func holdWebSockets(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/websocket" {
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_ = rw.Flush()
	_, _ = io.Copy(io.Discard, conn)
}
