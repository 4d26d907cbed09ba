// Package sessiontest is the conformance suite and the benchmark of session
// stores. An implementation calls Run and Bench from its own tests, against
// the real engine:
//
//	func TestStore(t *testing.T) {
//		sessiontest.Run(t, func(t testing.TB) (session.Store, func() session.Store) {
//			dir := t.TempDir()
//			open := func() session.Store { … }
//			return open(), open
//		})
//	}
//
// What is optional in the contract is tested if the store has it.
package sessiontest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// An OpenFunc opens an empty store that the test has for itself, and closes it
// with t.Cleanup. reopen, which may be nil, opens the same data again after the
// suite has closed the store.
type OpenFunc func(t testing.TB) (store session.Store, reopen func() session.Store)

// Run tests that a store keeps the contract of session.Store.
func Run(t *testing.T, open OpenFunc) {
	for _, c := range []struct {
		name string
		test func(*testing.T, session.Store)
	}{
		{"absent key", testAbsent},
		{"write and read", testWriteRead},
		{"odd keys and values", testOddKeysAndValues},
		{"caller keeps its bytes", testCallerKeepsBytes},
		{"delete", testDelete},
		{"ttl", testTTL},
		{"ttl does not end early", testTTLNotEarly},
		{"update", testUpdate},
		{"update under contention", testUpdateContention},
		{"update against delete", testUpdateAgainstDelete},
		{"many goroutines", testManyGoroutines},
		{"ended context", testEndedContext},
		{"closed store", testClosed},
		{"close under load", testCloseUnderLoad},
		{"sync", ability(testSync)},
		{"observe", ability(testObserve)},
		{"observe is coherent", ability(testObserveCoherent)},
		{"get many", ability(testGetMany)},
		{"ping", ability(testPing)},
		{"room", ability(testRoom)},
		{"count", ability(testCount)},
		{"scan", ability(testScan)},
		{"manager/lifecycle", testLifecycle},
		{"manager/two managers", testTwoManagers},
		{"manager/revoke all", testRevokeAll},
		{"manager/expired", testExpired},
		{"manager/revocation under load", testRevokeUnderLoad},
	} {
		t.Run(c.name, func(t *testing.T) {
			store, _ := open(t)
			c.test(t, store)
		})
	}
	for name, test := range map[string]func(*testing.T, session.Store, func() session.Store){
		"reopen": testReopen, "manager/reopen": testManagerReopen,
	} {
		t.Run(name, func(t *testing.T) {
			if store, reopen := open(t); reopen != nil {
				test(t, store, reopen)
			}
		})
	}
}

// never is a key that no test writes.
const never = "session:never written"

func put(t *testing.T, s session.Store, key, value string) {
	t.Helper()
	require.NoError(t, Put(t.Context(), s, key, []byte(value), 0))
}

func get(t *testing.T, s session.Store, key string) string {
	t.Helper()
	value, err := s.Get(t.Context(), key)
	require.NoError(t, err)
	return string(value)
}

func requireAbsent(t *testing.T, s session.Store, key string) {
	t.Helper()
	value, err := s.Get(t.Context(), key)
	require.ErrorIs(t, err, session.ErrNotFound)
	require.Nil(t, value)
}

func testAbsent(t *testing.T, s session.Store) {
	requireAbsent(t, s, never)
	put(t, s, "session:a", "value")
	requireAbsent(t, s, "session:")
	requireAbsent(t, s, "session:aa")
	requireAbsent(t, s, "session:A")
}

func testWriteRead(t *testing.T, s session.Store) {
	put(t, s, "session:a", "one")
	require.Equal(t, "one", get(t, s, "session:a"))
	put(t, s, "session:a", "two, and longer")
	require.Equal(t, "two, and longer", get(t, s, "session:a"))
	put(t, s, "session:a", "3")
	put(t, s, "session:b", "other")
	require.Equal(t, "3", get(t, s, "session:a"))
	require.Equal(t, "other", get(t, s, "session:b"))
}

