package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/wxgate/wxgate/caddymodule/identity"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Handler is the gate of one site: it answers the login and logout paths, and
// lets every other request through only with a live session, whose user it
// names in a header. What several sites share is in App.
type Handler struct {
	// The path that takes the code of wx.login (POST). Default: /login
	Login string `json:"login,omitempty"`

	// The path that ends the session it is called with (POST). Default: /logout
	Logout string `json:"logout,omitempty"`

	// Where the token is looked for: names of headers, and `bearer` for
	// `Authorization: Bearer`. The first header that is present counts; two
	// that differ are refused. `bearer` counts where no header is present and
	// the credential has a token's form; any other Authorization is the
	// upstream's and stays. A header with an underscore or a dot in its name
	// must be expected by the server (expected_underscore_headers). Default:
	// 3rd_session bearer
	TokenFrom []string `json:"token_from,omitempty"`

	// What the upstream learns about the user, and in which headers. Headers
	// of these names, however they are spelled, never come in from outside.
	// Default: the openid in X-OpenID
	Inject []identity.Inject `json:"inject,omitempty"`

	// Paths that pass without a session: `/exact`, `/prefix/*`, `*.suffix`,
	// `*part*` or a glob. Unlike Caddy's path matcher they are case-sensitive,
	// and a path that is not written plainly (`//`, dot segments, `;`, encoded
	// slashes) is never public. Default: none
	Public []string `json:"public,omitempty"`

	// Which of the declared mini programs this site serves; the sessions of
	// others are refused. Default: all
	MiniPrograms []string `json:"miniprograms,omitempty"`

	// Whether the upstream receives the token too. The token is as
	// good as a login, so leave it off unless the upstream needs it. Default: off
	ForwardToken bool `json:"forward_token,omitempty"`

	// How soon an open WebSocket or stream ends after its session did.
	// Default: 60s
	Recheck caddy.Duration `json:"recheck,omitempty"`

	// A path that answers 200 when the gateway is ready and 503 when it is
	// not, without a session: for load balancers. Default: none
	Health string `json:"health,omitempty"`

	// Paths whose body may hold WeChat's encrypted open data. Default: none
	OpenData *OpenData `json:"open_data,omitempty"`

	// What `inject assertion` signs, if a line of Inject names it.
	Assertion *Assertion `json:"assertion,omitempty"`

	// Paths to which WeChat pushes messages. Default: none
	Push []*Push `json:"push,omitempty"`

	app      *App
	logger   *zap.Logger
	metrics  *metrics
	tokens   identity.Tokens
	identity identity.Headers
	apps     []string // the appids that this site serves
	open     *openRequests

	varyValue string // tokens.Vary in one line

	errorLog      *zap.Logger // Caddy's
	errorsHandled func() bool // by an error route

	// Set when the routes are checked.
	followed bool // another gate may stand behind this one
	follows  bool // another gate may stand in front of this one
}

const (
	defaultLogin   = "/login"
	defaultLogout  = "/logout"
	defaultToken   = "3rd_session"
	defaultHeader  = "X-OpenID"
	defaultRecheck = 60 * time.Second
)

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.wxgate",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision finds the App and prepares what each request needs.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	app, err := ctx.App("wxgate")
	if err != nil {
		return err
	}
	h.app = app.(*App)
	h.metrics = h.app.metrics
	h.setDefaults()
	if err := h.check(); err != nil {
		return err
	}
	for _, p := range h.Push {
		if err := p.provision(h.app); err != nil {
			return err
		}
	}
	h.tokens = identity.NewTokens(h.TokenFrom, h.ForwardToken)
	h.varyValue = strings.Join(h.tokens.Vary, ", ")
	h.identity = identity.NewHeaders(h.Inject, h.tokens.Headers)
	h.open = newOpenRequests(time.Duration(h.Recheck), h.app)

	// A header that Caddy would drop is found here and not by the first user.
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	h.errorLog = ctx.Logger(new(caddyhttp.App)).Named("log.error")
	h.errorsHandled = sync.OnceValue(func() bool { return handlesErrors(server) })
	h.warnTokensLogged(ctx, server)
	if err := checkExpected(server, slices.Concat(h.tokens.Headers, h.identity.Names())); err != nil {
		return err
	}
	if h.OpenData != nil && h.OpenData.Phone != "" {
		h.app.usesAPI.Store(true)
	}
	return h.app.place(server, placement{gate: true})
}

func (h *Handler) setDefaults() {
	h.Login = cmp.Or(h.Login, defaultLogin)
	h.Logout = cmp.Or(h.Logout, defaultLogout)
	h.Recheck = cmp.Or(h.Recheck, caddy.Duration(defaultRecheck))
	if len(h.TokenFrom) == 0 {
		h.TokenFrom = []string{defaultToken, identity.Bearer}
	}
	if len(h.Inject) == 0 {
		h.Inject = []identity.Inject{{Field: identity.FieldOpenID, Header: defaultHeader}}
	}
	if h.OpenData != nil {
		h.OpenData.setDefaults()
	}
	if h.Assertion == nil && h.injectsAssertion() {
		h.Assertion = new(Assertion)
	}
	if h.Assertion != nil {
		h.Assertion.setDefaults()
	}
}

