package redisstore_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
)

// patient are options for tests that are not about timeouts, on machines that
// are busy with something else.
func patient(addresses ...string) redisstore.Options {
	return redisstore.Options{
		Addresses:   addresses,
		DialTimeout: 20 * time.Second,
		Timeout:     20 * time.Second,
		ClientCache: true,
	}
}

// open opens a store that the test's end closes.
func open(t testing.TB, o redisstore.Options) session.Store {
	t.Helper()
	s, err := redisstore.Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// increment adds one to the decimal number under key.
func increment(ctx context.Context, s session.Store, key string) error {
	return s.Update(ctx, key, func(old []byte) ([]byte, time.Duration, error) {
		n := 0
		if old != nil {
			var err error
			if n, err = strconv.Atoi(string(old)); err != nil {
				return nil, 0, err
			}
		}
		return []byte(strconv.Itoa(n + 1)), time.Hour, nil
	})
}

func TestStoreHasTheAbilitiesOfItsServer(t *testing.T) {
	server := redistest.Start(t)
	for _, clientCache := range []bool{true, false} {
		t.Run(fmt.Sprintf("client_cache=%t", clientCache), func(t *testing.T) {
			o := patient(server.Addr)
			o.ClientCache = clientCache
			s := open(t, o)
			_, observes := s.(session.Observer)
			require.Equal(t, clientCache, observes)
			require.Implements(t, (*session.Pinger)(nil), s)
			require.Implements(t, (*session.Counter)(nil), s)
			require.Implements(t, (*session.Scanner)(nil), s)
			require.NotImplements(t, (*session.Syncer)(nil), s)
			require.NoError(t, s.(session.Pinger).Ping(t.Context()))
		})
	}
}

func TestUpdatesOfOneKeyAllHappen(t *testing.T) {
	tests := []struct {
		name   string
		stores int
	}{
		{"by many goroutines", 1},
		{"by many goroutines of several processes", 3},
	}
	server := redistest.Start(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			const goroutines, each = 64, 5
			key := "counter " + tt.name
			var all sync.WaitGroup
			var stores []session.Store
			for range tt.stores {
				s := open(t, patient(server.Addr))
				stores = append(stores, s)
				for range goroutines {
					all.Go(func() {
						for range each {
							if err := increment(t.Context(), s, key); err != nil {
								t.Error(err)
								return
							}
						}
					})
				}
			}
			all.Wait()
			for _, s := range stores {
				value, err := s.Get(t.Context(), key)
				require.NoError(t, err)
				require.Equal(t, strconv.Itoa(tt.stores*goroutines*each), string(value))
			}
		})
	}
}

// Who waits too long for another writer of the same key has met no outage: it
// would refuse the logins of all.
func TestContentionIsNoOutage(t *testing.T) {
	o := patient(redistest.Start(t).Addr)
	o.Timeout = impatience
	s := open(t, o)
	entered, leave := make(chan struct{}), make(chan struct{})
	var other sync.WaitGroup
	other.Go(func() {
		_ = s.Update(t.Context(), "user:a", func([]byte) ([]byte, time.Duration, error) {
			close(entered)
			<-leave
			return nil, 0, nil
		})
	})
	<-entered
	err := s.Update(t.Context(), "user:a", same)
	close(leave)
	other.Wait()
	require.ErrorIs(t, err, session.ErrConflict)
	require.NotErrorIs(t, err, session.ErrUnavailable)
	require.NoError(t, s.(session.RoomChecker).Room())
}
