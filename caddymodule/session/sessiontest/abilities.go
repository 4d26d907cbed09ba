package sessiontest

import (
	"context"
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

func testSync(t *testing.T, s session.Store) {
	syncer, ok := s.(session.Syncer)
	if !ok {
		return
	}
	require.NoError(t, syncer.Sync(t.Context()), "with nothing written")
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 10 {
				assert.NoError(t, s.Put(t.Context(), fmt.Sprintf("session:%d-%d", g, i), []byte("v"), time.Hour))
				assert.NoError(t, syncer.Sync(t.Context()))
			}
		})
	}
	wg.Wait()
}

// changes collects the calls of an Observer.
type changes struct {
	mu   sync.Mutex
	keys map[string]int
}

func (c *changes) changed(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys == nil {
		c.keys = make(map[string]int)
	}
	c.keys[key]++
}

// take returns how often key was reported, in itself or as one of all, since the
// last call.
func (c *changes) take(key string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.keys[key] + c.keys[""]
	clear(c.keys)
	return n
}

func testObserve(t *testing.T, s session.Store) {
	observer, ok := s.(session.Observer)
	if !ok {
		return
	}
	var first, second changes
	maxAge, cancelFirst := observer.Observe(first.changed)
	require.GreaterOrEqual(t, maxAge, time.Duration(0))
	_, cancelSecond := observer.Observe(second.changed)

	const key = "session:watched \x00\xff"
	writes := []struct {
		name  string
		write func() error
	}{
		{"put", func() error { return s.Put(t.Context(), key, []byte("v"), time.Hour) }},
		{"put again", func() error { return s.Put(t.Context(), key, []byte("v"), time.Hour) }},
		{"update", func() error {
			return s.Update(t.Context(), key, func([]byte) ([]byte, time.Duration, error) { return []byte("w"), time.Hour, nil })
		}},
		{"update to nothing", func() error {
			return s.Update(t.Context(), key, func([]byte) ([]byte, time.Duration, error) { return nil, 0, nil })
		}},
		{"put once more", func() error { return s.Put(t.Context(), key, []byte("v"), time.Hour) }},
		{"delete", func() error { return s.Delete(t.Context(), key) }},
	}
	for _, w := range writes {
		first.take(key)
		second.take(key)
		require.NoError(t, w.write(), w.name)
		require.Positive(t, first.take(key), "%s: the change was not reported before the write returned", w.name)
		require.Positive(t, second.take(key), "%s: the second observer was not called", w.name)
	}

	cancelFirst()
	cancelFirst()
	put(t, s, key, "v")
	require.Zero(t, first.take(key), "called after cancel")
	require.Positive(t, second.take(key), "the cancel of one observer silenced the other")
	cancelSecond()
}

// testObserveCoherent keeps values in memory the way the Manager does, and
// checks that no reader gets an older one than has been acknowledged.
func testObserveCoherent(t *testing.T, s session.Store) {
	observer, ok := s.(session.Observer)
	if !ok {
		return
	}
	const key = "user:watched"
	const writes = 300
	var version, acknowledged atomic.Int64
	_, cancel := observer.Observe(func(changed string) {
		if changed == key || changed == "" {
			version.Add(1)
		}
	})
	defer cancel()
	put(t, s, key, "0")

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			type kept struct {
				version int64
				value   int
			}
			mine := kept{version: -1}
			for acknowledged.Load() < writes {
				atLeast := acknowledged.Load()
				now := version.Load()
				if mine.version != now {
					value, err := s.Get(t.Context(), key)
					if !assert.NoError(t, err) {
						return
					}
					n, err := strconv.Atoi(string(value))
					if !assert.NoError(t, err) {
						return
					}
					mine = kept{version: now, value: n}
				}
				if !assert.GreaterOrEqual(t, int64(mine.value), atLeast, "an acknowledged write was not seen") {
					return
				}
			}
		})
	}
	for n := 1; n <= writes; n++ {
		if n%2 == 0 {
			put(t, s, key, strconv.Itoa(n))
		} else {
			require.NoError(t, s.Update(t.Context(), key, func([]byte) ([]byte, time.Duration, error) {
				return []byte(strconv.Itoa(n)), time.Hour, nil
			}))
		}
		acknowledged.Store(int64(n))
	}
	wg.Wait()
}

func testGetMany(t *testing.T, s session.Store) {
	getter, ok := s.(session.MultiGetter)
	if !ok {
		return
	}
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

func testPing(t *testing.T, s session.Store) {
	if pinger, ok := s.(session.Pinger); ok {
		require.NoError(t, pinger.Ping(t.Context()))
	}
}

func testRoom(t *testing.T, s session.Store) {
	checker, ok := s.(session.RoomChecker)
	if !ok {
		return
	}
	require.NoError(t, checker.Room())
	if free, ok := checker.Free(); ok {
		require.Positive(t, free)
	}
}

// testCount allows for an estimate, but not for one that is beside the point.
func testCount(t *testing.T, s session.Store) {
	counter, ok := s.(session.Counter)
	if !ok {
		return
	}
	for i := range 200 {
		put(t, s, fmt.Sprintf("session:%d", i), "v")
	}
	put(t, s, "user:1", "v")
	n, err := counter.Count(t.Context(), "session:")
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, int64(100))
	require.LessOrEqual(t, n, int64(400))
}

func testScan(t *testing.T, s session.Store) {
	scanner, ok := s.(session.Scanner)
	if !ok {
		return
	}
	const prefix = "s*c[a]n?\\:"
	want := make(map[string]time.Duration)
	for i := range 500 {
		key := fmt.Sprintf("%s\x00%d\xff", prefix, i)
		want[key] = time.Duration(i%3) * time.Hour
		require.NoError(t, s.Put(t.Context(), key, []byte(key), want[key]))
	}
	put(t, s, "scan", "not this")
	put(t, s, "s*c[a]n?", "nor this")
	put(t, s, "sXcan?\\:", "nor this")
	put(t, s, prefix+"gone", "nor this")
	require.NoError(t, s.Delete(t.Context(), prefix+"gone"))

	seen := make(map[string]bool)
	err := scanner.Scan(t.Context(), prefix, func(key string, value []byte, ttl time.Duration) error {
		put, known := want[key]
		require.True(t, known, "visited %q", key)
		require.Equal(t, key, string(value))
		if put == 0 {
			require.Zero(t, ttl)
		} else {
			require.Positive(t, ttl)
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
