package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/wxgate/wxgate/caddymodule/identity"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

const (
	maxPushBody = 1 << 20

	// pushBodyTimeout bounds the reading of a body: WeChat itself gives up after 5 s.
	pushBodyTimeout = 10 * time.Second
)

// Push is a path to which WeChat pushes messages of one mini program, such as
// notices of payments and the results of content checks. The gateway verifies
// and decrypts them; the application receives the message in the clear, on the
// same path, with the header X-WX-Push: verified.
type Push struct {
	// The path that is entered as 服务器地址 at mp.weixin.qq.com.
	Path string `json:"path"`

	// The mini program whose messages arrive there.
	AppID string `json:"appid"`

	// The Token of the same page, as {env.NAME} or {file./path}.
	Token string `json:"token"`

	// The EncodingAESKey of the same page. With it only encrypted messages are
	// accepted (安全模式 and 兼容模式). Without it the mode is 明文模式, in which
	// the proof does not cover the message. Default: none
	EncodingAESKey string `json:"encoding_aes_key,omitempty"`

	verifier *wechat.PushVerifier
}

// errPushReplayed is returned for a proof that was delivered before.
var errPushReplayed = wechat.PushError("replayed")

func parsePush(d *caddyfile.Dispenser) (*Push, error) {
	args := d.RemainingArgs()
	if len(args) != 3 && len(args) != 4 {
		return nil, d.Errf("push takes <path> <appid> <token> [<EncodingAESKey>], not %d arguments", len(args))
	}
	p := &Push{Path: args[0], AppID: args[1], Token: args[2]}
	if len(args) == 4 {
		if p.EncodingAESKey = args[3]; args[3] == "" {
			return nil, d.Err("push: the EncodingAESKey is empty; is its variable set?")
		}
	}
	if err := p.check(); err != nil {
		return nil, d.WrapErr(err)
	}
	return p, nil
}

func (p *Push) check() error {
	if err := identity.CheckPath(p.Path); err != nil {
		return fmt.Errorf("push: %w", err)
	}
	if err := checkAppID(p.AppID); err != nil {
		return fmt.Errorf("push %s: %w", p.Path, err)
	}
	if p.Token == "" {
		return fmt.Errorf("push %s: the token is empty; is its variable set?", p.Path)
	}
	return nil
}

// provision resolves the secrets.
func (p *Push) provision(a *App) error {
	if !a.declares(p.AppID) {
		return fmt.Errorf("push %s: %s is not declared by a `miniprogram` line of the global options", p.Path, p.AppID)
	}
	token, err := a.ResolveSecret("the token of push "+p.Path, p.Token)
	if err != nil {
		return fmt.Errorf("push %s: token: %w", p.Path, err)
	}
	key, err := a.ResolveSecret("the EncodingAESKey of push "+p.Path, p.EncodingAESKey)
	if err != nil {
		return fmt.Errorf("push %s: EncodingAESKey: %w", p.Path, err)
	}
	if p.verifier, err = wechat.NewPushVerifier(p.AppID, token, key); err != nil {
		return fmt.Errorf("push %s: %w", p.Path, err)
	}
	// A rate does not see a counter that begins with its first event.
	for _, result := range []string{pushVerified, pushEcho, string(wechat.PushSignature), string(wechat.PushStale)} {
		a.metrics.pushes.WithLabelValues(p.AppID, result)
	}
	return nil
}

// Results of a request to a push path; the others are the reasons of a
// wechat.PushError.
const (
	pushVerified = "verified"
	pushEcho     = "echo"
	pushMethod   = "method"
	pushBody     = "body"
)

// push returns what is configured for a path, or nil.
func (h *Handler) push(path string) *Push {
	for _, p := range h.Push {
		if p.Path == path {
			return p
		}
	}
	return nil
}

// servePush answers WeChat's check of the URL, and hands verified messages on.
// They need no session; what does not verify goes no further.
func (h *Handler) servePush(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, p *Push) error {
	result, err := h.acceptPush(w, r, next, p)
	h.metrics.pushes.WithLabelValues(p.AppID, result).Inc()
	return err
}

func (h *Handler) acceptPush(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, p *Push) (result string, err error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(r.Header["Content-Encoding"]) > 0 {
		return h.refusePush(w, r, p, wechat.PushMalformed)
	}
	switch r.Method {
	case http.MethodGet:
		echo, err := p.verifier.Echo(query, time.Now())
		if err != nil {
			return h.refusePush(w, r, p, err)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = io.WriteString(w, echo)
		return pushEcho, nil
	case http.MethodPost:
	default:
		w.Header().Set("Allow", "GET, POST")
		return pushMethod, h.fail(w, r, errMethod)
	}

	body, err := readBody(w, r, maxPushBody, pushBodyTimeout)
	if err != nil {
		return pushBody, h.fail(w, r, err)
	}
	push, err := p.verifier.Open(query, body, time.Now())
	if err != nil {
		return h.refusePush(w, r, p, err)
	}
	// A message that was not delivered may come again with the same proof.
	proof := hashCode(p.AppID, push.ID)
	if !h.app.pushes.claim(proof) {
		return h.refusePush(w, r, p, errPushReplayed)
	}
	delivered := caddyhttp.NewResponseRecorder(w, nil, nil)
	defer func() {
		if delivered.Status()/100 != 2 {
			h.app.pushes.release(proof)
		}
	}()
	h.rewritePush(r, p, push)
	h.leaveVerdict(r, verdict{pushed: true, err: errMissingSession})
	return pushVerified, next.ServeHTTP(delivered, r)
}

// rewritePush makes the request what the application receives.
func (h *Handler) rewritePush(r *http.Request, p *Push, push wechat.Push) {
	h.tokens.Take(r.Header)
	setNoUser(r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer))
	contentType := "application/json"
	if push.XML {
		contentType = "text/xml"
	}
	r.Header.Set("Content-Type", contentType)
	setBody(r, push.Message)
	r.Header[identity.HeaderPush] = []string{pushVerified}
	r.Header[identity.HeaderPushAppID] = []string{p.AppID}
	r.URL.RawQuery = ""
}

// refusePush answers 403. Why is in the log only.
func (h *Handler) refusePush(w http.ResponseWriter, r *http.Request, p *Push, err error) (string, error) {
	reason, known := errors.AsType[wechat.PushError](err)
	if !known {
		reason = wechat.PushMalformed
	}
	h.logger.Debug("push refused",
		zap.String("appid", p.AppID), zap.String("reason", string(reason)), zap.String("client_ip", clientIP(r)))
	return string(reason), h.fail(w, r, reason)
}
