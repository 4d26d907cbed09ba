package wechat

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// MaxKeptBody is the longest request body that is kept, so that the call
	// can be repeated with another access_token.
	MaxKeptBody = 1 << 20

	// maxSends is how often a call is sent: with the token at hand, with the
	// one that stable_token gives then, and with the one that a forced refresh gives.
	maxSends = 3

	// hopelessTime is for how long an API that refuses a fresh token is left alone.
	hopelessTime = 10 * time.Minute
	maxHopeless  = 1024
)

// An APIConfig is the configuration of an API. Timeout bounds one call,
// waiting for a place and the whole reply included.
type APIConfig struct {
	Config

	// Report, if set, is called after each request for an access_token.
	Report func(TokenFetch)
}

// An API calls WeChat's server API with the access_token of a mini program.
// Its methods may be called by many goroutines at once.
type API struct {
	base      *url.URL
	timeout   time.Duration
	tokens    *Tokens
	transport transport
	turns     *turns
	mu        sync.Mutex
	hopeless  map[hopelessCall]time.Time
}

// A hopelessCall is an API that refuses a token with which nothing is wrong.
type hopelessCall struct{ appID, path, token string }

// NewAPI returns an API. It connects to nothing.
func NewAPI(cfg APIConfig) (*API, error) {
	cfg.Config = cfg.withDefaults()
	base, proxy, err := cfg.resolve()
	if err != nil {
		return nil, fmt.Errorf("configuring WeChat's server API: %w", err)
	}
	base.Path = strings.TrimRight(base.Path, "/")
	a := &API{
		base:      base,
		timeout:   cfg.Timeout,
		transport: newTransport(cfg.Config, base, proxy, maxAPIReply),
		turns:     newTurns(cfg.Concurrency),
		hopeless:  make(map[hopelessCall]time.Time),
	}
	a.tokens = newTokens(base, a.transport, cfg.MiniPrograms, cfg.Report)
	return a, nil
}

// Tokens returns the access_tokens that the calls are made with.
func (a *API) Tokens() *Tokens { return a.tokens }

// ShareTokens makes a use the tokens that another API keeps of the same mini
// programs: one that it takes over from, when the configuration is reloaded.
func (a *API) ShareTokens(with *API) { a.tokens.share(with.tokens) }

// Close frees what the API holds. Calls under way go on.
func (a *API) Close() { a.transport.CloseIdleConnections() }

// An APICall is one call of the server API.
type APICall struct {
	AppID  string
	Method string // GET or POST
	Path   string // of letters, digits, - and _, such as /wxa/msg_sec_check
	Query  string // as it stands in the URL, without access_token
	Header http.Header
	Body   io.Reader // nil if there is none
	Length int64     // of Body; -1 if unknown
}

// A BodyError is what reading the caller's Body failed with.
type BodyError struct{ Err error }

func (e *BodyError) Error() string { return "reading the body: " + e.Err.Error() }

// Unwrap returns what reading failed with.
func (e *BodyError) Unwrap() error { return e.Err }

// Do makes a call. If WeChat refuses the access_token, and the body is at most
// MaxKeptBody, the call is made again with another one, at most three times in
// all. Any other answer is returned as it is, whatever its errcode. Small JSON
// replies hold no access_token. Every error is an *Error or a *BodyError.
func (a *API) Do(ctx context.Context, call APICall) (*APIReply, error) {
	bounded, cancel := context.WithTimeout(ctx, a.timeout)
	body := &callBody{r: call.Body, length: call.Length}
	reply, err := a.do(bounded, call, body)
	if err == nil {
		reply.Body.done = append(reply.Body.done, cancel)
		return reply, nil
	}
	cancel()
	failure := body.failure.Load()
	switch cause := ctx.Err(); {
	case failure != nil && isTimeout(failure):
		return nil, failure // a server also cancels the context of a caller that is too slow
	case cause != nil:
		return nil, canceled(cause, err.Sent)
	case failure != nil:
		return nil, failure
	}
	return nil, err
}

