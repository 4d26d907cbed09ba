package wechat_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// isOpen says whether the breaker of a mini program refuses, which shows in
// that WeChat is not called.
func isOpen(t *testing.T, client *wechat.Client, fake *fakewechat.Server, appID string) bool {
	t.Helper()
	code := fake.IssueCode(appID, "probe")
	_, err := client.Code2Session(t.Context(), appID, code)
	if fake.CallsWith(code) > 0 {
		return false
	}
	e := requireKind(t, wechat.Busy, err, code)
	require.False(t, e.Sent)
	require.Positive(t, e.RetryAfter)
	return true
}

func TestWhatOpensTheBreaker(t *testing.T) {
	tests := []struct {
		name   string
		script fakewechat.Script
		opens  bool
	}{
		{"timeout", fakewechat.Script{Hold: true}, true},
		{"status 500", fakewechat.Script{Status: 500}, true},
		{"status 502", fakewechat.Script{Status: 502}, true},
		{"-1", fakewechat.Errcode(-1), true},
		{"45009", fakewechat.Errcode(45009), true},

		// What a client's code can bring about must not shut the others out: a firewall
		// may answer so to a code that looks like an attack.
		{"hang-up", fakewechat.Script{HangUp: fakewechat.HangUpBefore}, false},
		{"hang-up in the body", fakewechat.Script{HangUp: fakewechat.HangUpAfter}, false},
		{"garbage", fakewechat.Body("<html>403 Forbidden</html>"), false},
		{"no openid", fakewechat.Body("{}"), false},
		{"status 403", fakewechat.Script{Status: 403}, false},
		{"status 414", fakewechat.Script{Status: 414}, false},
		{"redirect", fakewechat.Script{Redirect: "/blocked"}, false},
		{"40029", fakewechat.Errcode(40029), false},
		{"40163", fakewechat.Errcode(40163), false},
		{"40226", fakewechat.Errcode(40226), false},
		{"45011", fakewechat.Errcode(45011), false},
		{"41008", fakewechat.Errcode(41008), false},
		{"50002", fakewechat.Errcode(50002), false},
		{"40013", fakewechat.Errcode(40013), false},
		{"40125", fakewechat.Errcode(40125), false},
		{"40164", fakewechat.Errcode(40164), false},
		{"unknown errcode", fakewechat.Errcode(12345), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, fake := newMemClient(t, nil)
				tt.script.Calls = -1
				fake.Script(tt.script)
				for range 5 {
					code := fake.IssueCode(appID, "alice")
					_, err := client.Code2Session(t.Context(), appID, code)
					require.Error(t, err)
					require.Positive(t, fake.CallsWith(code), "still closed")
				}
				fake.Reset()
				require.Equal(t, tt.opens, isOpen(t, client, fake, appID))
				require.False(t, isOpen(t, client, fake, otherAppID), "the other mini program's")
			})
		})
	}
}

func TestASuccessResetsTheBreakersCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, nil)
		for range 3 {
			failures := fakewechat.Errcode(45009)
			failures.Calls = 4
			fake.Script(failures)
			for range 4 {
				_, err := client.Code2Session(t.Context(), appID, "code")
				requireKind(t, wechat.Busy, err)
			}
			requireLogin(t, client, fake)
		}
	})
}

func TestTheBreakerClosesByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, nil)
		fake.Script(fakewechat.Script{Errcode: new(int64(45009)), Calls: 5})
		for range 5 {
			_, err := client.Code2Session(t.Context(), appID, "code")
			requireKind(t, wechat.Busy, err)
		}

		// RetryAfter is what is left of ten seconds, and true.
		for left := 10 * time.Second; left > 0; left -= time.Second {
			_, err := client.Code2Session(t.Context(), appID, "code")
			e := requireKind(t, wechat.Busy, err)
			require.Equal(t, left, e.RetryAfter)
			require.False(t, e.HasErrcode)
			pass(time.Second)
		}
		require.Len(t, fake.Calls(), 5)
		pass(time.Millisecond)

		// One probe at a time.
		fake.Script(fakewechat.Script{Hold: true})
		probe := make(chan error, 1)
		go func() {
			_, err := client.Code2Session(t.Context(), appID, fake.IssueCode(appID, "alice"))
			probe <- err
		}()
		synctest.Wait()
		require.True(t, isOpen(t, client, fake, appID))
		fake.Release()
		require.NoError(t, <-probe)
		for range 3 {
			requireLogin(t, client, fake)
		}
	})
}

func TestAFailedProbeOpensTheBreakerAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, nil)
		fake.Script(fakewechat.Script{Errcode: new(int64(45009)), Calls: 6})
		for range 5 {
			_, err := client.Code2Session(t.Context(), appID, "code")
			requireKind(t, wechat.Busy, err)
		}
		pass(10*time.Second + time.Millisecond)
		require.False(t, isOpen(t, client, fake, appID), "this is the probe")
		require.True(t, isOpen(t, client, fake, appID))
		pass(10*time.Second + time.Millisecond)
		requireLogin(t, client, fake)
	})
}

// A probe whose caller goes away has proved nothing, and the next one is let through.
func TestACanceledProbeProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, nil)
		fake.Script(fakewechat.Script{Errcode: new(int64(45009)), Calls: 5}, fakewechat.Script{Hold: true})
		for range 5 {
			_, err := client.Code2Session(t.Context(), appID, "code")
			requireKind(t, wechat.Busy, err)
		}
		pass(10*time.Second + time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := client.Code2Session(ctx, appID, "code")
		requireKind(t, wechat.Canceled, err)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		requireLogin(t, client, fake)
	})
}

func TestCanceledCallersDoNotOpenTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, nil)
		fake.Script(fakewechat.Script{Hold: true, Calls: 20})
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := client.Code2Session(ctx, appID, "code")
			cancel()
			requireKind(t, wechat.Canceled, err)
		}
		requireLogin(t, client, fake)
	})
}

// Those who wait for a place when the breaker opens are refused, not sent after the rest.
func TestTheBreakerRefusesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, func(cfg *wechat.Config) { cfg.Concurrency = 5 })
		fake.Script(fakewechat.Script{Status: 502, DelayMS: 1000, Calls: -1})
		errs := make(chan error)
		for range 50 {
			go func() {
				_, err := client.Code2Session(t.Context(), appID, "code")
				errs <- err
			}()
		}
		kinds := make(map[wechat.Kind]int)
		took := timed(func() {
			for range 50 {
				var e *wechat.Error
				require.ErrorAs(t, <-errs, &e)
				kinds[e.Kind]++
			}
		})
		// Between the first and the fifth failure four more may have gone.
		calls := len(fake.Calls())
		require.GreaterOrEqual(t, calls, 5)
		require.LessOrEqual(t, calls, 9)
		require.Equal(t, map[wechat.Kind]int{wechat.BadReply: calls, wechat.Busy: 50 - calls}, kinds)
		require.LessOrEqual(t, took, 2*time.Second)
	})
}

// While another mini program has all the places, an open breaker still answers at once.
func TestTheBreakerRefusesBeforeTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, func(cfg *wechat.Config) { cfg.Concurrency = 1 })
		fake.Script(fakewechat.Script{Errcode: new(int64(45009)), Calls: 5}, fakewechat.Script{Hold: true})
		for range 5 {
			_, err := client.Code2Session(t.Context(), appID, "code")
			requireKind(t, wechat.Busy, err)
		}
		var other sync.WaitGroup
		other.Go(func() {
			_, err := client.Code2Session(t.Context(), otherAppID, fake.IssueCode(otherAppID, "bob"))
			require.NoError(t, err)
		})
		synctest.Wait()
		require.Equal(t, 1, client.InFlight())
		require.Zero(t, timed(func() { require.True(t, isOpen(t, client, fake, appID)) }))
		fake.Release()
		other.Wait()
	})
}
