package wechat_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

const checkPath = "/wxa/msg_sec_check"

// newAPI returns an API of a sandbox that listens on loopback.
func newAPI(t testing.TB, change func(*wechat.APIConfig)) (*wechat.API, *fakewechat.Server) {
	t.Helper()
	fake := newFake()
	server := httptest.NewServer(fake)
	t.Cleanup(func() {
		fake.Close()
		server.Close()
	})
	cfg := wechat.APIConfig{Config: wechat.Config{
		BaseURL:      server.URL,
		Timeout:      time.Minute,
		MiniPrograms: []wechat.MiniProgram{{AppID: appID, Secret: secret}},
	}}
	if change != nil {
		change(&cfg)
	}
	api, err := wechat.NewAPI(cfg)
	require.NoError(t, err)
	t.Cleanup(api.Close)
	return api, fake
}

func post(path, body string) wechat.APICall {
	return wechat.APICall{
		AppID: appID, Method: http.MethodPost, Path: path,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   strings.NewReader(body), Length: int64(len(body)),
	}
}

// do makes a call and reads the whole reply.
func do(t testing.TB, api *wechat.API, call wechat.APICall) (*wechat.APIReply, string) {
	t.Helper()
	reply, err := api.Do(t.Context(), call)
	require.NoError(t, err)
	body, err := io.ReadAll(reply.Body)
	require.NoError(t, err)
	require.NoError(t, reply.Body.Close())
	require.Zero(t, api.InFlight())
	return reply, string(body)
}

func on(path string, script fakewechat.Script) fakewechat.Script {
	script.Path = path
	return script
}

func TestACallCarriesTheTokenAndNothingElse(t *testing.T) {
	api, fake := newAPI(t, nil)
	call := post(checkPath, `{"content":"hello"}`)
	call.Query = "a=%20b&c"
	reply, body := do(t, api, call)
	require.Equal(t, http.StatusOK, reply.Status)
	require.True(t, reply.HasErrcode)
	require.Zero(t, reply.Errcode)
	require.Contains(t, body, `"suggest":"pass"`)
	require.EqualValues(t, len(body), reply.Length)
	calls := fake.CallsTo(checkPath)
	require.Len(t, calls, 1)
	require.Equal(t, "a=%20b&c&access_token="+url.QueryEscape(fake.Token(appID)), calls[0].Query)
	require.Equal(t, `{"content":"hello"}`, string(calls[0].Body))
	require.Equal(t, http.Header{
		"Content-Type": {"application/json"}, "User-Agent": {"wxgate"}, "Content-Length": {"19"},
	}, calls[0].Header)
}

func TestConnectionsAreKeptForCalls(t *testing.T) {
	api, fake := newAPI(t, nil)
	for range 5 {
		do(t, api, post(checkPath, `{"content":"x"}`))
		// One of them is the token's.
		require.Eventually(t, func() bool { return api.IdleConnections() == 2 }, time.Minute, time.Millisecond)
	}
	addresses := make(map[string]bool)
	for _, call := range append(fake.CallsTo(checkPath), fake.CallsTo(stablePath)...) {
		addresses[call.RemoteAddr] = true
	}
	require.Len(t, addresses, 2)
}

// 200 calls with a dead token all succeed, with at most two requests for a token.
func TestADeadTokenIsReplacedForAllCalls(t *testing.T) {
	for _, stale := range []bool{false, true} {
		api, fake := newAPI(t, func(cfg *wechat.APIConfig) { cfg.Concurrency = 200 })
		do(t, api, post(checkPath, `{"content":"x"}`))
		fake.Revoke(appID, stale)
		before := tokenCalls(fake)
		var all sync.WaitGroup
		for range 200 {
			all.Go(func() {
				reply, err := api.Do(t.Context(), post(checkPath, `{"content":"x"}`))
				require.NoError(t, err)
				require.Zero(t, reply.Errcode)
				require.NoError(t, reply.Body.Close())
			})
		}
		all.Wait()
		require.LessOrEqual(t, tokenCalls(fake)-before, 2)
		require.Zero(t, api.InFlight())
	}
}

