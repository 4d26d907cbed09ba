package sessiontest

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strconv"
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

func testUpdateContention(t *testing.T, s session.Store) { raceUpdates(t, s, math.MaxInt) }

func testUpdateAgainstDelete(t *testing.T, s session.Store) { raceUpdates(t, s, 3) }

// raceUpdates counts up from many goroutines, modulo a number: an absent key
// stands for 0. A store may give up on a contended key, but must not lose or
// double what it said it did.
func raceUpdates(t *testing.T, s session.Store, modulo int) {
	t.Helper()
	const key = "user:counter"
	var done atomic.Int64
	parallel(t, 16, func(int) error {
		for range 25 {
			err := s.Update(t.Context(), key, func(old []byte) ([]byte, time.Duration, error) {
				n, err := strconv.Atoi(cmp.Or(string(old), "0"))
				runtime.Gosched() // so that others may read the same value
				if n = (n + 1) % modulo; n == 0 {
					return nil, 0, err
				}
				return []byte(strconv.Itoa(n)), time.Hour, err
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
	value, err := s.Get(t.Context(), key)
	if errors.Is(err, session.ErrNotFound) {
		value, err = []byte("0"), nil
	}
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(int(done.Load())%modulo), string(value))
}

// testManyGoroutines lets each goroutine check that it reads what it wrote,
// while all of them share the store.
func testManyGoroutines(t *testing.T, s session.Store) {
	parallel(t, 16, func(g int) error {
		key := fmt.Sprintf("session:%d", g)
		for i := range 20 {
			want := fmt.Sprintf("%d of %d", i, g)
			if err := Put(t.Context(), s, key, []byte(want), time.Hour); err != nil {
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
				err = cmp.Or(err, Put(t.Context(), s, key, []byte("v"), time.Hour), Delete(t.Context(), s, key))
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
