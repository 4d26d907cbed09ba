package main_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// No secret of the server API is in a log at DEBUG, a metric, the
// configuration, an admin answer or an answer of the relay.
func TestSecretsOfTheServerAPIStaySecret(t *testing.T) {
	const payKey = "canary-pay-app-key-1"
	r := startRelay(t, relayConfig{
		options: "debug", apps: true,
		app:  "virtual_pay " + gatewaytest.AppID + " {env.PAY_KEY}",
		site: "key app {env.API_KEY}\n miniprograms " + gatewaytest.AppID,
		env:  []string{"PAY_KEY=" + payKey},
	})
	var answers strings.Builder
	call := func(method, uri, body string) gatewaytest.Response {
		resp := r.send(method, uri, body, "Authorization: Bearer "+apiKey)
		for name, values := range resp.Header {
			answers.WriteString(name + ": " + strings.Join(values, ",") + "\n")
		}
		answers.WriteString(resp.Body + "\n")
		return resp
	}
	alice := r.OpenID("alice")
	r.Login("alice")
	sessionKey := r.WeChat.SessionKey(gatewaytest.AppID, "alice")
	requireOK(t, call("POST", checkAPI, hello))
	tokens := []string{r.WeChat.Token(gatewaytest.AppID)}
	requireOK(t, call("GET", checkSessionAPI+"?openid="+alice, ""))
	call("POST", balanceAPI, `{"openid":"`+alice+`"}`)
	r.WeChat.Script(fakewechat.Script{Path: checkAPI, Errcode: new(int64(40001)), Errmsg: "invalid credential " + tokens[0] + " rid: 1-2-3"})
	call("POST", checkAPI, hello)
	now := r.WeChat.Token(gatewaytest.AppID)
	tokens = append(tokens, now)
	r.WeChat.Script(
		fakewechat.Script{Path: checkAPI, HangUp: fakewechat.HangUpBefore},
		fakewechat.Script{Path: checkAPI, Redirect: "https://example.com/?access_token=" + now},
		fakewechat.Script{Path: checkAPI, Body: new(`{"errcode":0,"echo":"` + now + `"}`)},
		fakewechat.Script{Path: checkAPI, Errcode: new(int64(43101)), Errmsg: "refused " + now},
	)
	for range 4 {
		call("POST", checkAPI, hello)
	}
	r.WeChat.Script(fakewechat.Script{Path: "/cgi-bin/stable_token", Errcode: new(int64(40125)), Errmsg: "invalid appsecret " + gatewaytest.Secret})
	r.WeChat.Revoke(gatewaytest.AppID, false)
	call("POST", checkAPI, hello)
	tokens = append(tokens, r.WeChat.Token(gatewaytest.AppID))
	r.Eventually(func() bool { return strings.Contains(call("POST", checkAPI, hello).Body, `"errcode":0`) }, "a token is fetched again")
	number := r.WeChat.Phone("alice")
	phone := r.send("POST", "/wxa/business/getuserphonenumber", `{"code":"`+r.WeChat.IssuePhoneCode(gatewaytest.AppID, "alice")+`"}`, "Authorization: Bearer "+apiKey)
	require.Contains(t, phone.Body, number, "what the application asks for, it gets")
	var relayToken struct {
		AccessToken string `json:"access_token"`
	}
	resp := r.send("GET", "/cgi-bin/token?grant_type=client_credential&appid="+gatewaytest.AppID+"&secret="+apiKey, "")
	require.NoError(t, json.Unmarshal([]byte(resp.Body), &relayToken))
	requireOK(t, r.post(checkAPI+"?access_token="+url.QueryEscape(relayToken.AccessToken), hello))
	r.send("GET", "/cgi-bin/token?grant_type=client_credential&appid="+gatewaytest.AppID+"&secret="+gatewaytest.Secret, "")
	call("POST", "/wxgate/sign", `{"openid":"`+alice+`","data":"{\"env\":0}"}`)
	signature := hmacHex(sessionKey, `{"env":0}`)
	require.Contains(t, answers.String(), signature)

	surfaces := map[string]string{"log": r.Output(), "answers": strings.ReplaceAll(answers.String(), signature, "")}
	for _, path := range []string{"/config/", "/metrics", "/wxgate/stats"} {
		admin, err := gatewaytest.ReadResponse(r.AdminClient().Get("http://admin" + path))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, admin.Status, path)
		surfaces[path] = admin.Body
	}
	require.Contains(t, surfaces["log"], "server API call")
	secrets := append(slices.Clone(tokens), gatewaytest.Secret, gatewaytest.OtherSecret, sessionKey, apiKey, payKey, relayToken.AccessToken, number, signature,
		hmacHex(sessionKey, ""), hmacHex(payKey, "requestVirtualPayment&"+`{"env":0}`))
	for where, text := range surfaces {
		for _, secret := range secrets {
			if where == "answers" && secret == secrets[len(secrets)-1] {
				continue // pay_sig is what was asked for
			}
			require.False(t, strings.Contains(text, secret) || strings.Contains(text, url.QueryEscape(secret)), "%s holds %s", where, secret)
		}
		require.False(t, strings.Contains(text, "canary"), where)
	}
}
