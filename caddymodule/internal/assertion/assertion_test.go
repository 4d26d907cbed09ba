package assertion_test

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/internal/assertion"
)

var now = time.Unix(1_800_000_000, 0)

func sign(t *testing.T, key *assertion.Key) string {
	t.Helper()
	signed, err := key.Sign(assertion.Claims{
		Issuer: "wxgate", Audience: []string{"orders"}, OpenID: "oUser", AppID: "wx0123456789abcdef", UnionID: "uUser",
		Session: "0123456789abcdef", Login: now.Unix() - 100, Issued: now.Unix(), Expires: now.Unix() + 60,
	})
	require.NoError(t, err)
	return signed
}

func newKey(t *testing.T, b byte) *assertion.Key {
	t.Helper()
	key, err := assertion.NewKey(bytes.Repeat([]byte{b}, 32))
	require.NoError(t, err)
	return key
}

func keySet(t *testing.T, keys ...*assertion.Key) *jose.JSONWebKeySet {
	t.Helper()
	text, err := assertion.JWKS(keys)
	require.NoError(t, err)
	var set jose.JSONWebKeySet
	require.NoError(t, json.Unmarshal(text, &set))
	require.Len(t, set.Keys, len(keys))
	return &set
}

// TestSignAndVerify verifies a JWT with the key set, as an application does.
func TestSignAndVerify(t *testing.T) {
	key, next := newKey(t, 1), newKey(t, 2)
	token, err := jwt.ParseSigned(sign(t, key), []jose.SignatureAlgorithm{jose.ES256})
	require.NoError(t, err)

	var claims struct {
		jwt.Claims
		AppID   string           `json:"appid"`
		UnionID string           `json:"unionid"`
		Session string           `json:"sid"`
		Login   *jwt.NumericDate `json:"auth_time"`
	}
	require.NoError(t, token.Claims(keySet(t, next, key), &claims), "found by its kid")
	expected := jwt.Expected{Issuer: "wxgate", AnyAudience: jwt.Audience{"orders"}, Subject: "oUser", Time: now}
	assert.NoError(t, claims.ValidateWithLeeway(expected, 0))
	assert.Equal(t, "wx0123456789abcdef", claims.AppID)
	assert.Equal(t, "uUser", claims.UnionID)
	assert.Equal(t, "0123456789abcdef", claims.Session)
	assert.Equal(t, now.Add(-100*time.Second), claims.Login.Time())

	expected.Time = now.Add(2 * time.Minute)
	assert.ErrorIs(t, claims.ValidateWithLeeway(expected, 0), jwt.ErrExpired)
	assert.Error(t, token.Claims(keySet(t, next), &claims), "another gateway's key")
}

// TestKeyIsDerived pins the derivation: a release that changed it would make
// verifiers refuse what other nodes sign.
func TestKeyIsDerived(t *testing.T) {
	set := keySet(t, newKey(t, 1))
	assert.Equal(t, set.Keys[0].KeyID, keySet(t, newKey(t, 1)).Keys[0].KeyID)
	assert.NotEqual(t, set.Keys[0].KeyID, keySet(t, newKey(t, 2)).Keys[0].KeyID)
	thumbprint, err := set.Keys[0].Thumbprint(crypto.SHA256)
	require.NoError(t, err)
	assert.Equal(t, base64.RawURLEncoding.EncodeToString(thumbprint), set.Keys[0].KeyID)
	assert.Equal(t, "iitq1epMbEmQAXXLKrwK_vSU2T0SXR02rauFVj4i2c4", set.Keys[0].KeyID)
	assert.True(t, set.Keys[0].IsPublic())
}

func BenchmarkSign(b *testing.B) {
	key, err := assertion.NewKey(make([]byte, 32))
	require.NoError(b, err)
	for b.Loop() {
		if _, err := key.Sign(assertion.Claims{Issuer: "wxgate", OpenID: "oUser"}); err != nil {
			b.Fatal(err)
		}
	}
}
