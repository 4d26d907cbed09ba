package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// A relay is a gateway with a wxgate_api site.
type relay struct {
	*gatewaytest.Gateway
	tb   testing.TB
	addr string
}

// A relayConfig says what is special about one. $API stands for the address of its site.
type relayConfig struct {
	app, options string // lines of the global wxgate block, and beside it
	site         string // lines of wxgate_api
	gate         string // lines of the wxgate site
	address      string // default: http://$API with bind 127.0.0.1
	apps         bool   // two mini programs
	env          []string
}

const apiKey = "canary-api-key-0123456789"

func (c relayConfig) whole(addr string) gatewaytest.Config {
	if c.address == "" {
		c.address = "http://$API {\n bind 127.0.0.1"
	}
	second := ""
	if c.apps {
		second = "miniprogram " + gatewaytest.OtherAppID + " {env.WX_OTHER_SECRET}"
	}
	whole := fmt.Sprintf(`{
	admin $ADMIN
	auto_https off
	%s
	servers {
		expected_underscore_headers 3rd_session
	}
	wxgate {
		miniprogram %s {env.WX_SECRET}
		%s
		wechat_api $WECHAT
		%s
	}
}

http://$LISTEN {
	wxgate {
		%s
	}
	reverse_proxy $UPSTREAM
}

%s
	wxgate_api {
		%s
	}
}
`, c.options, gatewaytest.AppID, second, c.app, c.gate, c.address, c.site)
	_, port, _ := strings.Cut(addr, ":")
	return gatewaytest.Config{Whole: strings.NewReplacer("$API", addr, "$PORT", port).Replace(whole), Env: append(c.env, "API_KEY="+apiKey)}
}

func startRelay(tb testing.TB, cfg relayConfig) *relay {
	tb.Helper()
	r := &relay{Gateway: gatewaytest.New(tb), tb: tb, addr: gatewaytest.FreeAddr(tb)}
	r.Run(cfg.whole(r.addr))
	return r
}

// send makes a call with header lines such as "X-WX-APPID: x".
func (r *relay) send(method, uri, body string, lines ...string) gatewaytest.Response {
	r.tb.Helper()
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(line + "\n")
	}
	resp, err := gatewaytest.SendRaw(r.addr, fmt.Sprintf("%s %s HTTP/1.1\nHost: %s\nContent-Type: application/json\nContent-Length: %d\n%sConnection: close\n\n%s",
		method, uri, r.addr, len(body), b.String(), body))
	require.NoError(r.tb, err)
	require.Regexp(r.tb, "^[0-9a-f]{16}$", resp.Header.Get("X-Openapi-Seqid"))
	return resp
}

func (r *relay) post(uri, body string, lines ...string) gatewaytest.Response {
	r.tb.Helper()
	return r.send(http.MethodPost, uri, body, lines...)
}

// requireRefusal asserts a refusal of the relay itself.
func requireRefusal(t *testing.T, resp gatewaytest.Response, status int, errcode int64, name string) {
	t.Helper()
	var body struct {
		Errcode int64
		Errmsg  string
		Error   string
	}
	require.NoError(t, json.Unmarshal([]byte(resp.Body), &body), resp.Body)
	require.Equal(t, []any{status, errcode, name}, []any{resp.Status, body.Errcode, body.Error}, resp.Body)
	require.True(t, strings.HasPrefix(body.Errmsg, "wxgate: "), body.Errmsg)
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
}

func requireOK(t *testing.T, resp gatewaytest.Response) {
	t.Helper()
	require.Equal(t, http.StatusOK, resp.Status, resp.Body)
	require.Contains(t, resp.Body, `"errcode":0`)
}
