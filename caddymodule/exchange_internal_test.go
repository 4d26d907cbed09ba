package caddymodule

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// codesAt returns an empty memory of codes and what moves its time.
func codesAt(t *testing.T) (codes *usedCodes, pass func(time.Duration)) {
	t.Helper()
	now := time.Now()
	return newUsedCodes(func() time.Time { return now }, codeLifetime), func(d time.Duration) { now = now.Add(d) }
}

func TestACodeIsClaimedOnceWhileItLives(t *testing.T) {
	codes, pass := codesAt(t)
	code, sameOfAnother := hashCode("wx0123456789abcdef", "code"), hashCode("wx0123456789abcde0", "code")
	require.True(t, codes.claim(code))
	require.True(t, codes.claim(sameOfAnother))
	pass(codeLifetime - time.Nanosecond)
	require.False(t, codes.claim(code))
	require.False(t, codes.claim(sameOfAnother))
	pass(time.Nanosecond)
	require.True(t, codes.claim(code), "WeChat itself refuses it by now")
}

// A code that did not reach WeChat may come again, and then counts from there:
// what is left of the claim that was given up must not cut the new one short.
func TestAReleasedCodeIsClaimedAgainForItsWholeTime(t *testing.T) {
	codes, pass := codesAt(t)
	code := hashCode("wx0123456789abcdef", "code")
	require.True(t, codes.claim(code))
	codes.release(code)
	pass(codeLifetime - time.Second)
	require.True(t, codes.claim(code))
	pass(2 * time.Second)
	require.False(t, codes.claim(code))
	pass(codeLifetime - 2*time.Second)
	require.True(t, codes.claim(code))
}

func TestTheMemoryOfCodesIsBounded(t *testing.T) {
	codes, pass := codesAt(t)
	nth := func(i int) codeHash { return hashCode("wx0123456789abcdef", strconv.Itoa(i)) }
	for i := range maxCodes + 1 {
		require.True(t, codes.claim(nth(i)))
	}
	require.Len(t, codes.used, maxCodes)
	require.False(t, codes.claim(nth(maxCodes)), "the newest is known")
	require.True(t, codes.claim(nth(0)), "the oldest is forgotten")

	// Nothing stays of codes that were given up, nor of those that have expired.
	for i := range maxCodes {
		codes.release(nth(i))
	}
	pass(codeLifetime)
	require.True(t, codes.claim(nth(0)))
	require.Len(t, codes.used, 1)
	require.Len(t, codes.queue, 1)
}
