package main_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// recipe returns the first block of a language below a heading of docs/recipes.md.
func recipe(t *testing.T, heading, language string) string {
	t.Helper()
	_, section, found := strings.Cut(readFile(t, "docs/recipes.md"), "\n## "+heading+"\n")
	require.True(t, found, heading)
	section, _, _ = strings.Cut(section, "\n## ")
	_, block, found := strings.Cut(section, "```"+language+"\n")
	require.True(t, found, language)
	block, _, _ = strings.Cut(block, "```")
	return block
}

// startRecipe runs a recipe as the only site.
func startRecipe(t *testing.T, heading string) *gatewaytest.Gateway {
	t.Helper()
	block := strings.ReplaceAll(recipe(t, heading, "caddyfile site"), "127.0.0.1:3000", "$UPSTREAM")
	return gatewaytest.Start(t, gatewaytest.Config{Whole: `{
		admin $ADMIN
		auto_https off
		servers {
			expected_underscore_headers 3rd_session
		}
		wxgate {
			miniprogram ` + gatewaytest.AppID + ` {env.WX_SECRET}
			wechat_api $WECHAT
		}
	}
	http://$LISTEN {
	` + block + `
	}`})
}

func TestRecipeCORS(t *testing.T) {
	g := startRecipe(t, "CORS")
	preflight := g.Raw("OPTIONS /orders HTTP/1.1\nHost: " + g.Addr +
		"\nOrigin: https://h5.example.com\nAccess-Control-Request-Method: POST\nX-OpenID: forged\nConnection: close\n\n")
	require.Equal(t, http.StatusNoContent, preflight.Status)
	require.Contains(t, preflight.Header.Get("Access-Control-Allow-Headers"), "3rd_session")
	require.Empty(t, g.Upstream.Take())

	refused := g.Get("/orders", "Origin: https://h5.example.com")
	require.Equal(t, http.StatusUnauthorized, refused.Status)
	require.Equal(t, "https://h5.example.com", refused.Header.Get("Access-Control-Allow-Origin"))
	token := g.Login("alice").Token
	require.Equal(t, http.StatusOK, g.Get("/orders", gatewaytest.Token(token)).Status)
	g.RequireIdentity(t, g.OpenID("alice"), token)
}

func TestRecipeTokenInTheQuery(t *testing.T) {
	g := startRecipe(t, "A token in the query, for images and web-views")
	token := g.Login("alice").Token
	require.Equal(t, http.StatusOK, g.Get("/images/a.png?size=2&session="+token).Status)
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	require.Equal(t, []string{g.OpenID("alice")}, received[0].Lines("X-OpenID"))
	require.Equal(t, "/images/a.png?size=2", received[0].URI, "the token goes no further")
	require.Equal(t, http.StatusUnauthorized, g.Get("/orders?session="+token).Status)
	require.Equal(t, http.StatusUnauthorized, g.Post("/images/a.png?session="+token, "").Status)
	require.Empty(t, g.Upstream.Take())
}

func TestRecipeCookie(t *testing.T) {
	g := startRecipe(t, "A cookie, for H5")
	token := g.Login("alice").Token
	require.Equal(t, http.StatusOK, g.Get("/orders", "Cookie: a=b; session="+token).Status)
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	require.Equal(t, []string{g.OpenID("alice")}, received[0].Lines("X-OpenID"))
	require.Equal(t, http.StatusUnauthorized, g.Post("/orders", "{}", "Cookie: session="+token).Status, "a form of another site")
	require.Equal(t, http.StatusOK, g.Post("/orders", "{}", gatewaytest.Token(token), "Cookie: session="+token).Status)
}

func TestRecipeErrorsInYourOwnStyle(t *testing.T) {
	g := startRecipe(t, "Errors in your own style")
	refused := g.Get("/orders")
	require.Equal(t, http.StatusUnauthorized, refused.Status)
	require.Equal(t, `{"code":401,"msg":"please log in"}`, refused.Body)
	token := g.Login("alice").Token
	require.Equal(t, http.StatusOK, g.Get("/orders", gatewaytest.Token(token)).Status)
}

