package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

const phoneAPI = "/wxa/business/getuserphonenumber"

func TestAPhoneNumberByItsCode(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Options: "debug", Servers: "metrics\n expected_underscore_headers 3rd_session", Site: "public /user/public\n open_data /user/* {\n phone\n }\n inject openid X-OpenID"})
	token := gatewaytest.Token(g.Login("alice").Token)
	post := func(body string, lines ...string) gatewaytest.Response {
		return g.Post("/user/phone", body, append(lines, token)...)
	}
	body := func(code string) string { return fmt.Sprintf(`{"order":7,"phoneCode":%q,"userInfo":{"a":1}}`, code) }
	code := g.WeChat.IssuePhoneCode(gatewaytest.AppID, "alice")
	require.Equal(t, http.StatusOK, post(body(code), "X-WX-Open-Data: verified").Status)
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	require.Equal(t, []string{"verified"}, received[0].Lines("X-WX-Open-Data"))
	require.Equal(t, []string{g.OpenID("alice")}, received[0].Lines("X-OpenID"))
	var got struct {
		Order    int
		OpenData struct {
			PhoneNumber, PurePhoneNumber, CountryCode string
			Watermark                                 struct{ AppID string }
		}
	}
	require.NoError(t, json.Unmarshal(received[0].Body, &got))
	number := g.WeChat.Phone("alice")
	require.Equal(t, []any{7, number, number, "86", gatewaytest.AppID},
		[]any{got.Order, got.OpenData.PhoneNumber, got.OpenData.PurePhoneNumber, got.OpenData.CountryCode, got.OpenData.Watermark.AppID})
	require.NotContains(t, string(received[0].Body), "phoneCode")
	require.NotContains(t, string(received[0].Body), "userInfo", "nothing that is not verified looks so")
	require.Equal(t, `{"code":"`+code+`","openid":"`+g.OpenID("alice")+`"}`, string(g.WeChat.CallsTo(phoneAPI)[0].Body))

	// Refused: used before, another user's, made up.
	for _, code := range []string{code, g.WeChat.IssuePhoneCode(gatewaytest.AppID, "bob"), "made-up"} {
		resp := post(body(code))
		require.Equal(t, []any{http.StatusConflict, "open_data_rejected"}, []any{resp.Status, resp.ErrorName()}, resp.Body)
	}
	require.Len(t, g.WeChat.CallsTo(phoneAPI), 3, "a code that was used is not sent again")
	for _, bad := range []string{`{"phoneCode":7}`, `{"phoneCode":""}`, `{"phoneCode":"a b"}`, `{"phoneCode":"a","phoneCode":"b"}`, `{"phoneCode":"` + strings.Repeat("a", 129) + `"}`, `{"phoneCode":"a","encryptedData":"b","iv":"c"}`} {
		resp := post(bad)
		require.Equal(t, []any{http.StatusBadRequest, "bad_request"}, []any{resp.Status, resp.ErrorName()}, resp.Body)
	}
	g.RequireNothing(t)

	// Without a session the member is the application's business.
	require.Equal(t, http.StatusOK, g.Post("/user/public", `{"phoneCode":"x"}`).Status)
	require.Equal(t, `{"phoneCode":"x"}`, string(g.Upstream.Take()[0].Body))

	// A double tap shares one call.
	code = g.WeChat.IssuePhoneCode(gatewaytest.AppID, "alice")
	g.WeChat.Script(fakewechat.Script{Path: phoneAPI, Hold: true})
	answers := make(chan gatewaytest.Response, 2)
	calls := len(g.WeChat.CallsTo(phoneAPI))
	for range 2 {
		go func() { answers <- post(body(code)) }()
	}
	g.Eventually(func() bool { return len(g.WeChat.CallsTo(phoneAPI)) == calls+1 }, "the call is under way")
	g.Eventually(func() bool {
		metrics, err := gatewaytest.ReadResponse(g.AdminClient().Get("http://admin/metrics"))
		return err == nil && regexp.MustCompile(`caddy_http_requests_in_flight\{handler="\w+",server="srv0"\} 2`).MatchString(metrics.Body)
	}, "both taps wait")
	g.WeChat.Release()
	require.Equal(t, []int{http.StatusOK, http.StatusOK}, []int{(<-answers).Status, (<-answers).Status})
	require.Len(t, g.WeChat.CallsTo(phoneAPI), calls+1)
	g.Upstream.Take()

	// What WeChat or the way to it causes is no refusal of the code.
	for _, tc := range []struct {
		script fakewechat.Script
		status int
		name   string
	}{
		{fakewechat.Script{Path: phoneAPI, Errcode: new(int64(45011))}, http.StatusServiceUnavailable, "wechat_busy"},
		{fakewechat.Script{Path: phoneAPI, Calls: 2, Errcode: new(int64(-1))}, http.StatusServiceUnavailable, "wechat_busy"},
		{fakewechat.Script{Path: phoneAPI, Body: new(`{"errcode":0}`)}, http.StatusBadGateway, "wechat_bad_reply"},
		{fakewechat.Script{Path: phoneAPI, HangUp: fakewechat.HangUpBefore}, http.StatusBadGateway, "wechat_bad_reply"},
	} {
		g.WeChat.Script(tc.script)
		resp := post(body(g.WeChat.IssuePhoneCode(gatewaytest.AppID, "alice")))
		require.Equal(t, []any{tc.status, tc.name}, []any{resp.Status, resp.ErrorName()}, resp.Body)
	}
	old := fmt.Sprintf(`{"errcode":0,"phone_info":{"phoneNumber":"13500000000","purePhoneNumber":"13500000000","countryCode":86,"watermark":{"timestamp":1,"appid":"%s"}}}`, gatewaytest.AppID)
	g.WeChat.Script(fakewechat.Script{Path: phoneAPI, Body: &old})
	require.Equal(t, "open_data_rejected", post(body(g.WeChat.IssuePhoneCode(gatewaytest.AppID, "alice"))).ErrorName())
	g.RequireNothing(t)

	metrics, err := gatewaytest.ReadResponse(g.AdminClient().Get("http://admin/metrics"))
	require.NoError(t, err)
	require.Contains(t, metrics.Body, `wxgate_open_data_total{appid="`+gatewaytest.AppID+`",form="phone",result="wechat_busy"} 2`)
	require.Contains(t, metrics.Body, "wxgate_api_in_flight 0")
	require.False(t, strings.Contains(g.Output(), number) || strings.Contains(g.Output(), code), "the log holds neither number nor code")
}

