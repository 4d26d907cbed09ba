package serverapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/wxgate/wxgate/caddymodule"
	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

const (
	// signPath is answered by wxgate_api itself.
	signPath = "/wxgate/sign"

	checkSessionPath = "/wxa/checksession"
	maxSignData      = 8 << 10
)

// signedPaths are the APIs that want 用户登录态签名, with the user's session_key.
var signedPaths = []string{
	checkSessionPath, "/wxa/business/getuserencryptkey",
	"/xpay/query_user_balance", "/xpay/currency_pay", "/xpay/cancel_currency_pay",
	"/wxa/game/getbalance", "/wxa/game/pay", "/wxa/game/cancelpay", "/wxa/set_user_storage", "/wxa/remove_user_storage",
}

// addSignatures adds what the documents of an API want and the application has
// not given: the user's signature, and pay_sig where an AppKey is configured.
// Both are over the body's exact bytes.
func (h *Handler) addSignatures(c *call, ask *wechat.APICall, q *query) error {
	user := slices.Contains(signedPaths, ask.Path) && !q.values.Has("signature")
	pay := (strings.HasPrefix(ask.Path, "/xpay/") || strings.HasPrefix(ask.Path, "/wxa/game/")) &&
		!q.values.Has("pay_sig") && h.app.PayKey(c.appID, 0) != ""
	if !user && !pay {
		return nil
	}
	body, err := wholeBody(ask)
	if err != nil {
		return err
	}
	if user {
		if err := h.addUserSignature(c, ask.Path, body, q); err != nil {
			return err
		}
	}
	if pay {
		var said struct{ Env json.Number }
		_ = json.Unmarshal(body, &said) // without one it is 0
		if key := h.app.PayKey(c.appID, environment(said.Env.String() == "1")); key != "" {
			q.add("pay_sig", wechat.PaySignature(key, ask.Path, body))
		}
	}
	ask.Query = q.rest
	return nil
}

func environment(sandbox bool) int {
	if sandbox {
		return 1
	}
	return 0
}

// wholeBody reads a call's body, and leaves it to be read again.
func wholeBody(ask *wechat.APICall) ([]byte, error) {
	if ask.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(ask.Body, wechat.MaxKeptBody+1))
	if err == nil && len(body) > wechat.MaxKeptBody {
		err = &http.MaxBytesError{Limit: wechat.MaxKeptBody}
	}
	if err != nil {
		return nil, &wechat.BodyError{Err: err}
	}
	ask.Body = bytes.NewReader(body)
	return body, nil
}

func (h *Handler) addUserSignature(c *call, path string, body []byte, q *query) error {
	openID := q.values.Get("openid")
	inBody := false
	if openID == "" && len(body) > 0 {
		object, err := strictjson.Parse(body)
		if err == nil {
			openID, inBody, err = object.Text("openid")
		}
		if err != nil {
			return refuse(40003, "bad_request", "the body must be a JSON object in which openid, if it is there, is one string")
		}
	}
	if openID == "" {
		openID = c.Request.Header.Get("X-Wx-Openid")
	}
	if openID == "" {
		return refuse(40003, "bad_request", "the call must name the user: openid in the query or the body, or the header X-WX-OPENID")
	}
	keys, err := h.app.UserKeys(c.Context(), c.appID, openID)
	if err != nil {
		return err
	}
	if !inBody {
		q.add("openid", openID)
	}
	q.add("signature", wechat.UserSignature(keys[0], body))
	if !strings.HasPrefix(path, "/xpay/") { // whose documents do not name it
		q.add("sig_method", "hmac_sha256")
	}
	return nil
}

// signRequest is the body of /wxgate/sign.
type signRequest struct {
	AppID  string `json:"appid"`
	OpenID string `json:"openid"`
	Data   string `json:"data"`
	Check  bool   `json:"check"`
	Env    int    `json:"env"`
}

