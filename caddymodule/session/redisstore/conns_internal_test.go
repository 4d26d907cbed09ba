package redisstore

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// After a failure one attempt to connect is made at a time, after a pause that
// grows, until one succeeds.
func TestOneAttemptAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const address = "127.0.0.1:6379"
		p, down := newPaces(), errors.New("connection refused")
		start := func() *attempt {
			a, err := p.startAttempt(address)
			require.NoError(t, err)
			return a
		}
		requireRest := func() {
			t.Helper()
			_, err := p.startAttempt(address)
			require.ErrorIs(t, err, errResting)
			require.ErrorIs(t, err, down, "the reason of the last failure")
		}

		one, two := start(), start() // nothing is known yet
		one.settle(down)
		two.settle(down) // the same failure
		for _, rest := range []time.Duration{10, 20, 40, 80, 160, 160} {
			time.Sleep(rest*time.Millisecond - 1)
			requireRest()
			time.Sleep(time.Nanosecond)
			a := start()
			requireRest() // while it is under way
			time.Sleep(time.Second)
			requireRest()
			a.settle(down)
			a.settle(nil) // only the first counts
		}
		_, err := p.startAttempt("127.0.0.1:6380")
		require.NoError(t, err, "another server")

		time.Sleep(longestRest)
		start().settle(nil)
		start()
		start()
	})
}