func TestRecipeBesideTheGate(t *testing.T) {
	g := startRecipe(t, "Files of an application, and pages of errors")
	require.Equal(t, http.StatusNotFound, g.Get("/static/none.css").Status)
	require.Equal(t, http.StatusUnauthorized, g.Get("/orders").Status)
	require.Empty(t, g.Upstream.Take())
}

func TestRecipeWebhook(t *testing.T) {
	g := startRecipe(t, "Webhooks of others")
	require.Equal(t, http.StatusOK, g.Post("/hooks/pay", "{}", "X-OpenID: forged").Status)
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	require.Empty(t, received[0].Lines("X-OpenID"))
}

// TestRecipeAuthRequest runs the recipe's nginx in front of the application and
// the gateway's site beside it.
func TestRecipeAuthRequest(t *testing.T) {
	gatewaytest.Needs(t, "nginx")
	const heading = "Behind nginx's auth_request or Traefik's forwardAuth"
	site := recipe(t, heading, "caddyfile sites")
	g := gatewaytest.New(t)
	site = strings.ReplaceAll(site, "127.0.0.1:8081", g.Addr)
	g.Run(gatewaytest.Config{Whole: `{
		admin $ADMIN
		auto_https off
		servers {
			expected_underscore_headers 3rd_session
		}
		wxgate {
			miniprogram ` + gatewaytest.AppID + ` {env.WX_SECRET}
			wechat_api $WECHAT
		}
	}
	` + site})
	front := gatewaytest.FreeAddr(t)
	locations := strings.NewReplacer("127.0.0.1:8081", g.Addr, "127.0.0.1:3000", g.Upstream.Addr).Replace(recipe(t, heading, "nginx"))
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(conf, []byte("daemon off; master_process off; error_log stderr; pid "+dir+"/nginx.pid;\nevents {}\nhttp {\naccess_log off;\n"+
		"client_body_temp_path "+dir+"/b; proxy_temp_path "+dir+"/p; fastcgi_temp_path "+dir+"/f; uwsgi_temp_path "+dir+"/u; scgi_temp_path "+dir+"/s;\n"+
		"server {\nlisten "+front+";\n"+locations+"}\n}\n"), 0o600))
	nginx := gatewaytest.Command(t, "nginx", "-c", conf)
	nginx.Stderr = os.Stderr
	require.NoError(t, nginx.Start())
	t.Cleanup(func() {
		_ = nginx.Process.Kill()
		_ = nginx.Wait()
	})
	ask := func(path string, lines ...string) gatewaytest.Response {
		resp, err := gatewaytest.SendRaw(front, "GET "+path+" HTTP/1.1\nHost: x\nConnection: close\n"+strings.Join(append(lines, ""), "\n")+"\n")
		require.NoError(t, err)
		return resp
	}
	token := g.Login("alice").Token
	gatewaytest.Eventually(t, func() bool {
		_, err := gatewaytest.SendRaw(front, "GET /login HTTP/1.1\nHost: x\nConnection: close\n\n")
		return err == nil
	}, "nginx listens")

	require.Equal(t, http.StatusUnauthorized, ask("/orders", "X-OpenID: forged").Status)
	require.Empty(t, g.Upstream.Take())
	require.Equal(t, http.StatusOK, ask("/orders", gatewaytest.Token(token), "X-OpenID: forged").Status)
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	require.Equal(t, []string{g.OpenID("alice")}, received[0].Lines("X-OpenID"))
}

// TestRecipeUnitsAreGood lets systemd itself read the timer and its service.
func TestRecipeUnitsAreGood(t *testing.T) {
	gatewaytest.Needs(t, "systemd-analyze")
	dir := t.TempDir()
	for _, name := range []string{"wxgate-backup.service", "wxgate-backup.timer"} {
		text := strings.ReplaceAll(readFile(t, "docs/install/"+name), "/usr/local/bin/caddy", gatewaytest.Binary(t))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	out, err := gatewaytest.Command(t, "systemd-analyze", "verify", filepath.Join(dir, "wxgate-backup.timer"), filepath.Join(dir, "wxgate-backup.service")).CombinedOutput()
	require.NoError(t, err, string(out))
	require.NotContains(t, string(out), "wxgate-backup.", string(out))
}
