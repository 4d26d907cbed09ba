package gatewaytest

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// The mini programs that the sandbox WeChat knows, and their secrets.
const (
	AppID       = "wx0000000000000001"
	Secret      = "5ec2e70000000000000000000000000a"
	OtherAppID  = "wx0000000000000002"
	OtherSecret = "5ec2e70000000000000000000000000b"
)

// patience is how long a test waits for what comes sooner or later: generous,
// because the machine may be busy.
const patience = 60 * time.Second

// Config says what is special about a gateway. The zero Config is the minimal
// site of the README. In all texts $LISTEN, $ADMIN, $UPSTREAM, $WECHAT and $DIR
// stand for what the test has at these places.
type Config struct {
	Options string   // more global options
	App     string   // more lines of the global wxgate block
	Site    string   // the lines of the site's wxgate block
	Next    string   // what follows it; default: reverse_proxy $UPSTREAM
	Address string   // the site's address; default: http://$LISTEN
	Servers string   // default: expected_underscore_headers 3rd_session
	Whole   string   // a whole Caddyfile instead of all these
	Env     []string // of the process
}

func (c Config) caddyfile() string {
	if c.Whole != "" {
		return c.Whole
	}
	if c.Address == "" {
		c.Address = "http://$LISTEN"
	}
	if c.Servers == "" {
		c.Servers = "expected_underscore_headers 3rd_session"
	}
	return fmt.Sprintf(`{
	admin $ADMIN
	auto_https off
	%s
	servers {
		%s
	}
	wxgate {
		miniprogram %s {env.WX_SECRET}
		wechat_api $WECHAT
		%s
	}
}

%s {
	wxgate {
		%s
	}
	%s
}
`, c.Options, c.Servers, AppID, c.App, c.Address, c.Site, c.next())
}

func (c Config) next() string {
	if c.Next == "" {
		return "reverse_proxy $UPSTREAM"
	}
	return c.Next
}

// A Gateway is a running binary and what is around it.
type Gateway struct {
	Dir      string // its own directory: data, configuration, socket
	Addr     string // host:port of the site
	URL      string // http:// and Addr
	Admin    string // the admin endpoint, as --address takes it
	WeChat   *fakewechat.Server
	Upstream *Upstream

	tb        testing.TB
	wechatURL string
	roots     *x509.CertPool // of a site with TLS
	env       []string
	proc      *process
	reloaded  time.Time
}

// A process is one run of the binary.
type process struct {
	cmd    *exec.Cmd
	output *lockedBuffer
	exited chan struct{}
}

// New prepares a gateway without starting it.
func New(tb testing.TB) *Gateway {
	tb.Helper()
	needsBinary(tb)
	// Not tb.TempDir: a socket's path must be short.
	dir, err := os.MkdirTemp("", "wxgate")
	require.NoError(tb, err)
	g := &Gateway{
		Dir:  dir,
		Addr: FreeAddr(tb),
		tb:   tb,
		WeChat: fakewechat.New(fakewechat.Config{
			MiniPrograms: map[string]string{AppID: Secret, OtherAppID: OtherSecret},
			OpenPlatform: true,
		}),
		Upstream: newUpstream(tb),
	}
	g.URL = "http://" + g.Addr
	g.Admin = "unix/" + filepath.Join(dir, "admin.sock")
	sandbox := httptest.NewServer(g.WeChat)
	g.wechatURL = sandbox.URL
	tb.Cleanup(func() {
		g.Kill()
		g.WeChat.Close()
		sandbox.Close()
		if tb.Failed() && g.proc != nil {
			tb.Logf("the gateway's output:\n%s", tail(g.Output(), 8<<10))
		}
		_ = os.RemoveAll(dir)
	})
	return g
}

// Start starts a gateway and waits until it is ready.
func Start(tb testing.TB, cfg Config) *Gateway {
	tb.Helper()
	g := New(tb)
	g.Run(cfg)
	return g
}

// Expand puts this test's addresses into a text.
func (g *Gateway) Expand(text string) string {
	return strings.NewReplacer(
		"$LISTEN", g.Addr, "$ADMIN", g.Admin, "$UPSTREAM", g.Upstream.Addr,
		"$WECHAT", g.wechatURL, "$DIR", g.Dir,
	).Replace(text)
}

// WriteConfig writes the Caddyfile and returns its path.
func (g *Gateway) WriteConfig(cfg Config) string {
	g.tb.Helper()
	path := filepath.Join(g.Dir, "Caddyfile")
	require.NoError(g.tb, os.WriteFile(path, []byte(g.Expand(cfg.caddyfile())), 0o600))
	g.env = append([]string{"WX_SECRET=" + Secret, "WX_OTHER_SECRET=" + OtherSecret}, cfg.Env...)
	return path
}

