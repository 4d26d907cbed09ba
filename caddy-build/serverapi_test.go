package main_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

const (
	checkAPI  = "/wxa/msg_sec_check"
	imageAPI  = "/wxa/getwxacodeunlimit"
	uploadAPI = "/cgi-bin/media/upload"
	hello     = `{"content":"hello"}`
)

func TestTheRelayCallsWithoutATokenOfTheApplications(t *testing.T) {
	r := startRelay(t, relayConfig{})
	requireOK(t, r.post(checkAPI+"?a=%20b&access_token=x&c&access_token=y&%61ccess_token=z&cloudbase_access_token=w", hello,
		"Cookie: a=b", "Authorization: Basic eDp5", "X-Whatever: 1", "Idempotency-Key: 1", "User-Agent: app", "Accept: */*", "Wechatmp-Appid: wx1"))
	calls := r.WeChat.CallsTo(checkAPI)
	require.Len(t, calls, 1)
	require.Equal(t, "a=%20b&c&access_token="+url.QueryEscape(r.WeChat.Token(gatewaytest.AppID)), calls[0].Query)
	require.Equal(t, http.Header{
		"Content-Type": {"application/json"}, "Content-Length": {"19"}, "User-Agent": {"wxgate"}, "Wechatmp-Appid": {"wx1"},
	}, calls[0].Header)
	require.Equal(t, hello, string(calls[0].Body))

	// A GET has no body.
	requireOK(t, r.send(http.MethodGet, "/cgi-bin/get_api_domain_ip", ""))
	require.Zero(t, r.WeChat.CallsTo("/cgi-bin/get_api_domain_ip")[0].BodyBytes)

	// WeChat's own answer, whatever it is.
	r.WeChat.Script(fakewechat.Script{Path: checkAPI, Errcode: new(int64(45009)), Errmsg: "reach max api daily quota limit, rid: 1-2-3"})
	require.Equal(t, `{"errcode":45009,"errmsg":"reach max api daily quota limit, rid: 1-2-3"}`, r.post(checkAPI, hello).Body)
	image := r.post(imageAPI, `{"scene":"a=1"}`)
	require.Equal(t, string(fakewechat.CodeImage()), image.Body)
	require.Equal(t, "image/jpeg", image.Header.Get("Content-Type"))
	require.Len(t, r.WeChat.CallsTo("/cgi-bin/stable_token"), 1)
}

func TestTheRelayRefusesWhatIsNotAllowed(t *testing.T) {
	r := startRelay(t, relayConfig{site: "allow default /wxa/game/*"})
	for _, uri := range []string{
		"/wxa/modify_domain", "/cgi-bin/clear_quota", "/cgi-bin/clear_quota/v2", "/sns/jscode2session?appid=x&secret=y", "/wxa/resetusersessionkey",
		"/donut/code2verifyinfo", "/cgi-bin/component/api_component_token", "/", "/wxa/", "/wxa/../cgi-bin/token", "/wxa/msg_sec_check/",
		"//wxa/msg_sec_check", "/wxa//msg_sec_check", "/wxa%2fmsg_sec_check", "/wxa/msg_sec%5fcheck", "/wxa/./msg_sec_check", "/WXA/msg_sec_check",
		"/wxa/msg_sec_check;x=1", "/wxa/msg_sec_check%00", "/wxa/sec/order/../../commit", "/wxa/sec/orders", "/wxa/game",
		"/cgi-bin/stable_token/", "/cgi-bin/Token",
	} {
		requireRefusal(t, r.post(uri, hello), http.StatusOK, 85107, "not_allowed")
	}
	require.Contains(t, r.post("/wxa/commit", "{}").Body, "add to wxgate_api: allow default /wxa/commit")
	require.Contains(t, r.post("/wxa/resetusersessionkey", "{}").Body, "never: ")
	requireRefusal(t, r.post("/_/pay/unifiedorder", hello), http.StatusNotFound, -90404, "not_found")
	for _, method := range []string{"PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"} {
		resp := r.send(method, checkAPI, "")
		require.Equal(t, http.StatusMethodNotAllowed, resp.Status)
		require.Equal(t, "GET, POST", resp.Header.Get("Allow"))
	}
	requireRefusal(t, r.post(checkAPI+"?a=%zz", hello), http.StatusBadRequest, -90400, "bad_request")
	require.Empty(t, r.WeChat.Calls(), "nothing reached WeChat")
	requireOK(t, r.post("/wxa/sec/order/upload_shipping_info", "{}"))
	requireOK(t, r.post("/wxa/game/getbalance?signature=x", "{}"))
}