func TestARefusedTokenIsReplaced(t *testing.T) {
	for _, errcode := range []int64{40001, 40014, 42001} {
		api, fake := newAPI(t, nil)
		fake.Script(on(checkPath, fakewechat.Errcode(errcode)))
		reply, body := do(t, api, post(checkPath, `{"content":"x"}`))
		require.Zero(t, reply.Errcode, body)
		// stable_token gives the same token, so a refresh is forced.
		require.Equal(t, 3, tokenCalls(fake))
	}
	// Other errcodes pass, and are not repeated.
	for _, errcode := range []int64{-1, 43101, 45009, 48001} {
		api, fake := newAPI(t, nil)
		fake.Script(on(checkPath, fakewechat.Errcode(errcode)))
		reply, _ := do(t, api, post(checkPath, `{"content":"x"}`))
		require.Equal(t, errcode, reply.Errcode)
		require.NotEmpty(t, reply.RID)
		require.Len(t, fake.CallsTo(checkPath), 1)
	}
}

// stable_token may give a token that is refused, and then, forced, a good one.
func TestThreeSendsAreEnoughForAStaleToken(t *testing.T) {
	api, fake := newAPI(t, nil)
	fake.Script(on(stablePath, fakewechat.Body(`{"access_token":"dead-1","expires_in":7200}`)),
		on(stablePath, fakewechat.Body(`{"access_token":"dead-2","expires_in":7200}`)),
		on(stablePath, fakewechat.Body(`{"access_token":"dead-2","expires_in":6000}`)))
	reply, _ := do(t, api, post(checkPath, `{"content":"x"}`))
	require.Zero(t, reply.Errcode)
	require.Equal(t, 3, reply.Sends)
	require.Equal(t, 4, tokenCalls(fake))
}

func TestAnAPIThatRefusesEveryTokenCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, fake, log := newMemAPI(t, nil)
		fake.Script(on(checkPath, fakewechat.Script{Calls: -1, Errcode: new(int64(40001))}))
		for range 100 {
			reply, body := do(t, api, post(checkPath, `{"content":"x"}`))
			require.EqualValues(t, 40001, reply.Errcode)
			require.NotContains(t, body, fake.Token(appID))
			pass(time.Second)
		}
		require.LessOrEqual(t, len(fake.CallsTo(checkPath)), 102)
		require.Equal(t, []wechat.TokenMode{
			wechat.TokenNormal, wechat.TokenRefused, wechat.TokenForced, wechat.TokenRefused,
		}, log.modes(), "and not one more")
		// Another API is not given up with it.
		reply, _ := do(t, api, post("/wxa/media_check_async", `{}`))
		require.Zero(t, reply.Errcode)
		fake.Revoke(appID, false)
		reply, _ = do(t, api, post("/wxa/media_check_async", `{}`))
		require.Zero(t, reply.Errcode)
	})
}

func TestTheBodiesSize(t *testing.T) {
	for _, tt := range []struct {
		size     int
		repeated bool
	}{{1<<20 - 1, true}, {1 << 20, true}, {1<<20 + 1, false}, {5 << 20, false}} {
		for _, known := range []bool{true, false} {
			api, fake := newAPI(t, nil)
			do(t, api, post(checkPath, `{"content":"x"}`))
			fake.Revoke(appID, false)
			body := bytes.Repeat([]byte("0123456789abcdef"), tt.size/16+1)[:tt.size]
			call := post("/cgi-bin/media/upload", "")
			call.Body, call.Length = bytes.NewReader(body), int64(len(body))
			if !known {
				call.Length = -1
			}
			reply, text := do(t, api, call)
			calls := fake.CallsTo("/cgi-bin/media/upload")
			sum := sha256.Sum256(body)
			for _, call := range calls {
				require.Equal(t, hex.EncodeToString(sum[:]), call.BodySHA256)
			}
			if tt.repeated {
				require.Zero(t, reply.Errcode, text)
				require.Len(t, calls, 2)
				continue
			}
			// It is not repeated, but the next call works.
			require.EqualValues(t, 40001, reply.Errcode)
			require.Len(t, calls, 1)
			reply, text = do(t, api, post("/cgi-bin/media/upload", "x"))
			require.Equal(t, 1, reply.Sends)
			require.Contains(t, text, "media_id")
		}
	}
}

