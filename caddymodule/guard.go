package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/wxgate/wxgate/caddymodule/identity"
	"github.com/wxgate/wxgate/caddymodule/session"
)

// guard lets a request through with the identity of its session, or, on a
// public path, without one.
func (h *Handler) guard(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	s, token, err := h.authenticate(r)
	switch {
	case err == nil:
		h.countPass(r, h.metrics.allowed)
		return h.serveUser(w, r, next, s, token)
	case isRefusal(err) && identity.IsPublic(h.Public, r.URL):
		h.countPass(r, h.metrics.public)
		if h.OpenData != nil {
			if err := h.openData(w, r, nil); err != nil {
				return h.fail(w, r, err)
			}
		}
		h.varyByToken(w.Header())
		setNoUser(r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer))
		h.leaveVerdict(r, verdict{err: err})
		return next.ServeHTTP(w, r)
	case errors.Is(err, errMissingSession):
		h.metrics.missing.Inc()
	case errors.Is(err, session.ErrInvalid):
		h.metrics.invalid.Inc()
	case r.Context().Err() != nil:
		// The client has gone away; that is no outage.
	default:
		h.metrics.unavailable.Inc()
	}
	return h.fail(w, r, err)
}

// countPass counts a request that passes, unless an outer gate has counted it.
func (h *Handler) countPass(r *http.Request, result prometheus.Counter) {
	if h.outerVerdict(r) == nil {
		result.Inc()
	}
}

// isRefusal tells "there is no session" from "the store cannot say".
func isRefusal(err error) bool {
	return errors.Is(err, errMissingSession) || errors.Is(err, session.ErrInvalid)
}

// serveUser lets a request go on with the identity of its user.
func (h *Handler) serveUser(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, s *session.Session, token string) error {
	u := &userResponse{ResponseWriter: w, handler: h, session: s}
	placeholders := setUser(r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer), s)
	if outer := h.outerVerdict(r); outer != nil && isError(r) {
		// They were stripped here, and not as the outer gates had left them.
		for ; outer != nil; outer = outer.outer {
			if err := outer.gate.identify(r, s, placeholders, nil); err != nil {
				return h.fail(w, r, err)
			}
		}
	}
	if err := h.identify(r, s, placeholders, u.identity[:]); err != nil {
		return h.fail(w, r, err)
	}
	// An outer gate may have verified the body already.
	if h.OpenData != nil && r.Header[identity.HeaderOpenData] == nil {
		if err := h.openData(w, r, s); err != nil {
			return h.fail(w, r, err)
		}
	}
	h.leaveVerdict(r, verdict{session: s, token: token})
	return h.answerError(u, r, h.open.serve(u, r, next))
}

// identify writes the identity headers of a session.
func (h *Handler) identify(r *http.Request, s *session.Session, placeholders *userPlaceholders, room []string) error {
	user := identity.User{OpenID: s.OpenID, UnionID: s.UnionID, AppID: s.AppID}
	if h.Assertion != nil {
		var err error
		if user.Assertion, err = h.assertionOf(s, placeholders); err != nil {
			return err
		}
	}
	h.identity.Write(r.Header, user, room)
	return nil
}

// serveHealth tells a load balancer whether this gateway can do its work.
func (h *Handler) serveHealth(w http.ResponseWriter, r *http.Request) error {
	if caddy.Exiting() {
		// Within Caddy's shutdown_delay requests are still served, and the
		// load balancer has the time to go elsewhere.
		return writeJSON(w, http.StatusServiceUnavailable, map[string]string{"status": "stopping"})
	}
	if err := h.app.ready(r.Context()); err != nil {
		return h.fail(w, r, err)
	}
	return writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
}

// ready reports whether the app has started and its store answers.
func (a *App) ready(ctx context.Context) error {
	sessions, err := a.sessions()
	if err != nil {
		return err
	}
	return sessions.Ping(ctx)
}

