package caddymodule

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// What the gateway itself refuses, before it asks the store or WeChat.
var (
	errMethod         = errors.New("method not allowed")
	errMissingSession = errors.New("no session token")
	errTwoTokens      = fmt.Errorf("two tokens that differ: %w", session.ErrInvalid)
	errOtherApp       = fmt.Errorf("the mini program is not one of this site: %w", session.ErrInvalid)
	errBodyTooLarge   = errors.New("body too large")
	errTooEarly       = errors.New("early data")
	errCodeSeen       = errors.New("this gateway has seen the code")
)

// badRequest is a mistake of the client; its text is the message.
type badRequest string

func (e badRequest) Error() string { return string(e) }

// tooManyLogins is returned when a client address is over login_rate.
type tooManyLogins struct{ retryAfter time.Duration }

func (tooManyLogins) Error() string { return "too many logins from one address" }

// answer is an error as the client sees it.
type answer struct {
	status     int
	name       string
	message    string
	errcode    *int64
	retryAfter time.Duration
}

// storeRetryAfter is the Retry-After of answers while the store is out: such
// outages last seconds, and everyone coming back at once must be avoided.
const storeRetryAfter = 2 * time.Second

// answers are those to errors that have one each. The first that fits counts.
var answers = []struct {
	to error
	answer
}{
	{errMethod, answer{status: http.StatusMethodNotAllowed, name: "method_not_allowed", message: "this method is not allowed here"}},
	{errBodyTooLarge, answer{status: http.StatusRequestEntityTooLarge, name: "body_too_large", message: "the body is too large"}},
	{errTooEarly, answer{status: http.StatusTooEarly, name: "too_early", message: "send the request again when the TLS handshake is complete"}},
	{errCodeSeen, answer{status: http.StatusUnauthorized, name: "code_used", message: "the code has been used; call wx.login again"}},
	{errMissingSession, answer{status: http.StatusUnauthorized, name: "missing_session", message: "log in first"}},
	{session.ErrInvalid, answer{status: http.StatusUnauthorized, name: "invalid_session", message: "the session is not valid; log in again"}},
	// The client is gone; nginx's number for that.
	{context.Canceled, answer{status: 499, name: "canceled", message: "the client is gone"}},
	{errOpenDataRefusals, answer{status: http.StatusTooManyRequests, name: "rate_limited", message: "too much open data of this session did not verify; log in again"}},
	{errOpenDataRejected, answer{status: http.StatusConflict, name: "open_data_rejected", message: "the open data does not verify; log in again and ask the user again"}},
}

// toAnswer is the one place where errors become HTTP. What it does not know is
// trouble with the store: an outage is never "no session".
func toAnswer(err error) answer {
	var (
		bad  badRequest
		rate tooManyLogins
		kind mediaTypeError
		wx   *wechat.Error
		push wechat.PushError
	)
	switch {
	case errors.As(err, &bad):
		return answer{status: http.StatusBadRequest, name: "bad_request", message: string(bad)}
	case errors.As(err, &rate):
		return answer{status: http.StatusTooManyRequests, name: "rate_limited", message: "too many logins from this address", retryAfter: rate.retryAfter}
	case errors.As(err, &wx):
		return wechatAnswer(wx)
	case errors.As(err, &push):
		return answer{status: http.StatusForbidden, name: "push_rejected", message: "the push does not verify"}
	case errors.As(err, &kind):
		return answer{status: http.StatusUnsupportedMediaType, name: "unsupported_media_type", message: string(kind)}
	}
	for _, a := range answers {
		if errors.Is(err, a.to) {
			return a.answer
		}
	}
	return answer{status: http.StatusServiceUnavailable, name: "store_unavailable", message: "sessions are not available; try again soon", retryAfter: storeRetryAfter}
}

// wechatAnswers are those to errors of WeChat's API. The name is the error's
// kind, unless there is one here.
var wechatAnswers = map[wechat.Kind]answer{
	wechat.BadRequest:      {status: http.StatusBadRequest, message: "the code or the appid is not valid"},
	wechat.MockCode:        {status: http.StatusBadRequest, name: "bad_request", message: mockCodeMessage},
	wechat.InvalidCode:     {status: http.StatusUnauthorized, message: "the code is invalid or expired; call wx.login again"},
	wechat.CodeUsed:        {status: http.StatusUnauthorized, message: "the code has been used; call wx.login again"},
	wechat.UserBlocked:     {status: http.StatusForbidden, message: "WeChat has blocked this user"},
	wechat.RateLimited:     {status: http.StatusTooManyRequests, message: "too many logins of this user"},
	wechat.RejectedGateway: {status: http.StatusBadGateway, message: "WeChat rejected this gateway's credentials or address; contact the site operator"},
	wechat.PhoneRejected:   {status: http.StatusConflict, message: "WeChat gives no phone number of this user for the code; ask the user to tap the button again"},
	wechat.Timeout:         {status: http.StatusGatewayTimeout, message: "WeChat did not answer in time"},
	wechat.Busy:            {status: http.StatusServiceUnavailable, message: "WeChat is busy; try again soon"},
	wechat.Canceled:        {status: http.StatusServiceUnavailable, name: string(wechat.Busy), message: "WeChat is busy; try again soon"},
}

func wechatAnswer(err *wechat.Error) answer {
	a, known := wechatAnswers[err.Kind]
	if !known {
		a = answer{status: http.StatusBadGateway, name: string(wechat.BadReply), message: "WeChat's answer could not be used"}
	}
	a.name = cmp.Or(a.name, string(err.Kind))
	if err.HasErrcode {
		a.errcode = &err.Errcode
	}
	// Retry-After is set on 429 and 503 only.
	if a.status == http.StatusServiceUnavailable || a.status == http.StatusTooManyRequests {
		a.retryAfter = max(err.RetryAfter, time.Second)
	}
	return a
}

