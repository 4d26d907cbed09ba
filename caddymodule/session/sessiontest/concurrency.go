package sessiontest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// testUpdateContention counts up from many goroutines. A store may give up on
// a contended key, but must not lose or double what it said it did.
func testUpdateContention(t *testing.T, s session.Store) {
	const writers, rounds = 16, 25
	var done atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range rounds {
				err := s.Update(t.Context(), "user:counter", func(old []byte) ([]byte, time.Duration, error) {
					n := 0
					if old != nil {
						var err error
						if n, err = strconv.Atoi(string(old)); err != nil {
							return nil, 0, err
						}
					}
					return []byte(strconv.Itoa(n + 1)), time.Hour, nil
				})
				switch {
				case err == nil:
					done.Add(1)
				case !errors.Is(err, session.ErrConflict):
					assert.NoError(t, err)
					return
				}
			}
		})
	}
	wg.Wait()
	require.Positive(t, done.Load())
	require.Equal(t, strconv.FormatInt(done.Load(), 10), get(t, s, "user:counter"))
}

// race runs an Update that writes "<old>+" against another write of the same
// key, and returns what is there afterwards.
func race(t *testing.T, s session.Store, write func(key string) error) (final string, found bool) {
	t.Helper()
	const key = "user:raced"
	put(t, s, key, "first")
	var wg sync.WaitGroup
	start := make(chan struct{})
	wg.Go(func() {
		<-start
		err := s.Update(t.Context(), key, func(old []byte) ([]byte, time.Duration, error) {
			return append(old, '+'), time.Hour, nil
		})
		if !errors.Is(err, session.ErrConflict) {
			assert.NoError(t, err)
		}
	})
	wg.Go(func() {
		<-start
		assert.NoError(t, write(key))
	})
	close(start)
	wg.Wait()
	value, err := s.Get(t.Context(), key)
	if errors.Is(err, session.ErrNotFound) {
		return "", false
	}
	require.NoError(t, err)
	return string(value), true
}

func testUpdateAgainstPut(t *testing.T, s session.Store) {
	for range 100 {
		final, found := race(t, s, func(key string) error {
			return s.Put(t.Context(), key, []byte("second"), time.Hour)
		})
		require.True(t, found)
		require.Contains(t, []string{"second", "second+"}, final, "the put was lost")
	}
}

func testUpdateAgainstDelete(t *testing.T, s session.Store) {
	for range 100 {
		final, found := race(t, s, func(key string) error { return s.Delete(t.Context(), key) })
		require.True(t, !found || final == "+", "the delete was lost: %q", final)
	}
}

// testManyGoroutines lets each goroutine check that it reads what it wrote,
// while all of them share the store.
func testManyGoroutines(t *testing.T, s session.Store) {
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			key := fmt.Sprintf("session:%d", g)
			for i := range 20 {
				want := fmt.Sprintf("%d of %d", i, g)
				if !assert.NoError(t, s.Put(t.Context(), key, []byte(want), time.Hour)) {
					return
				}
				found, err := s.Get(t.Context(), key)
				if !assert.NoError(t, err) || !assert.Equal(t, want, string(found)) {
					return
				}
				err = s.Update(t.Context(), key, func(old []byte) ([]byte, time.Duration, error) {
					if string(old) != want {
						return nil, 0, fmt.Errorf("update saw %q, want %q", old, want)
					}
					return nil, 0, nil
				})
				if !assert.NoError(t, err) {
					return
				}
				_, err = s.Get(t.Context(), key)
				if !assert.ErrorIs(t, err, session.ErrNotFound) {
					return
				}
			}
		})
	}
	wg.Wait()
}

// testCloseUnderLoad closes the store while it is in use. Calls may succeed or
// find it closed; nothing else, and no crash.
func testCloseUnderLoad(t *testing.T, s session.Store) {
	put(t, s, "session:a", "value")
	var wg sync.WaitGroup
	var calls atomic.Int64
	warm := make(chan struct{})
	for g := range 8 {
		wg.Go(func() {
			key := fmt.Sprintf("session:%d", g)
			for {
				if calls.Add(1) == 200 {
					close(warm)
				}
				_, err := s.Get(t.Context(), "session:a")
				if err == nil {
					err = s.Put(t.Context(), key, []byte("v"), time.Hour)
				}
				if err == nil {
					err = s.Update(t.Context(), key, func(old []byte) ([]byte, time.Duration, error) {
						return old, time.Hour, nil
					})
				}
				if err == nil {
					err = s.Delete(t.Context(), key)
				}
				if err != nil {
					assert.ErrorIs(t, err, session.ErrClosed)
					return
				}
			}
		})
	}
	<-warm
	require.NoError(t, s.Close())
	wg.Wait()
}
