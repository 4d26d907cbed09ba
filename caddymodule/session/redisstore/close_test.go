package redisstore_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

func isNotFound(err error) bool { return errors.Is(err, session.ErrNotFound) }

// goroutines returns the stacks of those that work for a store.
func goroutines() []string {
	buffer := make([]byte, 4<<20)
	buffer = buffer[:runtime.Stack(buffer, true)]
	var ours []string
	for _, stack := range strings.Split(string(buffer), "\n\n") {
		if strings.Contains(stack, "redis/rueidis.") || strings.Contains(stack, "session/redisstore.") {
			ours = append(ours, stack)
		}
	}
	return ours
}

func requireNothingLeft(t *testing.T) {
	t.Helper()
	if !assertEventually(func() bool { return len(goroutines()) == 0 }) {
		t.Fatalf("goroutines are left:\n%s", strings.Join(goroutines(), "\n\n"))
	}
}

func assertEventually(done func() bool) bool {
	deadline := time.After(recovery)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-deadline:
			return false
		}
	}
	return true
}

func TestCloseLeavesNothing(t *testing.T) {
	tests := []struct {
		name string
		run  func(t *testing.T)
	}{
		{"after use", func(t *testing.T) {
			server := redistest.Start(t)
			s := open(t, patient(server.Addr))
			roundTrip(t, s)
			require.NoError(t, s.Close())
			require.NotContains(t, server.Do(t, "client", "list"), "\n", "connections are left beside that of redis-cli")
		}},
		{"after use of a cluster", func(t *testing.T) {
			s := open(t, patient(redistest.StartCluster(t, 3)[0].Addr))
			roundTrip(t, s)
			require.NoError(t, s.Close())
		}},
		{"of a hung server", func(t *testing.T) {
			server := redistest.Start(t)
			s := openImpatient(t, server.Addr)
			server.Stop()
			for range 5 {
				require.True(t, isFault(increment(t.Context(), s, "n")))
			}
			begin := time.Now()
			require.NoError(t, s.Close())
			require.Less(t, time.Since(begin), soon)
		}},
		{"of a killed server", func(t *testing.T) {
			server := redistest.Start(t)
			s := open(t, patient(server.Addr))
			server.Kill()
			require.NoError(t, s.Close())
		}},
		{"after opening failed", func(t *testing.T) {
			o := patient(redistest.Start(t, "user default on nopass ~* &* +@all -set").Addr)
			_, err := redisstore.Open(t.Context(), o)
			require.Error(t, err)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			requireNothingLeft(t)
			tt.run(t)
			requireNothingLeft(t)
		})
	}
}

func TestCloseEndsScan(t *testing.T) {
	s := open(t, patient(redistest.Start(t).Addr))
	for _, key := range []string{"a", "b", "c"} {
		require.NoError(t, sessiontest.Put(t.Context(), s, key, []byte("v"), 0))
	}
	closed := make(chan error, 1)
	visited := false
	err := s.(session.Scanner).Scan(t.Context(), "", func(string, []byte, time.Duration) error {
		if !visited {
			visited = true
			go func() { closed <- s.Close() }()
		}
		if !assertEventually(func() bool {
			_, err := s.Get(t.Context(), "a") // Close lets nothing begin while it waits for the scan
			return errors.Is(err, session.ErrClosed)
		}) {
			t.Error("the store does not close while it is scanned")
		}
		return nil
	})
	if err != nil {
		require.ErrorIs(t, err, session.ErrClosed)
	}
	require.NoError(t, <-closed)
}
