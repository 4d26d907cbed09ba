package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// A reader is a machine that has what the documents take for granted: the
// variables and files with secrets, in a directory of the test.
type reader struct {
	gateway *gatewaytest.Gateway
	paths   *strings.Replacer
}

func newReader(t *testing.T) *reader {
	t.Helper()
	g := gatewaytest.New(t)
	g.WriteConfig(gatewaytest.Config{Whole: "# nothing yet", Env: []string{
		"WX_APPID=" + gatewaytest.AppID, "WX_OLD_SECRET=0000000000000000000000000000000a",
		"WXGATE_KEY=" + someKey, "REDIS_PASSWORD=for-tests", "SITE_ADDRESS=api.example.com",
	}})
	for name, text := range map[string]string{
		"wx_secret": "secret", "wx_old_secret": "secret", "other_secret": "secret", "redis_password": "password",
		"wxgate_key": someKey, "key": someKey, "old_key": someKey,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(g.Dir, name), []byte(text+"\n"), 0o600))
	}
	return &reader{g, strings.NewReplacer(
		"./etc/wxgate/", "."+g.Dir+"/", "./run/secrets/", "."+g.Dir+"/", "/var/log/wxgate/", g.Dir+"/log/",
	)}
}

// load lets the real binary judge a configuration, as `caddy validate` does.
func (r *reader) load(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(r.gateway.Dir, name)
	require.NoError(t, os.WriteFile(path, []byte(r.paths.Replace(text)), 0o600))
	args := []string{"validate", "--config", path}
	if filepath.Ext(name) != ".json" {
		args = append(args, "--adapter", "caddyfile")
	}
	out, err := r.gateway.Try(args...)
	require.NoError(t, err, out)
	require.NotContains(t, out, "written out in the configuration")
	if strings.HasPrefix(name, "whole") {
		require.NotContains(t, out, "not formatted")
	}
}

const (
	minimalSite   = "api.example.com {\n\twxgate\n\treverse_proxy 127.0.0.1:3000\n}\n"
	minimalServer = "\tservers {\n\t\texpected_underscore_headers 3rd_session\n\t}\n"
	minimalApp    = "\twxgate {\n\t\tminiprogram wx0123456789abcdef {env.WX_SECRET}\n\t}\n"
)

// wholeCaddyfile puts what is left out around a fragment. The word behind
// ```caddyfile says where the fragment belongs.
func wholeCaddyfile(t *testing.T, b codeBlock) (name, text string) {
	t.Helper()
	servers := minimalServer
	if strings.Contains(b.text, "servers {") {
		servers = ""
	}
	switch b.place {
	case "":
		return "whole.caddyfile", b.text
	case "global": // the global option wxgate
		return "fragment.caddyfile", "{\n" + servers + b.text + "}\n" + minimalSite
	case "options": // other global options
		return "fragment.caddyfile", "{\n" + servers + minimalApp + b.text + "}\n" + minimalSite
	case "site": // within a site
		return "fragment.caddyfile", "{\n" + servers + minimalApp + "}\napi.example.com {\n" + b.text + "}\n"
	}
	require.FailNow(t, "a Caddyfile belongs nowhere", b.place)
	return "", ""
}

func TestEveryCaddyfileInTheDocumentsLoads(t *testing.T) {
	r := newReader(t)
	seen := make(map[string]bool)
	for _, d := range documents(t) {
		for _, b := range d.blocks {
			// The Chinese version has the same blocks.
			if b.language != "caddyfile" || d.isChinese() || seen[b.text] {
				continue
			}
			seen[b.text] = true
			t.Run(fmt.Sprintf("%s:%d", d.path, b.line), func(t *testing.T) {
				name, text := wholeCaddyfile(t, b)
				r.load(t, name, text)
			})
		}
	}
	require.Greater(t, len(seen), 8)
	for _, path := range []string{"Caddyfile.example", "docs/install/gateway.Caddyfile", "docs/install/balancer.Caddyfile"} {
		t.Run(path, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(gatewaytest.Root(), path))
			require.NoError(t, err)
			r.load(t, "whole.caddyfile", string(text))
		})
	}
}

func TestEveryJSONInTheDocumentsLoads(t *testing.T) {
	r := newReader(t)
	for _, d := range documents(t) {
		for _, b := range d.blocks {
			if b.language != "json" || d.isChinese() {
				continue
			}
			t.Run(fmt.Sprintf("%s:%d", d.path, b.line), func(t *testing.T) {
				var value map[string]json.RawMessage
				require.NoError(t, json.Unmarshal([]byte(b.text), &value))
				switch {
				case value["apps"] != nil:
					r.load(t, "whole.json", b.text)
				case value["module"] != nil:
					r.load(t, "store.json", `{"apps":{"wxgate":{"encryption_key":["{env.WXGATE_KEY}"],`+
						`"miniprogram":[{"appid":"wx0123456789abcdef","secret":"{env.WX_SECRET}"}],"store":`+b.text+`}}}`)
				case value["3rd_session"] != nil:
					require.Len(t, string(value["3rd_session"]), 43+len(`""`))
				}
			})
		}
	}
}

// The example is run as it stands, but for where WeChat and the admin endpoint
// are.
func TestLoginRunsThroughCaddyfileExample(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(gatewaytest.Root(), "Caddyfile.example"))
	require.NoError(t, err)
	example := strings.Replace(string(text), "\n\twxgate {", "\n\tadmin $ADMIN\n\twxgate {\n\t\twechat_api $WECHAT", 1)
	g := gatewaytest.New(t)
	g.Run(gatewaytest.Config{Whole: example, Env: []string{
		"WX_APPID=" + gatewaytest.AppID, "SITE_ADDRESS=http://" + g.Addr, "APP_ADDRESS=" + g.Upstream.Addr,
	}})

	token := g.Login("alice").Token
	require.Equal(t, 200, g.Get("/orders?code=071aBcDeFg", gatewaytest.Token(token), "Authorization: Bearer "+token).Status)
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	require.Equal(t, []string{g.OpenID("alice")}, received[0].Lines("X-OpenID"))
	require.Empty(t, received[0].Lines("3rd_session"))
	require.Equal(t, "missing_session", g.Get("/orders").ErrorName())
	require.Equal(t, 200, g.Get("/healthz").Status)

	// An error's line has the request's headers as well.
	g.Upstream.Handle(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	require.Equal(t, 502, g.Get("/orders", gatewaytest.Token(token)).Status)
	g.Stop()
	log := g.Output()
	require.Contains(t, log, `"uri":"/orders?code=REDACTED"`)
	require.Contains(t, log, `"user_id":"`+g.OpenID("alice")+`"`)
	require.Contains(t, log, `"logger":"http.log.error`)
	require.NotContains(t, log, token)
	require.NotContains(t, log, "071aBcDeFg")
	require.NotContains(t, log, gatewaytest.Secret)
}
