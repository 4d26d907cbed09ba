package caddymodule

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// withCodes calls test with an empty memory of codes and a clock of its own.
func withCodes(t *testing.T, test func(t *testing.T, codes usedCodes)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		codes := newUsedCodes(codeLifetime)
		defer func() { require.NoError(t, codes.Destruct()) }()
		test(t, codes)
	})
}

func TestACodeIsClaimedOnceWhileItLives(t *testing.T) {
	withCodes(t, func(t *testing.T, codes usedCodes) {
		code, sameOfAnother := hashCode("wx0123456789abcdef", "code"), hashCode("wx0123456789abcde0", "code")
		require.True(t, codes.claim(code))
		require.True(t, codes.claim(sameOfAnother))
		time.Sleep(codeLifetime - time.Nanosecond)
		require.False(t, codes.claim(code))
		require.False(t, codes.claim(sameOfAnother))
		time.Sleep(time.Nanosecond)
		require.True(t, codes.claim(code), "WeChat itself refuses it by now")
	})
}

// A code that did not reach WeChat may come again, and then counts from there:
// what is left of the claim that was given up must not cut the new one short.
func TestAReleasedCodeIsClaimedAgainForItsWholeTime(t *testing.T) {
	withCodes(t, func(t *testing.T, codes usedCodes) {
		code := hashCode("wx0123456789abcdef", "code")
		require.True(t, codes.claim(code))
		codes.release(code)
		time.Sleep(codeLifetime - time.Second)
		require.True(t, codes.claim(code))
		time.Sleep(2 * time.Second)
		require.False(t, codes.claim(code))
		time.Sleep(codeLifetime - 2*time.Second)
		require.True(t, codes.claim(code))
	})
}

func TestTheMemoryOfCodesIsBounded(t *testing.T) {
	withCodes(t, func(t *testing.T, codes usedCodes) {
		nth := func(i int) codeHash { return hashCode("wx0123456789abcdef", strconv.Itoa(i)) }
		for i := range maxCodes * 5 / 4 {
			require.True(t, codes.claim(nth(i)))
		}
		require.False(t, codes.claim(nth(maxCodes*5/4-1)), "the newest is known")
		codes.CleanUp()
		require.LessOrEqual(t, codes.EstimatedSize(), maxCodes)

		time.Sleep(codeLifetime)
		codes.CleanUp()
		require.Zero(t, codes.EstimatedSize())
	})
}
