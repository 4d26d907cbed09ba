package wechat

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
)

const (
	// tokenTimeout bounds one request for an access_token.
	tokenTimeout = 10 * time.Second

	// tokenOverlap is how long before a token's end stable_token gives out the
	// next one. Both are good until then.
	tokenOverlap = 5 * time.Minute

	// shortTokenWait is when a token that has no more than tokenOverlap left
	// is asked for again.
	shortTokenWait = 10 * time.Second

	maxTokenBackoff  = time.Minute
	maxTokenLifetime = 2 * time.Hour
	maxTokenSize     = 2048 // WeChat asks for room for 512 characters

	// WeChat allows 20 forced refreshes a day; after that it locks the API
	// until someone clears it by hand.
	forceInterval  = 10 * time.Minute
	maxForcesDaily = 5

	// A refused token is replaced four times at once and then four times a
	// minute, so that an API that answers 40001 to everything costs little.
	replacements        = 4
	replacementInterval = 15 * time.Second
)

// A TokenMode is the reason for which an access_token is fetched.
type TokenMode string

// The modes of a TokenFetch.
const (
	TokenNormal  TokenMode = "normal"  // there was none, or it is about to end
	TokenRefused TokenMode = "refused" // an API refused the one before
	TokenForced  TokenMode = "forced"  // and stable_token gave the refused one again
)

// TokenModes are all modes.
var TokenModes = []TokenMode{TokenNormal, TokenRefused, TokenForced}

// A TokenFetch is the outcome of one request for an access_token. It holds no token.
type TokenFetch struct {
	AppID string
	Mode  TokenMode
	Err   *Error // nil if there is a token

	// Repeated is true if the request before failed in the same way.
	Repeated bool

	// Recovered is true if there is a token, and the request before failed.
	Recovered bool

	// RefusedAfter is how long after WeChat gave it, and well before its end,
	// a token was refused that stable_token has replaced meanwhile: another
	// holder of the AppSecret forces refreshes. Otherwise it is 0.
	RefusedAfter time.Duration
}

// Tokens keeps the access_token of each mini program in memory, and fetches it
// from stable_token. WeChat gives all who ask in the normal mode the same
// token, so that several gateways need not share theirs, and a restart costs
// one request. Its methods may be called by many goroutines at once.
type Tokens struct {
	endpoint  url.URL
	transport http.RoundTripper
	report    func(TokenFetch)
	programs  map[string]*tokenProgram
}

// A tokenProgram is a mini program with its token.
type tokenProgram struct {
	MiniProgram
	*accessToken
}

// An accessToken is what is known of a mini program's token. Its times are
// those of the monotonic clock.
type accessToken struct {
	mu       sync.Mutex
	value    string
	got      time.Time
	soft     time.Time // from here on the next one is fetched in the background
	hard     time.Time // its end
	flight   *tokenFlight
	failures int       // in a row
	failure  string    // the text of the last
	retryAt  time.Time // no request is made before; see failures
	forced   []time.Time
	replace  *rate.Limiter
}

// A tokenFlight is a request that is under way.
type tokenFlight struct {
	done     chan struct{}
	replaces bool // started by Replace
}

// newTokens returns Tokens that use a transport of newTransport. report is
// called after each request.
func newTokens(base *url.URL, transport http.RoundTripper, programs []MiniProgram, report func(TokenFetch)) *Tokens {
	t := &Tokens{endpoint: *base, transport: transport, report: report, programs: make(map[string]*tokenProgram)}
	t.endpoint.Path = strings.TrimRight(base.Path, "/") + "/cgi-bin/stable_token"
	for _, mp := range programs {
		t.programs[mp.AppID] = &tokenProgram{mp, &accessToken{
			replace: rate.NewLimiter(rate.Every(replacementInterval), replacements),
		}}
	}
	return t
}

// share makes t use the tokens that old keeps of the same mini programs.
func (t *Tokens) share(old *Tokens) {
	if t.endpoint != old.endpoint {
		return
	}
	for appID, p := range t.programs {
		// A new secret is tried at once, and not after the pause of the wrong one.
		if before := old.programs[appID]; before != nil && before.MiniProgram == p.MiniProgram {
			p.accessToken = before.accessToken
		}
	}
}

