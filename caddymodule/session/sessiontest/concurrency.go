package sessiontest

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// parallel runs work in n goroutines and fails the test with the first error.
func parallel(t *testing.T, n int, work func(g int) error) {
	t.Helper()
	var group errgroup.Group
	for g := range n {
		group.Go(func() error { return work(g) })
	}
	require.NoError(t, group.Wait())
}

// testUpdateContention counts up from many goroutines. A store may give up on
// a contended key, but must not lose or double what it said it did.
func testUpdateContention(t *testing.T, s session.Store) {
	var done atomic.Int64
	parallel(t, 16, func(int) error {
		for range 25 {
			err := s.Update(t.Context(), "user:counter", func(old []byte) ([]byte, time.Duration, error) {
				n, err := strconv.Atoi(cmp.Or(string(old), "0"))
				return []byte(strconv.Itoa(n + 1)), time.Hour, err
			})
			switch {
			case err == nil:
				done.Add(1)
			case !errors.Is(err, session.ErrConflict):
				return err
			}
		}
		return nil
	})
	require.Positive(t, done.Load())
	require.Equal(t, strconv.FormatInt(done.Load(), 10), get(t, s, "user:counter"))
}

func testUpdateAgainstPut(t *testing.T, s session.Store) {
	raceUpdate(t, s, []string{"second", "second+"}, func(key string) error {
		return s.Put(t.Context(), key, []byte("second"), time.Hour)
	})
}

func testUpdateAgainstDelete(t *testing.T, s session.Store) {
	raceUpdate(t, s, []string{absent, "+"}, func(key string) error { return s.Delete(t.Context(), key) })
}

// absent stands for no value.
const absent = "(absent)"

// raceUpdate runs an Update that writes "<old>+" against another write of the
// same key. What is there afterwards must be one of final.
func raceUpdate(t *testing.T, s session.Store, final []string, write func(key string) error) {
	t.Helper()
	const key = "user:raced"
	for range 100 {
		put(t, s, key, "first")
		var ready sync.WaitGroup
		ready.Add(2)
		parallel(t, 2, func(g int) error {
			ready.Done()
			ready.Wait()
			if g == 1 {
				return write(key)
			}
			err := s.Update(t.Context(), key, func(old []byte) ([]byte, time.Duration, error) {
				return append(old, '+'), time.Hour, nil
			})
			if errors.Is(err, session.ErrConflict) {
				return nil
			}
			return err
		})
		value, err := s.Get(t.Context(), key)
		if errors.Is(err, session.ErrNotFound) {
			value, err = []byte(absent), nil
		}
		require.NoError(t, err)
		require.Contains(t, final, string(value), "the other write was lost")
	}
}

// testManyGoroutines lets each goroutine check that it reads what it wrote,
// while all of them share the store.
func testManyGoroutines(t *testing.T, s session.Store) {
	parallel(t, 16, func(g int) error {
		key := fmt.Sprintf("session:%d", g)
		for i := range 20 {
			want := fmt.Sprintf("%d of %d", i, g)
			if err := s.Put(t.Context(), key, []byte(want), time.Hour); err != nil {
				return err
			}
			found, err := s.Get(t.Context(), key)
			if err != nil {
				return err
			} else if string(found) != want {
				return fmt.Errorf("get returned %q, want %q", found, want)
			}
			err = s.Update(t.Context(), key, func(old []byte) ([]byte, time.Duration, error) {
				if string(old) != want {
					return nil, 0, fmt.Errorf("update saw %q, want %q", old, want)
				}
				return nil, 0, nil
			})
			if err != nil {
				return err
			}
			if found, err = s.Get(t.Context(), key); !errors.Is(err, session.ErrNotFound) {
				return errors.Join(err, fmt.Errorf("get after the deletion returned %q", found))
			}
		}
		return nil
	})
}

// testCloseUnderLoad closes the store while it is in use. Calls may succeed or
// find it closed; nothing else, and no crash.
func testCloseUnderLoad(t *testing.T, s session.Store) {
	put(t, s, "session:a", "value")
	var users errgroup.Group
	var calls atomic.Int64
	warm := make(chan struct{})
	for g := range 8 {
		users.Go(func() error {
			key := fmt.Sprintf("session:%d", g)
			for {
				if calls.Add(1) == 200 {
					close(warm)
				}
				_, err := s.Get(t.Context(), "session:a")
				err = cmp.Or(err, s.Put(t.Context(), key, []byte("v"), time.Hour),
					s.Update(t.Context(), key, keep), s.Delete(t.Context(), key))
				switch {
				case errors.Is(err, session.ErrClosed):
					return nil
				case err != nil:
					return err
				}
			}
		})
	}
	<-warm
	require.NoError(t, s.Close())
	require.NoError(t, users.Wait())
}
