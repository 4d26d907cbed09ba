package badgerstore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// Writers that come together share transactions.
func TestCommitsAreShared(t *testing.T) {
	s := open(t, t.TempDir())
	const writers, rounds = 64, 20
	before := s.Version()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				assert.NoError(t, sessiontest.Put(t.Context(), s, fmt.Sprintf("session:%d-%d", w, i), []byte("v"), time.Hour))
				assert.NoError(t, s.Sync(t.Context()))
			}
		})
	}
	wg.Wait()
	require.Less(t, s.Version()-before, uint64(writers*rounds/2))
}

// Both writes of a login are one transaction.
func TestLoginIsOneCommit(t *testing.T) {
	s := open(t, t.TempDir())
	m := manage(t, s)
	login(t, m, "oFirst")
	before := s.Version()
	login(t, m, "oSecond")
	require.LessOrEqual(t, s.Version()-before, uint64(2), "a slow machine may take two")
}

// A write that is not synced is committed soon, so that a kill loses little.
func TestUnsyncedWritesAreCommitted(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	before := s.Version()
	require.NoError(t, sessiontest.Put(t.Context(), s, "session:a", []byte("v"), time.Hour))
	require.Eventually(t, func() bool { return s.Version() > before }, 10*time.Second, time.Millisecond)
	crash := t.TempDir()
	copyDir(t, dir, crash)
	value, err := open(t, crash).Get(t.Context(), "session:a")
	require.NoError(t, err)
	require.Equal(t, "v", string(value))
}

// More is written at once than a transaction takes.
func TestTransactionsAreBounded(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	value := make([]byte, 100<<10)
	for i := range 200 {
		wg.Go(func() {
			assert.NoError(t, sessiontest.Put(t.Context(), s, fmt.Sprint("session:", i), value, time.Hour))
			assert.NoError(t, s.Sync(t.Context()))
		})
	}
	for i := range 64 {
		wg.Go(func() {
			for j := range 1000 {
				assert.NoError(t, sessiontest.Put(t.Context(), s, fmt.Sprint(i, "-", j), nil, time.Hour))
			}
		})
	}
	wg.Wait()
	require.NoError(t, s.Sync(t.Context()))
	n, err := s.Count(t.Context(), "session:", one)
	require.NoError(t, err)
	require.EqualValues(t, 200, n)
}

// A caller who gives up does not take the commit from the others.
func TestSyncOutlivesItsFirstCaller(t *testing.T) {
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: t.TempDir(), SyncWrites: true})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, sessiontest.Put(t.Context(), s, "session:a", []byte("v"), time.Hour))
	cancel()
	require.ErrorIs(t, s.Sync(ctx), context.Canceled)
	require.NoError(t, s.Sync(t.Context()))
	require.NoError(t, s.Close())
}

// Close under load: what was acknowledged is there afterwards.
func TestCloseUnderLoad(t *testing.T) {
	dir := t.TempDir()
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir, SyncWrites: true})
	require.NoError(t, err)
	var mu sync.Mutex
	acknowledged := make(map[string]bool)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("session:%d-%d", w, i)
				if sessiontest.Put(t.Context(), s, key, []byte("v"), time.Hour) != nil || s.Sync(t.Context()) != nil {
					return
				}
				mu.Lock()
				acknowledged[key] = true
				mu.Unlock()
			}
		})
	}
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged) > 500
	}, time.Minute, time.Millisecond)
	require.NoError(t, s.Close())
	wg.Wait()
	again := open(t, dir)
	for key := range acknowledged {
		_, err := again.Get(t.Context(), key)
		require.NoError(t, err)
	}
}
