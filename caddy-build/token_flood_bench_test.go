package main_test

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// BenchmarkTokenFlood measures what a user waits for while another process
// sends unknown tokens over 64 connections, as fast as they are refused; and
// the same with a Caddy that only compares the token with a fixed one.
//
//	go test ./caddy-build -run '^$' -bench TokenFlood -benchtime 10s
func BenchmarkTokenFlood(b *testing.B) {
	const fixed = "0000000000000000000000000000000000000000000"
	for _, pause := range []string{"0s", "32ms"} { // of each connection: 2,000 a second
		for name, config := range map[string]gatewaytest.Config{
			"gate": {},
			"caddy": {Whole: "{\n\tadmin $ADMIN\n\tauto_https off\n\tservers {\n\t\texpected_underscore_headers 3rd_session\n\t}\n}\nhttp://$LISTEN {\n" +
				"\t@user header 3rd_session " + fixed + "\n\thandle @user {\n\t\treverse_proxy $UPSTREAM\n\t}\n\thandle {\n\t\trespond 401\n\t}\n}\n"},
		} {
			b.Run(fmt.Sprintf("%s/pause=%s", name, pause), func(b *testing.B) {
				g := gatewaytest.Start(b, config)
				g.Upstream.Handle(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") })
				token := fixed
				if name == "gate" {
					token = g.Login("alice").Token
				}
				transport := new(http.Transport)
				defer transport.CloseIdleConnections()
				ask := func() time.Duration {
					began := time.Now()
					require.Equal(b, "served", askOnce(transport, g.URL, token))
					return time.Since(began)
				}
				var quiet, flooded []time.Duration
				for range 5_000 {
					quiet = append(quiet, ask())
				}
				program, err := os.Executable()
				require.NoError(b, err)
				flood := exec.Command(program)
				flood.Env = append(os.Environ(), "WXGATE_FLOOD="+g.Addr, "WXGATE_FLOOD_PAUSE="+pause)
				require.NoError(b, flood.Start())
				defer func() { _, _ = flood.Process.Kill(), flood.Wait() }()
				for b.Loop() {
					flooded = append(flooded, ask())
				}
				for name, times := range map[string][]time.Duration{"quiet": quiet, "flooded": flooded} {
					slices.Sort(times)
					b.ReportMetric(float64(times[len(times)/2].Microseconds()), name+"-p50-µs")
					b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), name+"-p99-µs")
				}
			})
		}
	}
}

// TestMain is BenchmarkTokenFlood's other process, if there is an address to flood.
func TestMain(m *testing.M) {
	addr := os.Getenv("WXGATE_FLOOD")
	if addr == "" {
		os.Exit(m.Run())
	}
	pause, err := time.ParseDuration(os.Getenv("WXGATE_FLOOD_PAUSE"))
	if err != nil {
		panic(err)
	}
	for range 64 {
		go sendUnknownTokens(addr, pause)
	}
	select {}
}

func sendUnknownTokens(addr string, pause time.Duration) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		panic(err)
	}
	raw := make([]byte, 32)
	replies := bufio.NewReader(conn)
	for {
		_, _ = rand.Read(raw)
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n3rd_session: %s\r\n\r\n", addr, base64.RawURLEncoding.EncodeToString(raw))
		resp, err := gatewaytest.ReadResponse(http.ReadResponse(replies, nil))
		if err != nil || resp.Status != http.StatusUnauthorized {
			panic(fmt.Sprint(err, resp))
		}
		time.Sleep(pause)
	}
}
