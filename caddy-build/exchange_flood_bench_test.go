package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// BenchmarkFlood sends 5,000 hopeless logins of every kind a second from one address, and 20
// honest ones from another: run it with -benchtime 60s. The limits are asserted.
func BenchmarkFlood(b *testing.B) {
	const perSecond, honestPerSecond, batch = 5000, 20, 50
	g := gatewaytest.Start(b, gatewaytest.Config{})
	hopeless := []func(i int) string{
		func(i int) string {
			return loginText(g.Addr, "application/json", fmt.Sprintf(`{"code":"made-up%d"}`, i))
		},
		func(int) string { return loginText(g.Addr, "application/json", `{"code":"made-up0"}`) },
		func(int) string { return loginText(g.Addr, "application/json", `{`) },
		func(int) string { return loginText(g.Addr, "text/plain", `a`) },
		func(int) string { return "GET /login HTTP/1.1\nHost: " + g.Addr + "\n\n" },
	}
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.9")}}).Dial("tcp", g.Addr)
	require.NoError(b, err)
	b.Cleanup(func() { conn.Close() })
	var answered atomic.Int64
	go func() {
		for r := bufio.NewReader(conn); ; answered.Add(1) {
			if _, err := gatewaytest.ReadResponse(http.ReadResponse(r, nil)); err != nil {
				return
			}
		}
	}()
	stop, honest := make(chan struct{}), make(chan [2]int)
	go func() {
		ok, all := 0, 0
		tick := time.NewTicker(time.Second / honestPerSecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				honest <- [2]int{ok, all}
				return
			case <-tick.C:
			}
			code := g.WeChat.IssueCode(gatewaytest.AppID, "user"+strconv.Itoa(all))
			resp, err := gatewaytest.SendRawFrom("127.0.0.8", g.Addr, loginText(g.Addr, "application/json", `{"code":"`+code+`"}`))
			if all++; err == nil && resp.Status == http.StatusOK {
				ok++
			}
		}
	}()

	start, before, memory := time.Now(), len(g.Output()), residentKiB(b, g.Pid())
	tick := time.NewTicker(time.Second * batch / perSecond)
	defer tick.Stop()
	sent := 0
	for b.Loop() { // an operation is a batch
		<-tick.C
		var text strings.Builder
		for range batch {
			text.WriteString(hopeless[sent%len(hopeless)](sent))
			sent++
		}
		_, err := io.WriteString(conn, strings.ReplaceAll(text.String(), "\n", "\r\n"))
		require.NoError(b, err)
	}
	close(stop)
	result := <-honest
	seconds := time.Since(start).Seconds()
	lines := 0
	for line := range strings.Lines(g.Output()[before:]) {
		if !strings.Contains(line, `"result":"ok"`) { // the honest ones are logged
			lines += len(line)
		}
	}
	b.ReportMetric(float64(answered.Load())/seconds, "refused/s")
	b.ReportMetric(float64(lines)/seconds, "log-B/s")
	b.ReportMetric(100*float64(result[0])/float64(result[1]), "%honest")
	b.ReportMetric(float64(residentKiB(b, g.Pid())-memory)/1024, "MiB-grown")
	if seconds > 30 {
		require.Less(b, float64(lines)/seconds, 1024.0)
		require.GreaterOrEqual(b, float64(result[0]), 0.95*float64(result[1]))
	}
}
