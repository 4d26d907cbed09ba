// Package assertion signs who the user of a request is, so that an application
// need not trust the network between itself and the gateway: JWTs with ES256,
// and the JWKS that verifies them.
package assertion

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// A Key signs assertions. It is derived from an encryption key, so all gateways
// that share one agree, and nothing more is stored or backed up.
type Key struct {
	signer jose.Signer
	public jose.JSONWebKey
}

// NewKey derives the signing key of an encryption key.
func NewKey(encryptionKey []byte) (*Key, error) {
	k, err := newKey(encryptionKey)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of assertions: %w", err)
	}
	return k, nil
}

func newKey(encryptionKey []byte) (*Key, error) {
	// 64 bits more than the order keep the remainder free of bias.
	seed, err := hkdf.Key(sha256.New, encryptionKey, nil, "wxgate assertion ES256", 40)
	if err != nil {
		return nil, err
	}
	one := big.NewInt(1)
	d := new(big.Int).SetBytes(seed)
	d.Mod(d, new(big.Int).Sub(elliptic.P256().Params().N, one)).Add(d, one)
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d.FillBytes(make([]byte, 32)))
	if err != nil {
		return nil, err
	}
	k := &Key{public: jose.JSONWebKey{Key: private.Public(), Use: "sig", Algorithm: string(jose.ES256)}}
	thumbprint, err := k.public.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	k.public.KeyID = base64.RawURLEncoding.EncodeToString(thumbprint)
	k.signer, err = jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: private, KeyID: k.public.KeyID}},
		new(jose.SignerOptions).WithType("JWT"))
	return k, err
}

// JWKS returns the public keys as a JSON Web Key Set (RFC 7517).
func JWKS(keys []*Key) ([]byte, error) {
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, k.public)
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
	signed, err := k.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing an assertion: %w", err)
	}
	return signed.CompactSerialize()
}

// The limits of Lifetime, and its default.
const (
	MinLifetime     = 10 * time.Second
	DefaultLifetime = time.Minute
	MaxLifetime     = 10 * time.Minute
)