// get returns the mini program's access_token. While it fetches the first one,
// or the next one after a token has ended, get waits until ctx ends. Otherwise
// it does not wait.
func (t *Tokens) get(ctx context.Context, appID string) (string, *Error) {
	p := t.programs[appID]
	if p == nil {
		return "", &Error{Kind: BadRequest, Reason: "the mini program is unknown"}
	}
	for waited := false; ; waited = true {
		p.mu.Lock()
		now := time.Now()
		alive := now.Before(p.hard)
		if (!alive && !waited || alive && !now.Before(p.soft)) && p.flight == nil && !now.Before(p.retryAt) {
			t.start(p, "")
		}
		value, flight, wait := p.value, p.flight, p.retryAt.Sub(now)
		p.mu.Unlock()
		switch {
		case alive:
			return value, nil
		case flight == nil:
			return "", &Error{Kind: Busy, Reason: "there is no access_token", RetryAfter: max(wait, busyRetryAfter)}
		}
		if err := flight.wait(ctx); err != nil {
			return "", err
		}
	}
}

// Left returns how long the access_token of each mini program is still good; 0
// or less if there is none.
func (t *Tokens) Left() map[string]time.Duration {
	left := make(map[string]time.Duration, len(t.programs))
	for appID, p := range t.programs {
		p.mu.Lock()
		if left[appID] = 0; p.value != "" {
			left[appID] = time.Until(p.hard)
		}
		p.mu.Unlock()
	}
	return left
}

// Try asks for a mini program's access_token once, keeps nothing, and returns
// why WeChat gives none, as an *Error, or nil.
func (t *Tokens) Try(ctx context.Context, appID string) error {
	p := t.programs[appID]
	if p == nil {
		return &Error{Kind: BadRequest, Reason: "the mini program is unknown"}
	}
	if _, _, err := t.askBoth(ctx, p, false); err != nil {
		return err
	}
	return nil
}

// Replace returns another access_token than the one that an API refused, and
// false if there is none: it asks stable_token, and if that gives the refused
// one again, with force_refresh.
func (t *Tokens) Replace(ctx context.Context, appID, refused string) (string, bool) {
	p := t.programs[appID]
	for replaced := false; ; {
		p.mu.Lock()
		now := time.Now()
		value, alive, flight := p.value, now.Before(p.hard), p.flight
		another := alive && value != refused
		if !another && !replaced && flight == nil && !now.Before(p.retryAt) && p.replace.AllowN(now, 1) {
			flight = t.start(p, refused)
		}
		p.mu.Unlock()
		switch {
		case another:
			return value, true
		case flight == nil, replaced:
			return "", false
		}
		if flight.wait(ctx) != nil {
			return "", false
		}
		replaced = flight.replaces
	}
}

func (f *tokenFlight) wait(ctx context.Context) *Error {
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		if isTimeout(ctx.Err()) {
			return &Error{Kind: Busy, Reason: "there is no access_token in time", RetryAfter: busyRetryAfter}
		}
		return canceled(ctx.Err(), false)
	}
}

// start fetches a token in the background, for everyone who waits: it does not
// end with the context of one of them. refused is the token that an API
// refused, if that is the reason. The caller holds p.mu.
func (t *Tokens) start(p *tokenProgram, refused string) *tokenFlight {
	f := &tokenFlight{done: make(chan struct{}), replaces: refused != ""}
	p.flight = f
	go func() {
		defer close(f.done)
		mode := TokenNormal
		if f.replaces {
			mode = TokenRefused
		}
		if value := t.fetch(p, mode); f.replaces && value == refused && p.mayForce() {
			t.fetch(p, TokenForced)
		}
		p.mu.Lock()
		p.flight = nil
		p.mu.Unlock()
	}()
	return f
}