// serveSign signs the signData of wx.requestVirtualPayment. It is no oracle:
// data is a JSON object, so that never nothing is signed, which would prove a login.
func (h *Handler) serveSign(c *call, q query, tokenApp string) error {
	c.api = signPath
	var ask signRequest
	body, err := io.ReadAll(http.MaxBytesReader(c.ResponseWriter, c.Body, 8*maxSignData))
	if err != nil {
		return &wechat.BodyError{Err: err}
	}
	object, err := strictjson.ParseStrict(body)
	if err != nil || json.Unmarshal(body, &ask) != nil || object.Get("data") == nil {
		return badSign(`the body is {"openid":"…","data":"<signData>"}, perhaps with appid, env and check`)
	}
	if _, err := strictjson.ParseStrict([]byte(ask.Data)); err != nil || len(ask.Data) > maxSignData {
		return badSign("data is the text of signData: a JSON object of at most 8 KiB")
	}
	switch {
	case c.Method != http.MethodPost:
		return badSign("this takes POST")
	case ask.OpenID == "":
		return badSign("openid is missing")
	case ask.Env != 0 && ask.Env != 1:
		return badSign("env is 0, or 1 for the sandbox")
	}
	if ask.AppID != "" {
		q.fromAppID = ask.AppID
	}
	if c.appID, err = h.chooseApp(c.Request, q, tokenApp); err != nil {
		return err
	}
	key, err := h.signingKey(c, ask)
	if err != nil || key == "" {
		return err
	}
	answer := struct {
		Signature string `json:"signature"`
		PaySig    string `json:"pay_sig,omitempty"`
	}{Signature: wechat.UserSignature(key, []byte(ask.Data))}
	if payKey := h.app.PayKey(c.appID, ask.Env); payKey != "" {
		answer.PaySig = wechat.PaySignature(payKey, "requestVirtualPayment", []byte(ask.Data))
	}
	return writeJSON(c, http.StatusOK, answer)
}

func badSign(text string) *refusal {
	return &refusal{status: http.StatusBadRequest, errcode: codeBadRequest, name: "bad_request", text: text}
}

// signingKey returns the user's session_key to sign with; with check, the first
// of the keys at hand that WeChat still takes. If WeChat answers anything else,
// its answer is passed on, and the key is empty.
func (h *Handler) signingKey(c *call, ask signRequest) (string, error) {
	keys, err := h.app.UserKeys(c.Context(), c.appID, ask.OpenID)
	if err != nil {
		r := toRefusal(err)
		if r.errcode == codeNoSessionKey {
			r.status = http.StatusConflict
		}
		return "", r
	}
	if !ask.Check {
		return keys[0], nil
	}
	for _, key := range keys {
		reply, err := h.checkSession(c.Context(), c.appID, ask.OpenID, key)
		if err != nil {
			return "", err
		}
		body, err := io.ReadAll(reply.Body)
		_ = reply.Body.Close()
		switch {
		case err != nil:
			return "", &refusal{status: http.StatusBadGateway, errcode: codeBadReply, name: "wechat_bad_reply", text: "the reply broke off"}
		case reply.HasErrcode && reply.Errcode == 0:
			return key, nil
		case reply.HasErrcode && reply.Errcode == codeNoSessionKey:
			continue
		}
		c.result = caddymodule.APIResultErrcode
		c.WriteHeader(reply.Status)
		_, _ = c.Write(body)
		return "", nil
	}
	return "", &refusal{status: http.StatusConflict, errcode: codeNoSessionKey, name: "session_key_expired", text: "WeChat has replaced the session_key: let the mini program log in again"}
}

func (h *Handler) checkSession(ctx context.Context, appID, openID, key string) (*wechat.APIReply, error) {
	return h.app.API().Do(ctx, wechat.APICall{
		AppID: appID, Method: http.MethodGet, Path: checkSessionPath,
		Query: url.Values{"openid": {openID}, "signature": {wechat.UserSignature(key, nil)}, "sig_method": {"hmac_sha256"}}.Encode(),
	})
}
