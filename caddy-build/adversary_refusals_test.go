package main_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// A refusal must not say why: whether a token was ever one is nobody's business.
func TestRefusalsAreAlike(t *testing.T) {
	g := gatewaytest.New(t)
	g.RunTLS(gatewaytest.Config{
		App: "miniprogram " + gatewaytest.OtherAppID + " {env.WX_OTHER_SECRET}\nsession {\nlifetime 5s\nmax_per_user 1\n}",
		Site: "miniprograms " + gatewaytest.AppID + `
		token_from 3rd_session bearer
		public /public/*
	}
	wxgate /other {
		login /other
		miniprograms ` + gatewaytest.OtherAppID,
	})
	expired := g.Login("expired").Token
	pushedOut := g.Login("pushed-out").Token
	g.Login("pushed-out")
	loggedOut := g.Login("logged-out").Token
	requireLogout(t, g, loggedOut)
	revoked := g.Login("revoked").Token
	out, err := g.Try("wxgate", "revoke", g.OpenID("revoked"), "--appid", gatewaytest.AppID, "--address", g.Admin)
	require.NoError(t, err, out)
	g.Eventually(func() bool { return g.Get("/", gatewaytest.Token(expired)).Status == http.StatusUnauthorized }, "the first session expires")
	var foreign gatewaytest.Login
	resp := g.Post("/other", `{"code":"`+g.WeChat.IssueCode(gatewaytest.OtherAppID, "foreign")+`"}`)
	require.NoError(t, json.Unmarshal([]byte(resp.Body), &foreign), resp.Body)
	g.Upstream.Take()

	live := g.Login("live").Token
	lines := map[string]string{
		"expired":              gatewaytest.Token(expired),
		"pushed out":           gatewaytest.Token(pushedOut),
		"logged out":           gatewaytest.Token(loggedOut),
		"revoked":              gatewaytest.Token(revoked),
		"foreign mini program": gatewaytest.Token(foreign.Token),
		"unknown":              gatewaytest.Token(strings.Repeat("A", 43)),
		"short":                gatewaytest.Token("abc"),
		"long":                 gatewaytest.Token(strings.Repeat("A", 4000)),
		"not base64url":        gatewaytest.Token(strings.Repeat("+", 43)),
		"trailing bits":        gatewaytest.Token(strings.Repeat("A", 42) + "B"),
		"padded":               gatewaytest.Token(live + "="),
		"in other case":        gatewaytest.Token(strings.ToLower(live[:42]) + "!"),
		"bearer":               "Authorization: Bearer " + expired,
		"two that differ":      gatewaytest.Token(expired) + "\r\nAuthorization: Bearer " + strings.Repeat("A", 43),
	}
	for protocol, send := range g.Senders() {
		for _, request := range []gatewaytest.RawRequest{{}, {Method: http.MethodPost, Path: "/orders", Body: "x"}, {Method: http.MethodPost, Path: "/logout"}} {
			var first gatewaytest.Response
			for name, line := range lines {
				request.Header = strings.Split(line, "\r\n")
				resp, err := send(request)
				require.NoError(t, err)
				resp.Header.Del("Date")
				require.Equal(t, http.StatusUnauthorized, resp.Status, name)
				require.Equal(t, "invalid_session", resp.ErrorName(), name)
				if first.Status == 0 {
					first = resp
				}
				require.Equal(t, first, resp, protocol+" "+name)
				g.RequireNothing(t)
			}
		}
	}
}
