package main_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// An advisory is a way around another gateway that has been published, and how
// it is tried on this one. docs/security.md lists them all; a test compares.
type advisory struct {
	id        string
	product   string
	mechanism string // one line, as in the table of docs/security.md
	replay    func(t *testing.T, s *stage)
}

// advisories are the published ones, by what went wrong.
func advisories() []advisory {
	return slices.Concat(headerAdvisories(), pathAdvisories(), sessionAdvisories(), failureAdvisories())
}

func TestAdvisories(t *testing.T) {
	gatewaytest.Needs(t, "redis-server", "time")
	s := &stage{t: t, running: make(map[string]*gatewaytest.Gateway)}
	for _, a := range advisories() {
		t.Run(a.id, func(t *testing.T) { a.replay(t, s) })
	}
}

// stage has the gateways that several replays share. Each is started when it is
// first needed and runs until the end.
type stage struct {
	t       *testing.T
	running map[string]*gatewaytest.Gateway
}

func (s *stage) gateway(name string, run func(g *gatewaytest.Gateway)) *gatewaytest.Gateway {
	g, ok := s.running[name]
	if !ok {
		g = gatewaytest.New(s.t)
		run(g)
		s.running[name] = g
	}
	g.Upstream.Handle(nil)
	g.Upstream.Take()
	return g
}

// plain is the minimal site.
func (s *stage) plain() *gatewaytest.Gateway {
	return s.gateway("plain", func(g *gatewaytest.Gateway) { g.Run(gatewaytest.Config{}) })
}

// usual lets in what Caddy does by itself; see usual.
func (s *stage) usual() *gatewaytest.Gateway {
	return s.gateway("usual", func(g *gatewaytest.Gateway) { g.Run(usual()) })
}

// permissive lets aliases in, injects under an oddly written name and has
// public paths; see permissive.
func (s *stage) permissive() *gatewaytest.Gateway {
	return s.gateway("permissive", func(g *gatewaytest.Gateway) { g.Run(permissive()) })
}

// public has public paths of every kind.
func (s *stage) public() *gatewaytest.Gateway {
	return s.gateway("public", func(g *gatewaytest.Gateway) {
		g.Run(gatewaytest.Config{Site: "public /public/* *.css /about\nhealth /healthz"})
	})
}

// secure is permissive over TLS, for HTTP/2 and HTTP/3.
func (s *stage) secure() *gatewaytest.Gateway {
	return s.gateway("secure", func(g *gatewaytest.Gateway) { g.RunTLS(permissive()) })
}

// errorPages hands errors to the upstream, as an operator may.
func (s *stage) errorPages() *gatewaytest.Gateway {
	return s.gateway("errorPages", func(g *gatewaytest.Gateway) { g.Run(withErrorPages()) })
}

// requireRefused asserts that none of the request targets reaches the upstream
// without a session.
func requireRefused(t *testing.T, g *gatewaytest.Gateway, paths ...string) {
	t.Helper()
	for _, path := range paths {
		resp, err := g.SendH1(gatewaytest.RawRequest{Path: g.Expand(path), Header: []string{"Connection: close"}})
		require.NoError(t, err, path)
		require.GreaterOrEqual(t, resp.Status, 400, path)
		g.RequireNothing(t)
	}
}

func TestPagesListTheAdvisories(t *testing.T) {
	for _, page := range []struct {
		name    string
		english bool
	}{{"advisories.md", true}, {"advisories.zh-CN.md", false}} {
		var want, got [][]string
		for _, a := range advisories() {
			want = append(want, []string{a.id, a.product, a.mechanism, "`TestAdvisories/" + a.id + "`"})
		}
		text, err := os.ReadFile(filepath.Join(gatewaytest.Root(), "docs", "contributing", page.name))
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			if !strings.Contains(line, "`TestAdvisories/") {
				continue
			}
			cells := strings.Split(strings.Trim(strings.TrimSpace(line), "| "), " | ")
			require.Len(t, cells, 4, line)
			if !page.english {
				require.NotEmpty(t, cells[2])
				cells[2] = want[len(got)][2]
			}
			got = append(got, cells)
		}
		require.Equal(t, want, got, page.name)
	}
}