// userPlaceholders are a session's fields as Caddy's replacer takes them, made
// once for each session that is opened.
type userPlaceholders struct {
	id, unionID, appID any
	assertions         atomic.Pointer[[]signedAssertion]
}

func newUserPlaceholders(s *session.Session) any {
	return &userPlaceholders{id: s.OpenID, unionID: s.UnionID, appID: s.AppID}
}

// setUser sets the user's placeholders for logs and other handlers:
// {http.auth.user.id} is also the user_id of the access log.
func setUser(repl *caddy.Replacer, s *session.Session) *userPlaceholders {
	user := s.Attach(newUserPlaceholders).(*userPlaceholders)
	repl.Set("http.auth.user.id", user.id)
	repl.Set("http.auth.user.unionid", user.unionID)
	repl.Set("http.auth.user.appid", user.appID)
	return user
}

// setNoUser empties them.
func setNoUser(repl *caddy.Replacer) {
	repl.Set("http.auth.user.id", "")
	repl.Set("http.auth.user.unionid", "")
	repl.Set("http.auth.user.appid", "")
}

// A verdict is what a gate found out about a request that it let through. A
// gate further on, or in the error routes, keeps it.
type verdict struct {
	gate    *Handler
	session *session.Session // nil: it passed on a public path, or is pushed
	pushed  bool             // it is a verified message of WeChat's
	token   string
	err     error // why there is no session
	outer   *verdict
}

// verdictVar is the request's variable that holds its last *verdict.
const verdictVar = "wxgate.verdict"

// String keeps the token out of placeholders and logs.
func (*verdict) String() string { return "" }

// leaveVerdict leaves the verdict of a request for a gate behind this one.
func (h *Handler) leaveVerdict(r *http.Request, v verdict) {
	if !h.followed {
		return
	}
	kept := v // on the heap only here
	kept.gate, kept.outer = h, h.outerVerdict(r)
	caddyhttp.SetVar(r.Context(), verdictVar, &kept)
}

// outerVerdict returns the verdict of the gate in front of this one, or nil.
func (h *Handler) outerVerdict(r *http.Request) *verdict {
	if !h.follows {
		return nil
	}
	v, _ := caddyhttp.GetVar(r.Context(), verdictVar).(*verdict)
	return v
}

// isError reports whether a request is in an error route. A handler before the
// gate may have given the gate a copy of the request; error routes see the
// original, which no gate has stripped.
func isError(r *http.Request) bool {
	_, is := r.Context().Value(caddyhttp.ErrorCtxKey).(error)
	return is
}

// authenticate takes the token off a request and finds its session, unless an
// outer gate has done so.
func (h *Handler) authenticate(r *http.Request) (s *session.Session, token string, err error) {
	outer := h.outerVerdict(r)
	if outer != nil && outer.session != nil {
		_, _ = h.tokens.Take(r.Header)
		return h.ours(outer.session, outer.token)
	}
	s, token, err = h.lookup(r.Context(), r.Header)
	if outer != nil && errors.Is(err, errMissingSession) {
		err = outer.err // the outer gate has taken the token
	}
	return s, token, err
}

func (h *Handler) lookup(ctx context.Context, header http.Header) (*session.Session, string, error) {
	token, ok := h.tokens.Take(header)
	if !ok {
		return nil, "", errTwoTokens
	}
	if token == "" {
		return nil, "", errMissingSession
	}
	sessions, err := h.app.sessions()
	if err != nil {
		return nil, "", err
	}
	s, err := sessions.Lookup(ctx, token)
	if err != nil {
		return nil, "", err
	}
	return h.ours(s, token)
}

// ours refuses the sessions of mini programs that this site does not serve.
func (h *Handler) ours(s *session.Session, token string) (*session.Session, string, error) {
	if !slices.Contains(h.apps, s.AppID) {
		return nil, "", errOtherApp
	}
	return s, token, nil
}