func TestTheRelayChoosesTheMiniProgram(t *testing.T) {
	r := startRelay(t, relayConfig{apps: true})
	requireRefusal(t, r.post(checkAPI, hello), http.StatusOK, 40013, "unknown_miniprogram")
	requireRefusal(t, r.post(checkAPI+"?from_appid=wx0000000000000003", hello), http.StatusOK, 40013, "unknown_miniprogram")
	requireOK(t, r.post(checkAPI+"?from_appid="+gatewaytest.OtherAppID, hello, "X-WX-APPID: "+gatewaytest.AppID))
	requireOK(t, r.post(checkAPI, hello, "x-wx-appid: "+gatewaytest.AppID))
	calls := r.WeChat.CallsTo(checkAPI)
	require.Equal(t, []string{gatewaytest.OtherAppID, gatewaytest.AppID}, []string{calls[0].AppID, calls[1].AppID})
	require.NotContains(t, calls[0].Query, "from_appid")

	one := startRelay(t, relayConfig{apps: true, site: "miniprograms " + gatewaytest.OtherAppID})
	requireOK(t, one.post(checkAPI, hello))
	require.Equal(t, gatewaytest.OtherAppID, one.WeChat.CallsTo(checkAPI)[0].AppID)
	requireRefusal(t, one.post(checkAPI+"?from_appid="+gatewaytest.AppID, hello), http.StatusOK, 40013, "unknown_miniprogram")
}

func TestTheRelayRefusesStrangers(t *testing.T) {
	r := startRelay(t, relayConfig{})
	for _, line := range []string{"X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1", "Via: 1.1 x", "X-Real-IP: 127.0.0.1", "Origin: https://example.com"} {
		requireRefusal(t, r.post(checkAPI, hello, line), http.StatusForbidden, -90403, "forbidden")
	}
	keyed := startRelay(t, relayConfig{site: "key app {env.API_KEY} {env.API_KEY_2}\n key other {env.API_KEY_3}", env: []string{"API_KEY_2=canary-api-key-new-56789", "API_KEY_3=canary-api-key-other-789"}})
	requireRefusal(t, keyed.post(checkAPI, hello), http.StatusUnauthorized, 41001, "unauthorized")
	requireRefusal(t, keyed.post(checkAPI, hello, "Authorization: Bearer wrong"), http.StatusUnauthorized, 41001, "unauthorized")
	requireRefusal(t, keyed.post(checkAPI+"?access_token=wrong", hello), http.StatusOK, 42001, "token_expired")
	require.Empty(t, append(r.WeChat.Calls(), keyed.WeChat.Calls()...))
	for _, key := range []string{apiKey, "canary-api-key-new-56789", "canary-api-key-other-789"} {
		// With a key it may come through a proxy.
		requireOK(t, keyed.post(checkAPI, hello, "Authorization: Bearer "+key, "X-Forwarded-For: 1.2.3.4"))
		requireOK(t, keyed.post(checkAPI+"?access_token="+key, hello))
	}
	for _, call := range keyed.WeChat.CallsTo(checkAPI) {
		require.NotContains(t, call.Query, "canary")
		require.Empty(t, call.Header["Authorization"])
	}

	far := startRelay(t, relayConfig{address: "http://:$PORT {", site: "clients 10.0.0.0/8"})
	requireOK(t, far.post(checkAPI, hello))
	for _, addr := range ownAddresses(t) {
		resp, err := gatewaytest.SendRaw(net.JoinHostPort(addr, far.port()), "GET "+checkAPI+" HTTP/1.1\nHost: x\nConnection: close\n\n")
		require.NoError(t, err)
		if !strings.HasPrefix(addr, "10.") {
			requireRefusal(t, resp, http.StatusForbidden, -90403, "forbidden")
		}
	}
}

