package wechat_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

func TestBrokenAnswers(t *testing.T) {
	raw := func(s string) fakewechat.Script { return fakewechat.Script{Raw: &s} }
	good := `{"session_key":"` + goodKey + `","openid":"o1"}`
	tests := []struct {
		name   string
		script fakewechat.Script
	}{
		{"hang-up before the headers", fakewechat.Script{HangUp: fakewechat.HangUpBefore}},
		{"hang-up in the body", fakewechat.Script{HangUp: fakewechat.HangUpAfter}},
		{"truncated by one byte", fakewechat.Script{Truncate: 1}},
		{"length too short", fakewechat.Script{ContentLength: new(int(20))}},
		{"length too long", fakewechat.Script{ContentLength: new(int(2000))}},
		{"length zero", fakewechat.Script{ContentLength: new(int(0))}},
		{"endless", fakewechat.Script{Endless: true}},
		{"redirect 301", fakewechat.Script{Status: 301, Redirect: "/sns/jscode2session"}},
		{"redirect 302", fakewechat.Script{Redirect: "/sns/jscode2session"}},
		{"redirect 307", fakewechat.Script{Status: 307, Redirect: "/sns/jscode2session"}},
		{"redirect 308 without a target", fakewechat.Script{Status: 308}},
		{"status 201", fakewechat.Script{Status: 201}},
		{"status 400", fakewechat.Script{Status: 400}},
		{"status 404", fakewechat.Script{Status: 404}},
		{"status 502", fakewechat.Script{Status: 502}},
		{"status 503", fakewechat.Script{Status: 503}},
		{"switched protocols", raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n" + good)},
		{"no content", raw("HTTP/1.1 204 No Content\r\n\r\n")},
		{"not HTTP", raw("SSH-2.0-OpenSSH_9.6\r\n")},
		{"binary", raw("\x15\x03\x01\x00\x02\x02\x16")},
		{"bad status line", raw("HTTP/1.1 2x0 OK\r\n\r\n" + good)},
		{"two lengths", raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Length: 20\r\n\r\n" + good)},
		{"bad chunks", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + good)},
		{"chunks without an end", raw(fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(good), good))},
		{"huge headers", raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n" + good)},
		{"continues without end", raw(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100_000))},
		{"compressed", raw("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00")},
	}
	for _, tt := range tests {
		for _, reused := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, reused %t", tt.name, reused), func(t *testing.T) {
				fake := newFake()
				client := newClient(t, fake, nil)
				if reused {
					keepConnection(t, client, fake)
				}
				tt.script.Calls = -1
				fake.Script(tt.script)
				code := fake.IssueCode(appID, "alice")
				session, err := client.Code2Session(t.Context(), appID, code)
				e := requireKind(t, wechat.BadReply, err, code, goodKey, "o1")
				require.True(t, e.Sent)
				require.Zero(t, session)
				require.Equal(t, 1, fake.CallsWith(code))
				if calls := fake.Calls(); reused {
					require.Equal(t, calls[0].RemoteAddr, calls[1].RemoteAddr)
				}
				require.Zero(t, client.IdleConnections(), "that connection is not trusted")
				fake.Reset()
				requireLogin(t, client, fake)
			})
		}
	}
}

// keepConnection logs a user in, and waits until the connection is kept for the next login.
func keepConnection(t *testing.T, client *wechat.Client, fake *fakewechat.Server) {
	t.Helper()
	requireLogin(t, client, fake)
	require.Eventually(t, func() bool { return client.IdleConnections() == 1 }, time.Minute, time.Millisecond)
}

// An answer with a chunked or an unbounded body is as good as any, if it ends.
func TestUnusualGoodAnswers(t *testing.T) {
	good := `{"session_key":"` + goodKey + `","openid":"o1"}`
	tests := []struct{ name, raw string }{
		{"chunked", fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(good), good)},
		{"until the connection closes", "HTTP/1.1 200 OK\r\n\r\n" + good},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + good},
		{"after a continue", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n" + good},
		{"without a type", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(good), good)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fake := newFake()
			client := newClient(t, fake, nil)
			fake.Script(fakewechat.Script{Raw: &tt.raw})
			session, err := client.Code2Session(t.Context(), appID, "code")
			require.NoError(t, err)
			require.Equal(t, "o1", session.OpenID)
		})
	}
}

