package wechat_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

const stablePath = "/cgi-bin/stable_token"

// A fetchLog keeps what an API reports about its tokens.
type fetchLog struct {
	mu      sync.Mutex
	fetches []wechat.TokenFetch
}

func (l *fetchLog) report(f wechat.TokenFetch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fetches = append(l.fetches, f)
}

func (l *fetchLog) modes() (modes []wechat.TokenMode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.fetches {
		modes = append(modes, f.Mode)
	}
	return modes
}

func (l *fetchLog) last() wechat.TokenFetch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fetches[len(l.fetches)-1]
}

// newMemAPI returns an API of a sandbox, both in the test's bubble.
func newMemAPI(t *testing.T, change func(*wechat.APIConfig)) (*wechat.API, *fakewechat.Server, *fetchLog) {
	t.Helper()
	fake := newFake()
	network := newMemNet()
	server := &http.Server{Handler: fake}
	done := make(chan error, 1)
	go func() { done <- server.Serve(network) }()
	log := new(fetchLog)
	cfg := wechat.APIConfig{
		Config: wechat.Config{
			BaseURL:      "http://127.0.0.1",
			Timeout:      30 * time.Second,
			MiniPrograms: []wechat.MiniProgram{{AppID: appID, Secret: secret}, {AppID: otherAppID, Secret: otherSecret}},
		},
		Report: log.report,
	}
	if change != nil {
		change(&cfg)
	}
	api, err := wechat.NewAPI(cfg)
	require.NoError(t, err)
	api.SetDialContext(network.dial)
	t.Cleanup(func() {
		api.Close()
		fake.Close()
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	return api, fake, log
}

func requireToken(t *testing.T, api *wechat.API, want string) {
	t.Helper()
	token, err := api.Tokens().Get(t.Context(), appID)
	require.NoError(t, err)
	require.Equal(t, want, token)
}

// requireNewest requires the token that stable_token gives out.
func requireNewest(t *testing.T, api *wechat.API, fake *fakewechat.Server) {
	t.Helper()
	token, err := api.Tokens().Get(t.Context(), appID)
	require.NoError(t, err)
	require.Equal(t, fake.Token(appID), token)
}

func tokenCalls(fake *fakewechat.Server) int { return len(fake.CallsTo(stablePath)) }

func TestATokenIsFetchedOnceAndRenewedInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, fake, _ := newMemAPI(t, nil)
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				_, err := api.Tokens().Get(t.Context(), appID)
				require.NoError(t, err)
			})
		}
		all.Wait()
		require.Equal(t, 1, tokenCalls(fake))
		first := fake.Token(appID)
		pass(2*time.Hour - 5*time.Minute - time.Second)
		requireToken(t, api, first)
		synctest.Wait()
		require.Equal(t, 1, tokenCalls(fake), "five minutes are left")

		pass(time.Second)
		fake.Script(fakewechat.Script{Path: stablePath, Hold: true})
		require.Zero(t, timed(func() { requireToken(t, api, first) }), "the old one serves while the next is fetched")
		synctest.Wait()
		requireToken(t, api, first)
		require.Equal(t, 2, tokenCalls(fake), "one request is under way")
		fake.Release()
		synctest.Wait()
		require.NotEqual(t, first, fake.Token(appID))
		requireNewest(t, api, fake)
		require.Equal(t, 2, tokenCalls(fake))
	})
}

func TestTokensWithLittleTimeLeft(t *testing.T) {
	for _, tt := range []struct {
		left, renewed time.Duration // renewed is when the next request is made in the background
	}{
		{345 * time.Second, 45 * time.Second},
		{300 * time.Second, 10 * time.Second},
		{20 * time.Second, 10 * time.Second},
	} {
		t.Run(tt.left.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api, fake, _ := newMemAPI(t, nil)
				short := fake.SetToken(appID, tt.left)
				requireToken(t, api, short)
				pass(tt.renewed - time.Millisecond)
				requireToken(t, api, short)
				synctest.Wait()
				require.Equal(t, 1, tokenCalls(fake))
				pass(time.Millisecond)
				requireToken(t, api, short)
				synctest.Wait()
				require.Equal(t, 2, tokenCalls(fake))
				pass(tt.left)
				requireNewest(t, api, fake)
			})
		})
	}
	t.Run("1s", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			api, fake, _ := newMemAPI(t, nil)
			short := fake.SetToken(appID, time.Second)
			requireToken(t, api, short)
			pass(time.Second)
			requireNewest(t, api, fake)
			require.NotEqual(t, short, fake.Token(appID))
			require.Equal(t, 2, tokenCalls(fake))
		})
	})
}

