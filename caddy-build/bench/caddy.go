package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// A site is what one Caddy serves.
type site struct {
	options string // global ones
	before  string // the directive under test
	next    string
}

// caddyfile is what all rows with Caddy have in common. Only trouble is logged.
const caddyfile = `{
	admin unix/$DIR/admin.sock
	auto_https off
	persist_config off
	log {
		level ERROR
	}
	servers {
		expected_underscore_headers 3rd_session
	}
	$OPTIONS
}

http://$LISTEN {
	$BEFORE
	$NEXT
}
`

// tunedProxy is the reverse_proxy of Caddyfile.example.
const tunedProxy = `
	reverse_proxy $UPSTREAM {
		transport http {
			keepalive_idle_conns_per_host 512
		}
	}
`

const plainProxy = `
	reverse_proxy $UPSTREAM
`

// forwardAuth asks over connections that are kept as those of tunedProxy are.
const forwardAuth = `
	forward_auth $AUTH {
		uri /
		copy_headers X-OpenID
		transport http {
			keepalive_idle_conns_per_host 512
		}
	}
`

// gate is a site with wxgate in front of the proxy of row a.
func (h *house) gate(store string, more ...string) site {
	return site{
		options: fmt.Sprintf(`wxgate {
		miniprogram %s %s
		encryption_key %s
		session {
			idle_timeout %s
			lifetime %s
		}
		%s
		%s
	}`, appID, secret, encodedKey(), idleTimeout, lifetime, store, strings.Join(more, "\n")),
		before: "wxgate",
		next:   tunedProxy,
	}
}

// withoutGate is a row of Caddy alone. Its requests carry tokens all the same,
// so that they are as large.
func (h *house) withoutGate(ctx context.Context, proxy, text string) (*row, error) {
	tokens := filepath.Join(h.home, "tokens")
	if err := makeTokens(tokens, h.hot); err != nil {
		return nil, err
	}
	return h.caddy(ctx, site{next: proxy}, tokens, text)
}

// badger is a row of wxgate on a Badger store of n sessions.
func (h *house) badger(ctx context.Context, n int, text string) (*row, error) {
	users, err := populateBadger(ctx, h.home, n)
	if err != nil {
		return nil, err
	}
	return h.caddy(ctx, h.gate("store badger "+users.dir), users.tokens, text)
}

// caddy starts the gateway's binary on a site.
func (h *house) caddy(ctx context.Context, s site, tokens, text string) (*row, error) {
	listen, p, err := h.startCaddy(ctx, s)
	if err != nil {
		return nil, err
	}
	return &row{
		text:   text,
		target: target{url: "http://" + listen, tokens: tokens, status: http.StatusOK},
		proxy:  []*process{p},
	}, nil
}

func (h *house) startCaddy(ctx context.Context, s site) (listen string, p *process, err error) {
	dir, err := os.MkdirTemp("", "wxgate-bench")
	if err != nil {
		return "", nil, fmt.Errorf("making a directory for Caddy: %w", err)
	}
	if listen, err = gatewaytest.FindAddr(); err != nil {
		return "", nil, err
	}
	text := strings.NewReplacer("$OPTIONS", s.options, "$BEFORE", s.before, "$NEXT", s.next).Replace(caddyfile)
	text = strings.NewReplacer("$DIR", dir, "$LISTEN", listen, "$UPSTREAM", h.upstream).Replace(text)
	config := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", nil, fmt.Errorf("writing a Caddyfile: %w", err)
	}
	p, err = start(ctx, "Caddy", listen, []string{"XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "HOME=" + dir},
		h.program, "run", "--config", config, "--adapter", "caddyfile")
	if err != nil {
		return "", nil, err
	}
	p.admin, p.dir = filepath.Join(dir, "admin.sock"), dir
	h.running = append(h.running, p)
	return listen, p, nil
}
