package session

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
)

// A token is base64url without padding of
//
//	random bytes (20) | the user's hash (12), XOR the SHA-256 of the random bytes
//
// so that it shows whose record lists the session, and the store need be asked
// only once. Masked, it looks random, but is no secret: who holds a token can tell
// whether it is that of an openid.
const (
	randomBytes = 20
	tokenBytes  = randomBytes + len(userHash{})
	tokenChars  = 43
)

// idBytes is how much of a token's hash names the session in public.
const idBytes = 8

// A hash is the SHA-256 of a token's text, which the store has in its place.
type hash [sha256.Size]byte

// newToken returns a fresh token of a user and its hash.
func newToken(user userHash) (string, hash) {
	var raw [tokenBytes]byte
	rand.Read(raw[:randomBytes]) // never fails: crypto/rand ends the process instead
	copy(raw[randomBytes:], user[:])
	maskUser(&raw)
	token := base64.RawURLEncoding.EncodeToString(raw[:])
	h, _ := hashToken(token)
	return token, h
}

// maskUser masks a user's hash at the end of a token, or removes the mask.
func maskUser(raw *[tokenBytes]byte) {
	mask := sha256.Sum256(raw[:randomBytes])
	for i := range raw[randomBytes:] {
		raw[randomBytes+i] ^= mask[i]
	}
}

// userOf returns whose token it is, if it is one. hashToken has accepted it.
func userOf(token string) userHash {
	var raw [tokenBytes]byte
	_, _ = base64.RawURLEncoding.Decode(raw[:], []byte(token))
	maskUser(&raw)
	return userHash(raw[randomBytes:])
}

// hashToken returns the hash of a token's text, and false if the text cannot
// be a token. The look-up needs no constant-time comparison: what is compared
// is the hash, and a token's 160 random bits cannot be approached by guessing at
// a hash.
func hashToken(token string) (hash, bool) {
	if len(token) != tokenChars {
		return hash{}, false
	}
	var text [tokenChars]byte // on the stack, unlike a conversion of 43 bytes
	for i := range text {
		c := token[i]
		if !isBase64URL[c] {
			return hash{}, false
		}
		text[i] = c
	}
	return sha256.Sum256(text[:]), true
}

var isBase64URL = func() (table [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		table[c] = true
	}
	return table
}()

// id is the public name of the session: the first 16 hex digits of
// `printf %s TOKEN | sha256sum`.
func (h hash) id() string { return hex.EncodeToString(h[:idBytes]) }
