package session

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
)

// A token is tokenBytes random bytes in base64url without padding.
const (
	tokenBytes = 32
	tokenChars = 43
)

// idBytes is how much of a token's hash names the session in public.
const idBytes = 8

// A hash names a record in the store without revealing its subject.
type hash [sha256.Size]byte

// newToken returns a fresh token and its hash.
func newToken() (string, hash) {
	var raw [tokenBytes]byte
	rand.Read(raw[:]) // never fails: crypto/rand ends the process instead
	token := base64.RawURLEncoding.EncodeToString(raw[:])
	h, _ := hashToken(token)
	return token, h
}

// hashToken returns the hash of a token's text, and false if the text cannot
// be a token. The look-up needs no constant-time comparison: what is compared
// is the hash, and a token's 256 bits cannot be approached by guessing at a
// hash.
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
