package redisstore_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

const (
	// impatience is the Timeout where a test waits for it to pass.
	impatience = 300 * time.Millisecond

	// soon is what such a call may take on a machine that is busy.
	soon = 20 * time.Second

	// recovery is what it may take until all is well again.
	recovery = 30 * time.Second
)

// impatient are options for tests in which the server does not answer.
func impatient(addresses ...string) redisstore.Options {
	return redisstore.Options{
		Addresses:   addresses,
		DialTimeout: 5 * time.Second,
		Timeout:     impatience,
		ClientCache: true,
	}
}

// openImpatient opens a store with another timeout for opening, in which
// several steps are to succeed on a machine that is busy.
func openImpatient(t testing.TB, addresses ...string) session.Store {
	t.Helper()
	var s session.Store
	require.Eventually(t, func() bool {
		var err error
		s, err = redisstore.Open(t.Context(), impatient(addresses...))
		return err == nil
	}, recovery, 10*time.Millisecond)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// works reports whether every operation does what it should.
func works(t testing.TB, s session.Store) bool {
	t.Helper()
	ctx := t.Context()
	if value, err := s.Get(ctx, "kept"); err != nil || string(value) != "value" {
		require.NotErrorIs(t, err, session.ErrNotFound)
		return false
	}
	if _, err := s.Get(ctx, "absent"); !errors.Is(err, session.ErrNotFound) {
		return false
	}
	return sessiontest.Put(ctx, s, "other", []byte("v"), time.Hour) == nil &&
		increment(ctx, s, "counter") == nil &&
		sessiontest.Delete(ctx, s, "other") == nil &&
		s.(session.Pinger).Ping(ctx) == nil
}

func requireWorks(t testing.TB, s session.Store) {
	t.Helper()
	require.Eventually(t, func() bool { return works(t, s) }, recovery, 10*time.Millisecond)
}

// longer is a change after which the value takes more room.
func longer(old []byte) ([]byte, time.Duration, error) { return append(old, 'v'), time.Hour, nil }

// requireFault requires an error that says no key is absent, in bounded time.
func requireFault(t testing.TB, call func() error) error {
	t.Helper()
	begin := time.Now()
	err := call()
	require.Less(t, time.Since(begin), soon)
	require.Error(t, err)
	require.NotErrorIs(t, err, session.ErrNotFound)
	require.NotErrorIs(t, err, session.ErrClosed)
	return err
}

// Each fault is made on the real server. Until it ends, calls fail in bounded
// time and no caller is answered that a key is absent; then the same store works.
func TestFaults(t *testing.T) {
	timeout := []error{os.ErrDeadlineExceeded}
	tests := []struct {
		name  string
		fault func(t *testing.T, server *redistest.Server) (end func())
		reads []error // kinds of a read's error; nil if reads go on
		write []error // kinds of a write's error; empty: any
	}{
		{
			name: "hung",
			fault: func(_ *testing.T, server *redistest.Server) func() {
				server.Stop()
				return server.Continue
			},
			reads: timeout, write: timeout,
		},
		{
			name: "killed",
			fault: func(t *testing.T, server *redistest.Server) func() {
				server.Do(t, "save")
				server.Kill()
				return func() { server.Restart(t) }
			},
			reads: []error{},
		},
		{
			name: "paused",
			fault: func(t *testing.T, server *redistest.Server) func() {
				server.Do(t, "save")
				server.Do(t, "client", "pause", "3600000", "all")
				return func() { server.Kill(); server.Restart(t) } // it would pause CLIENT UNPAUSE, too
			},
			reads: timeout, write: timeout,
		},
		{
			name: "writes paused",
			fault: func(t *testing.T, server *redistest.Server) func() {
				server.Do(t, "client", "pause", "3600000", "write")
				return func() { server.Do(t, "client", "unpause") }
			},
			write: timeout,
		},
		{
			name: "out of memory",
			fault: func(t *testing.T, server *redistest.Server) func() {
				server.Do(t, "config", "set", "maxmemory", "1")
				return func() { server.Do(t, "config", "set", "maxmemory", "0") }
			},
			write: []error{session.ErrFull},
		},
		{
			name: "read-only replica",
			fault: func(t *testing.T, server *redistest.Server) func() {
				server.Do(t, "replicaof", "127.0.0.1", "1")
				return func() { server.Do(t, "replicaof", "no", "one") }
			},
			write: []error{redisstore.ErrReadOnly},
		},
		{
			name: "replica that does not serve stale data",
			fault: func(t *testing.T, server *redistest.Server) func() {
				server.Do(t, "config", "set", "replica-serve-stale-data", "no")
				server.Do(t, "replicaof", "127.0.0.1", "1")
				return func() { server.Do(t, "replicaof", "no", "one") }
			},
			reads: []error{},
		},
		{
			name: "password changed",
			fault: func(t *testing.T, server *redistest.Server) func() {
				server.Do(t, "config", "set", "requirepass", "another")
				server.Do(t, "--no-auth-warning", "-a", "another", "client", "kill", "type", "normal")
				return func() { server.Do(t, "--no-auth-warning", "-a", "another", "config", "set", "requirepass", "") }
			},
			reads: []error{},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			s := openImpatient(t, server.Addr)
			require.Eventually(t, func() bool {
				return sessiontest.Put(t.Context(), s, "kept", []byte("value"), 0) == nil
			}, recovery, 10*time.Millisecond)
			requireWorks(t, s)

			end := tt.fault(t, server)
			for range 3 {
				read := func() error {
					_, err := s.Get(t.Context(), "kept")
					return err
				}
				if tt.reads == nil {
					require.Eventually(t, func() bool { return read() == nil }, recovery, 10*time.Millisecond)
				} else {
					err := requireFault(t, read)
					for _, kind := range tt.reads {
						require.ErrorIs(t, err, kind)
					}
					requireFault(t, func() error { return s.(session.Pinger).Ping(t.Context()) })
					requireFault(t, func() error {
						_, err := s.Get(t.Context(), "absent")
						return err
					})
				}
				err := requireFault(t, func() error { return s.Update(t.Context(), "longer", longer) })
				for _, kind := range tt.write {
					require.ErrorIs(t, err, kind)
				}
			}
			end()
			requireWorks(t, s)
		})
	}
}