// fail answers a request with an error and counts and logs it.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) error {
	a := toAnswer(err)
	if c := h.app.logger.Check(zapcore.DebugLevel, "request rejected"); c != nil {
		fields := []zap.Field{zap.String("result", a.name), zap.Int("status", a.status), zap.String("client_ip", clientIP(r))}
		if reason := refusalReason(err); reason != "" {
			fields = append(fields, zap.String("reason", reason))
		}
		c.Write(fields...)
	}
	closeIfWaiting(w, r)
	if errors.Is(err, errMissingSession) && isAlmost(r.URL.Path, h.Login) {
		a.message = "POST the code to " + h.Login + " exactly"
	}
	if a.status == http.StatusMethodNotAllowed && (r.URL.Path == h.Login || r.URL.Path == h.Logout) {
		w.Header().Set("Allow", http.MethodPost)
	}
	if a.name == "store_unavailable" {
		h.app.storeTrouble(err)
	}
	return writeAnswer(w, a)
}

// refusalReason returns why there is no session: one of a closed set, for the
// log alone.
func refusalReason(err error) string {
	switch {
	case errors.Is(err, errMissingSession):
		return "missing"
	case errors.Is(err, errTwoTokens):
		return "two_tokens"
	case errors.Is(err, errOtherApp):
		return "other_app"
	case errors.Is(err, session.ErrInvalid):
		return session.Reason(err)
	default:
		return ""
	}
}

// closeIfWaiting closes the connection of a client that sends its body only when
// it is asked to (Expect: 100-continue): the server would wait for it otherwise
// before it sends the answer.
func closeIfWaiting(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && len(r.Header["Expect"]) > 0 {
		w.Header().Set("Connection", "close")
	}
}

// isAlmost reports whether a path was meant to be another: `//login`, `/login/`.
func isAlmost(p, meant string) bool { return strings.EqualFold(path.Clean(p), meant) }

func writeAnswer(w http.ResponseWriter, a answer) error {
	header := w.Header()
	if a.status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", `WxSession realm="wxgate"`)
	}
	if a.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(a.retryAfter.Seconds()))))
	}
	return writeJSON(w, a.status, struct {
		Error   string `json:"error"`
		Message string `json:"message"`
		Errcode *int64 `json:"errcode,omitempty"`
	}{a.name, a.message, a.errcode})
}

func writeJSON(w http.ResponseWriter, status int, body any) error {
	return WriteJSON(w, status, "application/json", body)
}

// WriteJSON answers with JSON that no cache may keep.
func WriteJSON(w http.ResponseWriter, status int, contentType string, body any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding answer: %w", err)
	}
	header := w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Length", strconv.Itoa(len(encoded)))
	w.WriteHeader(status)
	// The client may be gone; a failure has no reader.
	_, _ = w.Write(encoded)
	return nil
}

// answerError does with the error of a handler behind the gate, such as 502,
// what Caddy does where no error route takes it: it logs the error and answers
// with its status. Caddy would log the request's header as it came in, with a
// live token, and a site without a `log` has no format that could prevent it.
func (h *Handler) answerError(w http.ResponseWriter, r *http.Request, err error) error {
	if err == nil || h.errorsHandled() {
		return err
	}
	status, message := http.StatusInternalServerError, err.Error()
	var fields []zap.Field
	var handlerErr caddyhttp.HandlerError
	if errors.As(err, &handlerErr) {
		status = handlerErr.StatusCode
		if handlerErr.Err != nil {
			message = handlerErr.Err.Error()
		}
		fields = append(fields, zap.Int("status", status), zap.String("err_id", handlerErr.ID), zap.String("err_trace", handlerErr.Trace))
	}
	level := zapcore.DebugLevel
	if status >= 500 {
		level = zapcore.ErrorLevel
	}
	if c := h.errorLog.Check(level, message); c != nil {
		c.Write(append(fields, zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: h.asReceived(r)}))...)
	}
	w.WriteHeader(status)
	return nil
}

// asReceived returns the request as the client sent it, but for the token, to
// be logged: without the identity headers of the gate.
func (h *Handler) asReceived(r *http.Request) *http.Request {
	clean := *r
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		clean.Method, clean.RequestURI = original.Method, original.RequestURI
	}
	clean.Header = r.Header.Clone()
	for _, name := range slices.Concat(h.identity.Names(), h.tokens.Headers) {
		clean.Header.Del(name)
	}
	return &clean
}

// handlesErrors reports whether a server has error routes of its own, or within
// its routes.
func handlesErrors(server *caddyhttp.Server) bool {
	if server == nil {
		return true // the one who calls the gate does
	}
	return server.Errors != nil && len(server.Errors.Routes) > 0 || anyHandlesErrors(server.Routes)
}

func anyHandlesErrors(routes caddyhttp.RouteList) bool {
	return slices.ContainsFunc(routes, func(route caddyhttp.Route) bool {
		return slices.ContainsFunc(route.Handlers, func(handler caddyhttp.MiddlewareHandler) bool {
			if sub, ok := handler.(*caddyhttp.Subroute); ok && sub.Errors != nil && len(sub.Errors.Routes) > 0 {
				return true
			}
			return slices.ContainsFunc(routesIn(handler), anyHandlesErrors)
		})
	})
}
