package main_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// Sixteen uploads of 5 MiB and sixteen replies of 8 MiB at a time pass in flat memory.
func TestTheRelayStreamsInFlatMemory(t *testing.T) {
	gatewaytest.Needs(t, "time")
	r := startRelay(t, relayConfig{})
	upload := bytes.Repeat([]byte("0123456789abcdef"), 5<<16)
	long := strings.Repeat("x", 8<<20)
	round := func(n int) {
		t.Helper()
		r.WeChat.Script(fakewechat.Script{Path: "/cgi-bin/media/get", Calls: n, Body: &long})
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				resp, err := gatewaytest.ReadResponse(http.Post("http://"+r.addr+uploadAPI, "multipart/form-data", bytes.NewReader(upload)))
				require.NoError(t, err)
				require.Contains(t, resp.Body, fmt.Sprintf(`"size":%d`, len(upload)))
				media, err := http.Get("http://" + r.addr + "/cgi-bin/media/get?media_id=1")
				require.NoError(t, err)
				n, err := io.Copy(io.Discard, media.Body)
				require.NoError(t, err)
				require.NoError(t, media.Body.Close())
				require.EqualValues(t, len(long), n)
				image, err := gatewaytest.ReadResponse(http.Post("http://"+r.addr+imageAPI, "application/json", strings.NewReader(`{"scene":"a=1"}`)))
				require.NoError(t, err)
				require.Equal(t, string(fakewechat.CodeImage()), image.Body)
			})
		}
		all.Wait()
	}
	round(2)
	before := r.memory(t)
	highest := before
	for range 3 {
		round(16)
		highest = max(highest, r.memory(t))
	}
	t.Logf("resident memory: %d MiB before, at most %d MiB after rounds of 16 x (5 MiB up, 8 MiB down)", before>>20, highest>>20)
	// The race detector doubles what the process holds.
	require.Less(t, highest-before, int64(16*(5+8)<<20)/2, "half of what a round moves")
}

func (r *relay) memory(t *testing.T) int64 {
	t.Helper()
	return int64(residentKiB(t, r.Pid())) << 10
}

// Logins keep their time while every place of the relay is taken and more calls wait.
func TestLoginsKeepTheirTimeWhileTheRelayIsFlooded(t *testing.T) {
	r := startRelay(t, relayConfig{app: "api_concurrency 16\n api_timeout 60s"})
	logins := func() (p99 time.Duration) {
		var times []time.Duration
		for i := range 100 {
			start := time.Now()
			r.Login(fmt.Sprintf("user-%d", i))
			times = append(times, time.Since(start))
		}
		slices.Sort(times)
		return times[98]
	}
	r.Login("first")
	before := logins()
	r.WeChat.Script(fakewechat.Script{Path: checkAPI, Calls: -1, Hold: true})
	var flood sync.WaitGroup
	for range 200 {
		flood.Go(func() { _, _ = http.Post("http://"+r.addr+checkAPI, "application/json", strings.NewReader(hello)) })
	}
	r.Eventually(func() bool { return strings.Contains(r.metrics(), "wxgate_api_in_flight 200") }, "the relay is flooded")
	during := logins()
	t.Logf("99 of 100 logins within %v before the flood and %v during it", before, during)
	require.Len(t, r.WeChat.CallsTo(checkAPI), 16)
	require.Less(t, during, max(10*before, time.Second), "a login that waited for a place would take seconds")
	r.Kill()
	flood.Wait()
}