func (r *relay) port() string {
	_, port, err := net.SplitHostPort(r.addr)
	require.NoError(r.tb, err)
	return port
}

// ownAddresses are this machine's beside loopback; there may be none.
func ownAddresses(t *testing.T) (addresses []string) {
	t.Helper()
	all, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, addr := range all {
		if ip, ok := addr.(*net.IPNet); ok && !ip.IP.IsLoopback() && ip.IP.To4() != nil {
			addresses = append(addresses, ip.IP.String())
		}
	}
	return addresses
}

func TestTheRelayGivesSDKsATokenOfItsOwn(t *testing.T) {
	env := []string{"NEW_KEY=canary-api-key-new-56789"}
	r := startRelay(t, relayConfig{apps: true, site: "key app {env.API_KEY}", env: env})
	ask := func(method, uri, body string) gatewaytest.Response { return r.send(method, uri, body) }
	tokenOf := func(resp gatewaytest.Response) string {
		t.Helper()
		var token struct {
			AccessToken string `json:"access_token"`
			ExpiresIn   int    `json:"expires_in"`
		}
		require.NoError(t, json.Unmarshal([]byte(resp.Body), &token))
		require.Equal(t, 7200, token.ExpiresIn, resp.Body)
		require.True(t, strings.HasPrefix(token.AccessToken, "wxgate."))
		require.Less(t, len(token.AccessToken), 512)
		return token.AccessToken
	}
	plain := tokenOf(ask("GET", "/cgi-bin/token?grant_type=client_credential&appid="+gatewaytest.AppID+"&secret="+apiKey, ""))
	stable := tokenOf(ask("POST", "/cgi-bin/stable_token", `{"grant_type":"client_credential","appid":"`+gatewaytest.OtherAppID+`","secret":"`+apiKey+`","force_refresh":true}`))
	requireOK(t, r.post(checkAPI+"?access_token="+plain, hello))
	requireOK(t, r.post(checkAPI+"?access_token="+stable, hello))
	calls := r.WeChat.CallsTo(checkAPI)
	require.Equal(t, []string{gatewaytest.AppID, gatewaytest.OtherAppID}, []string{calls[0].AppID, calls[1].AppID})
	for _, call := range r.WeChat.CallsTo("/cgi-bin/stable_token") {
		require.Contains(t, string(call.Body), `"force_refresh":false`, "an application's never reaches WeChat")
	}

	for name, tc := range map[string]struct {
		uri     string
		errcode int64
	}{
		"no appid":          {"?grant_type=client_credential&secret=" + apiKey, 41002},
		"an unknown appid":  {"?grant_type=client_credential&appid=wx0000000000000003&secret=" + apiKey, 40013},
		"the AppSecret":     {"?grant_type=client_credential&appid=" + gatewaytest.AppID + "&secret=" + gatewaytest.Secret, 40125},
		"another grantType": {"?grant_type=x&appid=" + gatewaytest.AppID + "&secret=" + apiKey, 40002},
	} {
		resp := ask("GET", "/cgi-bin/token"+tc.uri, "")
		require.Equal(t, http.StatusOK, resp.Status, name)
		require.Contains(t, resp.Body, fmt.Sprintf(`"errcode":%d`, tc.errcode), name)
	}
	last := plain[len(plain)-1]
	for name, token := range map[string]string{
		"changed": plain[:len(plain)-1] + string('A'+(last-'A'+1)%2), "cut": plain[:len(plain)-5], "of another app": strings.Replace(plain, gatewaytest.AppID, gatewaytest.OtherAppID, 1),
		"empty": "wxgate.", "dots": "wxgate....", "no mac": strings.Join(strings.Split(plain, ".")[:3], ".") + ".",
	} {
		requireRefusal(t, r.post(checkAPI+"?access_token="+url.QueryEscape(token), hello), http.StatusOK, 42001, "token_expired")
		_ = name
	}

	// The token outlives a restart, and dies with the key that it was given for.
	r.Stop()
	cfg := relayConfig{apps: true, site: "key app {env.API_KEY}", env: env}
	r.Run(cfg.whole(r.addr))
	requireOK(t, r.post(checkAPI+"?access_token="+plain, hello))
	cfg.site = "key app {env.NEW_KEY}"
	_, err := r.Reload(cfg.whole(r.addr))
	require.NoError(t, err)
	requireRefusal(t, r.post(checkAPI+"?access_token="+plain, hello), http.StatusOK, 42001, "token_expired")
}

