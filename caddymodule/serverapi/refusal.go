package serverapi

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/wxgate/wxgate/caddymodule"
	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// The errcodes that wxgate_api answers itself. Those that WeChat has mean the same there.
const (
	codeNoToken        = 41001
	codeInvalidAppID   = 40013
	codeInvalidSecret  = 40125
	codeTokenExpired   = 42001
	codeNotAllowed     = 85107 // of Cloud Hosting
	codeNoSessionKey   = 87009
	codeBadRequest     = -90400
	codeForbidden      = -90403
	codeNotFound       = -90404
	codeConflict       = -90409
	codeBadReply       = -90502
	codeBusy           = -90503
	codeTimeout        = -90504
	storeRetryAfter    = 2 * time.Second
	clientClosedStatus = 499 // nginx's number for a client that is gone
)

// A refusal is an answer of wxgate_api itself. What the caller did or can
// repair has WeChat's form, status 200 and an errcode, because SDKs show that;
// what keeps a call from WeChat has a status.
type refusal struct {
	status     int
	errcode    int64
	name       string
	text       string
	retryAfter time.Duration
}

func (r *refusal) Error() string { return r.text }

// refuse returns a refusal that SDKs take for WeChat's.
func refuse(errcode int64, name, text string) *refusal {
	return &refusal{status: http.StatusOK, errcode: errcode, name: name, text: text}
}

// toRefusal is the one place where errors become answers.
func toRefusal(err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	if body, ok := errors.AsType[*wechat.BodyError](err); ok {
		if errors.As(body.Err, new(*http.MaxBytesError)) {
			return &refusal{status: http.StatusRequestEntityTooLarge, errcode: codeBadRequest, name: "body_too_large", text: "the body is longer than max_body"}
		}
		return &refusal{status: http.StatusBadRequest, errcode: codeBadRequest, name: "bad_request", text: "the body could not be read"}
	}
	if wx, ok := errors.AsType[*wechat.Error](err); ok {
		return wechatRefusal(wx)
	}
	switch {
	case errors.Is(err, session.ErrNoSessionKey):
		return refuse(codeNoSessionKey, "no_session_key", "there is no session_key of this user: let the mini program log in again")
	case errors.Is(err, context.Canceled):
		return &refusal{status: clientClosedStatus, errcode: codeBadRequest, name: "canceled", text: "the caller is gone"}
	}
	return &refusal{status: http.StatusServiceUnavailable, errcode: codeBusy, name: "store_unavailable", text: "the session store does not answer; try again soon", retryAfter: storeRetryAfter}
}

func wechatRefusal(err *wechat.Error) *refusal {
	switch err.Kind {
	case wechat.Canceled:
		return &refusal{status: clientClosedStatus, errcode: codeBadRequest, name: "canceled", text: "the caller is gone"}
	case wechat.Timeout:
		return &refusal{status: http.StatusGatewayTimeout, errcode: codeTimeout, name: "wechat_timeout", text: "WeChat did not answer in time; whether it acted is unknown"}
	case wechat.Busy:
		return &refusal{status: http.StatusServiceUnavailable, errcode: codeBusy, name: "wechat_busy", text: err.Reason, retryAfter: max(err.RetryAfter, time.Second)}
	}
	return &refusal{status: http.StatusBadGateway, errcode: codeBadReply, name: "wechat_bad_reply", text: "no usable answer from WeChat: " + err.Reason}
}

// result is the metric's label.
func (r *refusal) result() string {
	switch r.name {
	case "unauthorized", "forbidden", "token_expired", "wrong_key":
		return caddymodule.APIResultUnauthorized
	case "wechat_busy", "store_unavailable":
		return caddymodule.APIResultBusy
	case "wechat_timeout":
		return caddymodule.APIResultTimeout
	case "wechat_bad_reply":
		return caddymodule.APIResultBadReply
	case "canceled":
		return caddymodule.APIResultCanceled
	}
	return caddymodule.APIResultDenied
}

func (r *refusal) write(w http.ResponseWriter) error {
	if r.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(r.retryAfter.Seconds()))))
	}
	return writeJSON(w, r.status, struct {
		Errcode int64  `json:"errcode"`
		Errmsg  string `json:"errmsg"`
		Error   string `json:"error"`
	}{r.errcode, "wxgate: " + r.text, r.name})
}

// writeJSON answers with JSON as WeChat labels it.
func writeJSON(w http.ResponseWriter, status int, body any) error {
	return caddymodule.WriteJSON(w, status, "application/json; encoding=utf-8", body)
}
