package wechat_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

const (
	appID       = "wx0123456789abcdef"
	secret      = "canary-secret-5f1e"
	otherAppID  = "wxfedcba9876543210"
	otherSecret = "canary-secret-77aa"
)

func newFake() *fakewechat.Server {
	return fakewechat.New(fakewechat.Config{
		MiniPrograms: map[string]string{appID: secret, otherAppID: otherSecret},
	})
}

// newClient returns a client of a sandbox that listens on loopback.
func newClient(t testing.TB, fake *fakewechat.Server, change func(*wechat.Config)) *wechat.Client {
	t.Helper()
	server := httptest.NewServer(fake)
	t.Cleanup(func() {
		fake.Close()
		server.Close()
	})
	cfg := wechat.Config{
		BaseURL: server.URL,
		// Only what must time out may do so, on a busy machine too.
		Timeout: time.Minute,
		MiniPrograms: []wechat.MiniProgram{
			{AppID: appID, Secret: secret},
			{AppID: otherAppID, Secret: otherSecret},
		},
	}
	if change != nil {
		change(&cfg)
	}
	client, err := wechat.NewClient(cfg)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

// requireKind returns err as an *Error after checking its kind, and that its
// text, in any format, holds none of the secrets.
func requireKind(t testing.TB, kind wechat.Kind, err error, secrets ...string) *wechat.Error {
	t.Helper()
	var e *wechat.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, kind, e.Kind, "%v", err)
	require.ErrorIs(t, err, kind)
	text := fmt.Sprintf("%v %+v %#v %s %s", err, err, err, e.Errmsg, e.RID)
	for _, s := range append(secrets, secret, otherSecret, "jscode2session", "://") {
		require.NotContains(t, text, s)
	}
	return e
}

// requireLogin logs a new user in, to show that the client is well.
func requireLogin(t testing.TB, client *wechat.Client, fake *fakewechat.Server) {
	t.Helper()
	session, err := client.Code2Session(t.Context(), appID, fake.IssueCode(appID, "well"))
	require.NoError(t, err)
	require.Equal(t, fake.OpenID(appID, "well"), session.OpenID)
}

func TestCode2SessionExchangesACodeOnce(t *testing.T) {
	fake := fakewechat.New(fakewechat.Config{MiniPrograms: map[string]string{appID: secret, otherAppID: otherSecret}, OpenPlatform: true})
	client := newClient(t, fake, nil)
	code := fake.IssueCode(appID, "alice")
	session, err := client.Code2Session(t.Context(), appID, code)
	require.NoError(t, err)
	require.Equal(t, wechat.Code2Session{
		OpenID:     fake.OpenID(appID, "alice"),
		UnionID:    fake.UnionID("alice"),
		SessionKey: fake.SessionKey(appID, "alice"),
	}, session)
	require.Equal(t, 1, fake.CallsWith(code))
	require.Zero(t, client.InFlight())

	_, err = client.Code2Session(t.Context(), appID, code)
	requireKind(t, wechat.CodeUsed, err, code)
	_, err = client.Code2Session(t.Context(), otherAppID, fake.IssueCode(appID, "alice"))
	requireKind(t, wechat.InvalidCode, err, code)
}

func TestASessionDoesNotPrintItsKey(t *testing.T) {
	session := wechat.Code2Session{OpenID: "o1", SessionKey: v1SessionKey}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		require.NotContains(t, fmt.Sprintf(verb, session), v1SessionKey, verb)
		require.NotContains(t, fmt.Sprintf(verb, &session), v1SessionKey, verb)
	}
}

func TestWhatIsNotSent(t *testing.T) {
	tests := []struct {
		name, appID, code string
		kind              wechat.Kind
	}{
		{"unknown mini program", "wx0000000000000000", "code", wechat.BadRequest},
		{"no mini program", "", "code", wechat.BadRequest},
		{"no code", appID, "", wechat.BadRequest},
		{"mock code", appID, "the code is a mock one", wechat.MockCode},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fake := newFake()
			client := newClient(t, fake, nil)
			_, err := client.Code2Session(t.Context(), tt.appID, tt.code)
			require.False(t, requireKind(t, tt.kind, err).Sent)
			require.Empty(t, fake.Calls())
		})
	}
}

