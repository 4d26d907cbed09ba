package main_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// BenchmarkRelayBesideNginx compares the CPU time of a call through the relay
// with one through nginx and one through Caddy's reverse_proxy, which add a fixed
// access_token to the same requests for the same sandbox. Rounds of all take turns.
//
//	go test ./caddy-build -run '^$' -bench RelayBesideNginx -benchtime 1x
func BenchmarkRelayBesideNginx(b *testing.B) {
	gatewaytest.Needs(b, "nginx")
	wechat := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; encoding=utf-8")
		if r.URL.Path == "/cgi-bin/stable_token" {
			fmt.Fprint(w, `{"access_token":"fixed-token","expires_in":7200}`)
			return
		}
		if r.URL.Query().Get("access_token") != "fixed-token" {
			http.Error(w, "no token", http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, `{"errcode":0,"errmsg":"ok","result":{"suggest":"pass","label":100},"trace_id":"60ae120f-371d5872-7941a05b"}`)
	}))
	defer wechat.Close()
	equalHeap := []string{"GOGC=off", "GOMEMLIMIT=200MiB"}
	r := &relay{Gateway: gatewaytest.New(b), tb: b, addr: gatewaytest.FreeAddr(b)}
	cfg := relayConfig{env: equalHeap}.whole(r.addr)
	cfg.Whole = strings.ReplaceAll(cfg.Whole, "$WECHAT", wechat.URL)
	r.Run(cfg)
	bare := gatewaytest.Start(b, gatewaytest.Config{Env: equalHeap, Whole: `{
	admin $ADMIN
	auto_https off
}
http://$LISTEN {
	uri query +access_token fixed-token
	reverse_proxy ` + wechat.URL + `
}
`})
	nginxAddr, nginxPid := startTokenProxy(b, strings.TrimPrefix(wechat.URL, "http://"))

	const calls, together = 4000, 8
	round := func(addr string, pid int) time.Duration {
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: together}}
		defer client.CloseIdleConnections()
		before := cpuTime(b, pid)
		var all sync.WaitGroup
		for range together {
			all.Go(func() {
				for range calls / together {
					resp, err := gatewaytest.ReadResponse(client.Post("http://"+addr+checkAPI, "application/json", strings.NewReader(hello)))
					if err != nil || !strings.Contains(resp.Body, `"errcode":0`) {
						b.Errorf("%v %s", err, resp.Body)
						return
					}
				}
			})
		}
		all.Wait()
		return cpuTime(b, pid) - before
	}
	rows := []struct {
		name, addr string
		pid        int
		cpu        time.Duration
	}{
		{name: "relay", addr: r.addr, pid: r.Pid()},
		{name: "caddy", addr: bare.Addr, pid: bare.Pid()},
		{name: "nginx", addr: nginxAddr, pid: nginxPid},
	}
	for _, row := range rows {
		round(row.addr, row.pid) // to warm up
	}
	rounds := 0
	for b.Loop() {
		for range 7 {
			for i := range rows {
				rows[i].cpu += round(rows[i].addr, rows[i].pid)
			}
			rounds++
		}
	}
	for _, row := range rows {
		b.ReportMetric(float64(row.cpu.Microseconds())/float64(rounds*calls), "µs-CPU/"+row.name+"-call")
	}
	b.ReportMetric(float64(rows[0].cpu)/float64(rows[1].cpu), "÷caddy")
	b.ReportMetric(float64(rows[0].cpu)/float64(rows[2].cpu), "÷nginx")
}

// startTokenProxy runs one nginx process that adds a token to what it passes on.
func startTokenProxy(b *testing.B, upstream string) (addr string, pid int) {
	b.Helper()
	dir, addr := b.TempDir(), gatewaytest.FreeAddr(b)
	conf := fmt.Sprintf(`daemon off;
master_process off;
pid %[1]s/pid;
error_log stderr;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	keepalive_requests 1000000;
	upstream wechat { server %[2]s; keepalive 16; keepalive_requests 1000000; }
	server {
		listen %[3]s;
		location / {
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			set $args $args&access_token=fixed-token;
			proxy_pass http://wechat;
		}
	}
}
`, dir, upstream, addr)
	path := filepath.Join(dir, "nginx.conf")
	require.NoError(b, os.WriteFile(path, []byte(conf), 0o600))
	cmd := exec.Command("nginx", "-c", path, "-p", dir)
	cmd.Stderr = os.Stderr
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	gatewaytest.Eventually(b, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, "nginx listens")
	return addr, cmd.Process.Pid
}

// cpuTime is what a process has used, in user and kernel.
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(b, err)
	// The name in brackets may hold blanks.
	fields := strings.Fields(string(stat)[strings.LastIndexByte(string(stat), ')')+1:])
	var ticks int64
	for _, i := range []int{11, 12} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		require.NoError(b, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 everywhere
}