func (a *API) do(ctx context.Context, call APICall, body *callBody) (*APIReply, *Error) {
	if err := body.keep(); err != nil {
		return nil, err
	}
	if err := a.turns.take(ctx, "", a.timeout/2); err != nil {
		return nil, err
	}
	reply, err := a.sendUntilAccepted(ctx, call, body)
	if err != nil {
		a.turns.release()
		return nil, err
	}
	reply.Body.done = append(reply.Body.done, a.turns.release)
	return reply, nil
}

func (a *API) sendUntilAccepted(ctx context.Context, call APICall, body *callBody) (*APIReply, *Error) {
	token, err := a.tokens.get(ctx, call.AppID)
	if err != nil {
		return nil, err
	}
	for sends := 1; ; sends++ {
		reply, err := a.send(ctx, call, body, token)
		if err != nil {
			return nil, err
		}
		reply.Sends = sends
		next, ok := a.nextToken(ctx, call, reply, token)
		if !ok || !body.whole {
			return reply, nil
		}
		_ = reply.Body.Close()
		token = next
	}
}

// nextToken returns another token if a reply refuses the one that was sent, and
// false if it does not or there is none.
func (a *API) nextToken(ctx context.Context, call APICall, reply *APIReply, token string) (string, bool) {
	if !reply.RefusesToken() {
		return "", false
	}
	about := hopelessCall{call.AppID, call.Path, token}
	if a.isHopeless(about) {
		return "", false
	}
	if reply.Sends == maxSends {
		a.giveUp(about)
		return "", false
	}
	next, ok := a.tokens.Replace(ctx, call.AppID, token)
	if !ok && reply.Sends > 1 {
		a.giveUp(about)
	}
	return next, ok
}

// isHopeless reports whether an API has refused this token although there is
// no better one: for a while its refusals are passed on as they are.
func (a *API) isHopeless(about hopelessCall) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Before(a.hopeless[about])
}

func (a *API) giveUp(about hopelessCall) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.hopeless) >= maxHopeless {
		clear(a.hopeless)
	}
	a.hopeless[about] = time.Now().Add(hopelessTime)
}

// send sends a call once and reads the beginning of its reply.
func (a *API) send(ctx context.Context, call APICall, body *callBody, token string) (*APIReply, *Error) {
	u := *a.base
	u.Path += call.Path
	u.RawQuery = call.Query
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += "access_token=" + url.QueryEscape(token)
	req := &http.Request{Method: call.Method, URL: &u, Header: http.Header{"User-Agent": {"wxgate"}}}
	for name, values := range call.Header {
		req.Header[name] = values
	}
	body.addTo(req)
	resp, failure := send(ctx, a.transport, req)
	if failure != nil {
		return nil, apiError(failure)
	}
	reply, failure := newAPIReply(resp, token)
	if failure != nil {
		_ = resp.Body.Close()
		return nil, apiError(failure)
	}
	return reply, nil
}

func apiError(e *Error) *Error {
	e.op = "calling WeChat's API"
	return e
}

// A callBody is the body of a call. Up to MaxKeptBody is kept.
type callBody struct {
	r       io.Reader // nil if there is none
	length  int64
	kept    []byte // the whole body or what was read of it
	whole   bool
	failure atomic.Pointer[BodyError] // of reading r
}

// keep reads the body, if it is short enough to be kept.
func (b *callBody) keep() *Error {
	if b.r == nil {
		b.whole = true
		return nil
	}
	if b.length > MaxKeptBody {
		return nil
	}
	var err error
	b.kept, err = io.ReadAll(io.LimitReader(b, MaxKeptBody+1))
	if err != nil {
		return &Error{Kind: BadRequest, Reason: "the body cannot be read"}
	}
	b.whole = len(b.kept) <= MaxKeptBody
	return nil
}

func (b *callBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		b.failure.Store(&BodyError{err})
	}
	return n, err
}

func (b *callBody) addTo(req *http.Request) {
	switch {
	case b.whole && len(b.kept) == 0:
	case b.whole:
		req.ContentLength, req.Body = int64(len(b.kept)), io.NopCloser(bytes.NewReader(b.kept))
	default:
		req.ContentLength, req.Body = b.length, io.NopCloser(io.MultiReader(bytes.NewReader(b.kept), b))
	}
}