// A server that loads its data answers LOADING to everything.
func TestLoading(t *testing.T) {
	server := redistest.Start(t)
	s := openImpatient(t, server.Addr)
	require.NoError(t, sessiontest.Put(t.Context(), s, "kept", []byte("value"), 0))
	server.Do(t, "debug", "populate", "20000", "filler", "100")
	server.Do(t, "save")
	server.Kill()
	server.RestartLoading(t, "key-load-delay 5000", "loading-process-events-interval-bytes 1024")
	sawLoading := false
	require.Eventually(t, func() bool {
		_, err := s.Get(t.Context(), "kept")
		require.Error(t, err)
		require.NotErrorIs(t, err, session.ErrNotFound)
		sawLoading = sawLoading || strings.Contains(err.Error(), "LOADING")
		return sawLoading
	}, recovery, 10*time.Millisecond)
	server.Do(t, "config", "set", "key-load-delay", "0")
	requireWorks(t, s)
}

// More calls than rueidis has room for are made of a server that hangs. All of
// them end, and nothing is left of them.
func TestManyCallsOfHungServer(t *testing.T) {
	server := redistest.Start(t)
	s := openImpatient(t, server.Addr)
	require.Eventually(t, func() bool {
		return sessiontest.Put(t.Context(), s, "kept", []byte("value"), 0) == nil
	}, recovery, 10*time.Millisecond)
	server.Stop()
	var all sync.WaitGroup
	before := runtime.NumGoroutine()
	for range 500 {
		all.Go(func() { _, _ = s.Get(t.Context(), "key") })
	}
	all.Wait()
	require.Less(t, runtime.NumGoroutine()-before, 100, "the calls under way are bounded")

	begin := time.Now()
	for i := range 6000 {
		all.Go(func() {
			_, err := s.Get(t.Context(), fmt.Sprint("key", i%500))
			if err == nil || errors.Is(err, session.ErrNotFound) {
				t.Errorf("a hung server answered: %v", err)
			}
		})
	}
	all.Wait()
	require.Less(t, time.Since(begin), soon)
	server.Continue()
	requireWorks(t, s)
}