// While there is no access_token, the code stays good.
func TestACodeIsKeptForWhenThereIsAToken(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: "open_data /phone {\n phone tap\n max_age 0\n }"})
	token := gatewaytest.Token(g.Login("alice").Token)
	code := g.WeChat.IssuePhoneCode(gatewaytest.AppID, "alice")
	g.WeChat.Script(fakewechat.Script{Path: "/cgi-bin/stable_token", Errcode: new(int64(-1))})
	resp := g.Post("/phone", `{"tap":"`+code+`"}`, token)
	require.Equal(t, []any{http.StatusServiceUnavailable, "wechat_busy"}, []any{resp.Status, resp.ErrorName()})
	require.NotEmpty(t, resp.Header.Get("Retry-After"))
	g.Eventually(func() bool { return g.Post("/phone", `{"tap":"`+code+`"}`, token).Status == http.StatusOK }, "the code works")
	require.Equal(t, http.StatusOK, g.Post("/phone", `{"phoneCode":"x"}`, token).Status, "another member is the application's")
	require.Len(t, g.WeChat.CallsTo(phoneAPI), 1)
}

// A client that tries codes without end is stopped before WeChat is.
func TestRefusedCodesAreLimited(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: "open_data /phone {\n phone\n }"})
	token := gatewaytest.Token(g.Login("alice").Token)
	for i := range 20 {
		require.Equal(t, http.StatusConflict, g.Post("/phone", fmt.Sprintf(`{"phoneCode":"x%d"}`, i), token).Status)
	}
	require.Equal(t, http.StatusTooManyRequests, g.Post("/phone", `{"phoneCode":"y"}`, token).Status)
	require.Len(t, g.WeChat.CallsTo(phoneAPI), 20)
}
