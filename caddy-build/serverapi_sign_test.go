package main_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// hmacHex is made here and not with the code under test.
func hmacHex(key, data string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(data))
	return hex.EncodeToString(mac.Sum(nil))
}

const checkSessionAPI, balanceAPI = "/wxa/checksession", "/xpay/query_user_balance"

// lastQuery is the query of the last call of a path.
func (r *relay) lastQuery(path string) url.Values {
	r.tb.Helper()
	calls := r.WeChat.CallsTo(path)
	require.NotEmpty(r.tb, calls)
	query, err := url.ParseQuery(calls[len(calls)-1].Query)
	require.NoError(r.tb, err)
	for name, values := range query {
		require.Len(r.tb, values, 1, name)
	}
	return query
}

func TestTheRelaySignsForTheUser(t *testing.T) {
	r := startRelay(t, relayConfig{app: "virtual_pay " + gatewaytest.AppID + " {env.PAY_KEY} {env.PAY_SANDBOX}", env: []string{"PAY_KEY=12345", "PAY_SANDBOX=54321"},
		site: "allow default /wxa/set_user_storage /xpay/refund_order"})
	alice := r.OpenID("alice")
	requireRefusal(t, r.send("GET", checkSessionAPI+"?openid="+alice, ""), http.StatusOK, 87009, "no_session_key")
	token := r.Login("alice").Token
	key := r.WeChat.SessionKey(gatewaytest.AppID, "alice")

	// The openid in the query, or in the header that the application received.
	requireOK(t, r.send("GET", checkSessionAPI+"?openid="+alice, ""))
	requireOK(t, r.send("GET", checkSessionAPI, "", "X-WX-OPENID: "+alice))
	query := r.lastQuery(checkSessionAPI)
	require.Equal(t, []string{alice, hmacHex(key, ""), "hmac_sha256"}, []string{query.Get("openid"), query.Get("signature"), query.Get("sig_method")})
	requireOK(t, r.send("GET", "/wxa/business/getuserencryptkey?openid="+alice, ""))

	// The body's exact bytes count.
	body := fmt.Sprintf(`{ "openid": "%s",  "user_ip":"127.0.0.1", "env" : 0 }`, alice)
	r.post(balanceAPI, body)
	query = r.lastQuery(balanceAPI)
	require.Equal(t, hmacHex(key, body), query.Get("signature"))
	require.Equal(t, hmacHex("12345", balanceAPI+"&"+body), query.Get("pay_sig"))
	require.False(t, query.Has("sig_method") || query.Has("openid"))
	require.Equal(t, body, string(r.WeChat.CallsTo(balanceAPI)[0].Body))
	sandbox := strings.Replace(body, `"env" : 0`, `"env":1`, 1)
	r.post(balanceAPI, sandbox)
	require.Equal(t, hmacHex("54321", balanceAPI+"&"+sandbox), r.lastQuery(balanceAPI).Get("pay_sig"))
	r.post("/wxa/set_user_storage", `{"kv_list":[]}`, "X-WX-OPENID: "+alice)
	query = r.lastQuery("/wxa/set_user_storage")
	require.Equal(t, []string{alice, hmacHex(key, `{"kv_list":[]}`)}, []string{query.Get("openid"), query.Get("signature")})
	r.post("/xpay/refund_order", `{"order_id":"1"}`)
	query = r.lastQuery("/xpay/refund_order")
	require.True(t, query.Has("pay_sig") && !query.Has("signature"))

	// What the application signed itself stays.
	r.post(balanceAPI+"?signature=own&pay_sig=mine", body)
	query = r.lastQuery(balanceAPI)
	require.Equal(t, []string{"own", "mine"}, []string{query.Get("signature"), query.Get("pay_sig")})

	calls := len(r.WeChat.CallsTo(balanceAPI))
	requireRefusal(t, r.post(balanceAPI, `{"user_ip":"x"}`), http.StatusOK, 40003, "bad_request")
	requireRefusal(t, r.post(balanceAPI, `{"openid":"`+alice+`","openid":"x"}`), http.StatusOK, 40003, "bad_request")
	requireRefusal(t, r.post(balanceAPI, `openid`), http.StatusOK, 40003, "bad_request")
	requireRefusal(t, r.post(balanceAPI, `{"openid":"`+r.OpenID("bob")+`"}`), http.StatusOK, 87009, "no_session_key")
	requireRefusal(t, r.post(balanceAPI, `{"openid":"`+alice+`","pad":"`+strings.Repeat("x", 1<<20)+`"}`), http.StatusRequestEntityTooLarge, -90400, "body_too_large")

	// After the session is gone, nothing is signed.
	require.Equal(t, http.StatusNoContent, r.Raw("POST /logout HTTP/1.1\nHost: "+r.Addr+"\nContent-Length: 0\n3rd_session: "+token+"\nConnection: close\n\n").Status)
	requireRefusal(t, r.post(balanceAPI, body), http.StatusOK, 87009, "no_session_key")
	require.Len(t, r.WeChat.CallsTo(balanceAPI), calls, "nothing unsigned reached WeChat")
}

