package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
		"WXGATE_API_KEY=0000000000000000000000000000000c", "PAY_APPKEY=for-tests",
		"PUSH_TOKEN=AAAAA", "PUSH_AES_KEY=" + strings.Repeat("A", 43),
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
	case "sites": // more sites
		return "fragment.caddyfile", "{\n" + servers + minimalApp + "}\n" + minimalSite + b.text
	}
	require.FailNow(t, "a Caddyfile belongs nowhere", b.place)
	return "", ""
}

// Every code block of the documents loads: Caddyfiles and JSON in the real
// binary, commands in shellcheck. The Chinese version has the same blocks.
func TestEveryCodeBlockLoads(t *testing.T) {
	gatewaytest.Needs(t, "shellcheck", "make")
	r := newReader(t)
	loaded := make(map[string]int)
	for _, d := range documents(t) {
		for _, b := range d.blocks {
			if d.isChinese() {
				continue
			}
			loaded[b.language]++
			t.Run(fmt.Sprintf("%s:%d", d.path, b.line), func(t *testing.T) {
				switch b.language {
				case "caddyfile":
					name, text := wholeCaddyfile(t, b)
					r.load(t, name, text)
				case "json":
					r.loadJSON(t, b.text)
				case "sh":
					shellcheck(t, b.text)
					for line := range strings.SplitSeq(strings.ReplaceAll(b.text, "\\\n", " "), "\n") {
						checkCommand(t, strings.Fields(line))
					}
				}
			})
		}
	}
	require.Greater(t, loaded["caddyfile"], 8)
	require.Greater(t, loaded["json"], 2)
	require.Greater(t, loaded["sh"], 8)

	shipped, err := filepath.Glob(filepath.Join(gatewaytest.Root(), "docs", "*", "*Caddyfile*"))
	require.NoError(t, err)
	require.NotEmpty(t, shipped)
	for _, path := range append(shipped, filepath.Join(gatewaytest.Root(), "Caddyfile.example")) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			r.load(t, "whole.caddyfile", string(text))
		})
	}
}

func (r *reader) loadJSON(t *testing.T, text string) {
	t.Helper()
	var value map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(text), &value))
	if value["apps"] != nil {
		r.load(t, "whole.json", text)
	}
}

// shellcheck finds what a shell would read in another way than it is meant. A
// block is a part of a session: variables come from elsewhere, and its reader
// sees when cd fails.
func shellcheck(t *testing.T, script string) {
	t.Helper()
	cmd := gatewaytest.Command(t, "shellcheck", "--shell=sh", "--exclude=SC2154,SC2164,SC2034", "-")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

// checkCommand compares a command of the documents with what this checkout has:
// the gateway's commands and their flags, targets of make, files, Caddy's version.
func checkCommand(t *testing.T, words []string) {
	t.Helper()
	line := strings.Join(words, " ")
	_, wxgate, isWxgate := strings.Cut(line, "caddy wxgate ")
	_, goRun, isGoRun := strings.Cut(line, "go run ./caddy-build ")
	switch {
	case isWxgate:
		checkFlags(t, append([]string{"wxgate"}, strings.Fields(wxgate)...))
	case isGoRun:
		checkFlags(t, strings.Fields(goRun))
	case len(words) > 1 && words[0] == "caddy":
		checkFlags(t, words[1:])
	case len(words) > 1 && words[0] == "make":
		out, err := gatewaytest.Command(t, "make", append([]string{"--dry-run", "--directory", gatewaytest.Root()}, words[1:]...)...).CombinedOutput()
		require.NoError(t, err, string(out))
	case len(words) > 2 && words[0] == "xcaddy":
		require.Contains(t, readFile(t, "go.mod"), "caddyserver/caddy/v2 "+words[2]+"\n")
	}
	for _, word := range words {
		if strings.HasPrefix(word, "docs/") || word == "Caddyfile.example" {
			_, err := os.Stat(filepath.Join(gatewaytest.Root(), word))
			require.NoError(t, err)
		}
	}
}

// checkFlags asks the binary whether it has the command and its flags.
func checkFlags(t *testing.T, words []string) {
	t.Helper()
	command := words[:1]
	if words[0] == "wxgate" && len(words) > 1 && !strings.HasPrefix(words[1], "-") {
		command = words[:2]
	}
	out, err := exec.Command(gatewaytest.Binary(t), append(command[:len(command):len(command)], "--help")...).CombinedOutput()
	require.NoError(t, err, string(out))
	// An unknown command has the help of its parent.
	require.Regexp(t, `(?m)^  caddy `+strings.Join(command, " ")+`( |$)`, string(out))
	for _, word := range words {
		if strings.HasPrefix(word, "-") && word != "-" {
			require.Regexp(t, `(?m)^ .*(^|[ ,])`+word+`[ ,\[]`, string(out), "%s has no %s", command, word)
		}
	}
}

// Each command of the gateway is in the documents of both languages.
func TestEveryCommandIsExplained(t *testing.T) {
	out, err := exec.Command(gatewaytest.Binary(t), "wxgate", "--help").CombinedOutput()
	require.NoError(t, err)
	_, list, _ := strings.Cut(string(out), "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	for _, m := range regexp.MustCompile(`(?m)^  (\w+) `).FindAllStringSubmatch(list, -1) {
		for _, chinese := range []bool{false, true} {
			require.Contains(t, manual(t, chinese), "wxgate "+m[1])
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
	require.Contains(t, log, `"uri":"/orders"`)
	require.NotContains(t, log, g.OpenID("alice"))
	require.Contains(t, log, `"logger":"http.log.error`)
	require.NotContains(t, log, token)
	require.NotContains(t, log, "071aBcDeFg")
	require.NotContains(t, log, gatewaytest.Secret)
}
