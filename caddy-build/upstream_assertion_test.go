package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// signedBy returns the claims as a JWT.
func signedBy(t *testing.T, alg jose.SignatureAlgorithm, key any, kid string, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, new(jose.SignerOptions).WithHeader("kid", kid))
	require.NoError(t, err)
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	require.NoError(t, err)
	return text
}

// TestAssertionSamplesVerify runs each sample behind the gateway, and sends it
// what others have signed. Its key set holds the gateway's key and one of the
// test, so that the test can also sign what the gateway never would.
func TestAssertionSamplesVerify(t *testing.T) {
	for _, s := range samples(t, "assertions.json") {
		t.Run(s.Name, func(t *testing.T) {
			gatewaytest.Needs(t, s.Needs...)
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			require.NoError(t, err)
			foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			require.NoError(t, err)
			g := gatewaytest.New(t)
			keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				set, _ := jwks(t, g)
				set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: "test", Algorithm: "ES256", Use: "sig"})
				_ = json.NewEncoder(w).Encode(set)
			}))
			t.Cleanup(keys.Close)
			s.Env["JWKS_URL"], s.Env["AUDIENCE"] = keys.URL, gatewaytest.AppID
			addr := s.start(t)
			g.Run(gatewaytest.Config{Site: assertionSite, Next: "reverse_proxy " + addr})

			token := g.Login("alice").Token
			resp := g.Get("/", gatewaytest.Token(token), assertion+": forged")
			require.Equal(t, http.StatusOK, resp.Status, resp.Body)
			require.JSONEq(t, `{"openid":"`+g.OpenID("alice")+`"}`, resp.Body)

			now := time.Now().Unix()
			good := func(change ...any) map[string]any {
				claims := map[string]any{"iss": "wxgate", "aud": []string{gatewaytest.AppID}, "sub": "oVictim", "iat": now, "exp": now + 60}
				for i := 0; i < len(change); i += 2 {
					claims[change[i].(string)] = change[i+1]
				}
				return claims
			}
			none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"test"}`)) + "." +
				base64.RawURLEncoding.EncodeToString([]byte(encode(t, good()))) + "."
			public, err := key.PublicKey.Bytes()
			require.NoError(t, err)
			for name, tc := range map[string]struct {
				assertion string
				status    int
			}{
				"good":                     {signedBy(t, jose.ES256, key, "test", good()), http.StatusOK},
				"expired":                  {signedBy(t, jose.ES256, key, "test", good("exp", now-60)), http.StatusUnauthorized},
				"another audience":         {signedBy(t, jose.ES256, key, "test", good("aud", []string{"orders"})), http.StatusUnauthorized},
				"another issuer":           {signedBy(t, jose.ES256, key, "test", good("iss", "other")), http.StatusUnauthorized},
				"a foreign key":            {signedBy(t, jose.ES256, foreign, "foreign", good()), http.StatusUnauthorized},
				"a foreign key, known kid": {signedBy(t, jose.ES256, foreign, "test", good()), http.StatusUnauthorized},
				"the public key as secret": {signedBy(t, jose.HS256, public, "test", good()), http.StatusUnauthorized},
				"alg none":                 {none, http.StatusUnauthorized},
				"no JWT":                   {"oVictim", http.StatusUnauthorized},
			} {
				resp, err := gatewaytest.SendRaw(addr, "GET / HTTP/1.1\nHost: x\n"+assertion+": "+tc.assertion+"\nConnection: close\n\n")
				require.NoError(t, err)
				require.Equal(t, tc.status, resp.Status, "%s: %s", name, resp.Body)
			}
			resp, err = gatewaytest.SendRaw(addr, "GET / HTTP/1.1\nHost: x\nX-OpenID: oVictim\nConnection: close\n\n")
			require.NoError(t, err)
			require.Equal(t, http.StatusUnauthorized, resp.Status, "the plain header counts for nothing")
		})
	}
}
