package main

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

const (
	appID  = "wx0000000000000001"
	secret = "5ec2e70000000000000000000000000a"
)

// A row is one way to run a site.
type row struct {
	name, text string
	address    string
	request    func(b []byte, host string) []byte // appends a request
	status     int                                // what every request must be answered
	proxies    []*process                         // whose CPU time counts
	redis      []*process                         // whose CPU time is shown beside it
	samples    []sample
}

// A house is everything that runs during the comparison.
type house struct {
	settings
	home     string // the directory of the row that is being set up
	upstream string // address
	running  []*process
}

// build starts what the rows need.
func (h *house) build() (rows []*row) {
	h.home = h.dir
	body := `{"data":"` + strings.Repeat("x", max(0, h.body-len(`{"data":""}`))) + `"}`
	h.upstream, _ = h.self("bench-upstream", body)
	gateway := h.binary
	for _, name := range h.rows {
		kind, binary, other := strings.Cut(name, "@")
		if h.binary = gateway; other {
			h.binary = binary
		}
		n := h.hot
		if kind == "c" || kind == "dm" {
			n = h.sessions
		}
		// Only one process can have a Badger directory, so each row has its own.
		h.home = filepath.Join(h.dir, fmt.Sprintf("%s-%d", strings.ReplaceAll(name, "/", "_"), n))
		check(os.MkdirAll(h.home, 0o700))
		r := h.row(kind, n)
		r.name = name
		rows = append(rows, r)
	}
	return rows
}

// row starts what a kind of row needs, with n sessions or tokens.
func (h *house) row(kind string, n int) *row {
	switch kind {
	case "a": // its requests carry tokens, so that they are as large as the others'
		return h.caddy("", keptProxy, unknownTokens(h.home, n), "Caddy `reverse_proxy` alone, the transport of Caddyfile.example")
	case "stock":
		return h.caddy("", plainProxy, unknownTokens(h.home, n), "Caddy `reverse_proxy` alone, without any setting")
	case "b", "c":
		return h.badger(n, fmt.Sprintf("wxgate on Badger, %d sessions, uniformly random", n))
	case "d", "dm":
		return h.redis(n)
	case "e":
		tokens, address, service := h.authService(n)
		r := h.caddy("", strings.ReplaceAll(askFirst, "$AUTH", address)+keptProxy, tokens, "Caddy `forward_auth` and the simplest auth service")
		r.proxies = append(r.proxies, service)
		return r
	case "f":
		return h.nginx(n)
	case "g":
		r := h.badger(n, "wxgate refusing unknown tokens (401)")
		r.request, r.status = withToken(nil), http.StatusUnauthorized
		return r
	case "l":
		return h.logins()
	}
	check(fmt.Errorf("there is no row %s", kind))
	return nil // not reached
}

// self starts one of this program's own servers.
func (h *house) self(name, argument string) (address string, p *process) {
	program, err := os.Executable()
	check(err)
	link := filepath.Join(h.home, name)
	_ = os.Remove(link) // of an earlier run
	check(os.Symlink(program, link))
	address, err = gatewaytest.FindAddr()
	check(err)
	return address, h.start(address, sameHeap, link, address, argument)
}

// sameHeap makes all Go processes collect garbage alike.
var sameHeap = []string{"GOGC=off", "GOMEMLIMIT=200MiB"}

// caddyfile is what all rows with Caddy have in common. Only trouble is logged.
const caddyfile = `{
	admin unix/$HOME/admin.sock
	auto_https off
	persist_config off
	log {
		level ERROR
	}
	servers {
		expected_underscore_headers 3rd_session
	}
	$GLOBAL
}
http://$LISTEN {
	$SITE
}
`

// The reverse_proxy of Caddyfile.example, and a forward_auth with connections
// that are kept in the same way.
const (
	plainProxy = "reverse_proxy $UPSTREAM"
	keptProxy  = plainProxy + " {\n" + kept + "}\n"
	askFirst   = "forward_auth $AUTH {\nuri /\ncopy_headers X-OpenID\n" + kept + "}\n"
	kept       = "transport http {\nkeepalive_idle_conns_per_host 512\n}\n"
)

