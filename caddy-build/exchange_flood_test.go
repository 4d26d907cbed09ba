package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// loginFrom sends the body of a login from a loopback address, with more header lines.
func loginFrom(t *testing.T, g *gatewaytest.Gateway, source, body string, lines ...string) gatewaytest.Response {
	t.Helper()
	resp, err := gatewaytest.SendRawFrom(source, g.Addr, "POST /login HTTP/1.1\nHost: "+g.Addr+"\n"+strings.Join(append(lines, ""), "\n")+
		"Content-Type: application/json\nContent-Length: "+strconv.Itoa(len(body))+"\n\n"+body)
	require.NoError(t, err)
	return resp
}

func TestLoginRateCountsTheClientAndNotWhatItSays(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "login_rate 3 1h", Servers: "expected_underscore_headers 3rd_session\ntrusted_proxies static 127.0.0.2/32"})
	n := 0
	login := func(source, forwarded string) gatewaytest.Response {
		n++
		return loginFrom(t, g, source, fmt.Sprintf(`{"code":"made-up-%d"}`, n), "X-Forwarded-For: "+forwarded)
	}
	for i := range 3 {
		require.Equal(t, http.StatusUnauthorized, login("127.0.0.1", "192.0.2."+strconv.Itoa(i)).Status)
	}
	resp := login("127.0.0.1", "192.0.2.201")
	require.Equal(t, http.StatusTooManyRequests, resp.Status)
	require.Equal(t, "rate_limited", resp.ErrorName())
	require.NotEmpty(t, resp.Header.Get("Retry-After"))

	// Behind a trusted proxy each client has its own, and an IPv6 host one for its /64.
	proxied := func(client string) int { return login("127.0.0.2", client).Status }
	for i := range 3 {
		require.Equal(t, http.StatusUnauthorized, proxied("198.51.100.7"))
		require.Equal(t, http.StatusUnauthorized, proxied("2001:db8::"+strconv.Itoa(i)))
	}
	require.Equal(t, http.StatusTooManyRequests, proxied("198.51.100.7"))
	require.Equal(t, http.StatusTooManyRequests, proxied("2001:db8::ffff"))
	require.Equal(t, http.StatusUnauthorized, proxied("198.51.100.8"))
	require.Equal(t, http.StatusUnauthorized, proxied("2001:db8:0:1::1"))

	// A /48 has ten times the rate of a /64: 30, of which 4 are used.
	for i := range 26 {
		require.Equal(t, http.StatusUnauthorized, proxied(fmt.Sprintf("2001:db8:0:%x::1", i+2)), i)
	}
	require.Equal(t, http.StatusTooManyRequests, proxied("2001:db8:0:ffff::1"))
	require.Equal(t, http.StatusUnauthorized, proxied("2001:db8:1::1"))
}

// What is not sent to WeChat does not use up the logins of others behind the same address,
// and is limited by itself.
func TestLoginRateChargesWhatIsSentToWeChat(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "login_rate 3 1h"})
	used := g.WeChat.IssueCode(gatewaytest.AppID, "alice")
	require.Equal(t, http.StatusOK, g.Post("/login", `{"code":"`+used+`"}`).Status)
	refuse := func(i int) gatewaytest.Response {
		switch i {
		case 0:
			return g.Post("/login", `{"code":"`+used+`"}`)
		case 1:
			return g.Post("/login", `{`)
		}
		return g.Raw("POST /login HTTP/1.1\nHost: " + g.Addr + "\nContent-Type: text/plain\nContent-Length: 1\n\na")
	}
	for i, want := range []int{http.StatusUnauthorized, http.StatusBadRequest, http.StatusUnsupportedMediaType} {
		require.Equal(t, want, refuse(i).Status)
	}
	for i := range 3 {
		resp := refuse(i)
		require.Equal(t, http.StatusTooManyRequests, resp.Status)
		require.NotEmpty(t, resp.Header.Get("Retry-After"))
	}
	// A call that is not made is not charged: the breaker is open here.
	_, err := g.Reload(gatewaytest.Config{App: "login_rate 6 1h\nminiprogram " + gatewaytest.OtherAppID + " {env.WX_OTHER_SECRET}"})
	require.NoError(t, err)
	g.WeChat.Script(fakewechat.Script{Status: 502, Calls: -1})
	login := func(appID, code string) int {
		return g.Post("/login", `{"code":"`+code+`","appid":"`+appID+`"}`).Status
	}
	for i := range 5 {
		require.Equal(t, http.StatusBadGateway, login(gatewaytest.AppID, fmt.Sprint("outage", i)))
	}
	for i := range 5 {
		require.Equal(t, http.StatusServiceUnavailable, login(gatewaytest.AppID, fmt.Sprint("open", i)))
	}
	g.WeChat.Reset()
	g.LoginTo(gatewaytest.OtherAppID, "carol")
	require.Equal(t, http.StatusTooManyRequests, login(gatewaytest.OtherAppID, "seventh"))
	require.Zero(t, g.WeChat.CallsWith("seventh"))
}

