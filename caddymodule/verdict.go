package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// A verdict is what a gate found out about a request that it let through. A
// gate further on, or in the error routes, keeps it.
type verdict struct {
	gate    *Handler
	session *session.Session // nil: it passed on a public path
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
	if h.followed {
		v.gate, v.outer = h, h.outerVerdict(r)
		caddyhttp.SetVar(r.Context(), verdictVar, &v)
	}
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
