package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// Unmodified SDKs that are pointed at the relay send a subscribe message and
// fetch a QR code, by both kinds of token, with no AppSecret in their process.
func TestUnmodifiedSDKsWorkThroughTheRelay(t *testing.T) {
	gatewaytest.Needs(t, "npm", "time")
	r := startRelay(t, relayConfig{site: "key app {env.API_KEY}"})
	source := filepath.Join(gatewaytest.Root(), "caddy-build", "sdktest")

	node := t.TempDir()
	require.NoError(t, os.CopyFS(node, os.DirFS(filepath.Join(source, "node"))))
	npm := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--silent", "--prefer-offline", "--ignore-scripts")
	npm.Dir = node
	out, err := npm.CombinedOutput()
	require.NoError(t, err, string(out))
	program := filepath.Join(t.TempDir(), "sdktest")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = source
	out, err = build.CombinedOutput()
	require.NoError(t, err, string(out))

	for name, cmd := range map[string]*exec.Cmd{
		"silenceper/wechat": exec.Command(program),
		"node-easywechat":   exec.Command("node", filepath.Join(node, "main.js")),
	} {
		t.Run(name, func(t *testing.T) {
			cmd.Dir = t.TempDir() // node-easywechat keeps its tokens there
			r.WeChat.Reset()
			cmd.Env = []string{
				"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "WXGATE_API=http://" + r.addr, "WXGATE_API_KEY=" + apiKey,
				"APPID=" + gatewaytest.AppID, "OPENID=" + r.OpenID("alice"),
			}
			require.NotContains(t, strings.Join(cmd.Env, " "), gatewaytest.Secret)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
			require.Equal(t, 2, strings.Count(string(out), fmt.Sprintf("image %d\n", len(fakewechat.CodeImage()))), string(out))
			sent := r.WeChat.CallsTo("/cgi-bin/message/subscribe/send")
			require.Len(t, sent, 2)
			for _, call := range sent {
				require.Contains(t, string(call.Body), r.OpenID("alice"))
				require.Equal(t, r.WeChat.Token(gatewaytest.AppID), call.AccessToken())
			}
			require.Len(t, r.WeChat.CallsTo(imageAPI), 2)
		})
	}
}
