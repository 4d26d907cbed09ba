package serverapi

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	tokenKeys   = [][]byte{[]byte(strings.Repeat("a", 32)), []byte(strings.Repeat("b", 32))}
	holderOne   = namedKey{name: "one", hash: [32]byte{1}}
	holderTwo   = namedKey{name: "two", hash: [32]byte{2}}
	tokenEnd    = time.Unix(1_800_000_000, 0)
	beforeTheir = tokenEnd.Add(-time.Second)
)

func TestTokens(t *testing.T) {
	holders := []namedKey{holderOne, holderTwo}
	token := signToken(tokenKeys[0], holderTwo, "wx0123456789abcdef", tokenEnd)
	appID, holder, ok := verifyToken(tokenKeys, holders, token, beforeTheir)
	require.True(t, ok)
	require.Equal(t, []string{"wx0123456789abcdef", "two"}, []string{appID, holder})

	_, _, ok = verifyToken(tokenKeys, holders, token, tokenEnd)
	require.False(t, ok, "expired")
	_, _, ok = verifyToken(tokenKeys, holders[:1], token, beforeTheir)
	require.False(t, ok, "the holder's key is gone")
	_, _, ok = verifyToken(tokenKeys[1:], holders, token, beforeTheir)
	require.False(t, ok, "the encryption key is gone")
	old := signToken(tokenKeys[1], holderOne, "wx0123456789abcdef", tokenEnd)
	_, _, ok = verifyToken(tokenKeys, holders, old, beforeTheir)
	require.True(t, ok, "made with the old encryption key")
}

// FuzzToken lets no token pass but those that were given, byte for byte.
func FuzzToken(f *testing.F) {
	given := signToken(tokenKeys[0], holderOne, "wx0123456789abcdef", tokenEnd)
	for _, seed := range []string{given, "", "wxgate.", "wxgate....", given + ".", strings.ToUpper(given), given[:len(given)-1], strings.Replace(given, "1800000000", "+1800000000", 1)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		_, _, ok := verifyToken(tokenKeys, []namedKey{holderOne}, token, beforeTheir)
		require.Equal(t, token == given, ok)
	})
}
