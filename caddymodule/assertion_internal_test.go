package caddymodule

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// An assertion is kept for half of its lifetime, at each site its own, and does not outlive
// the session.
func TestAssertionsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := new(App)
		require.NoError(t, app.deriveAssertionKeys([][]byte{make([]byte, 32)}))
		site := func(issuer string) *Handler {
			return &Handler{app: app, Assertion: &Assertion{Issuer: issuer, Lifetime: caddy.Duration(time.Minute)}}
		}
		one, two := site("one"), site("two")
		s := &session.Session{OpenID: "oAlice", AppID: "wx0000000000000001", Created: time.Now(), Expires: time.Now().Add(75 * time.Second)}
		user := newUserPlaceholders(s).(*userPlaceholders)
		sign := func(h *Handler) string {
			jwt, err := h.assertionOf(s, user)
			require.NoError(t, err)
			return jwt
		}
		first, other := sign(one), sign(two)
		issuer, left := claimsOf(t, first)
		require.Equal(t, "one", issuer)
		require.Equal(t, time.Minute, left)
		issuer, _ = claimsOf(t, other)
		require.Equal(t, "two", issuer)

		time.Sleep(29 * time.Second)
		require.Equal(t, first, sign(one))
		require.Equal(t, other, sign(two))
		time.Sleep(time.Second)
		second := sign(one)
		require.NotEqual(t, first, second)
		_, left = claimsOf(t, second)
		require.Equal(t, 45*time.Second, left, "when the session ends")
	})
}

// claimsOf returns the issuer of a JWT and how long it is good.
func claimsOf(t *testing.T, jwt string) (issuer string, left time.Duration) {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(jwt, ".")[1])
	require.NoError(t, err)
	var claims struct {
		Issuer  string `json:"iss"`
		Expires int64  `json:"exp"`
	}
	require.NoError(t, json.Unmarshal(payload, &claims))
	return claims.Issuer, time.Until(time.Unix(claims.Expires, 0))
}