func testOddKeysAndValues(t *testing.T, s session.Store) {
	keys := []string{"k", "\x00", "\xff", "a b", "a\r\nb", "*", "{tag}", "session:**", "!badger!x", strings.Repeat("\xff", 256)}
	every := make([]byte, 256)
	for c := range every {
		every[c] = byte(c)
		keys = append(keys, "session:"+string(every[c:c+1]))
	}
	keys = append(keys, string(every))
	for i, key := range keys {
		put(t, s, key, fmt.Sprint(i))
	}
	for i, key := range keys {
		require.Equal(t, fmt.Sprint(i), get(t, s, key), "key %q", key)
	}

	values := map[string][]byte{
		"empty":      {},
		"zero":       {0},
		"newline":    []byte("\r\n"),
		"every byte": every,
		"large":      bytes.Repeat([]byte{7}, session.MaxValue),
	}
	for name, value := range values {
		check := func(found []byte, err error) {
			require.NoError(t, err, name)
			require.True(t, bytes.Equal(value, found), name)
			require.NotNil(t, found, "%s: a value of no bytes is not an absent one", name)
		}
		require.NoError(t, Put(t.Context(), s, "session:v", value, time.Hour), name)
		check(s.Get(t.Context(), "session:v"))
		require.NoError(t, s.Update(t.Context(), "session:v", func(old []byte) ([]byte, time.Duration, error) {
			check(old, nil)
			return value, time.Hour, nil
		}), name)
		check(s.Get(t.Context(), "session:v"))
	}
}

func testCallerKeepsBytes(t *testing.T, s session.Store) {
	put(t, s, "session:a", "value")
	found, err := s.Get(t.Context(), "session:a")
	require.NoError(t, err)
	found[0] = 'X'
	_ = append(found, "more"...)
	require.Equal(t, "value", get(t, s, "session:a"))

	updated := []byte("updated")
	require.NoError(t, s.Update(t.Context(), "session:a", func(old []byte) ([]byte, time.Duration, error) {
		old[0] = 'X'
		return updated, time.Hour, nil
	}))
	updated[0] = 'X'
	require.Equal(t, "updated", get(t, s, "session:a"))

	refused := errors.New("refused")
	require.ErrorIs(t, s.Update(t.Context(), "session:a", func(old []byte) ([]byte, time.Duration, error) {
		old[0] = 'X'
		return nil, 0, refused
	}), refused)
	require.Equal(t, "updated", get(t, s, "session:a"))
}

func testDelete(t *testing.T, s session.Store) {
	require.NoError(t, Delete(t.Context(), s, never))
	put(t, s, "session:a", "one")
	put(t, s, "session:ab", "two")
	require.NoError(t, Delete(t.Context(), s, "session:a"))
	requireAbsent(t, s, "session:a")
	require.Equal(t, "two", get(t, s, "session:ab"))
	require.NoError(t, Delete(t.Context(), s, "session:a"))
	put(t, s, "session:a", "again")
	require.Equal(t, "again", get(t, s, "session:a"))
}

func testTTL(t *testing.T, s session.Store) {
	const key = "session:a"
	for _, ttl := range []time.Duration{-time.Nanosecond, -time.Second} {
		require.Error(t, Put(t.Context(), s, key, []byte("v"), ttl))
		requireAbsent(t, s, key)
	}

	for _, ttl := range []time.Duration{time.Nanosecond, time.Microsecond, time.Millisecond} {
		require.NoError(t, Put(t.Context(), s, "session:short", []byte("v"), ttl))
	}
	for _, ttl := range []time.Duration{0, time.Hour, 400 * 24 * time.Hour, math.MaxInt64} {
		require.NoError(t, Put(t.Context(), s, key, []byte(ttl.String()), ttl))
		require.Equal(t, ttl.String(), get(t, s, key))
	}

	// The ttl of the last write counts, not that of the first.
	require.NoError(t, Put(t.Context(), s, key, []byte("v"), time.Nanosecond))
	require.NoError(t, Put(t.Context(), s, key, []byte("w"), 0))
	require.Equal(t, "w", get(t, s, key))
}

// testTTLNotEarly can only fail for a reason: on a slow machine it sees less,
// and nothing wrong.
func testTTLNotEarly(t *testing.T, s session.Store) {
	const key, ttl = "session:a", 1100 * time.Millisecond
	pace := time.NewTicker(2 * time.Millisecond)
	defer pace.Stop()
	begin := time.Now()
	require.NoError(t, Put(t.Context(), s, key, []byte("v"), ttl))
	for time.Since(begin) < ttl {
		_, err := s.Get(t.Context(), key)
		if errors.Is(err, session.ErrNotFound) {
			require.GreaterOrEqual(t, time.Since(begin), ttl, "the value vanished before its ttl")
			break
		}
		require.NoError(t, err)
		<-pace.C
	}
}