func TestAnOutageOfStableTokenGoesUnnoticedUntilTheTokenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, fake, log := newMemAPI(t, nil)
		first := fake.SetToken(appID, 10*time.Minute)
		requireToken(t, api, first)
		fake.Script(fakewechat.Script{Path: stablePath, Calls: -1, Status: 500})
		pass(5 * time.Minute)
		for range 299 {
			requireToken(t, api, first)
			pass(time.Second)
		}
		// 1, 2, 4, 8, 16, 32 and then 60 seconds apart.
		require.Equal(t, 1+10, tokenCalls(fake))
		pass(time.Second)
		_, err := api.Tokens().Get(t.Context(), appID)
		e := requireKind(t, wechat.Busy, err, first)
		require.False(t, e.Sent)
		require.Positive(t, e.RetryAfter)
		require.LessOrEqual(t, e.RetryAfter, time.Minute)
		calls := tokenCalls(fake)
		for range 1000 {
			_, err := api.Tokens().Get(t.Context(), appID)
			requireKind(t, wechat.Busy, err)
		}
		require.Equal(t, calls, tokenCalls(fake), "a request is made when its time has come, not for each call")
		require.Equal(t, wechat.BadReply, log.last().Err.Kind)
		require.True(t, log.last().Repeated)

		fake.Reset()
		pass(time.Minute)
		_, err = api.Tokens().Get(t.Context(), appID)
		require.NoError(t, err)
		require.True(t, log.last().Recovered)
	})
}

func TestARequestForATokenThatHangsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, fake, log := newMemAPI(t, nil)
		fake.Script(fakewechat.Script{Path: stablePath, Hold: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Equal(t, time.Second, timed(func() {
			_, err := api.Tokens().Get(ctx, appID)
			requireKind(t, wechat.Busy, err)
		}), "the caller's time")
		require.Equal(t, 9*time.Second, timed(func() {
			_, err := api.Tokens().Get(t.Context(), appID)
			requireKind(t, wechat.Busy, err)
		}), "the request's time")
		require.Equal(t, wechat.Timeout, log.last().Err.Kind)
	})
}

func TestTheOldSecretIsTriedForATokenToo(t *testing.T) {
	for _, errcode := range []int64{40125, 40001} {
		t.Run(fmt.Sprint(errcode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api, fake, log := newMemAPI(t, func(cfg *wechat.APIConfig) {
					cfg.MiniPrograms[0] = wechat.MiniProgram{AppID: appID, Secret: "canary-new", OldSecret: secret}
				})
				script := fakewechat.Errcode(errcode)
				script.Path = stablePath
				fake.Script(script)
				_, err := api.Tokens().Get(t.Context(), appID)
				require.NoError(t, err)
				require.Equal(t, 2, tokenCalls(fake))
				require.Nil(t, log.last().Err)
			})
		})
	}
}

func TestAWrongSecretIsNotAskedForAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, fake, log := newMemAPI(t, func(cfg *wechat.APIConfig) { cfg.MiniPrograms[0].Secret = "canary-wrong" })
		start := time.Now()
		for time.Since(start) < time.Hour {
			_, err := api.Tokens().Get(t.Context(), appID)
			requireKind(t, wechat.Busy, err, "canary-wrong")
			pass(500 * time.Millisecond)
		}
		require.Less(t, tokenCalls(fake), 70)
		e := log.last().Err
		require.EqualValues(t, 40125, e.Errcode)
		require.Contains(t, e.Error(), "fetching an access_token: wechat_rejected_gateway: errcode 40125")
		require.Contains(t, e.Cure(), "AppSecret")

		// Another mini program does not suffer from it.
		_, err := api.Tokens().Get(t.Context(), otherAppID)
		require.NoError(t, err)
		_, err = api.Tokens().Get(t.Context(), "wx00000000deadbeef")
		requireKind(t, wechat.BadRequest, err)
	})
}

