package main_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// deleteAdmin sends DELETE to the admin endpoint.
func deleteAdmin(t *testing.T, g *gatewaytest.Gateway, path string) gatewaytest.Response {
	t.Helper()
	req, err := http.NewRequest(http.MethodDelete, "http://admin"+path, nil)
	require.NoError(t, err)
	resp, err := gatewaytest.ReadResponse(g.AdminClient().Do(req))
	require.NoError(t, err)
	return resp
}

func requireDead(t *testing.T, g *gatewaytest.Gateway, token, when string) {
	t.Helper()
	g.Upstream.Take()
	require.Equal(t, "invalid_session", g.Get("/", gatewaytest.Token(token)).ErrorName(), when)
	g.RequireNothing(t)
}

func requireLive(t *testing.T, g *gatewaytest.Gateway, openID, token string) {
	t.Helper()
	g.Upstream.Take()
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
	g.RequireIdentity(t, openID, token)
}

func TestRevokeAll(t *testing.T) {
	both := gatewaytest.Config{App: "miniprogram " + gatewaytest.OtherAppID + " {env.WX_OTHER_SECRET}"}
	g := gatewaytest.Start(t, both)
	alice, bob := g.Login("alice").Token, g.LoginTo(gatewaytest.OtherAppID, "bob").Token

	for path, why := range map[string]string{
		"/wxgate/users?appid=":                 "a script whose variable is empty",
		"/wxgate/users?appid=wx1":              "no appid",
		"/wxgate/users?app=wx0000000000000001": "a misspelt parameter",
		"/wxgate/users?appid=" + gatewaytest.AppID + "&appid=" + gatewaytest.OtherAppID: "two appids",
		"/wxgate/users?appid=%zz": "no query",
	} {
		require.Equal(t, http.StatusBadRequest, deleteAdmin(t, g, path).Status, why)
	}
	require.Equal(t, http.StatusNotFound, deleteAdmin(t, g, "/wxgate/users/").Status)
	requireLive(t, g, g.OpenID("alice"), alice)

	resp := deleteAdmin(t, g, "/wxgate/users?appid="+gatewaytest.AppID)
	require.Equal(t, http.StatusOK, resp.Status)
	require.JSONEq(t, `{"all": true, "appid": "`+gatewaytest.AppID+`"}`, resp.Body)
	requireDead(t, g, alice, "of the mini program")
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(bob)).Status, "of another mini program")

	again := g.Login("alice").Token
	requireLive(t, g, g.OpenID("alice"), again)
	require.JSONEq(t, `{"all": true}`, deleteAdmin(t, g, "/wxgate/users").Body)
	for _, token := range []string{alice, again, bob} {
		requireDead(t, g, token, "all are revoked")
	}
	require.Contains(t, g.Output(), `"msg":"revocation","appid":"`+gatewaytest.AppID+`","all":true`)
	last := g.Login("alice").Token
	g.Kill()
	g.Run(both)
	for _, token := range []string{alice, again, bob} {
		requireDead(t, g, token, "after kill -9")
	}
	requireLive(t, g, g.OpenID("alice"), last)
}

// A session that was refused as expired stays dead when the timeout is
// lengthened, by a reload or with a restart.
func TestRefusedSessionStaysDead(t *testing.T) {
	for name, short := range map[string]string{
		"lifetime":     "session {\n\tlifetime 1s\n}",
		"idle_timeout": "session {\n\tidle_timeout 1s\n}",
		"max_per_user": "session {\n\tmax_per_user 1\n}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gatewaytest.Start(t, gatewaytest.Config{})
			token, untouched := g.Login("alice").Token, g.Login("bob").Token
			requireLive(t, g, g.OpenID("alice"), token)
			born := time.Now()
			out, err := g.Reload(gatewaytest.Config{App: short})
			require.NoError(t, err, out)
			if name == "max_per_user" {
				g.Login("alice")
			}
			g.Eventually(func() bool { return time.Since(born) > time.Second }, "a second has passed")
			requireDead(t, g, token, "under the shorter one")

			out, err = g.Reload(gatewaytest.Config{})
			require.NoError(t, err, out)
			requireDead(t, g, token, "after a reload")
			g.Kill()
			g.Run(gatewaytest.Config{})
			requireDead(t, g, token, "after a restart")
			requireLive(t, g, g.OpenID("bob"), untouched)
		})
	}
}

// Connections to the upstream that are idle keep the former configuration for
// two minutes. It must not keep the sessions that were in memory.
func TestReloadsFreeMemory(t *testing.T) {
	const sessions, reloads = 1000, 20
	cfg := gatewaytest.Config{App: "login_rate off"}
	g := gatewaytest.Start(t, cfg)
	tokens := make([]string, sessions)
	inParallel := func(work func(i int)) {
		var group errgroup.Group
		group.SetLimit(16)
		for i := range tokens {
			group.Go(func() error { work(i); return nil })
		}
		require.NoError(t, group.Wait())
	}
	inParallel(func(i int) { tokens[i] = g.Login(fmt.Sprint("user", i)).Token })
	use := func() {
		inParallel(func(i int) { g.Get("/", gatewaytest.Token(tokens[i])) })
		g.Upstream.Take()
	}
	use()
	before := heapStat(t, g, "HeapAlloc")
	for range reloads {
		out, err := g.Reload(cfg)
		require.NoError(t, err, out)
		use()
	}
	grown := heapStat(t, g, "HeapAlloc") - before
	t.Logf("the heap grew from %d KiB by %d KiB in %d reloads", before>>10, grown>>10, reloads)
	require.Less(t, grown, 16<<20)
}

// heapStat returns a runtime.MemStats figure of the gateway after a garbage
// collection.
func heapStat(tb testing.TB, g *gatewaytest.Gateway, name string) (bytes int) {
	tb.Helper()
	resp, err := gatewaytest.ReadResponse(g.AdminClient().Get("http://admin/debug/pprof/heap?debug=1&gc=1"))
	require.NoError(tb, err)
	_, stats, _ := strings.Cut(resp.Body, "# "+name+" = ")
	_, err = fmt.Sscan(stats, &bytes)
	require.NoError(tb, err)
	return bytes
}
