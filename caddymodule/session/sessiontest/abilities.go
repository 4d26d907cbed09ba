package sessiontest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// ability makes a test of one that needs an optional interface of the store.
func ability[A any](test func(*testing.T, session.Store, A)) func(*testing.T, session.Store) {
	return func(t *testing.T, s session.Store) {
		if a, ok := s.(A); ok {
			test(t, s, a)
		}
	}
}

func testSync(t *testing.T, s session.Store, syncer session.Syncer) {
	require.NoError(t, syncer.Sync(t.Context()), "with nothing written")
	parallel(t, 16, func(g int) error {
		for i := range 10 {
			err := cmp.Or(Put(t.Context(), s, fmt.Sprintf("session:%d-%d", g, i), []byte("v"), time.Hour), syncer.Sync(t.Context()))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// watch counts how often a key is reported, in itself or as one of all.
func watch(t *testing.T, observer session.Observer, key string) (reports *atomic.Int64, cancel func()) {
	t.Helper()
	reports = new(atomic.Int64)
	maxAge, cancel := observer.Observe(func(changed string) {
		if changed == key || changed == "" {
			reports.Add(1)
		}
	})
	require.GreaterOrEqual(t, maxAge, time.Duration(0))
	return reports, cancel
}

func testObserve(t *testing.T, s session.Store, observer session.Observer) {
	const key = "session:watched \x00\xff"
	first, cancelFirst := watch(t, observer, key)
	second, cancelSecond := watch(t, observer, key)
	put := func() error { return Put(t.Context(), s, key, []byte("v"), time.Hour) }
	for _, w := range []struct {
		name  string
		write func() error
	}{
		{"write", put},
		{"write of the same value", put},
		{"write of another value", func() error { return Put(t.Context(), s, key, []byte("w"), time.Hour) }},
		{"deletion", func() error { return Delete(t.Context(), s, key) }},
	} {
		first.Store(0)
		second.Store(0)
		require.NoError(t, w.write(), w.name)
		require.Positive(t, first.Load(), "%s: the change was not reported before the write returned", w.name)
		require.Positive(t, second.Load(), "%s: the second observer was not called", w.name)
	}

	cancelFirst()
	cancelFirst()
	first.Store(0)
	second.Store(0)
	require.NoError(t, put())
	require.Zero(t, first.Load(), "called after cancel")
	require.Positive(t, second.Load(), "the cancel of one observer silenced the other")
	cancelSecond()
}

// testObserveCoherent keeps values in memory the way the Manager does, and
// checks that no reader gets an older one than has been acknowledged.
func testObserveCoherent(t *testing.T, s session.Store, observer session.Observer) {
	const key = "user:watched"
	const writes = 300
	var acknowledged atomic.Int64
	version, cancel := watch(t, observer, key)
	defer cancel()
	put(t, s, key, "0")

	var readers errgroup.Group
	for range 4 {
		readers.Go(func() error {
			kept, keptVersion := int64(0), int64(-1)
			for acknowledged.Load() < writes {
				atLeast := acknowledged.Load()
				if now := version.Load(); now != keptVersion {
					value, err := s.Get(t.Context(), key)
					if err != nil {
						return err
					}
					if kept, err = strconv.ParseInt(string(value), 10, 64); err != nil {
						return err
					}
					keptVersion = now
				}
				if kept < atLeast {
					return fmt.Errorf("write %d was acknowledged, and a reader saw %d", atLeast, kept)
				}
			}
			return nil
		})
	}
	for n := 1; n <= writes; n++ {
		put(t, s, key, strconv.Itoa(n))
		acknowledged.Store(int64(n))
	}
	require.NoError(t, readers.Wait())
}

func testGetMany(t *testing.T, s session.Store, getter session.MultiGetter) {
	put(t, s, "session:1", "one")
	put(t, s, "user:2", "two")
	put(t, s, "empty", "")
	for _, c := range []struct{ keys, want []string }{
		{nil, nil},
		{[]string{"user:2"}, []string{"two"}},
		{[]string{"session:1", never, "user:2", "empty", "session:1"}, []string{"one", never, "two", "", "one"}},
		{[]string{never, never}, []string{never, never}},
	} {
		values, err := getter.GetMany(t.Context(), c.keys...)
		require.NoError(t, err, "absent keys are no error")
		require.Len(t, values, len(c.want))
		for i, want := range c.want {
			if want == never {
				require.Nil(t, values[i])
				continue
			}
			require.NotNil(t, values[i], "an empty value is not an absent one")
			require.Equal(t, want, string(values[i]))
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := getter.GetMany(ctx, "session:1", "user:2")
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, s.Close())
	_, err = getter.GetMany(t.Context(), "session:1", "user:2")
	require.ErrorIs(t, err, session.ErrClosed)
}

func testPing(t *testing.T, _ session.Store, pinger session.Pinger) {
	require.NoError(t, pinger.Ping(t.Context()))
}

func testRoom(t *testing.T, _ session.Store, checker session.RoomChecker) {
	require.NoError(t, checker.Room())
	if free, ok := checker.Free(); ok {
		require.Positive(t, free)
	}
}

// testCount allows for an estimate, but not for one that is beside the point.
func testCount(t *testing.T, s session.Store, counter session.Counter) {
	for i := range 200 {
		put(t, s, fmt.Sprintf("session:%d", i), fmt.Sprintf("session:%d", i))
	}
	put(t, s, "user:1", "v")
	n, err := counter.Count(t.Context(), "session:", func(key string, value []byte) int64 {
		require.Equal(t, key, string(value))
		return 3
	})
	require.NoError(t, err)
	require.InDelta(t, 3*250, n, 3*150, "of 600")
}

func testScan(t *testing.T, s session.Store, scanner session.Scanner) {
	const prefix = "s*c[a]n?\\:"
	want := make(map[string]time.Duration)
	for i := range 500 {
		key := fmt.Sprintf("%s\x00%d\xff", prefix, i)
		want[key] = time.Duration(i%3) * time.Hour
		require.NoError(t, Put(t.Context(), s, key, []byte(key), want[key]))
	}
	for _, other := range []string{"scan", "s*c[a]n?", "sXcan?\\:", prefix + "gone"} {
		put(t, s, other, "not this")
	}
	require.NoError(t, Delete(t.Context(), s, prefix+"gone"))

	seen := make(map[string]bool)
	err := scanner.Scan(t.Context(), prefix, func(key string, value []byte, ttl time.Duration) error {
		put, known := want[key]
		require.True(t, known, "visited %q", key)
		require.Equal(t, key, string(value))
		if put == 0 {
			require.Zero(t, ttl)
		} else {
			require.LessOrEqual(t, ttl, put+2*time.Second)
			require.Greater(t, ttl, put-30*time.Minute)
		}
		seen[key] = true
		return nil
	})
	require.NoError(t, err)
	require.Len(t, seen, len(want))

	enough := errors.New("enough")
	visits := 0
	err = scanner.Scan(t.Context(), prefix, func(string, []byte, time.Duration) error {
		visits++
		return enough
	})
	require.ErrorIs(t, err, enough)
	require.Equal(t, 1, visits)

	ctx, cancel := context.WithCancel(t.Context())
	err = scanner.Scan(ctx, prefix, func(string, []byte, time.Duration) error {
		cancel()
		return nil
	})
	if err != nil {
		require.ErrorIs(t, err, context.Canceled)
	}
	require.NoError(t, scanner.Scan(t.Context(), "nothing:", func(key string, _ []byte, _ time.Duration) error {
		return fmt.Errorf("visited %q", key)
	}))
}
