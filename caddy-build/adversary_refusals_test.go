package main_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// A refusal must not say why: it would tell whether a token was ever one.
func TestRefusalsAreAlike(t *testing.T) {
	cfg := gatewaytest.Config{
		App: "miniprogram " + gatewaytest.OtherAppID + " {env.WX_OTHER_SECRET}\nsession {\nmax_per_user 1\n}",
		Site: "miniprograms " + gatewaytest.AppID + `
		token_from 3rd_session bearer
		public /public/*
	}
	wxgate /other {
		login /other
		miniprograms ` + gatewaytest.OtherAppID,
	}
	g := gatewaytest.New(t)
	shorter := cfg
	shorter.App = strings.Replace(cfg.App, "session {", "session {\nlifetime 1ms", 1)
	g.RunTLS(shorter)
	expired := g.Login("expired").Token
	out, err := g.Reload(cfg.WithTLS())
	require.NoError(t, err, out)

	pushedOut := g.Login("pushed-out").Token
	g.Login("pushed-out")
	loggedOut := g.Login("logged-out").Token
	requireLogout(t, g, loggedOut)
	revoked := g.Login("revoked").Token
	g.Revoke("revoked")
	var foreign gatewaytest.Login
	resp := g.Post("/other", `{"code":"`+g.WeChat.IssueCode(gatewaytest.OtherAppID, "foreign")+`"}`)
	require.NoError(t, json.Unmarshal([]byte(resp.Body), &foreign), resp.Body)

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