// A redirect would carry the secret to wherever it points, as a Referer at least.
func TestRedirectsAreNotFollowed(t *testing.T) {
	elsewhere := newFake()
	server := httptest.NewServer(elsewhere)
	t.Cleanup(server.Close)
	fake := newFake()
	client := newClient(t, fake, nil)
	fake.Script(fakewechat.Script{Redirect: server.URL + "/sns/jscode2session"})
	_, err := client.Code2Session(t.Context(), appID, "code")
	requireKind(t, wechat.BadReply, err)
	require.Empty(t, elsewhere.Calls())
	require.Len(t, fake.Calls(), 1)
}

// The number tells the operator whether WeChat is down or something on the way refuses.
func TestAnotherStatusIsNamed(t *testing.T) {
	for _, status := range []int{http.StatusNoContent, http.StatusForbidden, http.StatusBadGateway} {
		fake := newFake()
		client := newClient(t, fake, nil)
		fake.Script(fakewechat.Script{Status: status})
		_, err := client.Code2Session(t.Context(), appID, fake.IssueCode(appID, "alice"))
		require.Equal(t, fmt.Sprintf("the reply's HTTP status is %d", status), requireKind(t, wechat.BadReply, err).Reason)
	}
}

func TestUnreachable(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	untrusted := httptest.NewUnstartedServer(newFake())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	plain := httptest.NewServer(newFake())
	t.Cleanup(plain.Close)

	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	t.Cleanup(refusing.Close)

	tests := []struct{ name, baseURL, proxyURL, reason string }{
		{name: "refused", baseURL: gone.URL, reason: "the connection was refused"},
		{name: "untrusted certificate", baseURL: untrusted.URL, reason: "the TLS certificate is not trusted"},
		{name: "not TLS", baseURL: strings.Replace(plain.URL, "http:", "https:", 1), reason: "the other side does not speak TLS"},
		{name: "proxy refused", baseURL: "https://wechat.invalid", proxyURL: gone.URL, reason: "the proxy cannot be reached"},
		{name: "proxy says no", baseURL: "https://wechat.invalid", proxyURL: refusing.URL, reason: "the proxy's HTTP status is 407"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			proxyURL := strings.Replace(tt.proxyURL, "://", "://user:canary-password@", 1)
			client, err := wechat.NewClient(wechat.Config{
				BaseURL:      tt.baseURL,
				ProxyURL:     proxyURL,
				Timeout:      time.Minute,
				MiniPrograms: []wechat.MiniProgram{{AppID: appID, Secret: secret}},
			})
			require.NoError(t, err)
			_, err = client.Code2Session(t.Context(), appID, "canary-code")
			e := requireKind(t, wechat.BadReply, err, "canary-code", "canary-password")
			require.Equal(t, tt.reason, e.Reason)
			require.False(t, e.Sent)

			// No code can cause that, so it opens the breaker.
			for range 5 {
				_, err = client.Code2Session(t.Context(), appID, "code")
			}
			requireKind(t, wechat.Busy, err)
		})
	}
}

// The resolver is left out: some networks answer for names that do not exist.
func TestALookupThatFails(t *testing.T) {
	client, err := wechat.NewClient(wechat.Config{MiniPrograms: []wechat.MiniProgram{{AppID: appID, Secret: secret}}})
	require.NoError(t, err)
	client.SetDialContext(func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "api.weixin.qq.com", IsNotFound: true}}
	})
	_, err = client.Code2Session(t.Context(), appID, "code")
	e := requireKind(t, wechat.BadReply, err)
	require.Equal(t, "the host name cannot be looked up", e.Reason)
	require.False(t, e.Sent)
}

// What this machine lacks is not WeChat's fault, and the reason names it.
func TestMachineOutOfResources(t *testing.T) {
	for cause, reason := range map[error]string{
		syscall.EMFILE:        "too many open files: raise the limit (LimitNOFILE)",
		syscall.ENFILE:        "too many open files: raise the limit (LimitNOFILE)",
		syscall.EADDRNOTAVAIL: "no port is free for another connection",
	} {
		client, err := wechat.NewClient(wechat.Config{MiniPrograms: []wechat.MiniProgram{{AppID: appID, Secret: secret}}})
		require.NoError(t, err)
		client.SetDialContext(func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", cause)}
		})
		_, err = client.Code2Session(t.Context(), appID, "code")
		e := requireKind(t, wechat.BadReply, err)
		require.Equal(t, reason, e.Reason)
		require.False(t, e.Sent)
	}
}