// mayForce reports whether a forced refresh is within its limits, and counts it.
func (a *accessToken) mayForce() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if n := len(a.forced); n > 0 && now.Sub(a.forced[n-1]) < forceInterval ||
		n >= maxForcesDaily && now.Sub(a.forced[n-maxForcesDaily]) < 24*time.Hour {
		return false
	}
	a.forced = append(a.forced, now)
	a.forced = a.forced[max(0, len(a.forced)-maxForcesDaily):]
	return true
}

// fetch makes one request, two if there is an old secret, keeps what it gives,
// and returns the token or "".
func (t *Tokens) fetch(p *tokenProgram, mode TokenMode) string {
	ctx, cancel := context.WithTimeout(context.Background(), tokenTimeout)
	defer cancel()
	start := time.Now()
	value, life, err := t.askBoth(ctx, p, mode == TokenForced)
	fetched := TokenFetch{AppID: p.AppID, Mode: mode, Err: err}

	p.mu.Lock()
	if err != nil {
		fetched.Repeated = p.failure == err.Error()
		p.failure = err.Error()
		p.retryAt = time.Now().Add(min(time.Second<<min(p.failures, 6), maxTokenBackoff))
		p.failures++
	} else {
		if mode == TokenRefused && value != p.value && start.Before(p.soft) {
			fetched.RefusedAfter = start.Sub(p.got)
		}
		if value != p.value {
			p.got = start
		}
		p.value, p.hard, p.soft = value, start.Add(life), start.Add(life-tokenOverlap)
		if life <= tokenOverlap {
			p.soft = start.Add(shortTokenWait)
		}
		fetched.Recovered = p.failures > 0
		p.failures, p.failure, p.retryAt = 0, "", time.Time{}
	}
	p.mu.Unlock()
	if t.report != nil {
		t.report(fetched)
	}
	return value
}

// askBoth asks with the secret and, if WeChat answers that it is wrong, with the old one.
func (t *Tokens) askBoth(ctx context.Context, p *tokenProgram, force bool) (string, time.Duration, *Error) {
	value, life, err := t.ask(ctx, p, p.Secret, force)
	if err != nil && p.OldSecret != "" && (err.Errcode == errcodeInvalidSecret || err.Errcode == errcodeBadCredential) {
		return t.ask(ctx, p, p.OldSecret, force)
	}
	return value, life, err
}

// ask makes one request.
func (t *Tokens) ask(ctx context.Context, p *tokenProgram, secret string, force bool) (string, time.Duration, *Error) {
	body, err := json.Marshal(map[string]any{
		"grant_type": "client_credential", "appid": p.AppID, "secret": secret, "force_refresh": force,
	})
	if err != nil {
		return "", 0, badReply("the request has no JSON")
	}
	reply, failure := ask(ctx, t.transport, &http.Request{
		Method:        http.MethodPost,
		URL:           &t.endpoint,
		Header:        http.Header{"Accept": {"application/json"}, "User-Agent": {"wxgate"}, "Content-Type": {"application/json"}},
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
	})
	if failure == nil {
		var value string
		var life time.Duration
		if value, life, failure = parseToken(reply); failure == nil {
			return value, life, nil
		}
	}
	failure.op = "fetching an access_token"
	failure.Errmsg = redact(failure.Errmsg, p.Secret, p.OldSecret)
	failure.RID = redact(failure.RID, p.Secret, p.OldSecret)
	return "", 0, failure
}

// parseToken reads the reply of stable_token.
func parseToken(body []byte) (value string, life time.Duration, failure *Error) {
	reply, failure := openReply(body)
	if failure != nil {
		if failure.Errcode == errcodeBadCredential {
			failure.Reason = "the secret is invalid"
		}
		return "", 0, failure
	}
	value, ok := strictjson.String(reply.Get("access_token"))
	if !ok || !isWord(value, maxTokenSize) {
		return "", 0, badReply("access_token is missing or malformed")
	}
	seconds, err := strconv.ParseInt(string(reply.Get("expires_in")), 10, 32)
	life = time.Duration(seconds) * time.Second
	if err != nil || life <= 0 || life > maxTokenLifetime {
		return "", 0, badReply("expires_in is missing or out of range")
	}
	return value, life, nil
}
