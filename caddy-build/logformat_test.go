package main_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// logLines returns the lines of the gateway's log that a logger has written.
func logLines(t *testing.T, g *gatewaytest.Gateway, logger string) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for text := range strings.SplitSeq(strings.TrimSpace(g.Output()), "\n") {
		var line map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &line), text)
		if name, _ := line["logger"].(string); strings.HasPrefix(name, logger) {
			lines = append(lines, line)
		}
	}
	return lines
}

const wxgateFormat = "log {\n\tformat wxgate\n}\n"

func TestLogFormatShowsNoTokens(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{
		Options: wxgateFormat, Site: "token_from X-Session 3rd_session bearer\nforward_token",
		Next: wxgateFormat + "reverse_proxy $UPSTREAM",
	})
	token := g.Login("alice").Token
	// A copy that is no token any more, but nearly: only the name gives it away.
	almost := token + "AA"
	for _, lines := range []string{
		"X-Session: " + token, gatewaytest.Token(token), "Authorization: Bearer " + token,
		"X-Session: " + almost, gatewaytest.Token(almost), "Authorization: Bearer " + almost,
		"X-Other: a, " + token, "Referer: https://h/?code=071aBcDeFg&t=%22" + token + "%22",
	} {
		g.Get("/orders?a=1&code=071aBcDeFg&t="+token, strings.Split(lines, "\n")...)
	}
	g.Upstream.Handle(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	require.Equal(t, http.StatusBadGateway, g.Get("/orders?code=071aBcDeFg", gatewaytest.Token(token)).Status)
	g.Stop()

	access, failed := logLines(t, g, "http.log.access"), logLines(t, g, "http.log.error")
	require.Len(t, access, 10) // the login as well
	require.Len(t, failed, 1)
	require.NotContains(t, g.Output(), token)
	require.NotContains(t, g.Output(), "071aBcDeFg")
	require.Contains(t, g.Output(), `"uri":"/orders?a=1&t=REDACTED"`)

	// The user has the name of the line of the login.
	var name any
	for _, line := range logLines(t, g, "wxgate") {
		if line["msg"] == "login" {
			name = line["user"]
		}
	}
	require.NotEmpty(t, name)
	require.Equal(t, name, access[len(access)-1]["user_id"])
	require.NotContains(t, g.Output(), g.OpenID("alice"))
	require.NotContains(t, g.Output(), "a log shows session tokens")
}

func TestLogFormatWithOpenIDs(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Options: "log {\n\tformat wxgate {\n\t\topenid clear\n\t}\n}", Next: "log\nreverse_proxy $UPSTREAM"})
	token := g.Login("alice").Token
	g.Get("/orders", gatewaytest.Token(token))
	g.Stop()
	access := logLines(t, g, "http.log.access")
	require.Len(t, access, 2)
	require.Equal(t, g.OpenID("alice"), access[1]["user_id"])
	require.NotContains(t, g.Output(), token)
}

// The user of another authentication is no openid.
func TestLogFormatLeavesOtherUsers(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Options: wxgateFormat, Site: "public /staff", Next: `
		log
		basic_auth /staff {
			admin $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG
		}
		reverse_proxy $UPSTREAM`})
	require.Equal(t, http.StatusOK, g.Get("/staff", "Authorization: Basic YWRtaW46aGljY3Vw").Status)
	g.Stop()
	access := logLines(t, g, "http.log.access")
	require.Len(t, access, 1)
	require.Equal(t, "admin", access[0]["user_id"])
	require.NotContains(t, g.Output(), "YWRtaW46aGljY3Vw")
}

func TestWarnsOfLogsThatShowTokens(t *testing.T) {
	const filtered = "log {\n\tformat filter {\n\t\trequest>headers>%s delete\n\t}\n}\n"
	for name, tc := range map[string]struct {
		options, site, next string
		warns               int
	}{
		"nothing configured":               {},
		"an access log":                    {next: "log\n", warns: 1},
		"an error route":                   {next: "handle_errors {\nrespond {err.status_code}\n}\n", warns: 1},
		"an error route, the format":       {options: wxgateFormat, next: "handle_errors {\nrespond {err.status_code}\n}\n"},
		"the format":                       {options: wxgateFormat, next: "log\n"},
		"an access log without it":         {options: wxgateFormat, next: "log {\n\toutput stdout\n}\n", warns: 1},
		"an access log with it":            {options: wxgateFormat, next: "log {\n\toutput stdout\n\tformat wxgate\n}\n"},
		"the access log alone has it":      {next: wxgateFormat, warns: 1},
		"a filter":                         {options: strings.ReplaceAll(filtered, "%s", "3rd_session"), next: "log\n"},
		"a filter of another header":       {options: strings.ReplaceAll(filtered, "%s", "X-Session"), next: "log\n", warns: 1},
		"no headers at all":                {options: strings.ReplaceAll(filtered, ">%s", ""), next: "log\n"},
		"two gates":                        {next: "log\nwxgate\n", warns: 1},
		"two headers":                      {site: "token_from X-Session 3rd_session", next: "log\n", warns: 2},
		"Authorization, which Caddy hides": {site: "token_from bearer", next: "log\n"},
		"no log":                           {options: "log {\n\toutput discard\n}\n", next: "log\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g := gatewaytest.New(t)
			path := g.WriteConfig(gatewaytest.Config{Options: tc.options, Site: tc.site, Next: tc.next + "respond ok"})
			out, err := g.Try("validate", "--config", path, "--adapter", "caddyfile")
			require.NoError(t, err, out)
			require.Equal(t, tc.warns, strings.Count(out, "a log shows session tokens"), out)
		})
	}
}

// Without any log configured, Caddy writes errors with the request's headers as
// they came in; the gate answers errors before Caddy does.
func TestErrorsAreLoggedWithoutTokens(t *testing.T) {
	for _, site := range []string{"", "forward_token"} {
		g := gatewaytest.Start(t, gatewaytest.Config{Site: site, Next: "rewrite /old /new\nreverse_proxy $UPSTREAM"})
		token := g.Login("alice").Token
		g.Upstream.Handle(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		for _, line := range []string{gatewaytest.Token(token), "Authorization: Bearer " + token} {
			resp := g.Get("/old?a=1", line, "X-OpenID: forged")
			require.Equal(t, http.StatusBadGateway, resp.Status)
			require.Empty(t, resp.Body, "as Caddy answers")
		}
		g.Stop()
		lines := logLines(t, g, "http.log.error")
		require.Len(t, lines, 2)
		for _, line := range lines {
			require.Equal(t, "error", line["level"])
			require.EqualValues(t, http.StatusBadGateway, line["status"])
			require.NotEmpty(t, line["err_id"])
			require.Equal(t, "/old?a=1", line["request"].(map[string]any)["uri"])
		}
		require.NotContains(t, g.Output(), token)
		require.NotContains(t, g.Output(), g.OpenID("alice"))
	}
}

// An error route still gets the error.
func TestErrorRoutesGetErrorsBehindTheGate(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Next: "reverse_proxy $UPSTREAM\nhandle_errors {\nrespond \"sorry {err.status_code}\" 502\n}"})
	token := g.Login("alice").Token
	g.Upstream.Handle(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	require.Equal(t, "sorry 502", g.Get("/orders", gatewaytest.Token(token)).Body)
	require.NotContains(t, g.Output(), token)
}