// caddy starts Caddy on a site.
func (h *house) caddy(global, site string, tokens []byte, text string, env ...string) *row {
	listen, err := gatewaytest.FindAddr()
	check(err)
	config := strings.NewReplacer("$GLOBAL", global, "$SITE", site).Replace(caddyfile)
	config = strings.NewReplacer("$HOME", h.home, "$LISTEN", listen, "$UPSTREAM", h.upstream).Replace(config)
	file := filepath.Join(h.home, "Caddyfile")
	check(os.WriteFile(file, []byte(config), 0o600))
	env = append(env, "XDG_DATA_HOME="+h.home, "XDG_CONFIG_HOME="+h.home, "HOME="+h.home)
	p := h.start(listen, append(env, sameHeap...), h.binary, "run", "--config", file, "--adapter", "caddyfile")
	return &row{text: text, address: listen, request: withToken(tokens), status: http.StatusOK, proxies: []*process{p}}
}

// gate starts Caddy with wxgate in front of the proxy of row a.
func (h *house) gate(store string, tokens []byte, text string, env ...string) *row {
	global := fmt.Sprintf("wxgate {\nminiprogram %s %s\nencryption_key %s\nsession {\nidle_timeout %s\nlifetime %s\n}\n%s\n}",
		appID, secret, base64.StdEncoding.EncodeToString(key), idleTimeout, idleTimeout, store)
	return h.caddy(global, "wxgate\n"+keptProxy, tokens, text, env...)
}

func (h *house) badger(n int, text string) *row {
	store := filepath.Join(h.home, "sessions")
	tokens := sessions(h.home, n, func(ctx context.Context) (session.Store, error) {
		return badgerstore.Open(ctx, badgerstore.Options{Dir: store})
	})
	return h.gate("store badger "+store, tokens, text)
}

func (h *house) redis(n int) *row {
	address, err := gatewaytest.FindAddr()
	check(err)
	host, port, _ := net.SplitHostPort(address)
	// A save point that is far away, so that Redis saves when it ends.
	p := h.start(address, nil, "redis-server", "--bind", host, "--port", port, "--dir", h.home, "--save", "31536000 1", "--appendonly", "no")
	tokens := sessions(h.home, n, func(ctx context.Context) (session.Store, error) {
		return redisstore.Open(ctx, redisstore.Options{Addresses: []string{address}, ClientCache: true})
	})
	r := h.gate("store redis "+address, tokens, fmt.Sprintf("wxgate on Redis, %d sessions, uniformly random", n))
	r.redis = []*process{p}
	return r
}

// logins is a gate that gets nothing but logins, with a WeChat in this process
// that it reaches by TLS.
func (h *house) logins() *row {
	sandbox := fakewechat.New(fakewechat.Config{MiniPrograms: map[string]string{appID: secret}})
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(h.wechatDelay)
		sandbox.ServeHTTP(w, r)
	}))
	roots := filepath.Join(h.home, "roots.pem")
	check(os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	check(os.RemoveAll(filepath.Join(h.home, "sessions")))
	r := h.gate(fmt.Sprintf("wechat_api %s\nlogin_rate off\nexchange_concurrency %d\nstore badger %s/sessions", server.URL, h.connections, h.home),
		nil, fmt.Sprintf("logins, each durable, with a WeChat that answers after %v", h.wechatDelay), "SSL_CERT_FILE="+roots)
	var users atomic.Int64
	r.request = withCode(func() string { return sandbox.IssueCode(appID, openID(int(users.Add(1)))) })
	return r
}

// authService starts one that knows as many users as the stores of the other
// rows.
func (h *house) authService(n int) (tokens []byte, address string, p *process) {
	tokens = unknownTokens(h.home, n)
	address, p = h.self("bench-auth", h.home+"/tokens")
	return tokens, address, p
}