func TestWithoutAKeyAnySecretWillDo(t *testing.T) {
	r := startRelay(t, relayConfig{})
	resp := r.send("GET", "/cgi-bin/token?grant_type=client_credential&appid="+gatewaytest.AppID+"&secret=x", "")
	require.Contains(t, resp.Body, `"access_token":"wxgate.`)
	require.NotContains(t, r.Output(), "still holds the AppSecret")
	r.send("GET", "/cgi-bin/token?grant_type=client_credential&appid="+gatewaytest.AppID+"&secret="+gatewaytest.Secret, "")
	r.Eventually(func() bool { return strings.Contains(r.Output(), "an application still holds the AppSecret") }, "the warning")
}

// An application from Cloud Hosting asks http://api.weixin.qq.com without a
// token, through http_proxy or by the name.
func TestAnApplicationFromCloudHosting(t *testing.T) {
	r := startRelay(t, relayConfig{address: "http://api.weixin.qq.com:$PORT {\n bind 127.0.0.1"})
	proxy := &url.URL{Scheme: "http", Host: r.addr}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}}
	port := r.port()
	resp, err := gatewaytest.ReadResponse(client.Post("http://api.weixin.qq.com:"+port+checkAPI+"?from_appid="+gatewaytest.AppID, "application/json", strings.NewReader(hello)))
	require.NoError(t, err)
	requireOK(t, resp)
	require.NotEmpty(t, resp.Header.Get("X-Openapi-Seqid"))
	_, err = client.Post("https://api.weixin.qq.com:"+port+checkAPI, "application/json", strings.NewReader(hello))
	require.ErrorContains(t, err, "Method Not Allowed")
	raw, err := gatewaytest.SendRaw(r.addr, "CONNECT api.weixin.qq.com:443 HTTP/1.1\nHost: api.weixin.qq.com:443\n\n")
	require.NoError(t, err)
	require.Equal(t, http.StatusMethodNotAllowed, raw.Status)
	require.Contains(t, raw.Body, "use http://")
	// By the name, as with extra_hosts.
	raw, err = gatewaytest.SendRaw(r.addr, "POST "+checkAPI+" HTTP/1.1\nHost: api.weixin.qq.com\nContent-Length: 19\nConnection: close\n\n"+hello)
	require.NoError(t, err)
	requireOK(t, raw)
}

func TestTheRelayOnAUnixSocket(t *testing.T) {
	r := &relay{Gateway: gatewaytest.New(t), tb: t}
	socket := filepath.Join(r.Dir, "api.sock")
	r.Run(relayConfig{address: "http://relay {\n bind unix/" + socket + "|0660"}.whole(""))
	info, err := os.Stat(socket)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o660), info.Mode().Perm())
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	resp, err := gatewaytest.ReadResponse(client.Post("http://relay"+checkAPI, "application/json", strings.NewReader(hello)))
	require.NoError(t, err)
	requireOK(t, resp)
}