// What a client sends as a code is that code to WeChat, byte for byte.
func TestCodesAreSentLiterally(t *testing.T) {
	codes := []string{
		"{env.HOME}", "x&appid=" + otherAppID, "x&secret=y", "%26", "%", "a+b", "a b", "#x", "a\r\nHost: evil", "\x00",
		"微信😀", "\xff\xfe", "../../x", "?a=b", "a;b=c", strings.Repeat("x", 128), `"`, "https://evil.example/",
	}
	fake := newFake()
	client := newClient(t, fake, nil)
	for _, code := range codes {
		t.Run(fmt.Sprintf("%q", code), func(t *testing.T) {
			fake.Reset()
			_, err := client.Code2Session(t.Context(), appID, code)
			requireKind(t, wechat.InvalidCode, err)
			calls := fake.Calls()
			require.Len(t, calls, 1)
			require.Equal(t, code, calls[0].Code)
			require.Equal(t, appID, calls[0].AppID)
			require.Equal(t, secret, calls[0].Secret)
			require.Equal(t, 3, strings.Count(calls[0].Query, "&"), "four parameters")
		})
	}
}

func TestErrcodes(t *testing.T) {
	tests := []struct {
		errcode    int64
		kind       wechat.Kind
		retryAfter time.Duration
		calls      int
	}{
		{-1, wechat.Busy, time.Second, 2},
		{40002, wechat.RejectedGateway, 0, 1},
		{40013, wechat.RejectedGateway, 0, 1},
		{40029, wechat.InvalidCode, 0, 1},
		{40125, wechat.RejectedGateway, 0, 1},
		{40163, wechat.CodeUsed, 0, 1},
		{40164, wechat.RejectedGateway, 0, 1},
		{40226, wechat.UserBlocked, 0, 1},
		{41002, wechat.RejectedGateway, 0, 1},
		{41004, wechat.RejectedGateway, 0, 1},
		{41008, wechat.RejectedGateway, 0, 1},
		{45009, wechat.Busy, time.Minute, 1},
		{45011, wechat.RateLimited, time.Minute, 1},
		{48001, wechat.RejectedGateway, 0, 1},
		{48004, wechat.RejectedGateway, 0, 1},
		{50002, wechat.RejectedGateway, 0, 1},
		{1, wechat.RejectedGateway, 0, 1},
		{-1000, wechat.RejectedGateway, 0, 1},
		{9007199254740993, wechat.RejectedGateway, 0, 1}, // not a float64
	}
	for _, tt := range tests {
		for _, text := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d as text %t", tt.errcode, text), func(t *testing.T) {
				fake := newFake()
				client := newClient(t, fake, nil)
				code := fake.IssueCode(appID, "alice")
				script := fakewechat.Errcode(tt.errcode)
				script.Calls, script.ErrcodeText = 2, text
				fake.Script(script)
				_, err := client.Code2Session(t.Context(), appID, code)
				e := requireKind(t, tt.kind, err, code)
				require.True(t, e.HasErrcode)
				require.Equal(t, tt.errcode, e.Errcode)
				require.Equal(t, tt.retryAfter, e.RetryAfter)
				require.True(t, e.Sent)
				require.Contains(t, err.Error(), fmt.Sprint(tt.errcode))
				require.Equal(t, "scripted error", e.Errmsg)
				require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}$`, e.RID)
				require.Equal(t, tt.calls, fake.CallsWith(code))
				fake.Reset()
				requireLogin(t, client, fake)
			})
		}
	}
}

func TestOlderSuccessWithErrcodeZero(t *testing.T) {
	for _, text := range []bool{false, true} {
		fake := newFake()
		client := newClient(t, fake, nil)
		script := fakewechat.Errcode(0)
		script.ErrcodeText = text
		fake.Script(script)
		requireLogin(t, client, fake)
	}
}

func TestBusyIsAskedOnceMore(t *testing.T) {
	fake := newFake()
	client := newClient(t, fake, nil)
	fake.Script(fakewechat.Errcode(-1))
	code := fake.IssueCode(appID, "alice")
	session, err := client.Code2Session(t.Context(), appID, code)
	require.NoError(t, err)
	require.Equal(t, fake.OpenID(appID, "alice"), session.OpenID)
	require.Equal(t, 2, fake.CallsWith(code))
}

func TestSecretRotation(t *testing.T) {
	const oldSecret = "canary-secret-0000"
	tests := []struct {
		name    string
		atWx    string // what WeChat holds for right
		old     string
		scripts []fakewechat.Script
		kind    wechat.Kind // "" for a login
		secrets []string    // in the order in which they were sent
	}{
		{name: "new one valid", atWx: secret, old: oldSecret, secrets: []string{secret}},
		{name: "old one valid", atWx: oldSecret, old: oldSecret, secrets: []string{secret, oldSecret}},
		{name: "neither valid", atWx: "third", old: oldSecret, kind: wechat.RejectedGateway, secrets: []string{secret, oldSecret}},
		{name: "no old one", atWx: "third", kind: wechat.RejectedGateway, secrets: []string{secret}},
		{name: "both the same", atWx: "third", old: secret, kind: wechat.RejectedGateway, secrets: []string{secret}},
		{
			name: "another errcode", atWx: oldSecret, old: oldSecret, kind: wechat.RejectedGateway,
			scripts: []fakewechat.Script{fakewechat.Errcode(40013)}, secrets: []string{secret},
		},
		{
			name: "busy before", atWx: oldSecret, old: oldSecret,
			scripts: []fakewechat.Script{fakewechat.Errcode(-1)}, secrets: []string{secret, secret, oldSecret},
		},
		{
			name: "busy before and after", atWx: oldSecret, old: oldSecret, kind: wechat.Busy,
			scripts: []fakewechat.Script{fakewechat.Errcode(-1), fakewechat.Errcode(40125), fakewechat.Errcode(-1)},
			secrets: []string{secret, secret, oldSecret},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fake := newFake()
			client := newClient(t, fake, func(cfg *wechat.Config) { cfg.MiniPrograms[0].OldSecret = tt.old })
			fake.SetSecret(appID, tt.atWx)
			fake.Script(tt.scripts...)
			code := fake.IssueCode(appID, "alice")
			session, err := client.Code2Session(t.Context(), appID, code)
			if tt.kind == "" {
				require.NoError(t, err)
				require.Equal(t, fake.OpenID(appID, "alice"), session.OpenID)
			} else {
				requireKind(t, tt.kind, err, code, oldSecret)
			}
			var sent []string
			for _, call := range fake.Calls() {
				require.Equal(t, code, call.Code)
				sent = append(sent, call.Secret)
			}
			require.Equal(t, tt.secrets, sent)
		})
	}
}

// An errmsg that echoes what it was sent does not bring it into the log.
func TestErrmsgIsMadeSafe(t *testing.T) {
	tests := []struct{ name, errmsg, message, rid string }{
		{"with a rid", "invalid code, rid: 652d44d0-1d0af18b-5b069232", "invalid code", "652d44d0-1d0af18b-5b069232"},
		{"in the older form", "invalid code, hints: [ req_id: DFGGHa8ge-x4L0FA ]", "invalid code", "DFGGHa8ge-x4L0FA"},
		{"without a rid", "invalid code", "invalid code", ""},
		{"with a rid that goes on", "x, rid: a-b\nlevel=error", "x", "a-b"},
		{"with secrets", "bad secret " + secret + " for {env.X}&y and %7Benv.X%7D%26y", "bad secret [redacted] for [redacted] and [redacted]", ""},
		{"with control characters", "a\r\nb\x1b[31mc\u2028d\u202ee", "a??b?[31mc?d?e", ""},
		{"very long", strings.Repeat("x", 5000) + ", rid: " + strings.Repeat("y", 5000), strings.Repeat("x", 200), strings.Repeat("y", 64)},
		{"not ASCII", strings.Repeat("微", 100), strings.Repeat("微", 66), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fake := newFake()
			client := newClient(t, fake, nil)
			fake.Script(fakewechat.Script{Errcode: new(int64(40029)), Errmsg: tt.errmsg})
			_, err := client.Code2Session(t.Context(), appID, "{env.X}&y")
			e := requireKind(t, wechat.InvalidCode, err, "{env.X}&y")
			require.Equal(t, tt.message, e.Errmsg)
			require.Equal(t, tt.rid, e.RID)
		})
	}
}

func TestACallerThatGoesAwayIsToldSo(t *testing.T) {
	fake := newFake()
	client := newClient(t, fake, func(cfg *wechat.Config) { cfg.Concurrency = 1 })
	fake.Script(fakewechat.Script{Hold: true})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := client.Code2Session(ctx, appID, fake.IssueCode(appID, "alice"))
		first <- err
	}()
	require.Eventually(t, func() bool { return len(fake.Calls()) == 1 }, time.Minute, time.Millisecond)
	require.Equal(t, 1, client.InFlight())

	// A second one goes away while it waits for a place.
	waiting, stop := context.WithCancel(t.Context())
	stop()
	_, err := client.Code2Session(waiting, appID, "code")
	require.False(t, requireKind(t, wechat.Canceled, err).Sent)

	cancel()
	err = <-first
	require.True(t, requireKind(t, wechat.Canceled, err).Sent)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, client.InFlight())
	requireLogin(t, client, fake)
}

// A thousand users of a hundred mini programs at once, with delays, hang-ups
// and callers that go away: each session goes to its own caller. No mini program
// has failures enough to open its breaker, so everyone else does get one.
func TestNoCallerGetsAnothersSession(t *testing.T) {
	const users, perApp = 1000, 10
	var miniPrograms []wechat.MiniProgram
	secrets := make(map[string]string)
	for i := range users / perApp {
		appID := fmt.Sprintf("wx%016x", i)
		secrets[appID] = fmt.Sprint("secret ", i)
		miniPrograms = append(miniPrograms, wechat.MiniProgram{AppID: appID, Secret: secrets[appID]})
	}
	fake := fakewechat.New(fakewechat.Config{MiniPrograms: secrets})
	client := newClient(t, fake, func(cfg *wechat.Config) {
		cfg.MiniPrograms, cfg.Timeout = miniPrograms, 10*time.Minute
	})

	var wg sync.WaitGroup
	errs := make([]error, users)
	for i := range users {
		appID, user := miniPrograms[i/perApp].AppID, fmt.Sprint(i)
		code := fake.IssueCode(appID, user)
		script := fakewechat.Script{Code: code, DelayMS: i % 17}
		spoiled := true
		switch i % perApp {
		case 1:
			script.HangUp = fakewechat.HangUpAfter
		case 2:
			// The surplus must not be taken for the next one's reply.
			script.ContentLength = new(int(40))
		case 3:
			script.Truncate = 3
		default:
			spoiled = false
		}
		fake.Script(script)
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			goesAway := i%perApp == 4
			if goesAway {
				time.AfterFunc(time.Duration(i%7)*time.Millisecond, cancel)
			}
			session, err := client.Code2Session(ctx, appID, code)
			switch {
			case err == nil && (spoiled || session.OpenID != fake.OpenID(appID, user)):
				errs[i] = fmt.Errorf("user %d got openid %s", i, session.OpenID)
			case err != nil && !spoiled && !goesAway:
				errs[i] = fmt.Errorf("user %d: %w", i, err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Zero(t, client.InFlight())
	sent := make(map[string]int)
	for _, call := range fake.Calls() {
		sent[call.Code]++
		require.Equal(t, 1, sent[call.Code], "a code was sent twice")
	}
}
