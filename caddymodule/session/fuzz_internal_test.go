package session

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever is decoded is exactly what encoding it gives: there is one way to
// write a record, and nothing in it is ignored.
func FuzzRecord(f *testing.F) {
	session := sessionRecord{
		user: hash{1}, storeGeneration: 2, generation: 3, created: 4, seen: 5, expires: 6,
		appID: []byte("wx0123456789abcdef"), openID: []byte("oAlice"),
	}
	user := userRecord{
		appID: []byte("wx0123456789abcdef"), openID: []byte("oAlice"), unionID: []byte("uAlice"), generation: 7,
		key: []byte("key"), keyReceived: 8, previous: []byte("old"),
		sessions: encodeListed([]listedSession{{hash: hash{1}, created: 1, expires: 2}, {hash: hash{2}}}),
	}
	meta := metaRecord{id: 1, generation: 2, apps: []appGeneration{{"wx0123456789abcdef", 3}}}
	for _, b := range [][]byte{session.encode(), user.encode(), meta.encode(), {}, make([]byte, 16), (&userRecord{}).encode()} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeSession(b); err == nil {
			require.Equal(t, b, r.encode())
		} else {
			require.ErrorIs(t, err, errMalformed)
		}
		if r, err := decodeUser(b); err == nil {
			require.Equal(t, b, r.encode())
			require.Equal(t, string(r.sessions), string(encodeListed(r.sessions.decode())))
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

// The generation decides even if the list is older than it.
func TestUserRecordLists(t *testing.T) {
	session := sessionRecord{generation: 1, appID: []byte("app"), openID: []byte("user")}
	user := userRecord{
		generation: 1, appID: []byte("app"), openID: []byte("user"),
		sessions: encodeListed([]listedSession{{hash: hash{1}}, {hash: hash{2}}}),
	}
	require.True(t, user.lists(&session, hash{2}))
	require.False(t, user.lists(&session, hash{3}))
	for name, change := range map[string]func(*sessionRecord){
		"generation": func(r *sessionRecord) { r.generation = 2 },
		"appid":      func(r *sessionRecord) { r.appID = []byte("other") },
		"openid":     func(r *sessionRecord) { r.openID = []byte("other") },
	} {
		other := session
		change(&other)
		require.False(t, user.lists(&other, hash{2}), name)
	}
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
		_, err = decodeSession(plain)
		if err == nil {
			require.NotEmpty(t, plain)
		}
	})
}

// A token is what newToken makes, in form; everything else is refused.
func FuzzToken(f *testing.F) {
	token, _ := newToken()
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
		}
	})
}