// 200 calls on a dead token all succeed with at most two requests for a token.
func TestTheRelayReplacesADeadToken(t *testing.T) {
	r := startRelay(t, relayConfig{})
	requireOK(t, r.post(checkAPI, hello))
	for _, stale := range []bool{false, true} {
		r.WeChat.Revoke(gatewaytest.AppID, stale)
		before := len(r.WeChat.CallsTo("/cgi-bin/stable_token"))
		var all sync.WaitGroup
		answers := make(chan gatewaytest.Response, 200)
		for range 200 {
			all.Go(func() { answers <- r.post(checkAPI, hello) })
		}
		all.Wait()
		for range 200 {
			requireOK(t, <-answers)
		}
		require.LessOrEqual(t, len(r.WeChat.CallsTo("/cgi-bin/stable_token"))-before, 2)
	}
	r.Eventually(func() bool {
		return strings.Contains(r.Output(), "another holder of the AppSecret forces refreshes") &&
			strings.Contains(r.Output(), "so a refresh was forced")
	}, "the log says so")
}

func TestBodiesAroundTheLimits(t *testing.T) {
	r := startRelay(t, relayConfig{site: "max_body 2MiB"})
	upload := func(size int, chunked bool) gatewaytest.Response {
		body := make([]byte, size)
		_, _ = rand.Read(body)
		req, err := http.NewRequest(http.MethodPost, "http://"+r.addr+uploadAPI+"?type=image", bytes.NewReader(body))
		require.NoError(t, err)
		if chunked {
			req.ContentLength = -1
		}
		resp, err := gatewaytest.ReadResponse(http.DefaultClient.Do(req))
		require.NoError(t, err)
		if resp.Status == http.StatusOK {
			sum := sha256.Sum256(body)
			require.Contains(t, resp.Body, hex.EncodeToString(sum[:]))
			require.Contains(t, resp.Body, fmt.Sprintf(`"size":%d`, size))
		}
		return resp
	}
	for _, chunked := range []bool{false, true} {
		for _, size := range []int{1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 2 << 20} {
			require.Equal(t, http.StatusOK, upload(size, chunked).Status)
		}
		requireRefusal(t, upload(2<<20+1, chunked), http.StatusRequestEntityTooLarge, -90400, "body_too_large")
	}

	// What is announced as too long is not waited for.
	resp, err := gatewaytest.SendRaw(r.addr, fmt.Sprintf("POST %s HTTP/1.1\nHost: %s\nContent-Length: %d\nConnection: close\n\n", uploadAPI, r.addr, 2<<20+1))
	require.NoError(t, err)
	requireRefusal(t, resp, http.StatusRequestEntityTooLarge, -90400, "body_too_large")
}

