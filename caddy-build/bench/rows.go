package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A row is one way to run a site.
type row struct {
	name    string // its letter, or word
	text    string
	target  target
	proxy   []*process // whose CPU time counts
	aside   []*process // whose CPU time is shown beside it
	samples []sample
}

// cpu returns the time that both kinds of processes have used.
func (r *row) cpu() (proxy, aside time.Duration, err error) {
	if proxy, err = cpuOfAll(r.proxy); err != nil {
		return 0, 0, err
	}
	aside, err = cpuOfAll(r.aside)
	return proxy, aside, err
}

func cpuOfAll(processes []*process) (sum time.Duration, err error) {
	for _, p := range processes {
		used, err := p.cpu()
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// A house is everything that runs during the comparison.
type house struct {
	settings
	program  string // the binary of the row that is being set up
	home     string // where that row keeps its sessions
	upstream string // address
	running  []*process
}

// stop ends everything, the last one first.
func (h *house) stop() {
	for _, p := range slices.Backward(h.running) {
		p.stop()
	}
}

// build starts what the wanted rows need.
func (h *house) build(ctx context.Context) ([]*row, error) {
	var err error
	if h.upstream, _, err = h.self(ctx, "upstream", "serve-upstream", "-body", fmt.Sprint(h.body)); err != nil {
		return nil, err
	}
	builders := []struct {
		name  string
		build func(ctx context.Context) (*row, error)
	}{
		{"a", h.alone}, {"stock", h.stock}, {"b", h.badgerHot}, {"c", h.badgerMany}, {"d", h.redisHot},
		{"e", h.forwardAuth}, {"f", h.nginxPlain}, {"f2", h.nginxKept}, {"g", h.refusing},
	}
	var rows []*row
	for _, b := range builders {
		for _, name := range h.wanted(b.name) {
			if h.program = h.binary; name != b.name {
				h.program = name[len(b.name)+1:]
			}
			// Only one process can have a Badger directory, so each row has
			// its own.
			h.home = filepath.Join(h.dir, strings.ReplaceAll(name, "/", "_"))
			r, err := b.build(ctx)
			if err != nil {
				return nil, fmt.Errorf("setting up row %s: %w", name, err)
			}
			if r != nil {
				r.name = name
				rows = append(rows, r)
			}
		}
	}
	return rows, nil
}

// wanted returns those of -rows that are of a kind: the letter, or the letter,
// @ and another binary.
func (h *house) wanted(kind string) []string {
	if len(h.rows) == 0 {
		return []string{kind}
	}
	return slices.DeleteFunc(slices.Clone(h.rows), func(name string) bool {
		return name != kind && !strings.HasPrefix(name, kind+"@")
	})
}

// alone is row a: what the other Caddy rows add to.
func (h *house) alone(ctx context.Context) (*row, error) {
	return h.withoutGate(ctx, tunedProxy, "Caddy `reverse_proxy` alone, the transport of Caddyfile.example")
}

// stock is Caddy as people start with it.
func (h *house) stock(ctx context.Context) (*row, error) {
	return h.withoutGate(ctx, plainProxy, "Caddy `reverse_proxy` alone, without any setting")
}

func (h *house) badgerHot(ctx context.Context) (*row, error) {
	return h.badger(ctx, h.hot, fmt.Sprintf("wxgate on Badger, %d sessions in use", h.hot))
}

func (h *house) badgerMany(ctx context.Context) (*row, error) {
	return h.badger(ctx, h.sessions, fmt.Sprintf("wxgate on Badger, %d sessions, uniformly random", h.sessions))
}

func (h *house) redisHot(ctx context.Context) (*row, error) {
	redis, address, err := h.redis(ctx)
	if redis == nil {
		return nil, err
	}
	hot, err := populateRedis(ctx, address, h.home, h.hot)
	if err != nil {
		return nil, err
	}
	r, err := h.caddy(ctx, h.gate("store redis "+address), hot.tokens, fmt.Sprintf("wxgate on Redis, %d sessions in use", h.hot))
	if err == nil {
		r.aside = []*process{redis}
	}
	return r, err
}

// refusing is row g: tokens that are well formed and unknown.
func (h *house) refusing(ctx context.Context) (*row, error) {
	r, err := h.badger(ctx, h.hot, "wxgate refusing unknown tokens (401)")
	if err == nil {
		r.target.tokens = ""
		r.target.status = http.StatusUnauthorized
	}
	return r, err
}

// forwardAuth is row e.
func (h *house) forwardAuth(ctx context.Context) (*row, error) {
	service, tokens, address, err := h.authService(ctx)
	if err != nil {
		return nil, err
	}
	next := strings.ReplaceAll(forwardAuth, "$AUTH", address) + tunedProxy
	r, err := h.caddy(ctx, site{next: next}, tokens, "Caddy `forward_auth` and the simplest auth service")
	if err == nil {
		r.proxy = append(r.proxy, service)
	}
	return r, err
}

// nginxPlain is row f: auth_request as its manual shows it.
func (h *house) nginxPlain(ctx context.Context) (*row, error) {
	return h.nginx(ctx, [2]string{}, "nginx `auth_request` and the same service")
}

// nginxKept is nginx with what the manual of its upstream module adds.
func (h *house) nginxKept(ctx context.Context) (*row, error) {
	return h.nginx(ctx, nginxKeepalive, "the same, with connections to both servers kept alive")
}

func (h *house) nginx(ctx context.Context, keepalive [2]string, text string) (*row, error) {
	program := findNginx()
	if program == "" {
		return nil, nil
	}
	service, tokens, address, err := h.authService(ctx)
	if err != nil {
		return nil, err
	}
	listen, server, err := h.startNginx(ctx, program, address, keepalive)
	if err != nil {
		return nil, err
	}
	return &row{
		text:   text,
		target: target{url: "http://" + listen, tokens: tokens, status: http.StatusOK},
		proxy:  []*process{server, service},
	}, nil
}

// authService starts one that knows as many users as the stores of the other
// rows.
func (h *house) authService(ctx context.Context) (service *process, tokens, address string, err error) {
	tokens = filepath.Join(h.home, "tokens")
	if err := makeTokens(tokens, h.hot); err != nil {
		return nil, "", "", err
	}
	address, service, err = h.self(ctx, "auth service", "serve-auth", "-tokens", tokens)
	return service, tokens, address, err
}
