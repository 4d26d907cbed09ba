// Package assertion signs who the user of a request is, so that an application
// need not trust the network between itself and the gateway: JWTs with ES256,
// and the JWKS that verifies them.
package assertion

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"time"
)

// A Key signs assertions. It is derived from an encryption key, so all gateways
// that share one agree, and nothing more is stored or backed up.
type Key struct {
	private *ecdsa.PrivateKey
	jwk     jwk
	header  string // of each JWT, encoded, with the dot behind it
}

// NewKey derives the signing key of an encryption key.
func NewKey(encryptionKey []byte) (*Key, error) {
	// 64 bits more than the order keep the remainder free of bias.
	seed, err := hkdf.Key(sha256.New, encryptionKey, nil, "wxgate assertion ES256", 40)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of assertions: %w", err)
	}
	one := big.NewInt(1)
	d := new(big.Int).SetBytes(seed)
	d.Mod(d, new(big.Int).Sub(elliptic.P256().Params().N, one)).Add(d, one)
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d.FillBytes(make([]byte, 32)))
	if err != nil {
		return nil, fmt.Errorf("deriving the key of assertions: %w", err)
	}
	point, err := private.PublicKey.Bytes() // 4, x, y
	if err != nil {
		return nil, fmt.Errorf("deriving the key of assertions: %w", err)
	}
	k := &Key{private: private, jwk: jwk{
		thumbprinted: thumbprinted{Curve: "P-256", Type: "EC", X: encode(point[1:33]), Y: encode(point[33:])},
		Use:          "sig", Algorithm: "ES256",
	}}
	// RFC 7638: the required members in the order of their names.
	required, err := json.Marshal(k.jwk.thumbprinted)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(required)
	k.jwk.ID = encode(sum[:])
	k.header = encode([]byte(`{"alg":"ES256","kid":"`+k.jwk.ID+`","typ":"JWT"}`)) + "."
	return k, nil
}

type thumbprinted struct {
	Curve string `json:"crv"`
	Type  string `json:"kty"`
	X     string `json:"x"`
	Y     string `json:"y"`
}

type jwk struct {
	thumbprinted
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	ID        string `json:"kid"`
}

// JWKS returns the public keys as a JSON Web Key Set (RFC 7517).
func JWKS(keys []*Key) ([]byte, error) {
	set := struct {
		Keys []jwk `json:"keys"`
	}{Keys: make([]jwk, 0, len(keys))}
	for _, k := range keys {
		set.Keys = append(set.Keys, k.jwk)
	}
	return json.Marshal(set)
}

// Claims are what an assertion says.
type Claims struct {
	Issuer   string   `json:"iss"`
	Audience []string `json:"aud"`
	OpenID   string   `json:"sub"`
	AppID    string   `json:"appid"`
	UnionID  string   `json:"unionid,omitempty"`
	Session  string   `json:"sid"`       // the session's id, no secret
	Login    int64    `json:"auth_time"` // seconds since 1970, like the two below
	Issued   int64    `json:"iat"`
	Expires  int64    `json:"exp"`
}

// Sign returns the claims as a JWT.
func (k *Key) Sign(c Claims) (string, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encoding an assertion: %w", err)
	}
	signed := k.header + encode(payload)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, k.private, sum[:])
	if err != nil {
		return "", fmt.Errorf("signing an assertion: %w", err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + encode(signature), nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// The limits of Lifetime, and its default.
const (
	MinLifetime     = 10 * time.Second
	DefaultLifetime = time.Minute
	MaxLifetime     = 10 * time.Minute
)
