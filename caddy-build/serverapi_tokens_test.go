package main_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

const stableToken = "/cgi-bin/stable_token"

// WeChat gives a token out to its last second. What expires_in − 300 makes of it is no storm
// of requests.
func TestTokensWithLittleTimeLeftOnTheRelay(t *testing.T) {
	for _, left := range []time.Duration{300 * time.Second, 301 * time.Second, 345 * time.Second} {
		r := startRelay(t, relayConfig{})
		token := r.WeChat.SetToken(gatewaytest.AppID, left)
		for range 20 {
			requireOK(t, r.post(checkAPI, hello))
		}
		require.LessOrEqual(t, len(r.WeChat.CallsTo(stableToken)), 2, left)
		for _, call := range r.WeChat.CallsTo(checkAPI) {
			require.Equal(t, token, call.AccessToken())
		}
	}

	// A token that ends before the next one is there leaves a moment without one.
	r := startRelay(t, relayConfig{})
	token := r.WeChat.SetToken(gatewaytest.AppID, 1900*time.Millisecond)
	r.Eventually(func() bool {
		resp := r.post(checkAPI, hello)
		if resp.Status == http.StatusOK {
			requireOK(t, resp)
		} else {
			requireRefusal(t, resp, http.StatusServiceUnavailable, -90503, "wechat_busy")
			require.NotEmpty(t, resp.Header.Get("Retry-After"))
		}
		return r.WeChat.Token(gatewaytest.AppID) != token
	}, "the next token")
	requireOK(t, r.post(checkAPI, hello))
	require.LessOrEqual(t, len(r.WeChat.CallsTo(stableToken)), 5)
}

// While stable_token hangs or fails, calls go on with the token that still lives.
func TestAnOutageOfStableTokenOnTheRelay(t *testing.T) {
	r := startRelay(t, relayConfig{})
	r.WeChat.SetToken(gatewaytest.AppID, 301*time.Second)
	requireOK(t, r.post(checkAPI, hello))
	r.WeChat.Script(fakewechat.Script{Path: stableToken, Hold: true}, fakewechat.Script{Path: stableToken, Calls: -1, Status: http.StatusBadGateway})
	r.Eventually(func() bool {
		requireOK(t, r.post(checkAPI, hello))
		return len(r.WeChat.CallsTo(stableToken)) == 2
	}, "the next token is asked for")
	for range 10 {
		requireOK(t, r.post(checkAPI, hello))
	}
	require.Len(t, r.WeChat.CallsTo(stableToken), 2, "one request at a time")
	r.WeChat.Release()
	requireOK(t, r.post(checkAPI, hello))
}

// An API that answers 40001 whatever the token costs a bounded number of calls.
func TestAnAPIThatAlwaysRefusesTheToken(t *testing.T) {
	r := startRelay(t, relayConfig{})
	r.WeChat.Script(fakewechat.Script{Path: checkAPI, Calls: -1, Errcode: new(int64(40001))})
	for range 30 {
		resp := r.post(checkAPI, hello)
		require.Equal(t, http.StatusOK, resp.Status)
		require.Contains(t, resp.Body, `"errcode":40001`, "WeChat's own answer passes")
	}
	forced := 0
	for _, call := range r.WeChat.CallsTo(stableToken) {
		forced += strings.Count(string(call.Body), `"force_refresh":true`)
	}
	require.Equal(t, 1, forced)
	require.LessOrEqual(t, len(r.WeChat.CallsTo(stableToken)), 8)
	require.LessOrEqual(t, len(r.WeChat.CallsTo(checkAPI)), 30+8)
	requireOK(t, r.send(http.MethodGet, "/cgi-bin/get_api_domain_ip", ""))
}

// While the AppSecret is being changed, either of the two gives a token.
func TestTheOldSecretGivesAToken(t *testing.T) {
	const old = "5ec2e7000000000000000000000000ff"
	r := &relay{Gateway: gatewaytest.New(t), tb: t, addr: gatewaytest.FreeAddr(t)}
	r.WeChat.SetSecret(gatewaytest.AppID, old)
	cfg := relayConfig{env: []string{"OLD_SECRET=" + old}}.whole(r.addr)
	cfg.Whole = strings.Replace(cfg.Whole, "{env.WX_SECRET}", "{env.WX_SECRET} {env.OLD_SECRET}", 1)
	r.Run(cfg)
	requireOK(t, r.post(checkAPI, hello))
	require.Len(t, r.WeChat.CallsTo(stableToken), 2)
	require.False(t, strings.Contains(r.Output(), old) || strings.Contains(r.Output(), gatewaytest.Secret))
}

// With TLS client authentication a caller without a certificate, or with another's, gets no
// connection.
func TestCallersWithoutACertificate(t *testing.T) {
	good, stranger := redistest.NewTLS(t), redistest.NewTLS(t)
	r := &relay{Gateway: gatewaytest.New(t), tb: t, addr: gatewaytest.FreeAddr(t)}
	cfg := relayConfig{address: fmt.Sprintf("https://localhost:$PORT {\n bind 127.0.0.1\n tls %s %s {\n client_auth {\n mode require_and_verify\n trust_pool file %s\n}\n}", good.File, good.File, good.File)}.whole(r.addr)
	r.Run(cfg)
	call := func(certificates ...tls.Certificate) (gatewaytest.Response, error) {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: good.Client.RootCAs, Certificates: certificates}}}
		return gatewaytest.ReadResponse(client.Post("https://localhost:"+r.port()+checkAPI, "application/json", strings.NewReader(hello)))
	}
	var resp gatewaytest.Response
	r.Eventually(func() (ok bool) {
		own, err := tls.LoadX509KeyPair(good.File, good.File)
		require.NoError(t, err)
		resp, err = call(own)
		return err == nil
	}, "the site answers")
	requireOK(t, resp)
	_, err := call()
	require.ErrorContains(t, err, "certificate required")
	foreign, err := tls.LoadX509KeyPair(stranger.File, stranger.File)
	require.NoError(t, err)
	_, err = call(foreign)
	require.Error(t, err)
	require.Len(t, r.WeChat.CallsTo(checkAPI), 1)
}
