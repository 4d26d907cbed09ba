package command

import (
	"bytes"
	"context"
	_ "embed" // the demo's page
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/spf13/cobra"

	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

//go:embed demo.html
var demoPage []byte

// The demo's mini program; neither is anyone's.
const (
	demoAppID  = "wx0123456789abcdef"
	demoSecret = "0123456789abcdef0123456789abcdef"
)

func demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo [--listen 127.0.0.1:8080] [--dir <directory>]",
		Short: "Runs gateway, sandbox WeChat and an echo upstream on loopback",
		Long: `
Runs the gateway with a sandbox that plays WeChat and an upstream that echoes
what it received, all in this process and on loopback, and prints the curl lines
to try. Sessions are kept in a temporary directory, or in the one that is given.

It is a sandbox: whoever reaches it can log in as anyone.`,
		Args: arguments(0),
		RunE: run(runDemo),
	}
	cmd.Flags().String("listen", "127.0.0.1:8080", "Loopback address to listen on")
	cmd.Flags().String("dir", "", "Directory to keep sessions in (default: a temporary one)")
	return cmd
}

func runDemo(cmd *cobra.Command, _ []string) error {
	caddy.TrapSignals()
	where, _ := cmd.Flags().GetString("listen")
	listen, err := demoAddress(where)
	if err != nil {
		return err
	}
	kept, _ := cmd.Flags().GetString("dir")
	dir, err := demoDir(kept)
	if err != nil {
		return err
	}
	if err := startDemo(listen, dir); err != nil {
		return err
	}
	printDemo(cmd.OutOrStdout(), "http://"+listen.String())
	select {} // until a signal, which Caddy has trapped
}

// demoAddress refuses every address that others could reach.
func demoAddress(listen string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return netip.AddrPort{}, usageError{fmt.Errorf("--listen takes host:port, such as 127.0.0.1:8080: %w", err)}
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return netip.AddrPort{}, usageError{fmt.Errorf("--listen takes host:port, such as 127.0.0.1:8080: %q is not a port", port)}
	}
	address, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil || !address.Addr().IsLoopback() {
		return netip.AddrPort{}, usageError{fmt.Errorf("the demo is a sandbox where anyone can log in as anyone, so it listens on loopback only, such as 127.0.0.1:8080; %q is not loopback", listen)}
	}
	// Caddy would share the port with another Caddy, and each would get some
	// of the requests. Port 0 becomes a free one.
	ln, err := net.Listen("tcp", address.String())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w; is another demo running? Give this one another port: --listen 127.0.0.1:8081", err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort(), nil
}

func demoDir(dir string) (string, error) {
	if dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("finding the demo's directory: %w", err)
		}
		return abs, nil
	}
	tmp, err := os.MkdirTemp("", "wxgate-demo-")
	if err != nil {
		return "", fmt.Errorf("making the demo's directory: %w", err)
	}
	caddy.OnExit(func(context.Context) { _ = os.RemoveAll(tmp) })
	return tmp, nil
}

