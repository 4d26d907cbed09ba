package storekit_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

func TestCallsCloseWaitsForCallsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := storekit.NewCalls()
		require.NoError(t, calls.Enter())
		require.NoError(t, calls.Enter(), "a call within a call")
		require.NoError(t, calls.Stopping().Err())

		var firsts, closed int
		var mu sync.Mutex
		for range 3 {
			go func() {
				first := calls.Close()
				mu.Lock()
				defer mu.Unlock()
				closed++
				if first {
					firsts++
				}
			}()
		}
		synctest.Wait()
		require.Error(t, calls.Stopping().Err())
		require.ErrorIs(t, calls.Enter(), session.ErrClosed)
		require.Zero(t, closed)
		calls.Leave()
		synctest.Wait()
		require.Zero(t, closed)
		calls.Leave()
		synctest.Wait()
		require.Equal(t, 3, closed)
		require.Equal(t, 1, firsts)
	})
}

func TestObservers(t *testing.T) {
	var o storekit.Observers
	o.Changed("before")
	var first, second []string
	cancelFirst := o.Add(func(key string) { first = append(first, key) })
	cancelSecond := o.Add(func(key string) { second = append(second, key) })
	o.Changed("both")
	cancelFirst()
	cancelFirst()
	o.Changed("")
	cancelSecond()
	o.Changed("after")
	require.Equal(t, []string{"both"}, first)
	require.Equal(t, []string{"both", ""}, second)
}

func TestKeyLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		locks := storekit.NewKeyLocks()
		unlock, err := locks.Lock(t.Context(), "key")
		require.NoError(t, err)

		gone := context.Canceled
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(gone)
		_, err = locks.Lock(ctx, "key")
		require.ErrorIs(t, err, gone)

		got := make(chan func(), 1)
		go func() {
			unlock, err := locks.Lock(t.Context(), "key")
			assert.NoError(t, err)
			got <- unlock
		}()
		synctest.Wait()
		require.Empty(t, got)
		unlock()
		(<-got)()
	})
}
