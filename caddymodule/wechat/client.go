package wechat

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// MockCodeText is the code that WeChat's developer tools hand out in a project
// without a real appid. WeChat does not know it.
const MockCodeText = "the code is a mock one"

// A retry after errcode -1 waits for a random time between these two, so that
// many of them do not come back together.
const (
	minRetryDelay = 100 * time.Millisecond
	maxRetryDelay = 400 * time.Millisecond
)

// A Client exchanges codes for sessions. Its methods may be called by many
// goroutines at once.
type Client struct {
	endpoint  *url.URL
	timeout   time.Duration
	transport transport
	turns     *turns
	programs  map[string]*program
}

// A program is a mini program with its circuit breaker.
type program struct {
	MiniProgram
	breaker *breaker
}

// NewClient returns a Client. It does not connect. Its errors name what is wrong with the
// configuration and hold no secret.
func NewClient(cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	base, proxy, err := cfg.resolve()
	if err != nil {
		return nil, fmt.Errorf("configuring the WeChat client: %w", err)
	}
	programs := make(map[string]*program, len(cfg.MiniPrograms))
	for _, mp := range cfg.MiniPrograms {
		switch {
		case mp.AppID == "" || mp.Secret == "":
			return nil, fmt.Errorf("configuring the WeChat client: mini program %q needs an appid and a secret", mp.AppID)
		case programs[mp.AppID] != nil:
			return nil, fmt.Errorf("configuring the WeChat client: mini program %q is given twice", mp.AppID)
		}
		programs[mp.AppID] = &program{MiniProgram: mp, breaker: newBreaker()}
	}
	base.Path = strings.TrimRight(base.Path, "/") + "/sns/jscode2session"
	return &Client{
		endpoint:  base,
		timeout:   cfg.Timeout,
		transport: newTransport(cfg, base, proxy, maxReply),
		turns:     newTurns(cfg.Concurrency),
		programs:  programs,
	}, nil
}

// Close frees what the Client holds. Exchanges under way go on to their end:
// when a gateway is reloaded, logins that were begun must not die of it.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Code2Session exchanges a code of the mini program appID for the user's
// session. The code is sent as it is, whatever characters it has; its length
// and form are for the caller to judge. Every error is an *Error.
//
// The code is sent once, but for two cases, in each of which WeChat answers that
// it did not use it: once more after errcode -1, and once more with the
// OldSecret, if there is one, after 40125.
//
// If ctx ends, Code2Session returns soon with the kind Canceled, and the code
// may be lost: callers that share an exchange should not let it hang on the
// context of one of them.
func (c *Client) Code2Session(ctx context.Context, appID, code string) (Code2Session, error) {
	return c.Code2SessionFrom(ctx, "", appID, code)
}

// Code2SessionFrom is Code2Session for a login that came from source, such as a client's
// address. While more calls wait than may be in flight, the sources take turns.
func (c *Client) Code2SessionFrom(ctx context.Context, source, appID, code string) (Code2Session, error) {
	p := c.programs[appID]
	switch {
	case p == nil:
		return Code2Session{}, &Error{Kind: BadRequest, Reason: "the mini program is unknown"}
	case code == "":
		return Code2Session{}, &Error{Kind: BadRequest, Reason: "there is no code"}
	case code == MockCodeText:
		return Code2Session{}, &Error{Kind: MockCode, Reason: "the developer tools made up the code: give the project a real appid"}
	}
	if err := p.breaker.refusal(); err != nil {
		return Code2Session{}, err
	}
	bounded, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := c.turns.take(ctx, source, c.timeout/2); err != nil {
		return Code2Session{}, err
	}
	defer c.turns.release()

	// The breaker is asked again: it may have opened during the wait.
	return p.breaker.do(func() (Code2Session, error) {
		session, err := c.exchange(bounded, p, code)
		if err == nil {
			return session, nil
		}
		if cause := ctx.Err(); cause != nil {
			// What went wrong did so because the caller went away.
			err = canceled(cause, err.Sent)
		}
		return Code2Session{}, err
	})
}

func canceled(cause error, sent bool) *Error {
	return &Error{Kind: Canceled, Reason: "the caller went away", Sent: sent, cause: cause}
}

// exchange asks until there is an answer that stands.
func (c *Client) exchange(ctx context.Context, p *program, code string) (Code2Session, *Error) {
	secret, retried := p.Secret, false
	for {
		session, err := c.ask(ctx, p, secret, code)
		switch {
		case err == nil || !err.HasErrcode:
			return session, err
		case err.Errcode == errcodeSystemBusy && !retried && pauseBeforeRetry(ctx):
			retried = true
		case err.Errcode == errcodeInvalidSecret && p.OldSecret != "" && secret != p.OldSecret:
			secret = p.OldSecret
		default:
			return session, err
		}
	}
}

// pauseBeforeRetry waits a little, and says whether there is time for a retry.
func pauseBeforeRetry(ctx context.Context) bool {
	delay := minRetryDelay + rand.N(maxRetryDelay-minRetryDelay)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < 2*delay {
		return false
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ask makes one call.
func (c *Client) ask(ctx context.Context, p *program, secret, code string) (Code2Session, *Error) {
	u := *c.endpoint
	u.RawQuery = url.Values{
		"appid":      {p.AppID},
		"secret":     {secret},
		"js_code":    {code},
		"grant_type": {"authorization_code"},
	}.Encode()
	body, err := ask(ctx, c.transport, &http.Request{
		Method: http.MethodGet,
		URL:    &u,
		Header: http.Header{"Accept": {"application/json"}, "User-Agent": {"wxgate"}},
	})
	if err != nil {
		return Code2Session{}, err
	}
	session, err := parseReply(body)
	if err != nil {
		err.Errmsg = redact(err.Errmsg, code, p.Secret, p.OldSecret)
		err.RID = redact(err.RID, code, p.Secret, p.OldSecret)
	}
	return session, err
}

// minRedacted is how long a word must be to be looked for in what WeChat wrote. A client
// chooses its code, and a short one would take the words of the text apart.
const minRedacted = 8

// redact replaces secret words in what WeChat wrote, should it echo them.
func redact(s string, words ...string) string {
	var pairs []string
	for _, word := range words {
		if len(word) < minRedacted {
			continue
		}
		if escaped := url.QueryEscape(word); strings.Contains(s, word) || strings.Contains(s, escaped) {
			pairs = append(pairs, word, "[redacted]", escaped, "[redacted]")
		}
	}
	if pairs == nil {
		return s
	}
	// One pass: what was put in is not searched.
	return strings.NewReplacer(pairs...).Replace(s)
}
