package wechat_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// A tunnel is an HTTP proxy that connects whatever name it is given to one address.
type tunnel struct {
	target string
	mu     sync.Mutex
	asked  []string // the first line of each request
	auth   []string
}

func (p *tunnel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.RequestURI)
	p.auth = append(p.auth, r.Header.Get("Proxy-Authorization"))
	p.mu.Unlock()
	if r.Method != http.MethodConnect {
		http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
		return
	}
	target, err := net.Dial("tcp", p.target)
	if err != nil {
		http.Error(w, "no target", http.StatusBadGateway)
		return
	}
	defer target.Close()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		_, _ = io.Copy(target, buffered)
		target.Close()
	}()
	_, _ = io.Copy(conn, bufio.NewReader(target))
}

// The proxy sees where the client goes, and not what it says there.
func TestTheConfiguredProxyIsATunnel(t *testing.T) {
	fake := newFake()
	server := httptest.NewTLSServer(fake)
	t.Cleanup(server.Close)
	proxy := &tunnel{target: server.Listener.Addr().String()}
	proxyServer := httptest.NewServer(proxy)
	t.Cleanup(proxyServer.Close)

	client, err := wechat.NewClient(wechat.Config{
		BaseURL:      "https://example.com", // whom the test certificate names
		ProxyURL:     "http://user:pass@" + proxyServer.Listener.Addr().String(),
		Timeout:      time.Minute,
		MiniPrograms: []wechat.MiniProgram{{AppID: appID, Secret: secret}},
	})
	require.NoError(t, err)
	client.SetRootCAs(server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs)
	requireLogin(t, client, fake)
	require.Equal(t, []string{"CONNECT example.com:443"}, proxy.asked)
	require.Equal(t, []string{"Basic dXNlcjpwYXNz"}, proxy.auth)
}

// TestMain sets the environment's proxy before net/http looks at it, which it
// does once in a process.
func TestMain(m *testing.M) {
	if delay := os.Getenv(otherSideVar); delay != "" {
		serveOtherSide(delay)
		return
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		if err := os.Setenv(name, "http://proxy.invalid:3128"); err != nil {
			panic(err)
		}
	}
	m.Run()
}

// The proxy variables are set for everything that runs on a machine, and would
// have the last word on where the secret goes.
func TestTheEnvironmentsProxyIsNotUsed(t *testing.T) {
	env, err := http.ProxyFromEnvironment(httptest.NewRequest(http.MethodGet, "https://api.weixin.qq.com", nil))
	require.NoError(t, err)
	require.Equal(t, "proxy.invalid:3128", env.Host)

	client, err := wechat.NewClient(wechat.Config{MiniPrograms: []wechat.MiniProgram{{AppID: appID, Secret: secret}}})
	require.NoError(t, err)
	var dialed []string
	client.SetDialContext(func(_ context.Context, _, address string) (net.Conn, error) {
		dialed = append(dialed, address)
		return nil, io.EOF
	})
	_, err = client.Code2Session(t.Context(), appID, "code")
	requireKind(t, wechat.BadReply, err)
	require.Equal(t, []string{"api.weixin.qq.com:443"}, dialed)
}
