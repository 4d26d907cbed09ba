package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/wxgate/wxgate/caddymodule/identity"
	"github.com/wxgate/wxgate/caddymodule/internal/assertion"
	"github.com/wxgate/wxgate/caddymodule/session"
)

// Assertion is what `inject assertion` signs: a JWT (ES256) that any JWT library
// verifies with the key set at JWKS, so that an application need not trust the
// network between itself and the gateway. The key is derived from the first
// encryption key; the key set holds one for each.
type Assertion struct {
	// The claim iss. Default: wxgate
	Issuer string `json:"issuer,omitempty"`

	// The claim aud. Default: the appid of the session
	Audience []string `json:"audience,omitempty"`

	// How long an assertion is valid; a session that is revoked meanwhile stays
	// in it. 10s to 10m. Default: 60s
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// The path of the key set, which needs no session.
	// Default: /.well-known/wxgate/jwks.json
	JWKS string `json:"jwks,omitempty"`
}

const defaultIssuer = "wxgate"

// DefaultJWKS is the path of the key set on sites, and on wxgate_api.
const DefaultJWKS = "/.well-known/wxgate/jwks.json"

// parseAssertion reads
//
//	assertion {
//		issuer <text>
//		audience <text>...
//		lifetime <duration>
//		jwks <path>
//	}
func parseAssertion(d *caddyfile.Dispenser) (*Assertion, error) {
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	a := new(Assertion)
	return a, block(d, options{
		"issuer":   into(d, &a.Issuer, oneArg),
		"audience": into(d, &a.Audience, checkedArgs(nil)),
		"lifetime": into(d, &a.Lifetime, durationArg),
		"jwks":     into(d, &a.JWKS, checked(identity.CheckPath)),
	})
}

func (a *Assertion) setDefaults() {
	a.Issuer = cmp.Or(a.Issuer, defaultIssuer)
	a.Lifetime = cmp.Or(a.Lifetime, caddy.Duration(assertion.DefaultLifetime))
	a.JWKS = cmp.Or(a.JWKS, DefaultJWKS)
}

func (a *Assertion) check() error {
	if d := time.Duration(a.Lifetime); d < assertion.MinLifetime || d > assertion.MaxLifetime {
		return fmt.Errorf("assertion: lifetime must be %v to %v, not %v", assertion.MinLifetime, assertion.MaxLifetime, d)
	}
	return nil
}

// errNoAssertion is returned while the encryption key is not known, which is
// before the store is open.
var errNoAssertion = errors.New("the key of assertions is not known yet")

// deriveAssertionKeys makes the signing keys of the encryption keys.
func (a *App) deriveAssertionKeys(encryptionKeys [][]byte) error {
	signing := make([]*assertion.Key, 0, len(encryptionKeys))
	for _, key := range encryptionKeys {
		derived, err := assertion.NewKey(key)
		if err != nil {
			return err
		}
		signing = append(signing, derived)
	}
	a.signing.Store(&signing)
	return nil
}

// ServeJWKS answers with the key set that verifies this gateway's assertions. It
// is public by nature.
func (a *App) ServeJWKS(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return errMethod
	}
	if a.signing.Load() == nil {
		// The key is in a key file, which is read when the store opens.
		if _, err := a.sessions(); err != nil {
			return err
		}
	}
	set, err := assertion.JWKS(*a.signing.Load())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", "public, max-age=300")
	w.Header().Set("Content-Length", strconv.Itoa(len(set)))
	_, _ = w.Write(set)
	return nil
}

// A signedAssertion is kept with its session, because signing costs more than
// the rest of the gate.
type signedAssertion struct {
	handler *Handler // each site has its own issuer and audience
	jwt     string
	renew   time.Time // half of its lifetime
}

// assertionOf returns the signed identity of a session, which has at least half
// of its lifetime left, or less if the session has.
func (h *Handler) assertionOf(s *session.Session, user *userPlaceholders) (string, error) {
	now := time.Now()
	kept := user.assertions.Load()
	if kept == nil {
		kept = new([]signedAssertion)
	}
	for _, a := range *kept {
		if a.handler == h && now.Before(a.renew) {
			return a.jwt, nil
		}
	}
	signing := h.app.signing.Load()
	if signing == nil || len(*signing) == 0 {
		return "", errNoAssertion
	}
	lifetime := time.Duration(h.Assertion.Lifetime)
	expires := now.Add(lifetime)
	if s.Expires.Before(expires) {
		expires = s.Expires
	}
	audience := h.Assertion.Audience
	if len(audience) == 0 {
		audience = []string{s.AppID}
	}
	jwt, err := (*signing)[0].Sign(assertion.Claims{
		Issuer: h.Assertion.Issuer, Audience: audience,
		OpenID: s.OpenID, AppID: s.AppID, UnionID: s.UnionID,
		Session: s.ID, Login: s.Created.Unix(),
		Issued: now.Unix(), Expires: expires.Unix(),
	})
	if err != nil {
		return "", err
	}
	// Of two that are made at once one may get lost: it is made again.
	made := []signedAssertion{{handler: h, jwt: jwt, renew: now.Add(lifetime / 2)}}
	for _, a := range *kept {
		if a.handler != h && now.Before(a.renew) {
			made = append(made, a)
		}
	}
	user.assertions.Store(&made)
	return jwt, nil
}