// nginxConfig has what nginx's manual shows for auth_request, and what it shows
// for connections that are kept, those of clients as long as Caddy keeps them.
const nginxConfig = `worker_processes auto;
pid $HOME/nginx.pid;
error_log stderr error;
daemon off;
events { worker_connections 4096; }
http {
	access_log off;
	underscores_in_headers on;
	keepalive_requests 100000000;
	client_body_temp_path $HOME/1; proxy_temp_path $HOME/2; fastcgi_temp_path $HOME/3; uwsgi_temp_path $HOME/4; scgi_temp_path $HOME/5;
	proxy_http_version 1.1;
	upstream application { server $UPSTREAM; keepalive 512; keepalive_requests 100000000; }
	upstream auth { server $AUTH; keepalive 512; keepalive_requests 100000000; }
	server {
		listen $LISTEN;
		location / {
			auth_request /auth;
			auth_request_set $openid $upstream_http_x_openid;
			proxy_set_header Connection "";
			proxy_set_header X-OpenID $openid;
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_pass http://application;
		}
		location = /auth {
			internal;
			proxy_pass_request_body off;
			proxy_set_header Connection "";
			proxy_set_header Content-Length "";
			proxy_pass http://auth;
		}
	}
}
`

func (h *house) nginx(n int) *row {
	tokens, auth, service := h.authService(n)
	listen, err := gatewaytest.FindAddr()
	check(err)
	config := strings.NewReplacer("$HOME", h.home, "$LISTEN", listen, "$UPSTREAM", h.upstream, "$AUTH", auth).Replace(nginxConfig)
	file := filepath.Join(h.home, "nginx.conf")
	check(os.WriteFile(file, []byte(config), 0o600))
	// Debian keeps servers out of an ordinary user's PATH.
	p := h.start(listen, nil, "env", "PATH="+os.Getenv("PATH")+":/usr/sbin", "nginx", "-e", "stderr", "-p", h.home, "-c", file)
	return &row{
		text: "nginx `auth_request` and the same service, with connections to both kept alive", address: listen,
		request: withToken(tokens), status: http.StatusOK, proxies: []*process{p, service},
	}
}

// Sessions last so long that those of an earlier run can be used again, and
// that reading them renews none.
const idleTimeout = 365 * 24 * time.Hour

// key seals the sessions of the bench; it protects nothing.
var key = []byte("a key that seals only test data!")

// openID looks like one of WeChat's.
func openID(i int) string { return fmt.Sprintf("oBench%022d", i) }

// sessions logs in n users, unless there is a file of their tokens from the
// last 30 days.
func sessions(dir string, n int, open func(ctx context.Context) (session.Store, error)) []byte {
	file := filepath.Join(dir, "tokens")
	if info, err := os.Stat(file); err == nil && time.Since(info.ModTime()) < 30*24*time.Hour {
		tokens, err := os.ReadFile(file)
		check(err)
		return tokens
	}
	fmt.Fprintf(os.Stderr, "bench: making %d sessions in %s\n", n, dir)
	ctx := context.Background()
	store, err := open(ctx)
	check(err)
	manager, err := session.NewManager(ctx, session.Config{
		Store: store, Keys: [][]byte{key}, IdleTimeout: idleTimeout, Lifetime: idleTimeout, MaxPerUser: 10,
	})
	check(err)
	tokens := make([]string, n)
	var next atomic.Int64
	var logins sync.WaitGroup
	for range 64 { // they share the store's syncs
		logins.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				created, err := manager.Create(ctx, session.Login{AppID: appID, OpenID: openID(i), SessionKey: "AAAAAAAAAAAAAAAAAAAAAA=="})
				check(err)
				tokens[i] = created.Token
			}
		})
	}
	logins.Wait()
	manager.Close()
	check(store.Close())
	lines := []byte(strings.Join(tokens, "\n") + "\n")
	check(os.WriteFile(file, lines, 0o600))
	return lines
}
