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
		user: hash{1}, store: 2, generation: 3, created: 4, seen: 5, expires: 6,
		appID: []byte("wx0123456789abcdef"), openID: []byte("oAlice"),
	}
	user := userRecord{
		appID: "wx0123456789abcdef", openID: "oAlice", unionID: "uAlice", generation: 7,
		key: "key", keyed: 8, previous: "old", replaced: 9,
		sessions: []listedSession{{hash: hash{1}, created: 1, expires: 2}, {hash: hash{2}}},
	}
	meta := metaRecord{index: [32]byte{1}}
	for _, b := range [][]byte{session.encode(), user.encode(), meta.encode(), {}, {recordVersion}, (&userRecord{}).encode()} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeSession(b); err == nil {
			require.Equal(t, b, r.encode())
		} else {
			require.ErrorIs(t, err, errMalformed)
		}
		if v, err := viewUser(b); err == nil {
			require.Equal(t, b, v.record().encode())
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

// A sealed value opens only as it was sealed, under its own key.
func FuzzSealed(f *testing.F) {
	s, err := newSealer([][]byte{bytes.Repeat([]byte{1}, KeySize), bytes.Repeat([]byte{2}, KeySize)})
	require.NoError(f, err)
	f.Add("session:a", []byte("plain"), 0, byte(0))
	f.Add("", []byte{}, 3, byte(1))
	f.Add("user:b", make([]byte, 300), 40, byte(0x80))
	f.Fuzz(func(t *testing.T, key string, plain []byte, at int, change byte) {
		sealed := s.seal(key, plain)
		opened, old, err := s.open(key, sealed)
		require.NoError(t, err)
		require.False(t, old)
		require.True(t, bytes.Equal(plain, opened))

		_, _, err = s.open(key+"x", sealed)
		require.ErrorIs(t, err, ErrDamaged)
		if at < 0 || at >= len(sealed) || change == 0 {
			return
		}
		sealed[at] ^= change
		_, _, err = s.open(key, sealed)
		require.True(t, errors.Is(err, ErrDamaged) || errors.Is(err, ErrWrongKey))

		_, _, err = s.open(key, plain) // whatever bytes
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