func TestLoginsOfIPv6ClientsInAnOutageOfWeChat(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "login_rate 6 1h", Servers: "expected_underscore_headers 3rd_session\ntrusted_proxies static 127.0.0.1"})
	login := func(i int) int {
		return g.Post("/login", fmt.Sprintf(`{"code":"outage%d"}`, i), "X-Forwarded-For: 2001:db8::1").Status
	}
	g.WeChat.Script(fakewechat.Script{Status: 502, Calls: -1})
	for i := range 5 {
		require.Equal(t, http.StatusBadGateway, login(i))
	}
	// The breaker is open, so nothing is sent, and nothing is charged.
	for i := range 5 {
		require.Equal(t, http.StatusServiceUnavailable, login(5+i))
	}
}

func TestEarlyDataIsRefused(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	token := g.Login("alice").Token
	code := g.WeChat.IssueCode(gatewaytest.AppID, "bob")
	for _, resp := range []gatewaytest.Response{
		g.Post("/login", `{"code":"`+code+`"}`, "Early-Data: 1"),
		g.Post("/logout", "", gatewaytest.Token(token), "Early-Data: 1"),
	} {
		require.Equal(t, http.StatusTooEarly, resp.Status)
		require.Equal(t, "too_early", resp.ErrorName())
	}
	require.Zero(t, g.WeChat.CallsWith(code))
	require.Equal(t, http.StatusOK, g.Post("/login", `{"code":"`+code+`"}`).Status, "the code is still good")
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token), "Early-Data: 1").Status, "and the session")
}

func TestUnsupportedMediaTypesAreNamed(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	for name, tc := range map[string]struct{ lines, want string }{
		"twice in one line": {"Content-Type: application/json, application/json\n", `"application/json, application/json"`},
		"two lines":         {"Content-Type: application/json\nContent-Type: text/plain\n", `"application/json, text/plain"`},
		"another":           {"Content-Type: text/plain\n", `"text/plain"`},
		"none":              {"", `Content-Type is ""`},
		"charset":           {"Content-Type: application/json; charset=gbk\n", `charset=gbk`},
		"JSON as a form":    {"Content-Type: application/x-www-form-urlencoded\n", `"application/x-www-form-urlencoded"; but the body is JSON`},
		"gzip":              {"Content-Type: application/json\nContent-Encoding: gzip\n", `Content-Encoding is "gzip"`},
	} {
		t.Run(name, func(t *testing.T) {
			body := `{"code":"abc"}`
			resp := g.Raw("POST /login HTTP/1.1\nHost: " + g.Addr + "\n" + tc.lines + "Content-Length: " + strconv.Itoa(len(body)) + "\n\n" + body)
			require.Equal(t, http.StatusUnsupportedMediaType, resp.Status)
			require.Equal(t, "unsupported_media_type", resp.ErrorName())
			require.Contains(t, strings.ReplaceAll(resp.Body, `\"`, `"`), tc.want)
		})
	}
	require.Zero(t, g.WeChat.CallsWith("abc"))
}

