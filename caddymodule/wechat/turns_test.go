package wechat_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// loginsFrom starts n logins of one source, one after the other, and returns when all of them wait.
func loginsFrom(group *sync.WaitGroup, client *wechat.Client, source string, n int, done func(i int, err error)) {
	for i := range n {
		group.Go(func() {
			_, err := client.Code2SessionFrom(context.Background(), source, appID, fmt.Sprintf("%s-%d", source, i))
			done(i, err)
		})
		synctest.Wait()
	}
}

func TestSourcesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, func(cfg *wechat.Config) { cfg.Concurrency, cfg.Timeout = 1, time.Hour })
		fake.Script(fakewechat.Script{Hold: true})
		var group sync.WaitGroup
		ignore := func(int, error) {}
		loginsFrom(&group, client, "flood", 51, ignore)
		loginsFrom(&group, client, "alice", 2, ignore)
		loginsFrom(&group, client, "bob", 1, ignore)
		fake.Release()
		group.Wait()

		var order []string
		for _, call := range fake.Calls() {
			order = append(order, call.Code)
		}
		require.Equal(t, []string{"flood-0", "flood-1", "alice-0", "bob-0", "flood-2", "alice-1", "flood-3", "flood-4"}, order[:8])
		require.Len(t, order, 54)
		require.Zero(t, client.InFlight())
	})
}

// Beyond 64 waiting calls per place, the source with the most of them loses its newest.
func TestTheQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, func(cfg *wechat.Config) { cfg.Concurrency, cfg.Timeout = 2, time.Hour })
		fake.Script(fakewechat.Script{Hold: true}, fakewechat.Script{Hold: true})
		var group sync.WaitGroup
		var mu sync.Mutex
		refused := make(map[string][]int)
		note := func(source string) func(int, error) {
			return func(i int, err error) {
				if errors.Is(err, wechat.Busy) {
					mu.Lock()
					defer mu.Unlock()
					refused[source] = append(refused[source], i)
				}
			}
		}
		loginsFrom(&group, client, "flood", 2+128, note("flood"))
		require.Empty(t, refused)
		loginsFrom(&group, client, "alice", 3, note("alice"))
		require.Equal(t, map[string][]int{"flood": {129, 128, 127}}, refused)
		loginsFrom(&group, client, "flood", 1, note("again"))
		require.Equal(t, []int{0}, refused["again"], "the newest is its own")
		fake.Release()
		group.Wait()
		require.Empty(t, refused["alice"])
		require.Zero(t, client.InFlight())
	})
}

func TestWhoLeavesTheQueueTakesNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake := newMemClient(t, func(cfg *wechat.Config) { cfg.Concurrency = 1 })
		fake.Script(fakewechat.Script{Hold: true})
		var held sync.WaitGroup
		held.Go(func() { requireLogin(t, client, fake) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := client.Code2SessionFrom(ctx, "alice", appID, "code")
		require.False(t, requireKind(t, wechat.Canceled, err).Sent)
		require.Equal(t, 2500*time.Millisecond, timed(func() {
			_, err := client.Code2SessionFrom(t.Context(), "alice", appID, "code")
			require.False(t, requireKind(t, wechat.Busy, err).Sent)
		}))
		fake.Release()
		held.Wait()
		require.Zero(t, client.InFlight())
		requireLogin(t, client, fake)
	})
}

// A client chooses its code, so a short one must not take WeChat's words apart.
func TestOnlyLongCodesAreRedacted(t *testing.T) {
	for code, want := range map[string]string{
		"invalid":            "invalid code invalid",
		"e":                  "invalid code e",
		"[redacted]":         "invalid code [redacted]",
		"code-of-21-letters": "invalid code [redacted]",
	} {
		fake := newFake()
		client := newClient(t, fake, nil)
		fake.Script(fakewechat.Body(`{"errcode":40029,"errmsg":"invalid code ` + code + `, rid: 1"}`))
		_, err := client.Code2Session(t.Context(), appID, code)
		require.Equal(t, want, requireKind(t, wechat.InvalidCode, err).Errmsg)
	}
	fake := newFake()
	client := newClient(t, fake, func(cfg *wechat.Config) { cfg.MiniPrograms[0].OldSecret = "redacted" })
	fake.Script(fakewechat.Body(`{"errcode":40029,"errmsg":"` + secret + strings.Repeat(" redacted", 3) + `"}`))
	_, err := client.Code2Session(t.Context(), appID, "code")
	require.Equal(t, "[redacted]"+strings.Repeat(" [redacted]", 3), requireKind(t, wechat.InvalidCode, err).Errmsg)
}