// A oneByOne server answers the first request of each connection, reads
// whatever request comes next, and hangs up: a kept connection that dies.
type oneByOne struct {
	net.Listener
	mu      sync.Mutex
	codes   []string // as they arrived
	reused  int      // requests that were not the first of their connection
	surplus string   // sent after the reply, beyond its Content-Length

	// late, if set, is received from before the surplus is sent; then the server hangs up.
	late chan struct{}
}

func newOneByOne(t *testing.T) *oneByOne {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &oneByOne{Listener: listener}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		wg.Wait()
	})
	return s
}

func (s *oneByOne) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for n := 0; ; n++ {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		code := req.URL.Query().Get("js_code")
		s.mu.Lock()
		s.codes = append(s.codes, code)
		if n > 0 {
			s.reused++
		}
		s.mu.Unlock()
		if n > 0 {
			return
		}
		body := `{"session_key":"` + goodKey + `","openid":"` + code + `"}`
		if req.URL.Path == stablePath {
			body = `{"access_token":"token","expires_in":7200}`
		}
		reply := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		if s.late == nil {
			_, _ = io.WriteString(conn, reply+s.surplus)
			continue
		}
		_, _ = io.WriteString(conn, reply)
		<-s.late
		if s.surplus == "" {
			return
		}
		_, _ = io.WriteString(conn, s.surplus)
	}
}

// seen returns the codes that arrived so far, and how many of them on a connection that was kept.
func (s *oneByOne) seen() (codes []string, reused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.codes), s.reused
}

func (s *oneByOne) client(t *testing.T) *wechat.Client {
	t.Helper()
	client, err := wechat.NewClient(wechat.Config{
		BaseURL:      "http://" + s.Addr().String(),
		Timeout:      time.Minute,
		MiniPrograms: []wechat.MiniProgram{{AppID: appID, Secret: secret}},
	})
	require.NoError(t, err)
	t.Cleanup(client.Close) // before the server waits for its connections
	return client
}

// The control shows what happens without the gateway's care: http.Client sends
// the second request twice, so that its code is burnt.
func TestADyingConnectionDoesNotSendACodeTwice(t *testing.T) {
	t.Run("control: net/http sends it twice", func(t *testing.T) {
		server := newOneByOne(t)
		transport := new(http.Transport)
		defer transport.CloseIdleConnections()
		client := http.Client{Transport: transport}
		for _, code := range []string{"first", "second"} {
			resp, err := client.Get("http://" + server.Addr().String() + "/sns/jscode2session?js_code=" + code)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, resp.Body)
			require.NoError(t, err)
			resp.Body.Close()
		}
		codes, _ := server.seen()
		require.Equal(t, []string{"first", "second", "second"}, codes)
	})
	t.Run("the client sends each once", func(t *testing.T) {
		server := newOneByOne(t)
		client := server.client(t)
		lost := 0
		for i := range 20 {
			code := fmt.Sprint("code", i)
			session, err := client.Code2Session(t.Context(), appID, code)
			if err != nil {
				e := requireKind(t, wechat.BadReply, err, code)
				require.Equal(t, "the connection was closed before the reply was complete", e.Reason)
				require.True(t, e.Sent, "the code is lost, and said to be")
				lost++
				continue
			}
			require.Equal(t, code, session.OpenID)
			require.Eventually(t, func() bool { return client.IdleConnections() == 1 }, time.Minute, time.Millisecond)
		}
		codes, reused := server.seen()
		require.Len(t, codes, 20)
		require.Equal(t, 10, reused)
		require.Equal(t, 10, lost)
	})
}