func TestCures(t *testing.T) {
	for errcode, tt := range map[int64]struct{ errmsg, want string }{
		40164: {"invalid ip 8.149.1.2 ipv6 ::ffff:8.149.1.2, not in whitelist rid: 1-2-3", "add 8.149.1.2 to the mini program's API IP 白名单"},
		40243: {"appsecret is frozen", "unfreeze"},
		89503: {"ip needs to be confirmed", "administrator must confirm"},
		40013: {"invalid appid", ""},
	} {
		t.Run(fmt.Sprint(errcode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api, fake, log := newMemAPI(t, nil)
				fake.Script(fakewechat.Script{Path: stablePath, Errcode: &errcode, Errmsg: tt.errmsg})
				_, err := api.Tokens().Get(t.Context(), appID)
				requireKind(t, wechat.Busy, err)
				cure := log.last().Err.Cure()
				require.True(t, tt.want != "" && strings.Contains(cure, tt.want) || cure == tt.want, cure)
			})
		})
	}
	forged := int64(40164)
	synctest.Test(t, func(t *testing.T) {
		api, fake, log := newMemAPI(t, nil)
		fake.Script(fakewechat.Script{Path: stablePath, Errcode: &forged, Errmsg: "invalid ip 8.8.8, or not"})
		_, _ = api.Tokens().Get(t.Context(), appID)
		require.Contains(t, log.last().Err.Cure(), "add this gateway's address to")
	})
}