func testUpdate(t *testing.T, s session.Store) {
	const key = "user:a"
	sees := func(want []byte) session.ChangeFunc {
		return func(old []byte) ([]byte, time.Duration, error) {
			require.Equal(t, want, old)
			return old, 0, nil
		}
	}

	require.NoError(t, s.Update(t.Context(), key, sees(nil)))
	requireAbsent(t, s, key)
	require.NoError(t, s.Update(t.Context(), key, to("one", time.Hour)))
	require.NoError(t, s.Update(t.Context(), key, sees([]byte("one"))))
	require.NoError(t, s.Update(t.Context(), key, to("two", time.Hour)))
	require.Equal(t, "two", get(t, s, key))
	require.NoError(t, s.Update(t.Context(), key, remove))
	requireAbsent(t, s, key)
	require.NoError(t, s.Update(t.Context(), key, remove))
	requireAbsent(t, s, key)

	put(t, s, key, "kept")
	refused := errors.New("refused")
	err := s.Update(t.Context(), key, func([]byte) ([]byte, time.Duration, error) {
		return []byte("ignored"), 0, refused
	})
	require.Same(t, refused, err, "the error of change comes back unchanged")
	require.Equal(t, "kept", get(t, s, key))
}

func testEndedContext(t *testing.T, s session.Store) {
	put(t, s, "session:a", "value")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	expired, cancel := context.WithTimeout(t.Context(), -time.Second)
	defer cancel()
	for name, ctx := range map[string]context.Context{"cancelled": cancelled, "expired": expired} {
		for op, err := range callAll(ctx, s) {
			require.Error(t, err, "%s with a %s context", op, name)
			require.NotErrorIs(t, err, session.ErrNotFound, "%s with a %s context", op, name)
		}
	}
	// The next caller is not affected.
	require.Equal(t, "value", get(t, s, "session:a"))
}

// canary is a value that no error may show.
const canary = "canary-value-7f1b"

// callAll calls every method that takes a context, optional ones too.
func callAll(ctx context.Context, s session.Store) map[string]error {
	errs := make(map[string]error)
	_, errs["get"] = s.Get(ctx, "session:a")
	_, errs["get absent"] = s.Get(ctx, never)
	errs["update"] = Put(ctx, s, "session:b", []byte(canary), time.Hour)
	errs["update to nothing"] = Delete(ctx, s, "session:b")
	try(errs, s, "sync", func(a session.Syncer) error { return a.Sync(ctx) })
	try(errs, s, "ping", func(a session.Pinger) error { return a.Ping(ctx) })
	try(errs, s, "backup", func(a session.Backuper) error { return a.Backup(ctx, io.Discard) })
	try(errs, s, "count", func(a session.Counter) error {
		_, err := a.Count(ctx, "session:", func(string, []byte) int64 { return 1 })
		return err
	})
	try(errs, s, "scan", func(a session.Scanner) error {
		return a.Scan(ctx, "session:", func(string, []byte, time.Duration) error { return nil })
	})
	return errs
}

// try calls an optional method, if the store has it.
func try[A any](errs map[string]error, s session.Store, name string, call func(A) error) {
	if a, ok := s.(A); ok {
		errs[name] = call(a)
	}
}

func testClosed(t *testing.T, s session.Store) {
	put(t, s, "session:a", canary)
	require.NoError(t, s.Close())
	for op, err := range callAll(t.Context(), s) {
		require.ErrorIs(t, err, session.ErrClosed, op)
		require.NotErrorIs(t, err, session.ErrNotFound, op)
		require.NotContains(t, err.Error(), canary, op)
	}
	require.NoError(t, s.Close(), "closing twice")
}

func testReopen(t *testing.T, s session.Store, reopen func() session.Store) {
	key := func(i int) string { return fmt.Sprintf("session:%d", i) }
	for i := range 100 {
		require.NoError(t, Put(t.Context(), s, key(i), []byte(key(i)), time.Hour))
	}
	put(t, s, "meta", "kept")
	require.NoError(t, Delete(t.Context(), s, key(99)))
	require.NoError(t, s.Close())

	s = reopen()
	for i := range 99 {
		require.Equal(t, key(i), get(t, s, key(i)))
	}
	requireAbsent(t, s, key(99))
	require.Equal(t, "kept", get(t, s, "meta"))
	put(t, s, "meta", "changed")
	require.NoError(t, s.Close())

	s = reopen()
	require.Equal(t, "changed", get(t, s, "meta"))
	require.NoError(t, s.Close())
}
