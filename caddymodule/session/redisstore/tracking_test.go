package redisstore_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// observe returns a channel of what s tells. It is never full: tests do not
// make so many changes.
func observe(t testing.TB, s session.Store) <-chan string {
	t.Helper()
	told := make(chan string, 10_000)
	maxAge, cancel := s.(session.Observer).Observe(func(key string) { told <- key })
	require.Equal(t, redisstore.MaxAge, maxAge)
	t.Cleanup(cancel)
	return told
}

// awaitTold waits until a change of key is reported.
func awaitTold(t testing.TB, told <-chan string, key string) {
	t.Helper()
	timer := time.NewTimer(recovery)
	defer timer.Stop()
	for {
		select {
		case got := <-told:
			if got == key {
				return
			}
		case <-timer.C:
			t.Fatalf("waited %s to be told of %q", recovery, key)
		}
	}
}

// A write of one process is observed by another one. From then on it reads the
// new value.
func TestOthersAreTold(t *testing.T) {
	tests := []struct {
		name    string
		options func(t *testing.T) redisstore.Options
	}{
		{"single server", func(t *testing.T) redisstore.Options { return patient(redistest.Start(t).Addr) }},
		{"cluster", func(t *testing.T) redisstore.Options {
			return patient(redistest.StartCluster(t, 3)[0].Addr)
		}},
	}
	const rounds = 200
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := tt.options(t)
			writer, reader := open(t, o), open(t, o)
			told := observe(t, reader)
			var delays []time.Duration
			for i := range rounds {
				key, value := fmt.Sprint("session:", i%20), fmt.Sprint(i)
				_, err := reader.Get(t.Context(), key)
				if err != nil {
					require.ErrorIs(t, err, session.ErrNotFound)
				}
				require.NoError(t, sessiontest.Put(t.Context(), writer, key, []byte(value), time.Hour))
				written := time.Now()
				awaitTold(t, told, key)
				delays = append(delays, time.Since(written))
				got, err := reader.Get(t.Context(), key)
				require.NoError(t, err)
				require.Equal(t, value, string(got))

				require.NoError(t, increment(t.Context(), writer, key))
				awaitTold(t, told, key)
				_, err = reader.Get(t.Context(), key)
				require.NoError(t, err)
				require.NoError(t, sessiontest.Delete(t.Context(), writer, key))
				awaitTold(t, told, key)
				_, err = reader.Get(t.Context(), key)
				require.ErrorIs(t, err, session.ErrNotFound)
			}
			slices.Sort(delays)
			t.Logf("told after the write was acknowledged: median %s, 99%% %s, longest %s",
				delays[rounds/2], delays[rounds*99/100], delays[rounds-1])
		})
	}
}

// Keys that were read together are reported like those that were read alone, and
// cost one round trip.
func TestGetManyIsTracked(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	reader := open(t, patient(proxy.Addr))
	told := observe(t, reader)
	keys := []string{"session:1", "user:2", "absent"}
	require.NoError(t, sessiontest.Put(t.Context(), reader, keys[0], []byte("v"), 0))
	require.NoError(t, sessiontest.Put(t.Context(), reader, keys[1], []byte("v"), 0))
	const delay = 300 * time.Millisecond
	proxy.Delay(delay)
	for _, key := range keys {
		begin := time.Now()
		_, err := reader.(session.MultiGetter).GetMany(t.Context(), keys...)
		require.NoError(t, err)
		require.Less(t, time.Since(begin), 4*delay, "two round trips")
		server.Do(t, "set", "wxgate:"+key, "changed")
		awaitTold(t, told, key)
	}
}

func TestLossOfConnectionIsTold(t *testing.T) {
	tests := []struct {
		name string
		lose func(t *testing.T, server *redistest.Server, proxy *redistest.Proxy) (restore func())
	}{
		{"cut", func(_ *testing.T, _ *redistest.Server, proxy *redistest.Proxy) func() {
			proxy.Cut()
			return func() {}
		}},
		{"partition", func(_ *testing.T, _ *redistest.Server, proxy *redistest.Proxy) func() { return proxy.Freeze() }},
		{"server hung", func(_ *testing.T, server *redistest.Server, _ *redistest.Proxy) func() {
			server.Stop()
			return server.Continue
		}},
		{"server killed", func(t *testing.T, server *redistest.Server, _ *redistest.Proxy) func() {
			server.Kill()
			return func() { server.Restart(t) }
		}},
		{"connection killed by the server", func(t *testing.T, server *redistest.Server, _ *redistest.Proxy) func() {
			server.Do(t, "client", "kill", "type", "normal")
			return func() {}
		}},
		{"everything deleted", func(t *testing.T, server *redistest.Server, _ *redistest.Proxy) func() {
			server.Do(t, "flushall")
			return func() {}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			proxy := redistest.StartProxy(t, server.Addr)
			s := openImpatient(t, proxy.Addr)
			require.Eventually(t, func() bool {
				_, err := s.Get(t.Context(), "session:a")
				return err != nil && !isFault(err)
			}, recovery, 10*time.Millisecond)
			told := observe(t, s)
			begin := time.Now()
			restore := sync.OnceFunc(tt.lose(t, server, proxy))
			defer restore()
			awaitTold(t, told, "")
			t.Logf("told after %s", time.Since(begin))
			restore()
			require.Eventually(t, func() bool {
				_, err := s.Get(t.Context(), "session:a")
				return !isFault(err)
			}, recovery, 10*time.Millisecond)
		})
	}
}

func isFault(err error) bool { return err != nil && !isNotFound(err) }

// A write whose answer did not come may happen all the same, later. Then it is
// told, although the writer was told that it failed.
func TestLateWriteIsTold(t *testing.T) {
	server := redistest.Start(t)
	s := openImpatient(t, server.Addr)
	told := observe(t, s)
	require.Eventually(t, func() bool {
		return sessiontest.Put(t.Context(), s, "session:a", []byte("old"), 0) == nil
	}, recovery, 10*time.Millisecond)

	err := s.Update(t.Context(), "session:a", func([]byte) ([]byte, time.Duration, error) {
		server.Stop() // it has answered the read, and the write is still to come
		return []byte("new"), 0, nil
	})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	server.Continue()

	// The reader may be first, and sees the old value then. It is notified that
	// this is no longer so.
	for {
		value, err := s.Get(t.Context(), "session:a")
		if err == nil && string(value) == "new" {
			break
		}
		if err == nil {
			awaitAny(t, told)
		}
	}
}

func awaitAny(t testing.TB, told <-chan string) {
	t.Helper()
	select {
	case <-told:
	case <-time.After(recovery):
		t.Fatal("not told")
	}
}

// Neither reading, nor what updates, scans and counts read, makes the server
// remember more than the sessions that were read.
func TestOnlyReadsAreTracked(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, patient(server.Addr))
	ctx := context.WithoutCancel(t.Context())
	for i := range 50 {
		require.NoError(t, increment(ctx, s, fmt.Sprint("session:", i)))
	}
	require.NoError(t, s.(session.Scanner).Scan(ctx, "", func(string, []byte, time.Duration) error { return nil }))
	_, err := s.(session.Counter).Count(ctx, "", one)
	require.NoError(t, err)
	for i := range 7 {
		_, err := s.Get(ctx, fmt.Sprint("session:", i))
		require.NoError(t, err)
	}
	require.Contains(t, server.Do(t, "info", "stats"), "tracking_total_keys:7\r\n")
}