// startDemo runs the two ends on ports of their own, and Caddy between them
// with a configuration like that of any site.
func startDemo(listen netip.AddrPort, dir string) error {
	// Caddy's data directory, so the store and its key are where they always are.
	if err := os.Setenv("XDG_DATA_HOME", dir); err != nil {
		return fmt.Errorf("choosing the demo's directory: %w", err)
	}
	sandbox := fakewechat.New(fakewechat.Config{
		MiniPrograms: map[string]string{demoAppID: demoSecret},
		OpenPlatform: true,
	})
	wechatAddr, err := serveLoopback(sandbox)
	if err != nil {
		return err
	}
	pagesAddr, err := serveLoopback(demoPages(sandbox))
	if err != nil {
		return err
	}
	echoAddr, err := serveLoopback(http.HandlerFunc(echo))
	if err != nil {
		return err
	}
	var caddyfile bytes.Buffer
	if err := demoCaddyfile.Execute(&caddyfile, map[string]any{
		"Host": listen.Addr(), "Port": listen.Port(),
		"AppID": demoAppID, "Secret": demoSecret,
		"WeChat": wechatAddr, "Pages": pagesAddr, "Echo": echoAddr,
	}); err != nil {
		return fmt.Errorf("writing the demo's Caddyfile: %w", err)
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(caddyfile.Bytes(), nil)
	if err != nil {
		return fmt.Errorf("adapting the demo's Caddyfile: %w", err)
	}
	return caddy.Load(config, true)
}

var demoCaddyfile = template.Must(template.New("demo").Parse(`{
	admin off
	persist_config off
	auto_https off
	log {
		level ERROR
		exclude wxgate
	}
	servers {
		expected_underscore_headers 3rd_session
	}
	wxgate {
		miniprogram {{.AppID}} {{.Secret}}
		wechat_api http://{{.WeChat}}
	}
}

http://:{{.Port}} {
	bind {{.Host}}
	@sandbox path / /sandbox/*
	handle @sandbox {
		reverse_proxy {{.Pages}}
	}
	handle {
		wxgate {
			inject openid X-OpenID
			inject unionid X-UnionID
			open_data /profile
		}
		reverse_proxy {{.Echo}}
	}
}
`))

// serveLoopback serves on a free loopback port until the process ends.
func serveLoopback(handler http.Handler) (net.Addr, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening on loopback: %w", err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := server.Serve(ln); err != nil {
			log.Printf("demo: %v", err)
		}
	}()
	return ln.Addr(), nil
}

// demoPages serves the page and what only a sandbox can give: a code and open
// data without a phone.
func demoPages(sandbox *fakewechat.Server) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(demoPage)
	})
	mux.HandleFunc("POST /sandbox/code", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, map[string]string{"code": sandbox.IssueCode(demoAppID, demoUser(r))})
	})
	mux.HandleFunc("POST /sandbox/opendata", func(w http.ResponseWriter, r *http.Request) {
		data, err := sandbox.OpenData(demoAppID, demoUser(r), nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		writeJSON(w, data)
	})
	mux.HandleFunc("GET /sandbox/stats", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]int{"calls": len(sandbox.Calls())})
	})
	return mux
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

// demoUser is whom the sandbox takes the visitor for.
func demoUser(r *http.Request) string {
	if user := r.URL.Query().Get("user"); user != "" {
		return user
	}
	return "alice"
}

// echo is an upstream that answers with what it received.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, "reading body", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = printJSON(w, map[string]any{
		"method": r.Method, "path": r.URL.RequestURI(), "headers": r.Header, "body": string(body),
	})
}

// printDemo writes the steps to try. Each line is run by a test.
func printDemo(w io.Writer, base string) {
	fmt.Fprint(w, strings.ReplaceAll(`wxgate demo: a sandbox, not for real users. Whoever reaches it can log in as anyone.
wxgate 演示：这是沙箱，不要给真实用户使用。能访问它的人可以用任意身份登录。

Open BASE/ in a browser, or go through it with curl:

# 1. Get a code, as wx.login would on a phone (the sandbox plays WeChat)
CODE=$(curl -s -X POST 'BASE/sandbox/code?user=alice' | sed 's/.*"code":"\([^"]*\)".*/\1/')

# 2. Log in: the gateway exchanges the code and answers with a 3rd_session
TOKEN=$(curl -s BASE/login -H 'Content-Type: application/json' -d "{\"code\":\"$CODE\"}" | sed 's/.*"3rd_session":"\([^"]*\)".*/\1/')

# 3. Call with the token: the upstream receives X-OpenID and no token
curl -s BASE/orders -H "3rd_session: $TOKEN"

# 4. Call without it: 401, and the upstream sees nothing
curl -s -i -w '\n' BASE/orders

# 5. Log out: 204
curl -s -i -X POST BASE/logout -H "3rd_session: $TOKEN"

# 6. Call again: 401, the token is dead
curl -s -i -w '\n' BASE/orders -H "3rd_session: $TOKEN"

Press Ctrl+C to stop.
`, "BASE", base))
}