// floodLogins sends n requests over one kept connection and returns the answers by status.
func floodLogins(t *testing.T, addr, source string, n int, request func(i int) string) map[int]int {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}).Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	r, answers := bufio.NewReader(conn), make(map[int]int)
	for i := range n {
		_, err := io.WriteString(conn, strings.ReplaceAll(request(i), "\n", "\r\n"))
		require.NoError(t, err)
		resp, err := gatewaytest.ReadResponse(http.ReadResponse(r, nil))
		require.NoError(t, err)
		answers[resp.Status]++
	}
	return answers
}

func loginText(host, contentType, body string) string {
	return "POST /login HTTP/1.1\nHost: " + host + "\nContent-Type: " + contentType + "\nContent-Length: " + strconv.Itoa(len(body)) + "\n\n" + body
}

// TestAFloodOfHopelessLogins: the log grows by a line a second, and others log in.
func TestAFloodOfHopelessLogins(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "login_rate 20 1m"})
	start := time.Now()
	lines := func() (info, warn int) {
		for line := range strings.Lines(g.Output()) {
			switch {
			case strings.Contains(line, `"msg":"login"`):
				info++
			case strings.Contains(line, "logins were refused"):
				warn++
			}
		}
		return info, warn
	}
	const each, honest = 500, 4
	for name, request := range map[string]func(i int) string{
		"fresh codes": func(i int) string {
			return loginText(g.Addr, "application/json", fmt.Sprintf(`{"code":"made-up%d"}`, i))
		},
		"one used code": func(int) string { return loginText(g.Addr, "application/json", `{"code":"made-up0"}`) },
		"broken JSON":   func(int) string { return loginText(g.Addr, "application/json", `{`) },
		"plain text":    func(int) string { return loginText(g.Addr, "text/plain", `a`) },
		"GET":           func(int) string { return "GET /login HTTP/1.1\nHost: " + g.Addr + "\n\n" },
	} {
		answers := floodLogins(t, g.Addr, "127.0.0.9", each, request)
		t.Logf("%s: %v", name, answers)
		require.Zero(t, answers[http.StatusOK])
		if name == "fresh codes" {
			require.GreaterOrEqual(t, answers[http.StatusTooManyRequests], each-25)
		}
		for i := range honest {
			code := g.WeChat.IssueCode(gatewaytest.AppID, name+strconv.Itoa(i))
			require.Equal(t, http.StatusOK, loginFrom(t, g, "127.0.0.8", `{"code":"`+code+`"}`).Status)
		}
	}
	seconds := int(time.Since(start).Seconds()) + 1
	info, warn := lines()
	require.LessOrEqual(t, info, 10+seconds+5*honest, "at most ten lines at once and one a second")
	require.LessOrEqual(t, warn, 1+seconds/10)
	require.Positive(t, warn, "the operator is warned")
	require.LessOrEqual(t, len(g.WeChat.Calls()), 5*honest+25)
}

// One address with more logins than can be in flight does not keep another's waiting.
func TestAddressesTakeTurnsAtWeChat(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "login_rate off\nexchange_concurrency 2\nexchange_timeout 30s"})
	g.WeChat.Script(fakewechat.Script{DelayMS: 100, Calls: -1})
	for i := range 60 {
		body := fmt.Sprintf(`{"code":"flood%d"}`, i)
		conn, err := net.Dial("tcp", g.Addr)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		_, err = io.WriteString(conn, strings.ReplaceAll(loginText(g.Addr, "application/json", body), "\n", "\r\n"))
		require.NoError(t, err)
	}
	g.Eventually(func() bool { return len(g.WeChat.Calls()) >= 2 }, "the flood has all places")
	code := g.WeChat.IssueCode(gatewaytest.AppID, "alice")
	require.Equal(t, http.StatusOK, loginFrom(t, g, "127.0.0.8", `{"code":"`+code+`"}`).Status)
	require.Less(t, len(g.WeChat.Calls()), 30, "not after the whole flood")
}