// What follows a reply on its connection, at once or later, is no reply to another, and not
// for the log either, where net/http would write it.
func TestSurplusBytesAreNoReply(t *testing.T) {
	evil := `{"session_key":"` + v1SessionKey + `","openid":"evil"}`
	reply := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(evil), evil)
	for name, tc := range map[string]struct {
		surplus string
		late    bool
	}{
		"a reply":         {reply, false},
		"a byte":          {"x", false},
		"a line":          {"\r\n", false},
		"a late reply":    {reply, true},
		"a late byte":     {"x", true},
		"a late hang-up":  {"", true},
		"a late continue": {"HTTP/1.1 100 Continue\r\n\r\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			var logged bytes.Buffer
			log.SetOutput(&logged)
			t.Cleanup(func() { log.SetOutput(os.Stderr) })
			server := newOneByOne(t)
			server.surplus = tc.surplus
			if tc.late {
				server.late = make(chan struct{})
			}
			client := server.client(t)
			for i := range 20 {
				code := fmt.Sprint("code", i)
				session, err := client.Code2Session(t.Context(), appID, code)
				require.NoError(t, err)
				require.Equal(t, code, session.OpenID)
				if tc.late {
					require.Eventually(t, func() bool { return client.IdleConnections() == 1 }, time.Minute, time.Millisecond)
					server.late <- struct{}{}
					require.Eventually(t, func() bool { return client.IdleConnections() == 0 }, time.Minute, time.Millisecond)
				}
			}
			require.Zero(t, server.reused)
			require.Empty(t, logged.String())
		})
		t.Run(name+" to a call", func(t *testing.T) {
			var logged bytes.Buffer
			log.SetOutput(&logged)
			t.Cleanup(func() { log.SetOutput(os.Stderr) })
			server := newOneByOne(t)
			server.surplus = tc.surplus
			if tc.late {
				server.late = make(chan struct{}, 1)
				server.late <- struct{}{} // for the token
			}
			api, err := wechat.NewAPI(wechat.APIConfig{Config: wechat.Config{
				BaseURL: "http://" + server.Addr().String(), Timeout: time.Minute,
				MiniPrograms: []wechat.MiniProgram{{AppID: appID, Secret: secret}},
			}})
			require.NoError(t, err)
			t.Cleanup(api.Close)
			for i := range 20 {
				call := post(checkPath, "{}")
				call.Query = fmt.Sprint("js_code=code", i)
				_, text := do(t, api, call)
				require.Contains(t, text, fmt.Sprintf(`"openid":"code%d"`, i))
				if tc.late {
					require.Eventually(t, func() bool { return api.IdleConnections() == 1 }, time.Minute, time.Millisecond)
					server.late <- struct{}{}
					require.Eventually(t, func() bool { return api.IdleConnections() == 0 }, time.Minute, time.Millisecond)
				}
			}
			require.Zero(t, server.reused)
			require.Empty(t, logged.String())
		})
	}
}

// A server that refuses a long body answers at its beginning and hangs up.
func TestAReplyBeforeTheBodyHasEnded(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	api, err := wechat.NewAPI(wechat.APIConfig{Config: wechat.Config{
		BaseURL: "http://" + listener.Addr().String(), Timeout: time.Minute,
		MiniPrograms: []wechat.MiniProgram{{AppID: appID, Secret: secret}},
	}})
	require.NoError(t, err)
	t.Cleanup(api.Close)
	var server sync.WaitGroup
	server.Go(func() {
		for _, reply := range []string{
			"200 OK\r\nContent-Length: 42\r\n\r\n" + `{"access_token":"token","expires_in":7200}`,
			"413 Payload Too Large\r\nConnection: close\r\nContent-Length: 8\r\n\r\ntoo long",
		} {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "HTTP/1.1 "+reply)
			_ = conn.Close()
		}
	})
	call := post("/cgi-bin/media/upload", "")
	call.Body, call.Length = bytes.NewReader(make([]byte, 16<<20)), 16<<20
	reply, text := do(t, api, call)
	server.Wait()
	require.NoError(t, listener.Close())
	require.Equal(t, http.StatusRequestEntityTooLarge, reply.Status)
	require.Equal(t, "too long", text)
}

// A TLS server that offers HTTP/2 is spoken to in HTTP/1.1, which repeats nothing.
func TestWhatGoesOverTheWire(t *testing.T) {
	fake := newFake()
	server := httptest.NewUnstartedServer(fake)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	client, err := wechat.NewClient(wechat.Config{
		BaseURL:      server.URL + "/",
		Timeout:      time.Minute,
		MiniPrograms: []wechat.MiniProgram{{AppID: appID, Secret: secret}},
	})
	require.NoError(t, err)
	client.SetRootCAs(server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs)
	keepConnection(t, client, fake)
	keepConnection(t, client, fake)
	client.Close()
	requireLogin(t, client, fake)
	calls := fake.Calls()
	require.Len(t, calls, 3)
	require.Equal(t, calls[0].RemoteAddr, calls[1].RemoteAddr, "one connection")
	require.NotEqual(t, calls[0].RemoteAddr, calls[2].RemoteAddr, "and another after a reload")
	for _, call := range calls {
		require.Equal(t, "HTTP/1.1", call.Proto)
		require.Zero(t, call.BodyBytes)
		require.Equal(t, http.Header{
			"Accept": {"application/json"}, "User-Agent": {"wxgate"},
		}, call.Header)
	}
}
