package main_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

const (
	pushToken  = "canary0push0token"
	pushAESKey = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
)

// pushSite takes pushes in safe mode and in plain mode.
var pushSite = gatewaytest.Config{
	Options: "debug",
	Site: `
	inject openid X-OpenID
	push /wechat/push ` + gatewaytest.AppID + ` {env.PUSH_TOKEN} {env.PUSH_AES_KEY}
	push /wechat/plain ` + gatewaytest.AppID + ` {env.PUSH_TOKEN}`,
	Env: []string{"PUSH_TOKEN=" + pushToken, "PUSH_AES_KEY=" + pushAESKey},
}

var (
	safePush  = fakewechat.PushConfig{AppID: gatewaytest.AppID, Token: pushToken, EncodingAESKey: pushAESKey}
	plainPush = fakewechat.PushConfig{AppID: gatewaytest.AppID, Token: pushToken}
)

const pushed = `{"ToUserName":"gh_sandbox","MsgType":"event","Event":"xpay_goods_deliver_notify"}`

func TestPushReachesTheUpstreamInTheClear(t *testing.T) {
	g := gatewaytest.Start(t, pushSite)
	g.Upstream.Handle(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"ErrCode":0,"ErrMsg":"success"}`))
	})
	xmlPush, xmlPlain := safePush, plainPush
	xmlPush.XML, xmlPlain.XML = true, true
	for name, tc := range map[string]struct {
		push                       fakewechat.PushConfig
		path, message, contentType string
	}{
		"safe":       {safePush, "/wechat/push", pushed, "application/json"},
		"safe, XML":  {xmlPush, "/wechat/push", "<xml><Event><![CDATA[x]]></Event></xml>", "text/xml"},
		"plain":      {plainPush, "/wechat/plain", pushed, "application/json"},
		"plain, XML": {xmlPlain, "/wechat/plain", "<xml><Event><![CDATA[x]]></Event></xml>", "text/xml"},
	} {
		t.Run(name, func(t *testing.T) {
			status, answer, err := tc.push.Push(g.URL+tc.path, tc.message)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, status)
			require.Equal(t, `{"ErrCode":0,"ErrMsg":"success"}`, answer, "the application's answer goes back as it is")
			received := g.Upstream.Take()
			require.Len(t, received, 1)
			require.Equal(t, tc.path, received[0].URI, "without the proof")
			require.Equal(t, tc.message, string(received[0].Body))
			require.Equal(t, []string{tc.contentType}, received[0].Lines("Content-Type"))
			require.Equal(t, []string{"verified"}, received[0].Lines("X-WX-Push"))
			require.Equal(t, []string{gatewaytest.AppID}, received[0].Lines("X-WX-Appid"))
			require.Empty(t, received[0].Lines("X-OpenID"))
			require.Empty(t, received[0].Lines("3rd_session"))
		})
	}
	for _, secret := range []string{pushToken, pushAESKey} {
		require.NotContains(t, g.Output(), secret)
	}
}

func TestPushURLIsChecked(t *testing.T) {
	g := gatewaytest.Start(t, pushSite)
	check := safePush.Check("4375120948345356249", time.Now())
	resp, err := gatewaytest.ReadResponse(http.Get(g.URL + "/wechat/push?" + check.Encode()))
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.Status)
	require.Equal(t, "4375120948345356249", resp.Body)

	check.Set("signature", strings.Repeat("0", 40))
	resp, err = gatewaytest.ReadResponse(http.Get(g.URL + "/wechat/push?" + check.Encode()))
	require.NoError(t, err)
	require.Equal(t, http.StatusForbidden, resp.Status)
	require.Equal(t, "push_rejected", resp.ErrorName())
	require.Empty(t, g.Upstream.Take())
}

// TestPushForgeriesStayOutside tries what a stranger, who has seen an honest
// push, can send.
func TestPushForgeriesStayOutside(t *testing.T) {
	g := gatewaytest.Start(t, pushSite)
	token := g.Login("alice").Token
	foreign, otherKey := safePush, safePush
	foreign.AppID = gatewaytest.OtherAppID
	otherKey.EncodingAESKey = strings.Repeat("A", 43)
	otherToken := safePush
	otherToken.Token = "guessed"
	for name, tc := range map[string]struct {
		push   fakewechat.PushConfig
		age    time.Duration
		change func(query url.Values, body *string)
		status int
		path   string
	}{
		"another token":             {push: otherToken},
		"another mini program":      {push: foreign},
		"another key":               {push: otherKey},
		"eleven minutes old":        {push: safePush, age: 11 * time.Minute},
		"eleven minutes ahead":      {push: safePush, age: -11 * time.Minute},
		"another message":           {push: safePush, change: func(_ url.Values, b *string) { _, *b = safePush.Seal("{}", time.Now()) }},
		"in the clear":              {push: plainPush},
		"in the clear, marked aes":  {push: plainPush, change: func(q url.Values, _ *string) { q.Set("msg_signature", q.Get("signature")) }},
		"encrypted to a plain path": {push: safePush, path: "/wechat/plain"},
		"no proof":                  {push: safePush, change: func(q url.Values, _ *string) { clear(q) }},
		"a session is no proof":     {push: plainPush, change: func(q url.Values, _ *string) { clear(q) }},
		"proof twice":               {push: safePush, change: func(q url.Values, _ *string) { q.Add("msg_signature", q.Get("msg_signature")) }},
		"over 1 MiB": {push: safePush, status: http.StatusRequestEntityTooLarge, change: func(_ url.Values, b *string) {
			*b += strings.Repeat(" ", 1<<20)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			query, body := tc.push.Seal(pushed, time.Now().Add(-tc.age))
			if tc.change != nil {
				tc.change(query, &body)
			}
			if tc.path == "" {
				tc.path = "/wechat/push"
			}
			if tc.status == 0 {
				tc.status = http.StatusForbidden
			}
			resp := g.Post(tc.path+"?"+query.Encode(), body, gatewaytest.Token(token), "X-WX-Push: verified")
			require.Equal(t, tc.status, resp.Status, resp.Body)
			require.Empty(t, g.Upstream.Take())
		})
	}
}

func TestPushIsDeliveredOnce(t *testing.T) {
	g := gatewaytest.Start(t, pushSite)
	answer := http.StatusInternalServerError
	g.Upstream.Handle(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(answer) })
	for _, tc := range []struct {
		push fakewechat.PushConfig
		path string
	}{{safePush, "/wechat/push"}, {plainPush, "/wechat/plain"}} {
		answer = http.StatusInternalServerError
		query, body := tc.push.Seal(pushed, time.Now())
		require.Equal(t, http.StatusInternalServerError, g.Post(tc.path+"?"+query.Encode(), body).Status)
		answer = http.StatusOK
		require.Equal(t, http.StatusOK, g.Post(tc.path+"?"+query.Encode(), body).Status, "it was not delivered, so WeChat may send it again")
		require.Equal(t, http.StatusForbidden, g.Post(tc.path+"?"+query.Encode(), body).Status, "a copy")
		_, err := g.Reload(pushSite)
		require.NoError(t, err)
		require.Equal(t, http.StatusForbidden, g.Post(tc.path+"?"+query.Encode(), body).Status, "a copy after a reload")
		require.Len(t, g.Upstream.Take(), 2)
	}
}

// TestPushPassesTwoGates: the inner gate keeps what the outer one has verified,
// and lets nothing else in by that.
func TestPushPassesTwoGates(t *testing.T) {
	cfg := pushSite
	cfg.Next = "route {\nwxgate {\ninject appid X-AppID\n}\nreverse_proxy $UPSTREAM\n}"
	g := gatewaytest.Start(t, cfg)
	status, _, err := safePush.Push(g.URL+"/wechat/push", pushed)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	require.Equal(t, []string{"verified"}, received[0].Lines("X-WX-Push"))
	require.Equal(t, pushed, string(received[0].Body))
	require.Empty(t, received[0].Lines("X-AppID"))

	require.Equal(t, http.StatusForbidden, g.Post("/wechat/push", pushed, "X-WX-Push: verified").Status)
	require.Equal(t, http.StatusUnauthorized, g.Post("/orders", pushed, "X-WX-Push: verified").Status)
	require.Empty(t, g.Upstream.Take())
}

// TestPushMarksAreTheGateways: whatever the path, a client cannot bring them.
func TestPushMarksAreTheGateways(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: "public /pub/*"})
	token := g.Login("alice").Token
	for _, path := range []string{"/orders", "/pub/a"} {
		resp := g.Post(path, "{}", gatewaytest.Token(token), "X-WX-Push: verified", "x_wx_push: verified", "X-WX-APPID: wx0000000000000009")
		require.Equal(t, http.StatusOK, resp.Status)
		received := g.Upstream.Take()
		require.Len(t, received, 1)
		require.Empty(t, received[0].Lines("X-WX-Push"))
		require.Empty(t, received[0].Lines("X-WX-Appid"))
	}
}

// A token that comes with a push does not go behind the gate.
func TestPushCarriesNoToken(t *testing.T) {
	g := gatewaytest.Start(t, pushSite)
	token := g.Login("alice").Token
	query, body := plainPush.Seal(pushed, time.Now())
	resp := g.Post("/wechat/plain?"+query.Encode(), body, gatewaytest.Token(token), "Authorization: Bearer "+token, "X-OpenID: oVICTIM")
	require.Equal(t, http.StatusOK, resp.Status, resp.Body)
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	require.NotContains(t, string(received[0].Raw), token)
	require.Empty(t, received[0].Lines("X-OpenID"))
}
