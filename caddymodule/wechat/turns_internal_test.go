package wechat

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A place that is given at the very moment in which its source leaves is given on.
func TestAPlaceGivenToWhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		places := newTurns(1)
		for range 1000 {
			require.Nil(t, places.take(context.Background(), "one", time.Second))
			var waits sync.WaitGroup
			waits.Go(func() {
				if places.take(context.Background(), "two", time.Second) == nil {
					places.release()
				}
			})
			synctest.Wait()
			time.Sleep(time.Second)
			places.release()
			waits.Wait()
			require.Zero(t, places.inFlight())
		}
	})
}