// While the server refuses connections, each call tries a bounded number of
// times.
func TestNoRetryStorm(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	s := open(t, patient(proxy.Addr))
	require.NoError(t, sessiontest.Put(t.Context(), s, "kept", []byte("value"), 0))
	proxy.Refuse(true)
	proxy.Cut()
	const calls = 50
	before := proxy.Accepted()
	for range calls {
		_, err := s.Get(t.Context(), "kept")
		require.Error(t, err)
		require.NotErrorIs(t, err, session.ErrNotFound)
		require.Error(t, increment(t.Context(), s, "counter"))
	}
	// Three for a read, three for an update, and one each second for the
	// heartbeat.
	require.LessOrEqual(t, proxy.Accepted()-before, int64(calls*7))
	proxy.Refuse(false)
	requireWorks(t, s)
}

// However many callers there are, a server that cannot be reached sees few
// attempts.
func TestNoStormOfManyCallers(t *testing.T) {
	for name, refuse := range map[string]func(server *redistest.Server, proxy *redistest.Proxy) (restore func()){
		"no server": func(_ *redistest.Server, proxy *redistest.Proxy) func() {
			proxy.Refuse(true)
			return func() { proxy.Refuse(false) }
		},
		"another password": func(server *redistest.Server, _ *redistest.Proxy) func() {
			server.Do(t, "config", "set", "requirepass", "another")
			return func() {
				server.Do(t, "-a", "another", "--no-auth-warning", "config", "set", "requirepass", "")
			}
		},
	} {
		t.Run(name, func(t *testing.T) { testNoStorm(t, refuse) })
	}
}

func testNoStorm(t *testing.T, refuse func(*redistest.Server, *redistest.Proxy) (restore func())) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	s := open(t, patient(proxy.Addr))
	require.NoError(t, sessiontest.Put(t.Context(), s, "kept", []byte("value"), 0))
	restore := refuse(server, proxy)
	proxy.Cut()
	before := proxy.Accepted()
	begin := time.Now()
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			for time.Since(begin) < time.Second {
				if _, err := s.Get(t.Context(), fmt.Sprint("key", i)); !isFault(err) {
					t.Errorf("a server that is not there answered: %v", err)
				}
				if err := increment(t.Context(), s, fmt.Sprint("key", i)); err == nil {
					t.Error("a server that is not there has written")
				}
			}
		})
	}
	all.Wait()
	// One for reads and as many as there may be for updates, before any of
	// them has failed, and then one at a time.
	require.LessOrEqual(t, proxy.Accepted()-before, int64(100))
	restore()
	requireWorks(t, s)
}

// Those whose turn to connect it is not get the outcome of the last
// attempt, so that no error hides what is wrong.
func TestEveryErrorSaysWhyThereIsNoConnection(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, patient(server.Addr))
	server.Kill()
	for range 50 {
		_, err := s.Get(t.Context(), "key")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	}
}

// A server that has too many clients says so and hangs up, on every connection.
func TestTooManyClients(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	s := open(t, patient(proxy.Addr))
	require.NoError(t, sessiontest.Put(t.Context(), s, "kept", []byte("value"), 0))
	const many = 3
	var others [many]net.Conn
	for i := range others {
		other, err := net.Dial("tcp", server.Addr)
		require.NoError(t, err)
		defer other.Close()
		others[i] = other
	}
	server.Do(t, "config", "set", "maxclients", fmt.Sprint(many))
	proxy.Cut()
	require.Eventually(t, func() bool {
		err := requireFault(t, func() error { return increment(t.Context(), s, "counter") })
		return strings.Contains(err.Error(), "max number of clients reached")
	}, recovery, time.Millisecond)
	requireFault(t, func() error {
		_, err := s.Get(t.Context(), "kept")
		return err
	})
	for _, other := range others {
		require.NoError(t, other.Close())
	}
	requireWorks(t, s)
}

// The restart of a server breaks all connections, also the many that lie idle
// after a busy time. No caller notices them.
func TestRestartWithIdleConnections(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, patient(server.Addr))
	const many = 20
	var held atomic.Int64
	enough := make(chan struct{})
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			_ = s.Update(t.Context(), fmt.Sprint("key", i), func([]byte) ([]byte, time.Duration, error) {
				if held.Add(1) == many {
					close(enough)
				}
				<-enough
				return nil, 0, nil
			})
		})
	}
	all.Wait()
	server.Kill()
	server.Restart(t)
	for range many {
		require.NoError(t, increment(t.Context(), s, "counter"))
	}
}