func (h *Handler) injectsAssertion() bool {
	return slices.ContainsFunc(h.Inject, func(in identity.Inject) bool { return in.Field == identity.FieldAssertion })
}

// check judges what the site's options say and how they go together.
func (h *Handler) check() error {
	type optionPath struct{ option, path string }
	own := []optionPath{{"login", h.Login}, {"logout", h.Logout}, {"health", h.Health}}
	if h.Assertion != nil {
		own = append(own, optionPath{"jwks", h.Assertion.JWKS})
		if !h.injectsAssertion() {
			return errors.New("assertion: no header carries it; add `inject assertion <header>`")
		}
		if err := h.Assertion.check(); err != nil {
			return err
		}
	}
	for _, p := range h.Push {
		own = append(own, optionPath{"push", p.Path})
		if err := p.check(); err != nil {
			return err
		}
	}
	taken := map[string]string{}
	for _, p := range own {
		if p.path == "" {
			continue
		}
		if err := identity.CheckPath(p.path); err != nil {
			return fmt.Errorf("%s: %w", p.option, err)
		}
		switch other := taken[p.path]; {
		case other == "push" && p.option == "push":
			return fmt.Errorf("push %s is written twice", p.path)
		case other != "":
			return fmt.Errorf("%s and %s are the same path %s", other, p.option, p.path)
		}
		taken[p.path] = p.option
	}
	var err error
	if h.apps, err = h.app.Served(h.MiniPrograms); err != nil {
		return fmt.Errorf("miniprograms: %w", err)
	}
	if h.OpenData != nil {
		if err := h.OpenData.check(); err != nil {
			return err
		}
	}
	return cmp.Or(
		checkEach("token_from", h.TokenFrom, identity.CheckTokenSource),
		checkEach("public", h.Public, identity.CheckPattern),
		named("recheck", checkDuration(h.Recheck)),
		identity.CheckInject(h.Inject, h.TokenFrom),
	)
}

// checkEach returns the error of the first value that check refuses.
func checkEach(option string, values []string, check func(string) error) error {
	for _, value := range values {
		if err := check(value); err != nil {
			return named(option, err)
		}
	}
	return nil
}

// ServeHTTP cleans the request and sends it one of the ways: login, logout,
// health, or the guard in front of everything else.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if err := h.app.routesChecked(); err != nil {
		return h.fail(w, r, err)
	}
	// First, on every path and for every outcome: an error route that runs
	// later sees this same request. What an outer gate has written stays.
	if h.outerVerdict(r) == nil || isError(r) {
		h.identity.Strip(r)
	}
	if h.identity.Cloud {
		r.Header[identity.HeaderClientAddress] = []string{clientIP(r)}
	}

	if outer := h.outerVerdict(r); outer != nil && outer.pushed && !isError(r) {
		h.leaveVerdict(r, verdict{pushed: true, err: errMissingSession})
		return next.ServeHTTP(w, r)
	}

	if !identity.AllowedMethod(r) {
		return h.fail(w, r, errMethod)
	}
	switch r.URL.Path {
	case h.Login:
		return h.serveLogin(w, r)
	case h.Logout:
		return h.serveLogout(w, r)
	case h.Health:
		if h.Health != "" {
			return h.serveHealth(w, r)
		}
	}
	if h.Assertion != nil && r.URL.Path == h.Assertion.JWKS {
		if err := h.app.ServeJWKS(w, r); err != nil {
			return h.fail(w, r, err)
		}
		return nil
	}
	if p := h.push(r.URL.Path); p != nil {
		return h.servePush(w, r, next, p)
	}
	return h.guard(w, r, next)
}

// checkExpected makes sure that Caddy lets every header in that the site needs:
// it deletes headers with `_` or `.` in their name before any handler runs,
// unless the server expects them.
func checkExpected(server *caddyhttp.Server, headers []string) error {
	if server == nil {
		return nil // not below a server: Caddy deletes nothing
	}
	for _, sign := range []struct {
		in       string
		option   string
		expected []string
	}{
		{"_", "expected_underscore_headers", server.ExpectedUnderscoreHeaders},
		{".", "expected_dot_headers", server.ExpectedDotHeaders},
	} {
		var dropped []string
		for _, name := range headers {
			if strings.Contains(name, sign.in) && !expects(sign.expected, name) {
				dropped = append(dropped, strings.ToLower(name))
			}
		}
		if len(dropped) > 0 {
			return fmt.Errorf("the header %s is dropped by Caddy before this site sees it, because its name has %q in it; "+
				"the global options must say:\n\tservers {\n\t\t%s %s\n\t}",
				strings.Join(dropped, ", "), sign.in, sign.option, strings.Join(slices.Concat(sign.expected, dropped), " "))
		}
	}
	return nil
}

// expects mirrors how Caddy reads its option: any case, a trailing star is a
// prefix.
func expects(expected []string, name string) bool {
	return slices.ContainsFunc(expected, func(rule string) bool {
		if prefix, glob := strings.CutSuffix(rule, "*"); glob {
			return len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
		}
		return strings.EqualFold(rule, name)
	})
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