func TestTokenRepliesAreReadStrictly(t *testing.T) {
	for name, body := range map[string]string{
		"not JSON":         `access_token=x`,
		"a list":           `[]`,
		"twice":            `{"access_token":"a","Access_Token":"b","expires_in":7200}`,
		"no token":         `{"expires_in":7200}`,
		"empty token":      `{"access_token":"","expires_in":7200}`,
		"a line feed":      `{"access_token":"a\nb","expires_in":7200}`,
		"a blank":          `{"access_token":"a b","expires_in":7200}`,
		"not ASCII":        `{"access_token":"é","expires_in":7200}`,
		"too long":         `{"access_token":"` + strings.Repeat("a", 2049) + `","expires_in":7200}`,
		"no expires_in":    `{"access_token":"a"}`,
		"0 seconds":        `{"access_token":"a","expires_in":0}`,
		"negative":         `{"access_token":"a","expires_in":-1}`,
		"more than 2 h":    `{"access_token":"a","expires_in":7201}`,
		"a fraction":       `{"access_token":"a","expires_in":1.5}`,
		"errcode an array": `{"errcode":[],"access_token":"a","expires_in":7200}`,
		"an errcode, too":  `{"errcode":40013,"access_token":"a","expires_in":7200}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api, fake, _ := newMemAPI(t, nil)
				script := fakewechat.Body(body)
				script.Path = stablePath
				fake.Script(script)
				_, err := api.Tokens().Get(t.Context(), appID)
				requireKind(t, wechat.Busy, err)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		api, fake, _ := newMemAPI(t, nil)
		long := strings.Repeat("a", 2048)
		script := fakewechat.Body(`{"errcode":"0","access_token":"` + long + `","expires_in":7200,"more":1}`)
		script.Path = stablePath
		fake.Script(script)
		requireToken(t, api, long)
	})
}

func TestReplacingARefusedToken(t *testing.T) {
	t.Run("somebody forced a refresh", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			api, fake, log := newMemAPI(t, nil)
			first, err := api.Tokens().Get(t.Context(), appID)
			require.NoError(t, err)
			pass(12 * time.Minute)
			fake.Revoke(appID, false)
			next, ok := api.Tokens().Replace(t.Context(), appID, first)
			require.True(t, ok)
			require.Equal(t, fake.Token(appID), next)
			require.Equal(t, []wechat.TokenMode{wechat.TokenNormal, wechat.TokenRefused}, log.modes())
			require.Equal(t, 12*time.Minute, log.last().RefusedAfter)
			// A caller who comes late with the dead one gets what there is.
			next, ok = api.Tokens().Replace(t.Context(), appID, first)
			require.True(t, ok)
			require.Equal(t, fake.Token(appID), next)
			require.Len(t, log.modes(), 2)
		})
	})
	t.Run("stable_token gives the refused one again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			api, fake, log := newMemAPI(t, nil)
			first, err := api.Tokens().Get(t.Context(), appID)
			require.NoError(t, err)
			fake.Revoke(appID, true)
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() {
					next, ok := api.Tokens().Replace(t.Context(), appID, first)
					require.True(t, ok)
					require.NotEqual(t, first, next)
				})
			}
			all.Wait()
			require.Equal(t, []wechat.TokenMode{wechat.TokenNormal, wechat.TokenRefused, wechat.TokenForced}, log.modes())
			require.Zero(t, log.last().RefusedAfter)
		})
	})
	t.Run("forced refreshes are limited", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			api, fake, log := newMemAPI(t, nil)
			forced := func() (n int) {
				for _, mode := range log.modes() {
					if mode == wechat.TokenForced {
						n++
					}
				}
				return n
			}
			refuse := func() bool {
				token, err := api.Tokens().Get(t.Context(), appID)
				require.NoError(t, err)
				fake.Revoke(appID, true)
				_, ok := api.Tokens().Replace(t.Context(), appID, token)
				return ok
			}
			require.True(t, refuse())
			pass(10*time.Minute - time.Second)
			require.False(t, refuse(), "ten minutes are not over")
			require.Equal(t, 1, forced())
			pass(20 * time.Minute)
			for range 4 {
				require.True(t, refuse())
				pass(20 * time.Minute)
			}
			require.Equal(t, 5, forced())
			require.False(t, refuse(), "five a day")
			pass(24 * time.Hour)
			require.True(t, refuse())
			require.Equal(t, 6, forced())
		})
	})
	t.Run("requests are limited", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			api, fake, _ := newMemAPI(t, nil)
			for range 1000 {
				token, err := api.Tokens().Get(t.Context(), appID)
				require.NoError(t, err)
				fake.Revoke(appID, false)
				api.Tokens().Replace(t.Context(), appID, token)
			}
			require.Equal(t, 1+4, tokenCalls(fake))
			pass(time.Minute)
			token, err := api.Tokens().Get(t.Context(), appID)
			require.NoError(t, err)
			_, ok := api.Tokens().Replace(t.Context(), appID, token)
			require.True(t, ok)
		})
	})
	t.Run("during an outage", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			api, fake, _ := newMemAPI(t, nil)
			token, err := api.Tokens().Get(t.Context(), appID)
			require.NoError(t, err)
			fake.Script(fakewechat.Script{Path: stablePath, Calls: -1, HangUp: fakewechat.HangUpBefore})
			_, ok := api.Tokens().Replace(t.Context(), appID, token)
			require.False(t, ok)
			requireToken(t, api, token)
		})
	})
}

func TestAReloadKeepsTheTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, fake, _ := newMemAPI(t, nil)
		token, err := api.Tokens().Get(t.Context(), appID)
		require.NoError(t, err)
		next, other, _ := newMemAPI(t, nil)
		next.ShareTokens(api)
		requireToken(t, next, token)
		require.Zero(t, tokenCalls(other))
		require.Equal(t, 1, tokenCalls(fake))

		elsewhere, third, _ := newMemAPI(t, func(cfg *wechat.APIConfig) { cfg.BaseURL = "http://localhost" })
		elsewhere.ShareTokens(api)
		requireNewest(t, elsewhere, third)
	})
}
