package main_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// A page of evil.test that resolves evil.test to 127.0.0.1 once it is loaded is of the same
// origin as the relay: the browser then sends neither Origin nor Sec-Fetch-Site with a GET.
func TestTheRelayIsNoHostOfOthers(t *testing.T) {
	ask := func(r *relay, host string) gatewaytest.Response {
		t.Helper()
		resp, err := gatewaytest.SendRaw(r.addr, "GET /cgi-bin/token?grant_type=client_credential&appid="+gatewaytest.AppID+"&secret=x HTTP/1.1\nHost: "+host+"\nConnection: close\n\n")
		require.NoError(t, err)
		return resp
	}
	r := startRelay(t, relayConfig{address: "http://:$PORT {\n bind 127.0.0.1"})
	for _, host := range []string{"evil.test", "evil.test:" + r.port(), "127.0.0.1.evil.test", "api.weixin.qq.com.evil.test", "evilapi.weixin.qq.com.", "weixin.qq.com.cn", "app.internal.test.evil.test", "[::1].evil.test"} {
		resp := ask(r, host)
		require.Contains(t, []int{http.StatusForbidden, http.StatusBadRequest}, resp.Status, host)
		require.NotContains(t, resp.Body, "access_token", host)
	}
	requireRefusal(t, ask(r, "evil.test"), http.StatusForbidden, -90403, "forbidden")
	for _, host := range []string{
		r.addr, "127.0.0.1", "localhost", "LocalHost:" + r.port(), "[::1]:" + r.port(), "[::1]", "wxgate", "wxgate:9001", "10.1.2.3",
		"api.weixin.qq.com", "api2.weixin.qq.com", "sh.api.weixin.qq.com:80",
	} {
		require.Contains(t, ask(r, host).Body, `"access_token":"wxgate.`, host)
	}
	absolute, err := gatewaytest.SendRaw(r.addr, "GET http://evil.test/cgi-bin/get_api_domain_ip HTTP/1.1\nHost: localhost\nConnection: close\n\n")
	require.NoError(t, err)
	requireRefusal(t, absolute, http.StatusForbidden, -90403, "forbidden")

	// A name in an address is the site's own. Caddy answers the others by itself.
	named := startRelay(t, relayConfig{address: "http://127.0.0.1:$PORT, http://app.internal.test:$PORT, http://*.apps.test:$PORT {\n bind 127.0.0.1"})
	require.Contains(t, ask(named, "APP.internal.test:"+named.port()).Body, `"access_token":"wxgate.`)
	require.Contains(t, ask(named, "one.apps.test:"+named.port()).Body, `"access_token":"wxgate.`)
	require.Empty(t, ask(named, "evil.test").Body)

	// Who shows a key is no browser.
	keyed := startRelay(t, relayConfig{address: "http://:$PORT {\n bind 127.0.0.1", site: "key app {env.API_KEY}"})
	resp, err := gatewaytest.SendRaw(keyed.addr, strings.Join([]string{"POST " + checkAPI + " HTTP/1.1", "Host: relay.test", "Authorization: Bearer " + apiKey, "Content-Length: 19", "Connection: close", "", hello}, "\n"))
	require.NoError(t, err)
	requireOK(t, resp)
}
