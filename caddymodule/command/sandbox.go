package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"text/template"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/spf13/cobra"

	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// The mini program of the sandbox. No real one has these.
const (
	sandboxAppID     = "wx0123456789abcdef"
	sandboxSecret    = "0123456789abcdef0123456789abcdef"
	sandboxPushToken = "sandbox"
	sandboxPushKey   = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
)

// A sandbox is a gateway with a fake WeChat, all in this process. Its server
// passes the requests that it does not answer itself to the gateway, which
// listens on a unix socket.
type sandbox struct {
	AppID    string
	Upstream string   // of the gateway
	Public   []string // paths
	API      string   // where wxgate_api listens; empty: nowhere
	WeChat   net.Addr // of the fake WeChat
	Dir      string   // of the sockets of the gateway, wxgate_api and the admin endpoint
	Data     string   // Caddy's data directory

	wechat *fakewechat.Server
}

// start runs the gateway and the fake WeChat. Sessions and their key are kept in
// dir, or go with the process if it is empty.
func (s *sandbox) start(dir string) error {
	caddy.TrapSignals()
	tmp, err := os.MkdirTemp("", "wxgate-")
	if err != nil {
		return fmt.Errorf("making a temporary directory: %w", err)
	}
	caddy.OnExit(func(context.Context) { _ = os.RemoveAll(tmp) })
	if dir == "" {
		dir = tmp
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("finding the directory: %w", err)
	}
	// Caddy's data directory, so the store and its key are where they always are.
	if err := os.Setenv("XDG_DATA_HOME", dir); err != nil {
		return fmt.Errorf("choosing the directory: %w", err)
	}
	s.Dir, s.Data = tmp, caddy.AppDataDir()
	s.wechat = fakewechat.New(fakewechat.Config{MiniPrograms: map[string]string{s.AppID: sandboxSecret}, OpenPlatform: true})
	if s.WeChat, err = serveLoopback(s.wechat); err != nil {
		return err
	}
	var caddyfile bytes.Buffer
	if err := sandboxCaddyfile.Execute(&caddyfile, s); err != nil {
		return fmt.Errorf("writing the sandbox's Caddyfile: %w", err)
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(caddyfile.Bytes(), nil)
	if err != nil {
		return fmt.Errorf("adapting the sandbox's Caddyfile: %w", err)
	}
	return caddy.Load(config, true)
}

// The configuration is like that of any site.
var sandboxCaddyfile = template.Must(template.New("sandbox").Parse(`{
	admin "unix/{{.Dir}}/admin.sock"
	persist_config off
	auto_https off
	storage file_system "{{.Data}}"
	log {
		level ERROR
		exclude wxgate
	}
	servers {
		expected_underscore_headers 3rd_session
		trusted_proxies_unix
	}
	wxgate {
		miniprogram {{.AppID}} ` + sandboxSecret + `
		wechat_api http://{{.WeChat}}
	}
}

http:// {
	bind "unix/{{.Dir}}/gateway.sock"
	wxgate {
		inject openid X-OpenID
		inject unionid X-UnionID
		open_data /profile /phone {
			phone
		}
		push /wechat/push {{.AppID}} ` + sandboxPushToken + " " + sandboxPushKey + `
		{{range .Public}}public "{{.}}"
		{{end}}
	}
	reverse_proxy {{.Upstream}}
}

http://api.weixin.qq.com {
	bind "unix/{{.Dir}}/api.sock"
	wxgate_api
}
{{with .API}}
http://{{.}} {
	bind 127.0.0.1
	wxgate_api
}
{{end}}`))

// gateway returns a handler that passes requests on to the gateway.
func (s *sandbox) gateway() http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: r.In.Host})
			r.SetXForwarded()
		},
		FlushInterval: -1,
		Transport:     s.over("gateway.sock"),
		ErrorLog:      log.New(os.Stderr, "", 0),
	}
}

// over returns a transport that connects to one of the sandbox's sockets.
func (s *sandbox) over(socket string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.Dir, socket))
	}}
}

// listenLocally listens at the address of a flag. It refuses addresses that others
// could reach, but for those of a private network if lan.
func listenLocally(cmd *cobra.Command, flag string, lan bool) (net.Listener, error) {
	listen, _ := cmd.Flags().GetString(flag)
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, usageError{fmt.Errorf("--%s takes host:port, such as 127.0.0.1:8080: %w", flag, err)}
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	address, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	switch {
	case err != nil:
		return nil, usageError{fmt.Errorf("--%s takes an address and a port, such as 127.0.0.1:8080, not %q", flag, listen)}
	case !address.Addr().IsLoopback() && !address.Addr().IsPrivate():
		return nil, usageError{fmt.Errorf("--%s: anyone can log in as anyone in this sandbox, so it listens on loopback, such as 127.0.0.1:8080; %q is not loopback", flag, listen)}
	case !address.Addr().IsLoopback() && !lan:
		return nil, usageError{fmt.Errorf("--%s: anyone can log in as anyone in this sandbox, so it listens on loopback, such as 127.0.0.1:8080; %q is not loopback, and only `caddy wxgate dev` has --lan", flag, listen)}
	}
	ln, err := net.Listen("tcp", address.String())
	if err != nil {
		return nil, fmt.Errorf("%w; is another one running? Give this one another port, such as --%s 127.0.0.1:8081", err, flag)
	}
	return ln, nil
}

// serve serves on a listener until the process ends.
func serve(ln net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	if err := server.Serve(ln); err != nil && !errors.Is(err, net.ErrClosed) {
		log.Printf("serving: %v", err)
	}
}

// serveLoopback serves on a free loopback port until the process ends.
func serveLoopback(handler http.Handler) (net.Addr, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening on loopback: %w", err)
	}
	go serve(ln, handler)
	return ln.Addr(), nil
}
