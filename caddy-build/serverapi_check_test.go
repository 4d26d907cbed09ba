package main_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// The doctor asks for an access_token where a site needs one, and only there.
func TestDoctorExaminesAccessTokens(t *testing.T) {
	check := func(t *testing.T, g *gatewaytest.Gateway, cfg gatewaytest.Config) report {
		t.Helper()
		out, err := g.Command("wxgate", "check", "--json", "--config", g.WriteConfig(cfg)).Output()
		var r report
		require.NoError(t, json.Unmarshal(out, &r), "%v %s", err, out)
		return r
	}
	subject := "access_token " + gatewaytest.AppID
	find := func(r report) (status, message, fix string) {
		for _, f := range r.Findings {
			if f.Subject == subject {
				return f.Status, f.Message, f.Fix
			}
		}
		return "", "", ""
	}
	relay := relayConfig{site: "key app {env.API_KEY}"}
	phone := gatewaytest.Config{Site: "open_data /phone {\n phone\n }"}
	for name, cfg := range map[string]gatewaytest.Config{"relay": relay.whole("127.0.0.1:0"), "phone": phone} {
		t.Run(name, func(t *testing.T) {
			g := gatewaytest.New(t)
			status, _, _ := find(check(t, g, cfg))
			require.Equal(t, "ok", status)
			g.WeChat.Script(fakewechat.Script{Path: "/cgi-bin/stable_token", Errcode: new(int64(40164)), Errmsg: "invalid ip 8.149.1.2 ipv6 ::ffff:8.149.1.2, not in whitelist"})
			status, message, fix := find(check(t, g, cfg))
			require.Equal(t, "fault", status)
			require.Contains(t, message, "fetching an access_token: wechat_rejected_gateway: errcode 40164")
			require.Contains(t, fix, "add 8.149.1.2 to the mini program's API IP 白名单")
		})
	}
	g := gatewaytest.New(t)
	check(t, g, gatewaytest.Config{})
	require.Empty(t, g.WeChat.CallsTo("/cgi-bin/stable_token"))
}
