package wechat_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

func TestTheTimeoutBoundsEverything(t *testing.T) {
	openHeader := "HTTP/1.1 200 OK\r\nContent-Type: text/pl"
	tests := []struct {
		name    string
		scripts []fakewechat.Script
	}{
		{"no answer", []fakewechat.Script{{Hold: true}}},
		{"late answer", []fakewechat.Script{{DelayMS: 6000}}},
		{"dripping", []fakewechat.Script{{DripMS: 100}}},
		{"headers that do not end", []fakewechat.Script{{Raw: &openHeader, Stall: true}}},
		{"a body that does not end", []fakewechat.Script{{Truncate: 1, Stall: true}}},
		{"a body that is too short", []fakewechat.Script{{ContentLength: new(int(1000)), Stall: true}}},
		{"busy, then no answer", []fakewechat.Script{fakewechat.Errcode(-1), {Hold: true}}},
		{"secret refused, then no answer", []fakewechat.Script{fakewechat.Errcode(40125), {Hold: true}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, fake := newMemClient(t, func(cfg *wechat.Config) { cfg.MiniPrograms[0].OldSecret = "old" })
				fake.Script(tt.scripts...)
				code := fake.IssueCode(appID, "alice")
				took := timed(func() {
					_, err := client.Code2Session(t.Context(), appID, code)
					e := requireKind(t, wechat.Timeout, err, code)
					require.True(t, e.Sent)
				})
				require.Equal(t, 5*time.Second, took)
				require.Equal(t, len(tt.scripts), fake.CallsWith(code))
				require.Zero(t, client.InFlight())
				requireLogin(t, client, fake)
			})
		})
	}
}

func TestAConnectionThatIsNotMadeSentNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := newMemClient(t, nil)
		network := newMemNet() // in which nothing listens
		defer network.Close()
		client.SetDialContext(network.dial)
		took := timed(func() {
			_, err := client.Code2Session(t.Context(), appID, "code")
			require.False(t, requireKind(t, wechat.Timeout, err).Sent)
		})
		require.Equal(t, 5*time.Second, took)
	})
}

func TestTheRetryComesAfterAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, nil)
		delays := make(map[time.Duration]bool)
		for range 10 {
			fake.Script(fakewechat.Errcode(-1))
			took := timed(func() { requireLogin(t, client, fake) })
			require.GreaterOrEqual(t, took, 100*time.Millisecond)
			require.Less(t, took, 400*time.Millisecond)
			delays[took] = true
		}
		require.Greater(t, len(delays), 1, "the delay is random")
	})
}

func TestThereIsNoRetryWithoutTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, nil)
		busy := fakewechat.Errcode(-1)
		busy.Calls, busy.DelayMS = 2, 4900
		fake.Script(busy)
		took := timed(func() {
			_, err := client.Code2Session(t.Context(), appID, "code")
			requireKind(t, wechat.Busy, err)
		})
		require.Equal(t, 4900*time.Millisecond, took)
		require.Len(t, fake.Calls(), 1)
	})
}

func TestConcurrencyIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, func(cfg *wechat.Config) { cfg.Concurrency = 2 })
		fake.Script(fakewechat.Script{Hold: true, Calls: 2})
		var held sync.WaitGroup
		for range 2 {
			held.Go(func() { requireLogin(t, client, fake) })
		}
		synctest.Wait()
		require.Equal(t, 2, client.InFlight())

		took := timed(func() {
			_, err := client.Code2Session(t.Context(), otherAppID, "code")
			e := requireKind(t, wechat.Busy, err)
			require.False(t, e.Sent)
			require.Equal(t, time.Second, e.RetryAfter)
		})
		require.Equal(t, 2500*time.Millisecond, took, "half of the timeout")

		// One more gets a place as soon as there is one.
		held.Go(func() { requireLogin(t, client, fake) })
		synctest.Wait()
		require.Len(t, fake.Calls(), 2)
		fake.Release()
		held.Wait()
		require.Len(t, fake.Calls(), 3)
		require.Zero(t, client.InFlight())
	})
}

// A call that waited for its place has a fair part of the timeout left, but the timeout
// is for both together.
func TestWaitingCountsAgainstTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, func(cfg *wechat.Config) { cfg.Concurrency = 1 })
		fake.Script(fakewechat.Script{DelayMS: 2000}, fakewechat.Script{Hold: true})
		var first sync.WaitGroup
		first.Go(func() { requireLogin(t, client, fake) })
		synctest.Wait()
		took := timed(func() {
			_, err := client.Code2Session(t.Context(), appID, "code")
			requireKind(t, wechat.Timeout, err)
		})
		require.Equal(t, 5*time.Second, took)
		first.Wait()
	})
}

func TestCloseLetsExchangesFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, nil)
		fake.Script(fakewechat.Script{Hold: true})
		var login sync.WaitGroup
		login.Go(func() { requireLogin(t, client, fake) })
		synctest.Wait()
		client.Close()
		fake.Release()
		login.Wait()
	})
}
