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

// TestALoopingUserLocksNoOtherOut: WeChat limits each user (45011), and a client can
// bring that about at will.
func TestALoopingUserLocksNoOtherOut(t *testing.T) {
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