// Command returns the binary with args, in this gateway's environment.
func (g *Gateway) Command(args ...string) *exec.Cmd {
	g.tb.Helper()
	cmd := exec.Command(Binary(g.tb), args...)
	cmd.Dir = g.Dir
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+g.Dir+"/data", "XDG_CONFIG_HOME="+g.Dir+"/config", "HOME="+g.Dir)
	cmd.Env = append(cmd.Env, g.env...)
	return cmd
}

// Try runs the binary with args to its end and returns what it printed.
func (g *Gateway) Try(args ...string) (output string, err error) {
	g.tb.Helper()
	out, err := g.Command(args...).CombinedOutput()
	return string(out), err
}

// Run starts the binary on cfg and waits until it is ready.
func (g *Gateway) Run(cfg Config) {
	g.tb.Helper()
	g.launch(g.WriteConfig(cfg))
	g.Eventually(func() bool {
		select {
		case <-g.proc.exited:
			require.FailNow(g.tb, "the gateway did not start", tail(g.Output(), 8<<10))
		default:
		}
		// The socket of the site and the admin endpoint open in no order.
		return g.listens() && g.adminAnswers()
	}, "the gateway listens")
}

// Supervise starts the binary on cfg as a supervisor does, again when it ends,
// until it answers or has ended so many times, and returns the number of starts.
func (g *Gateway) Supervise(cfg Config, limit int) (starts int) {
	g.tb.Helper()
	config := g.WriteConfig(cfg)
	g.launch(config)
	starts = 1
	g.Eventually(func() bool {
		select {
		case <-g.proc.exited:
			if starts == limit {
				require.FailNow(g.tb, "the gateway did not start", tail(g.Output(), 8<<10))
			}
			g.launch(config)
			starts++
		default:
		}
		return g.adminAnswers() && g.listens()
	}, "the gateway listens")
	return starts
}

func (g *Gateway) listens() bool {
	conn, err := net.Dial("tcp", g.Addr)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

func (g *Gateway) launch(config string) {
	g.tb.Helper()
	p := &process{output: new(lockedBuffer), exited: make(chan struct{})}
	p.cmd = g.Command("run", "--config", config, "--adapter", "caddyfile")
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	require.NoError(g.tb, p.cmd.Start())
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	g.proc = p
}

func (g *Gateway) adminAnswers() bool {
	resp, err := g.AdminClient().Get("http://admin/config/")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// AdminClient speaks with the admin endpoint; any host in the URL will do.
func (g *Gateway) AdminClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(g.Admin, "unix/"))
		},
	}}
}

// Pid is the process's.
func (g *Gateway) Pid() int { return g.proc.cmd.Process.Pid }

// Output is what the process wrote so far: its log.
func (g *Gateway) Output() string { return g.proc.output.String() }

// Kill ends the process with SIGKILL, if it runs.
func (g *Gateway) Kill() { g.end(syscall.SIGKILL) }

// Stop ends the process with SIGTERM.
func (g *Gateway) Stop() { g.end(syscall.SIGTERM) }

func (g *Gateway) end(signal syscall.Signal) {
	if g.proc == nil {
		return
	}
	_ = g.proc.cmd.Process.Signal(signal)
	select {
	case <-g.proc.exited:
	case <-time.After(patience):
		g.tb.Errorf("the gateway does not end on %v", signal)
		_ = g.proc.cmd.Process.Kill()
		<-g.proc.exited
	}
}

// Reload loads cfg into the running gateway with `caddy reload`.
func (g *Gateway) Reload(cfg Config) (output string, err error) {
	g.tb.Helper()
	defer func() { g.reloaded = time.Now() }()
	return g.Try("reload", "--force", "--config", g.WriteConfig(cfg), "--adapter", "caddyfile", "--address", g.Admin)
}

// Eventually waits until condition holds.
func (g *Gateway) Eventually(condition func() bool, what string) {
	g.tb.Helper()
	Eventually(g.tb, condition, what)
}

// Eventually waits until condition holds. It asks in this goroutine, so that
// the condition may fail the test.
func Eventually(tb testing.TB, condition func() bool, what string) {
	tb.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			require.FailNow(tb, "it did not come true in time: "+what)
		}
	}
}

func tail(text string, n int) string {
	if len(text) > n {
		return "…" + text[len(text)-n:]
	}
	return text
}

// lockedBuffer is written by the process and read by the test.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Resources counts the goroutines and the open files of the process.
func (g *Gateway) Resources() (goroutines, files int) {
	g.tb.Helper()
	resp, err := ReadResponse(g.AdminClient().Get("http://admin/debug/pprof/goroutine?debug=1"))
	require.NoError(g.tb, err)
	_, err = fmt.Sscanf(resp.Body, "goroutine profile: total %d", &goroutines)
	require.NoError(g.tb, err)
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.Pid()))
	require.NoError(g.tb, err)
	return goroutines, len(entries)
}
