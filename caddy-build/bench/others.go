package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// self starts one of this program's own servers.
func (h *house) self(ctx context.Context, name string, args ...string) (address string, p *process, err error) {
	program, err := os.Executable()
	if err != nil {
		return "", nil, fmt.Errorf("finding this program: %w", err)
	}
	if address, err = gatewaytest.FindAddr(); err != nil {
		return "", nil, err
	}
	if p, err = start(ctx, name, address, nil, program, append(args, "-listen", address)...); err != nil {
		return "", nil, err
	}
	h.running = append(h.running, p)
	return address, p, nil
}

// redis starts an empty redis-server without files; nil if there is none.
func (h *house) redis(ctx context.Context, more ...string) (p *process, address string, err error) {
	program, _ := exec.LookPath("redis-server")
	if program == "" {
		fmt.Fprintln(os.Stderr, "bench: redis-server is not installed")
		return nil, "", nil
	}
	if address, err = gatewaytest.FindAddr(); err != nil {
		return nil, "", err
	}
	host, port, _ := strings.Cut(address, ":")
	args := append([]string{"--bind", host, "--port", port, "--save", "", "--appendonly", "no"}, more...)
	p, err = start(ctx, "redis-server", address, nil, program, args...)
	if err != nil {
		return nil, "", err
	}
	h.running = append(h.running, p)
	return p, address, nil
}

// nginxConfig has what its manual shows for auth_request. Connections of clients
// are kept for ever, as Caddy keeps them.
const nginxConfig = `worker_processes auto;
pid $DIR/nginx.pid;
error_log stderr error;
daemon off;
events {
	worker_connections 4096;
}
http {
	access_log off;
	underscores_in_headers on;
	keepalive_requests 100000000;
	client_body_temp_path $DIR/body;
	proxy_temp_path $DIR/proxy;
	fastcgi_temp_path $DIR/fastcgi;
	uwsgi_temp_path $DIR/uwsgi;
	scgi_temp_path $DIR/scgi;
	upstream application {
		server $UPSTREAM;
		$KEEPALIVE
	}
	upstream auth {
		server $AUTH;
		$KEEPALIVE
	}
	server {
		listen $LISTEN;
		location / {
			auth_request /auth;
			auth_request_set $openid $upstream_http_x_openid;
			proxy_set_header X-OpenID $openid;
			proxy_set_header X-Forwarded-For $remote_addr;
			$VERSION
			proxy_pass http://application;
		}
		location = /auth {
			internal;
			proxy_pass_request_body off;
			proxy_set_header Content-Length "";
			$VERSION
			proxy_pass http://auth;
		}
	}
}
`

// nginxKeepalive takes the places of $KEEPALIVE and $VERSION, which are empty
// otherwise: nginx 1.22 then makes a connection for each request.
var nginxKeepalive = [2]string{
	"keepalive 512; keepalive_requests 100000000;",
	`proxy_http_version 1.1; proxy_set_header Connection "";`,
}

// findNginx looks also where Debian keeps servers, out of an ordinary user's
// path; empty if there is none.
func findNginx() string {
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	fmt.Fprintln(os.Stderr, "bench: nginx is not installed")
	return ""
}

func (h *house) startNginx(ctx context.Context, program, auth string, keepalive [2]string) (listen string, p *process, err error) {
	dir, err := os.MkdirTemp("", "wxgate-bench")
	if err != nil {
		return "", nil, fmt.Errorf("making a directory for nginx: %w", err)
	}
	if listen, err = gatewaytest.FindAddr(); err != nil {
		return "", nil, err
	}
	text := strings.NewReplacer("$DIR", dir, "$LISTEN", listen, "$UPSTREAM", h.upstream, "$AUTH", auth,
		"$KEEPALIVE", keepalive[0], "$VERSION", keepalive[1]).Replace(nginxConfig)
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", nil, fmt.Errorf("writing nginx.conf: %w", err)
	}
	if p, err = start(ctx, "nginx", listen, nil, program, "-e", "stderr", "-p", dir, "-c", config); err != nil {
		return "", nil, err
	}
	p.dir = dir
	h.running = append(h.running, p)
	return listen, p, nil
}
