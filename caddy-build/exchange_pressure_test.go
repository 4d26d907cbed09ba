package main_test

import (
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

func TestLoginRateCountsTheClientAndNotWhatItSays(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "login_rate 3 1h", Servers: "expected_underscore_headers 3rd_session\ntrusted_proxies static 127.0.0.2/32"})
	try := func(lines ...string) gatewaytest.Response { return g.Post("/login", `{"code":"made-up"}`, lines...) }
	for range 3 {
		require.Equal(t, http.StatusUnauthorized, try("X-Forwarded-For: 192.0.2."+strconv.Itoa(int(time.Now().UnixNano()%200))).Status)
	}
	resp := try("X-Forwarded-For: 192.0.2.201")
	require.Equal(t, http.StatusTooManyRequests, resp.Status)
	require.Equal(t, "rate_limited", resp.ErrorName())
	require.NotEmpty(t, resp.Header.Get("Retry-After"))

	// Behind a trusted proxy each client has its own, and an IPv6 host one for its /64.
	proxied := func(client string) int {
		body := `{"code":"made-up"}`
		resp, err := gatewaytest.SendRawFrom("127.0.0.2", g.Addr, "POST /login HTTP/1.1\nHost: "+g.Addr+"\nX-Forwarded-For: "+client+"\nContent-Type: application/json\nContent-Length: "+strconv.Itoa(len(body))+"\n\n"+body)
		require.NoError(t, err)
		return resp.Status
	}
	for i := range 3 {
		require.Equal(t, http.StatusUnauthorized, proxied("198.51.100.7"))
		require.Equal(t, http.StatusUnauthorized, proxied("2001:db8::"+strconv.Itoa(i)))
	}
	require.Equal(t, http.StatusTooManyRequests, proxied("198.51.100.7"))
	require.Equal(t, http.StatusTooManyRequests, proxied("2001:db8::ffff"))
	require.Equal(t, http.StatusUnauthorized, proxied("198.51.100.8"))
	require.Equal(t, http.StatusUnauthorized, proxied("2001:db8:0:1::1"))
}

func TestBreakerAndConcurrencyKeepUsersFromWaiting(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "exchange_timeout 1s\nexchange_concurrency 1"})
	token := g.Login("alice").Token
	g.WeChat.Script(fakewechat.Script{Hold: true, Calls: -1})

	// One call hangs; the others find no free place and never reach WeChat.
	var group sync.WaitGroup
	names := make([]string, 3)
	calls := len(g.WeChat.Calls())
	for i := range names {
		group.Go(func() {
			names[i] = g.Post("/login", `{"code":"`+g.WeChat.IssueCode(gatewaytest.AppID, "u"+strconv.Itoa(i))+`"}`).ErrorName()
		})
	}
	group.Wait()
	require.Contains(t, names, "wechat_timeout")
	require.LessOrEqual(t, len(g.WeChat.Calls())-calls, 2)

	// After some more the breaker opens: an answer at once, and no call.
	g.Eventually(func() bool {
		before := len(g.WeChat.Calls())
		resp := g.Post("/login", `{"code":"`+g.WeChat.IssueCode(gatewaytest.AppID, "bob")+`"}`)
		return resp.ErrorName() == "wechat_busy" && resp.Header.Get("Retry-After") != "" && len(g.WeChat.Calls()) == before
	}, "the breaker opens")
	// Users who are logged in never notice.
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)

	// It closes by itself when WeChat is well again.
	g.WeChat.Reset()
	g.Eventually(func() bool {
		return g.Post("/login", `{"code":"`+g.WeChat.IssueCode(gatewaytest.AppID, "carol")+`"}`).Status == http.StatusOK
	}, "the breaker closes")
}

// TestALoopingUserLocksNobodyOut: WeChat limits each user (45011), and a client can
// bring that about at will.
func TestALoopingUserLocksNobodyOut(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	tooOften := int64(45011)
	g.WeChat.Script(fakewechat.Script{Errcode: &tooOften, Calls: 20})
	for range 20 {
		resp := g.Post("/login", `{"code":"`+g.WeChat.IssueCode(gatewaytest.AppID, "looper")+`"}`)
		require.Equal(t, http.StatusTooManyRequests, resp.Status, resp.Body)
		require.Equal(t, "60", resp.Header.Get("Retry-After"))
	}
	g.Login("alice")
}

// TestLiveSessionsWhileWeChatHangs logs the latencies; that every request is
// answered while logins hang is what it asserts.
func TestLiveSessionsWhileWeChatHangs(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "login_rate off"})
	token := g.Login("alice").Token
	client := &http.Client{}
	measure := func() (p50, p99 time.Duration) {
		const requests = 500
		took := make([]time.Duration, requests)
		for i := range took {
			start := time.Now()
			require.Equal(t, http.StatusOK, get(t, client, g.URL+"/", token).Status)
			took[i] = time.Since(start)
		}
		slices.Sort(took)
		return took[requests/2], took[requests*99/100]
	}
	p50, p99 := measure()
	t.Logf("before: p50 %v, p99 %v", p50, p99)

	g.WeChat.Script(fakewechat.Script{Hold: true, Calls: -1})
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			g.Post("/login", `{"code":"`+g.WeChat.IssueCode(gatewaytest.AppID, "u"+strconv.Itoa(i))+`"}`)
		})
	}
	g.Eventually(func() bool { return len(g.WeChat.Calls()) > 1 }, "logins hang at WeChat")
	p50, p99 = measure()
	t.Logf("while 64 logins hang: p50 %v, p99 %v", p50, p99)
	g.WeChat.Release()
	g.WeChat.Reset()
	group.Wait()
}
