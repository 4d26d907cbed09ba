package main_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
)

// BenchmarkScale measures the processor time that one to four gateways and
// their store take for each login, each session's first and second request on
// each gateway, and each logout, and the memory that Redis takes for a session.
//
//	go test ./caddy-build -run '^$' -bench Scale -benchtime 1x
func BenchmarkScale(b *testing.B) {
	for _, tc := range []struct {
		name              string
		gateways, masters int // no masters: Badger
	}{
		{"badger", 1, 0}, {"redis", 1, 1}, {"redis", 2, 1}, {"redis", 4, 1}, {"cluster", 4, 3},
	} {
		b.Run(fmt.Sprintf("%s/gateways=%d", tc.name, tc.gateways), func(b *testing.B) {
			for b.Loop() {
				measureScale(b, tc.gateways, tc.masters)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func measureScale(b *testing.B, gateways, masters int) {
	const sessions = 5_000 // few enough that the second request comes within 10 s, when Redis is read again
	config := gatewaytest.Config{App: "login_rate off"}
	var redis []*redistest.Server
	if masters == 1 {
		redis = []*redistest.Server{redistest.Start(b)}
	} else if masters > 1 {
		redis = redistest.StartCluster(b, masters)
	}
	if redis != nil {
		var addresses []string
		for _, node := range redis {
			addresses = append(addresses, node.Addr)
		}
		config = onRedis(strings.Join(addresses, " "), "")
	}
	var all []*gatewaytest.Gateway
	var pids []int
	for range gateways {
		g := gatewaytest.Start(b, config)
		g.Upstream.Handle(func(http.ResponseWriter, *http.Request) {})
		all, pids = append(all, g), append(pids, g.Pid())
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()

	used := func() (sum float64) {
		for _, pid := range pids {
			sum += float64(cpuTime(b, pid).Microseconds())
		}
		return sum
	}
	// phase does work for each session on each of some gateways, and reports what it cost.
	phase := func(name string, on []*gatewaytest.Gateway, work func(g *gatewaytest.Gateway, i int)) {
		gate, store := used(), redisInfo(b, redis, "cpu", "used_cpu_sys", "used_cpu_user")
		var workers sync.WaitGroup
		for worker := range 64 {
			workers.Go(func() {
				for i := worker; i < sessions; i += 64 {
					for j := range on {
						work(on[(i+j)%len(on)], i)
					}
				}
			})
		}
		workers.Wait()
		n := float64(sessions * len(on))
		b.ReportMetric((used()-gate)/n, name+"-gate-µs")
		if redis != nil {
			b.ReportMetric((redisInfo(b, redis, "cpu", "used_cpu_sys", "used_cpu_user")-store)*1e6/n, name+"-redis-µs")
		}
	}
	send := func(g *gatewaytest.Gateway, method, path, token, body string, want int) string {
		req, _ := http.NewRequest(method, g.URL+path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := gatewaytest.ReadResponse(client.Do(req))
		if err != nil || resp.Status != want {
			b.Errorf("%s %s: %v %v", method, path, err, resp)
		}
		return resp.Body
	}

	tokens := make([]string, sessions)
	memory := redisInfo(b, redis, "memory", "used_memory")
	var made sync.Mutex
	next := 0
	phase("login", []*gatewaytest.Gateway{nil}, func(_ *gatewaytest.Gateway, i int) {
		made.Lock()
		g := all[next%len(all)]
		next++
		made.Unlock()
		code := g.WeChat.IssueCode(gatewaytest.AppID, fmt.Sprint("user-", i))
		body := send(g, http.MethodPost, "/login", "", `{"code":"`+code+`"}`, http.StatusOK)
		_, body, _ = strings.Cut(body, `"3rd_session":"`)
		tokens[i], _, _ = strings.Cut(body, `"`)
	})
	if redis != nil {
		b.ReportMetric((redisInfo(b, redis, "memory", "used_memory")-memory)/sessions, "redis-B/session")
	}
	ask := func(g *gatewaytest.Gateway, i int) { send(g, http.MethodGet, "/", tokens[i], "", http.StatusOK) }
	phase("first", all, ask)
	phase("second", all, ask)
	phase("logout", all[:1], func(g *gatewaytest.Gateway, i int) {
		send(g, http.MethodPost, "/logout", tokens[i], "", http.StatusNoContent)
	})
	for _, g := range all {
		g.Stop()
	}
}

// redisInfo returns the sum of fields of INFO over the nodes.
func redisInfo(b *testing.B, nodes []*redistest.Server, section string, names ...string) (sum float64) {
	for _, node := range nodes {
		for line := range strings.Lines(node.Do(b, "info", section)) {
			for _, name := range names {
				if text, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
					var value float64
					_, err := fmt.Sscan(text, &value)
					require.NoError(b, err)
					sum += value
				}
			}
		}
	}
	return sum
}