// The sandbox checks both signatures.
func TestVirtualPaymentIsAcceptedByTheSandbox(t *testing.T) {
	r := &relay{Gateway: gatewaytest.New(t), tb: t, addr: gatewaytest.FreeAddr(t)}
	r.WeChat.SetAppKey(gatewaytest.AppID, "pay-app-key")
	r.Run(relayConfig{app: "virtual_pay " + gatewaytest.AppID + " {env.PAY_KEY}", env: []string{"PAY_KEY=pay-app-key"}}.whole(r.addr))
	r.Login("alice")
	resp := r.post(balanceAPI, `{"openid":"`+r.OpenID("alice")+`","env":0}`)
	requireOK(t, resp)
	require.Contains(t, resp.Body, `"balance":100`)
}

func TestSigningAVirtualPayment(t *testing.T) {
	r := startRelay(t, relayConfig{app: "virtual_pay " + gatewaytest.AppID + " {env.PAY_KEY} {env.PAY_SANDBOX}", env: []string{"PAY_KEY=12345", "PAY_SANDBOX=54321"}})
	alice := r.OpenID("alice")
	data := `{"offerId":"1","buyQuantity":1,"env":0,"currencyType":"CNY","outTradeNo":"a<b>&é"}`
	sign := func(more map[string]any) gatewaytest.Response {
		ask := map[string]any{"openid": alice, "data": data}
		for name, value := range more {
			ask[name] = value
		}
		return r.post("/wxgate/sign", encode(t, ask))
	}
	type signed struct {
		Signature string `json:"signature"`
		PaySig    string `json:"pay_sig"`
	}
	requireSigned := func(resp gatewaytest.Response, key, appKey string) {
		t.Helper()
		require.Equal(t, http.StatusOK, resp.Status, resp.Body)
		var got signed
		require.NoError(t, json.Unmarshal([]byte(resp.Body), &got))
		require.Equal(t, signed{hmacHex(key, data), hmacHex(appKey, "requestVirtualPayment&"+data)}, got)
	}
	requireRefusal(t, sign(nil), http.StatusConflict, 87009, "no_session_key")
	r.Login("alice")
	first := r.WeChat.SessionKey(gatewaytest.AppID, "alice")
	requireSigned(sign(nil), first, "12345")
	requireSigned(sign(map[string]any{"env": 1, "appid": gatewaytest.AppID}), first, "54321")
	require.Empty(t, r.WeChat.CallsTo(checkSessionAPI))
	requireSigned(sign(map[string]any{"check": true}), first, "12345")
	require.Len(t, r.WeChat.CallsTo(checkSessionAPI), 1)

	// The newest key is refused, and the one before is good.
	r.Login("alice")
	second := r.WeChat.SessionKey(gatewaytest.AppID, "alice")
	require.NotEqual(t, first, second)
	r.WeChat.Script(fakewechat.Script{Path: checkSessionAPI, Errcode: new(int64(87009))}, fakewechat.Script{Path: checkSessionAPI, Body: new(`{"errcode":0,"errmsg":"ok"}`)})
	requireSigned(sign(map[string]any{"check": true}), first, "12345")
	r.WeChat.Script(fakewechat.Script{Path: checkSessionAPI, Calls: 2, Errcode: new(int64(87009))})
	requireRefusal(t, sign(map[string]any{"check": true}), http.StatusConflict, 87009, "session_key_expired")
	r.WeChat.Script(fakewechat.Script{Path: checkSessionAPI, Errcode: new(int64(48001)), Errmsg: "api unauthorized"})
	require.Equal(t, `{"errcode":48001,"errmsg":"api unauthorized"}`, sign(map[string]any{"check": true}).Body)
	requireSigned(sign(nil), second, "12345")

	for name, more := range map[string]map[string]any{
		"nothing":      {"data": ""},
		"no object":    {"data": "[]"},
		"not JSON":     {"data": "hello"},
		"two readings": {"data": `{"env":0,"ENV":1}`},
		"too long":     {"data": `{"a":"` + strings.Repeat("x", 8<<10) + `"}`},
		"env":          {"env": 2},
		"no openid":    {"openid": ""},
		"data no text": {"data": map[string]any{}},
	} {
		t.Run(name, func(t *testing.T) {
			requireRefusal(t, sign(more), http.StatusBadRequest, -90400, "bad_request")
		})
	}
	requireRefusal(t, r.send(http.MethodGet, "/wxgate/sign", encode(t, map[string]any{"openid": alice, "data": data})), http.StatusBadRequest, -90400, "bad_request")
	requireRefusal(t, sign(map[string]any{"appid": "wx0000000000000003"}), http.StatusOK, 40013, "unknown_miniprogram")
	requireRefusal(t, r.post("/wxgate/sign", `{"openid":"`+alice+`","data":"{}","Data":"{\"a\":1}"}`), http.StatusBadRequest, -90400, "bad_request")
	requireRefusal(t, r.post("/wxgate/sign", "hello"), http.StatusBadRequest, -90400, "bad_request")
	requireRefusal(t, r.post("/wxgate/sign", strings.Repeat("x", 70<<10)), http.StatusRequestEntityTooLarge, -90400, "body_too_large")
}
