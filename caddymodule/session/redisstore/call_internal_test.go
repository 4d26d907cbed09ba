package redisstore

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A caller does not wait for an exchange that cannot be interrupted, and the
// exchange, which others may share, does not end with the caller.
func TestCallersLeaveExchanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Store{timeout: time.Second, lanes: newLanes()}
		s.option.Dialer.Timeout = 5 * time.Second
		ended := make(chan error, 1)
		begin := time.Now()
		_, err := call(t.Context(), s, 0, func(ctx context.Context) (struct{}, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return struct{}{}, nil
		})
		require.ErrorIs(t, err, errNoAnswer)
		require.Equal(t, s.timeout, time.Since(begin))
		require.Empty(t, ended)
		s.exchanges.Wait()
		require.ErrorIs(t, <-ended, context.DeadlineExceeded)
		require.Equal(t, s.timeout+2*s.option.Dialer.Timeout, time.Since(begin), "time to make a connection")

		gone := errors.New("the caller has gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Millisecond, func() { cancel(gone) })
		_, err = call(ctx, s, 0, func(context.Context) (int, error) {
			time.Sleep(2 * time.Second)
			return 1, nil
		})
		require.ErrorIs(t, err, gone)
		s.exchanges.Wait()
		require.Empty(t, s.lanes.of(0), "the place is given back")
	})
}