func TestAReplyIsPassedOn(t *testing.T) {
	api, fake := newAPI(t, nil)
	reply, body := do(t, api, post("/wxa/getwxacodeunlimit", `{"scene":"a=1"}`))
	require.Equal(t, "image/jpeg", reply.Header.Get("Content-Type"))
	require.Equal(t, string(fakewechat.CodeImage()), body)
	require.Greater(t, len(body), 150<<10)
	require.EqualValues(t, len(body), reply.Length)
	require.False(t, reply.HasErrcode)

	for name, text := range map[string]string{
		"empty": "", "a list": `[1]`, "text": "hello", "no errcode": `{"a":1}`, "exactly the head": strings.Repeat("x", 1024),
		"long JSON": `{"a":"` + strings.Repeat("x", 63<<10) + `"}`, "longer JSON": `{"a":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		fake.Script(on(checkPath, fakewechat.Body(text)))
		reply, body = do(t, api, post(checkPath, `{"content":"x"}`))
		require.Equal(t, text, body, name)
		require.False(t, reply.HasErrcode, name)
	}
	fake.Script(on(checkPath, fakewechat.Script{Status: 500}))
	reply, _ = do(t, api, post(checkPath, `{"content":"x"}`))
	require.Equal(t, 500, reply.Status)
}

func TestAReplyNeverHoldsTheToken(t *testing.T) {
	api, fake := newAPI(t, nil)
	do(t, api, post(checkPath, `{"content":"x"}`))
	token := fake.Token(appID)
	for _, padding := range []int{0, 1000, 60 << 10} {
		fake.Script(on(checkPath, fakewechat.Body(`{"errcode":0,"url":"https://x/?access_token=`+token+`","pad":"`+strings.Repeat("x", padding)+`"}`)))
		reply, body := do(t, api, post(checkPath, `{"content":"x"}`))
		require.NotContains(t, body, token)
		require.Contains(t, body, "[redacted]")
		require.EqualValues(t, len(body), reply.Length)
	}
}

func TestRepliesThatAreNotPassedOn(t *testing.T) {
	raw := func(text string) fakewechat.Script { return on(checkPath, fakewechat.Script{Raw: &text}) }
	for name, tt := range map[string]struct {
		script fakewechat.Script
		kind   wechat.Kind
	}{
		"hung up":          {on(checkPath, fakewechat.Script{HangUp: fakewechat.HangUpBefore}), wechat.BadReply},
		"a redirect":       {on(checkPath, fakewechat.Script{Redirect: "https://example.com/"}), wechat.BadReply},
		"compressed":       {raw("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"), wechat.BadReply},
		"too long":         {raw("HTTP/1.1 200 OK\r\nContent-Length: 67108865\r\n\r\nx"), wechat.BadReply},
		"not HTTP":         {raw("hello\r\n"), wechat.BadReply},
		"broken off early": {on(checkPath, fakewechat.Script{HangUp: fakewechat.HangUpAfter}), wechat.BadReply},
	} {
		t.Run(name, func(t *testing.T) {
			api, fake := newAPI(t, nil)
			fake.Script(tt.script)
			_, err := api.Do(t.Context(), post(checkPath, `{"content":"x"}`))
			requireKind(t, tt.kind, err, fake.Token(appID))
			require.Contains(t, err.Error(), "calling WeChat's API: ")
			require.Zero(t, api.InFlight())
			require.Len(t, fake.CallsTo(checkPath), 1, "it is not sent again")
		})
	}
	t.Run("broken off late", func(t *testing.T) {
		api, fake := newAPI(t, nil)
		long := strings.Repeat("x", 100<<10)
		fake.Script(on(checkPath, fakewechat.Script{Body: &long, Truncate: 1000}))
		reply, err := api.Do(t.Context(), post(checkPath, `{"content":"x"}`))
		require.NoError(t, err)
		_, err = io.ReadAll(reply.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.NoError(t, reply.Body.Close())
	})
	t.Run("without an end", func(t *testing.T) {
		api, fake := newAPI(t, nil)
		fake.Script(on(checkPath, fakewechat.Script{Endless: true}))
		reply, err := api.Do(t.Context(), post(checkPath, `{"content":"x"}`))
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, reply.Body)
		require.ErrorContains(t, err, "over 64 MiB")
		require.LessOrEqual(t, n, int64(64<<20))
		require.NoError(t, reply.Body.Close())
	})
}

func TestTheTimeOfACallIsBounded(t *testing.T) {
	for name, script := range map[string]fakewechat.Script{
		"no answer": on(checkPath, fakewechat.Script{Hold: true}),
		"no token":  on(stablePath, fakewechat.Script{Hold: true}),
		"dripping":  on(checkPath, fakewechat.Script{DripMS: 1000}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api, fake, _ := newMemAPI(t, func(cfg *wechat.APIConfig) { cfg.Timeout = 8 * time.Second })
				fake.Script(script)
				require.Equal(t, 8*time.Second, timed(func() {
					_, err := api.Do(t.Context(), post(checkPath, `{"content":"x"}`))
					var e *wechat.Error
					require.ErrorAs(t, err, &e)
					require.Contains(t, []wechat.Kind{wechat.Timeout, wechat.Busy}, e.Kind)
				}))
				require.Zero(t, api.InFlight())
				fake.Release()
			})
		})
	}
}

func TestCallsWaitForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, fake, _ := newMemAPI(t, func(cfg *wechat.APIConfig) { cfg.Concurrency = 1 })
		first, err := api.Do(t.Context(), post(checkPath, `{"content":"x"}`))
		require.NoError(t, err)
		require.Equal(t, 1, api.InFlight(), "until the reply is closed")
		require.Equal(t, 15*time.Second, timed(func() {
			_, err := api.Do(t.Context(), post(checkPath, `{"content":"x"}`))
			e := requireKind(t, wechat.Busy, err)
			require.False(t, e.Sent)
		}))
		require.NoError(t, first.Body.Close())
		do(t, api, post(checkPath, `{"content":"x"}`))
		require.Len(t, fake.CallsTo(checkPath), 2)
	})
}

func TestACallersFaultsAreTold(t *testing.T) {
	api, fake := newAPI(t, nil)
	broken := errors.New("broken")
	for _, size := range []int{10, 2 << 20} {
		call := post(checkPath, "")
		call.Body = io.MultiReader(bytes.NewReader(make([]byte, size)), iotest.ErrReader(broken))
		call.Length = 3 << 20
		_, err := api.Do(t.Context(), call)
		require.ErrorIs(t, err, broken)
		require.ErrorAs(t, err, new(*wechat.BodyError))
	}
	ctx, cancel := context.WithCancel(t.Context())
	fake.Script(on(checkPath, fakewechat.Script{Hold: true}))
	go func() {
		for len(fake.CallsTo(checkPath)) == 0 {
			<-time.After(time.Millisecond)
		}
		cancel()
	}()
	_, err := api.Do(ctx, post(checkPath, `{"content":"x"}`))
	require.ErrorIs(t, err, context.Canceled)
	unknown := post(checkPath, "x")
	unknown.AppID = otherAppID
	_, err = api.Do(t.Context(), unknown)
	requireKind(t, wechat.BadRequest, err)
	require.Zero(t, api.InFlight())
}
