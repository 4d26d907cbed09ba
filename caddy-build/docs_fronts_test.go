package main_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// startHAProxy runs HAProxy in front of a gateway, with no more than it needs.
func startHAProxy(t *testing.T, g *gatewaytest.Gateway) (address string) {
	t.Helper()
	gatewaytest.Needs(t, "haproxy")
	address = gatewaytest.FreeAddr(t)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(file, []byte("defaults\n\tmode http\n\ttimeout connect 5s\n\ttimeout client 1m\n\ttimeout server 1m\n"+
		"listen front\n\tbind "+address+"\n\tserver gateway "+g.Addr+"\n"), 0o600))
	background(t, gatewaytest.Command(t, "haproxy", "-db", "-f", file))
	gatewaytest.Eventually(t, func() bool { return listens(address) }, "HAProxy listens")
	return address
}

// startSecondCaddy runs a Caddy that only proxies to the gateway; options are
// those of its servers.
func startSecondCaddy(t *testing.T, g *gatewaytest.Gateway, options string) (address string) {
	t.Helper()
	front := gatewaytest.New(t)
	front.Run(gatewaytest.Config{Whole: "{\n\tadmin $ADMIN\n\tauto_https off\n" + options + "}\nhttp://$LISTEN {\n\treverse_proxy " + g.Addr + "\n}\n"})
	return front.Addr
}

// The token reaches the gateway through proxies as they come: always as
// Authorization, and as 3rd_session where the proxy passes such a name.
func TestTheTokenPassesProxiesInFront(t *testing.T) {
	gatewaytest.Needs(t, "nginx")
	g := gatewaytest.Start(t, gatewaytest.Config{})
	token := g.Login("alice").Token
	plainNginx := "server {\nlisten 443 ssl;\nlocation / { proxy_pass http://" + g.Addr + "; }\n}\n"
	for _, front := range []struct {
		name    string
		address string
		passes  bool // 3rd_session
	}{
		{"nginx", startNginx(t, g, plainNginx), false},
		{"Caddy", startSecondCaddy(t, g, ""), false},
		{"Caddy that expects it", startSecondCaddy(t, g, "\tservers {\n\t\texpected_underscore_headers 3rd_session\n\t}\n"), true},
		{"HAProxy", startHAProxy(t, g), true},
	} {
		t.Run(front.name, func(t *testing.T) {
			get := func(lines string) gatewaytest.Response {
				t.Helper()
				resp, err := gatewaytest.SendRaw(front.address, "GET /orders HTTP/1.1\nHost: "+front.address+"\n"+lines+"\nConnection: close\n\n")
				require.NoError(t, err)
				return resp
			}
			bearer := "Authorization: Bearer " + token
			require.Equal(t, http.StatusOK, get(bearer).Status)
			g.RequireIdentity(t, g.OpenID("alice"), token)
			require.Equal(t, http.StatusOK, get(gatewaytest.Token(token)+"\n"+bearer).Status)
			g.RequireIdentity(t, g.OpenID("alice"), token)

			resp := get(gatewaytest.Token(token))
			if front.passes {
				require.Equal(t, http.StatusOK, resp.Status)
				g.RequireIdentity(t, g.OpenID("alice"), token)
			} else {
				require.Equal(t, "missing_session", resp.ErrorName())
				g.RequireNothing(t)
			}
		})
	}
}
