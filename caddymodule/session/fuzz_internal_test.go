package session

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever is decoded is exactly what encoding it gives: there is one way to
// write a record, and nothing in it is ignored.
func FuzzRecord(f *testing.F) {
	user := userRecord{
		appID: []byte("wx0123456789abcdef"), openID: []byte("oAlice"), unionID: []byte("uAlice"),
		key: []byte("key"), keyReceived: 8, previous: []byte("old"),
		sessions: encodeListed([]listedSession{{hash: hash{1}, generation: 1, created: 2, seen: 3, expires: 4}, {hash: hash{2}}}),
	}
	meta := metaRecord{id: 1, generation: 2, apps: []appGeneration{{"wx0123456789abcdef", 3}}}
	for _, b := range [][]byte{user.encode(), meta.encode(), {}, make([]byte, 16), (&userRecord{}).encode()} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeUser(b); err == nil {
			require.Equal(t, b, r.encode())
			require.Equal(t, string(r.sessions), string(encodeListed(slices.Collect(r.sessions.all()))))
		} else {
			require.ErrorIs(t, err, errMalformed)
		}
		if r, err := decodeMeta(b); err == nil {
			require.Equal(t, b, r.encode())
		} else {
			require.ErrorIs(t, err, errMalformed)
		}
	})
}

// However many mini programs there are, the record is read as it was written, and
// most of them make it no longer.
func TestMetaRecord(t *testing.T) {
	meta := metaRecord{id: 1, generation: 2}
	sizes := make(map[int]bool)
	for i := range 100 {
		b := meta.encode()
		sizes[len(b)] = true
		found, err := decodeMeta(b)
		require.NoError(t, err)
		require.Equal(t, meta, found)
		require.Equal(t, uint64(2), found.generationOf([]byte("wxffffffffffffffff")))
		meta.revokeAll(fmt.Sprintf("wx%016d", i))
	}
	require.Len(t, sizes, 3)
}

// A sealed value opens only as it was sealed, under its own key.
func FuzzSealed(f *testing.F) {
	s, err := newSealer([][]byte{bytes.Repeat([]byte{1}, KeySize), bytes.Repeat([]byte{2}, KeySize)})
	require.NoError(f, err)
	f.Add("session:a", []byte("plain"), 0, byte(0))
	f.Add("", []byte{}, 3, byte(1))
	f.Add("user:b", make([]byte, 300), 40, byte(0x80))
	f.Fuzz(func(t *testing.T, key string, plain []byte, at int, change byte) {
		sealed := s.seal(key, plain)
		opened, old, err := s.open(nil, key, sealed)
		require.NoError(t, err)
		require.False(t, old)
		require.True(t, bytes.Equal(plain, opened))
		again := bytes.Clone(sealed)
		opened, _, err = s.open(again[sealHeader:sealHeader], key, again)
		require.NoError(t, err)
		require.True(t, bytes.Equal(plain, opened), "in the space of the ciphertext")

		_, _, err = s.open(nil, key+"x", sealed)
		require.ErrorIs(t, err, ErrDamaged)
		if at < 0 || at >= len(sealed) || change == 0 {
			return
		}
		sealed[at] ^= change
		_, _, err = s.open(nil, key, sealed)
		require.True(t, errors.Is(err, ErrDamaged) || errors.Is(err, ErrWrongKey) || at == 0 && errors.Is(err, ErrVersion))

		_, _, err = s.open(nil, key, plain) // whatever bytes
		require.Error(t, err)
	})
}

// A token is what newToken makes, in form; everything else is refused.
func FuzzToken(f *testing.F) {
	token, _ := newToken(userHash{1})
	f.Add(token)
	f.Add("")
	f.Add(token[1:] + "=")
	f.Fuzz(func(t *testing.T, token string) {
		h, ok := hashToken(token)
		require.Equal(t, len(token) == tokenChars && !bytes.ContainsFunc([]byte(token), func(r rune) bool {
			return r > 127 || !isBase64URL[r]
		}), ok)
		if ok {
			require.Len(t, h.id(), 16)
			userOf(token) // whatever it is
		}
	})
}

// A token shows whose it is to who has the whole of it, and two tokens of a user
// have nothing in common.
func TestTokenShowsItsUser(t *testing.T) {
	alice, bob := hashUser("wx0123456789abcdef", "oAlice"), hashUser("wx0123456789abcdef", "oBob")
	require.NotEqual(t, alice, bob)
	var seen [tokenBytes]map[byte]bool
	for range 1000 {
		token, h := newToken(alice)
		again, ok := hashToken(token)
		require.True(t, ok)
		require.Equal(t, h, again)
		require.Equal(t, alice, userOf(token))
		raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
		require.NoError(t, err)
		require.Len(t, raw, tokenBytes)
		for i, b := range raw {
			if seen[i] == nil {
				seen[i] = make(map[byte]bool)
			}
			seen[i][b] = true
		}
	}
	for i := range seen {
		require.Greater(t, len(seen[i]), 200, "of 256 values of byte %d", i)
	}
	token, _ := newToken(bob)
	require.Equal(t, bob, userOf(token))
}
