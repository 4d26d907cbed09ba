package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// A caller that is slow to send or to read has its place among the calls for no longer than
// api_timeout.
func TestSlowCallersOfTheRelay(t *testing.T) {
	r := startRelay(t, relayConfig{app: "api_timeout 1s\n api_concurrency 1"})
	const patience = 30 * time.Second
	call := func(body string, length int) net.Conn {
		conn, err := net.Dial("tcp", r.addr)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		ask(t, conn, body, length)
		return conn
	}

	kept := call(hello, len(hello))
	require.Equal(t, http.StatusOK, answerOn(t, kept))

	require.Equal(t, http.StatusBadRequest, answerOn(t, call(`{"content":`, 100)))
	require.Contains(t, r.metrics(), `result="denied"} 1`)

	// The deadlines of the first call, which have passed now, were its own.
	ask(t, kept, hello, len(hello))
	require.Equal(t, http.StatusOK, answerOn(t, kept))

	large := strings.Repeat("x", 32<<20)
	r.WeChat.Script(fakewechat.Script{Path: checkAPI, Body: &large})
	calls := len(r.WeChat.CallsTo(checkAPI))
	call(hello, len(hello)) // and never reads
	r.Eventually(func() bool { return len(r.WeChat.CallsTo(checkAPI)) > calls }, "WeChat is asked")
	begin := time.Now()
	r.Eventually(func() bool { return r.post(checkAPI, hello).Status == http.StatusOK }, "the place is free again")
	require.Less(t, time.Since(begin), patience, "Caddy itself gives such a caller a minute")
}

func ask(t *testing.T, conn net.Conn, body string, length int) {
	t.Helper()
	_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", checkAPI, length, body)
	require.NoError(t, err)
}

func answerOn(t *testing.T, conn net.Conn) int {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

// A reply of WeChat's that breaks off never looks whole, and is counted as what it is.
func TestRepliesThatBreakOff(t *testing.T) {
	r := startRelay(t, relayConfig{})
	r.Login("alice")
	text := strings.Repeat("x", 4<<10)
	half := fakewechat.Script{Path: checkAPI, Body: &text, HangUp: fakewechat.HangUpAfter}
	chunked := "HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\n" + text
	for i, script := range []fakewechat.Script{half, {Path: checkAPI, Raw: &chunked}} {
		r.WeChat.Script(script)
		resp, err := http.Post("http://"+r.addr+checkAPI, "application/json", strings.NewReader(hello))
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		require.Error(t, err)
		r.Eventually(func() bool {
			return strings.Contains(r.metrics(), fmt.Sprintf(`api=%q,appid=%q,result="bad_reply"} %d`, checkAPI, gatewaytest.AppID, i+1))
		}, "the call is counted as a bad reply")
	}

	half.Path = "/wxa/checksession"
	r.WeChat.Script(half)
	requireRefusal(t, r.post("/wxgate/sign", fmt.Sprintf(`{"openid":%q,"data":"{}","check":true}`, r.WeChat.OpenID(gatewaytest.AppID, "alice"))),
		http.StatusBadGateway, -90502, "wechat_bad_reply")
}