func TestWeChatsTroubleOnTheRelay(t *testing.T) {
	r := startRelay(t, relayConfig{app: "api_timeout 500ms\n api_concurrency 1"})
	requireOK(t, r.post(checkAPI, hello))
	r.WeChat.Script(fakewechat.Script{Path: checkAPI, HangUp: fakewechat.HangUpBefore})
	requireRefusal(t, r.post(checkAPI, hello), http.StatusBadGateway, -90502, "wechat_bad_reply")
	r.WeChat.Script(fakewechat.Script{Path: checkAPI, Redirect: "https://example.com"})
	requireRefusal(t, r.post(checkAPI, hello), http.StatusBadGateway, -90502, "wechat_bad_reply")
	r.WeChat.Script(fakewechat.Script{Path: checkAPI, Hold: true})
	requireRefusal(t, r.post(checkAPI, hello), http.StatusGatewayTimeout, -90504, "wechat_timeout")
	r.WeChat.Release()

	// The only place is taken.
	r.WeChat.Script(fakewechat.Script{Path: imageAPI, Hold: true})
	held := make(chan gatewaytest.Response)
	go func() { held <- r.post(imageAPI, hello) }()
	r.Eventually(func() bool { return len(r.WeChat.CallsTo(imageAPI)) == 1 }, "the call is under way")
	busy := r.post(checkAPI, hello)
	requireRefusal(t, busy, http.StatusServiceUnavailable, -90503, "wechat_busy")
	require.Equal(t, "1", busy.Header.Get("Retry-After"))
	<-held
	r.WeChat.Release()

	// A reply that breaks off breaks off here, too.
	long := strings.Repeat("x", 100<<10)
	r.WeChat.Script(fakewechat.Script{Path: checkAPI, Body: &long, Truncate: 50 << 10})
	resp, err := http.Post("http://"+r.addr+checkAPI, "application/json", strings.NewReader(hello))
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)

	// No token to be had.
	r2 := startRelay(t, relayConfig{})
	r2.WeChat.Script(fakewechat.Script{Path: "/cgi-bin/stable_token", Calls: -1, Errcode: new(int64(40164)), Errmsg: "invalid ip 8.149.1.2 ipv6 ::ffff:8.149.1.2, not in whitelist rid: 1-2-3"})
	requireRefusal(t, r2.post(checkAPI, hello), http.StatusServiceUnavailable, -90503, "wechat_busy")
	r2.Eventually(func() bool {
		return strings.Contains(r2.Output(), "add 8.149.1.2 to the mini program's API IP 白名单")
	}, "the cure is in the log")
	r2.Login("alice") // which needs no token
}

func TestAReloadInMidCall(t *testing.T) {
	cfg := relayConfig{}
	r := startRelay(t, cfg)
	requireOK(t, r.post(checkAPI, hello))
	r.WeChat.Script(fakewechat.Script{Path: checkAPI, Hold: true})
	held := make(chan gatewaytest.Response)
	go func() { held <- r.post(checkAPI, hello) }()
	r.Eventually(func() bool { return len(r.WeChat.CallsTo(checkAPI)) == 2 }, "the call is under way")
	_, err := r.Reload(cfg.whole(r.addr))
	require.NoError(t, err)
	requireOK(t, r.post(checkAPI, hello))
	r.WeChat.Release()
	requireOK(t, <-held)
	require.Len(t, r.WeChat.CallsTo("/cgi-bin/stable_token"), 1, "a reload keeps the token")
	r.Eventually(func() bool { return strings.Contains(r.metrics(), "wxgate_api_in_flight 0") }, "every place is free")
}

func (r *relay) metrics() string {
	r.tb.Helper()
	resp, err := gatewaytest.ReadResponse(r.AdminClient().Get("http://admin/metrics"))
	require.NoError(r.tb, err)
	return resp.Body
}

// Two gateways ask one WeChat: each gets the same token, and a refresh that
// one forces is no trouble to the other.
func TestTwoNodesShareWeChatsToken(t *testing.T) {
	one := startRelay(t, relayConfig{})
	two := &relay{Gateway: gatewaytest.New(t), tb: t, addr: gatewaytest.FreeAddr(t)}
	cfg := relayConfig{}.whole(two.addr)
	cfg.Whole = strings.ReplaceAll(cfg.Whole, "$WECHAT", one.Expand("$WECHAT"))
	two.Run(cfg)
	requireOK(t, one.post(checkAPI, hello))
	requireOK(t, two.post(checkAPI, hello))
	token := one.WeChat.Token(gatewaytest.AppID)
	for _, call := range one.WeChat.CallsTo(checkAPI) {
		require.Equal(t, token, call.AccessToken())
	}
	one.WeChat.Revoke(gatewaytest.AppID, true)
	requireOK(t, one.post(checkAPI, hello)) // forces
	requireOK(t, two.post(checkAPI, hello)) // follows
	require.NotEqual(t, token, one.WeChat.Token(gatewaytest.AppID))
	forced := 0
	for _, call := range one.WeChat.CallsTo("/cgi-bin/stable_token") {
		if strings.Contains(string(call.Body), `"force_refresh":true`) {
			forced++
		}
	}
	require.Equal(t, 1, forced)
}
