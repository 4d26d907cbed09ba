package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// exchangeTimeout is short, so that a WeChat that hangs is found out soon.
const exchangeTimeout = time.Second

// soon is generous: what must not happen is an exchange without a bound.
const soon = 20 * time.Second

type exchangeCase struct {
	script  fakewechat.Script
	status  int
	name    string
	errcode string // in the answer's JSON
	calls   int    // that WeChat received for the code; 0 means 1
	retry   bool   // whether Retry-After is given
}

// errcodes are the errcodes of WeChat's documentation and their answers.
func errcodes() map[string]exchangeCase {
	cases := map[string]exchangeCase{
		"40029 invalid code":   {status: 401, name: "invalid_code"},
		"40163 code used":      {status: 401, name: "code_used"},
		"40226 user blocked":   {status: 403, name: "user_blocked"},
		"45011 too often":      {status: 429, name: "rate_limited", retry: true},
		"45009 daily quota":    {status: 503, name: "wechat_busy", retry: true},
		"-1 system busy":       {status: 503, name: "wechat_busy", retry: true, calls: 2},
		"40002 grant type":     {status: 502, name: "wechat_rejected_gateway"},
		"40013 appid":          {status: 502, name: "wechat_rejected_gateway"},
		"40125 secret":         {status: 502, name: "wechat_rejected_gateway"},
		"41002 no appid":       {status: 502, name: "wechat_rejected_gateway"},
		"41004 no secret":      {status: 502, name: "wechat_rejected_gateway"},
		"41008 no code":        {status: 502, name: "wechat_rejected_gateway"},
		"40164 address":        {status: 502, name: "wechat_rejected_gateway"},
		"48001 unauthorised":   {status: 502, name: "wechat_rejected_gateway"},
		"48004 banned":         {status: 502, name: "wechat_rejected_gateway"},
		"50002 user limited":   {status: 502, name: "wechat_rejected_gateway"},
		"99999 never heard of": {status: 502, name: "wechat_rejected_gateway"},
	}
	for name, tc := range cases {
		number, _, _ := strings.Cut(name, " ")
		errcode, _ := strconv.ParseInt(number, 10, 64)
		tc.errcode = number
		tc.script = fakewechat.Script{Errcode: &errcode, Calls: max(tc.calls, 1)}
		cases[name] = tc
		tc.script.ErrcodeText = true
		cases[name+" as text"] = tc
	}
	return cases
}

// hostile are replies from which no session may come.
func hostile() map[string]exchangeCase {
	const key = `"session_key":"tiihtNczf5v6AKRyjwEUhQ=="`
	openID := func(id string) fakewechat.Script { return fakewechat.Body(`{"openid":` + id + `,` + key + `}`) }
	scripts := map[string]fakewechat.Script{
		"empty":                  fakewechat.Body(""),
		"not JSON":               fakewechat.Body("<html>502 Bad Gateway</html>"),
		"array":                  fakewechat.Body(`[{"openid":"o",` + key + `}]`),
		"null":                   fakewechat.Body("null"),
		"trailing bytes":         fakewechat.Body(`{"openid":"oAlice",` + key + `} {}`),
		"duplicate openid":       fakewechat.Body(`{"openid":"oAlice","openid":"oBob",` + key + `}`),
		"deep nesting":           fakewechat.Body(`{"openid":"oAlice",` + key + `,"x":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`),
		"openid is a number":     openID("7"),
		"openid is missing":      fakewechat.Body(`{` + key + `}`),
		"openid is empty":        openID(`""`),
		"openid with newline":    openID(`"o\nX-Admin: 1"`),
		"openid with comma":      openID(`"oAlice,oBob"`),
		"openid with space":      openID(`"o Alice"`),
		"openid is not ASCII":    openID(`"oÄlice"`),
		"openid is too long":     openID(`"` + strings.Repeat("o", 129) + `"`),
		"no session_key":         fakewechat.Body(`{"openid":"oAlice"}`),
		"session_key not base64": fakewechat.Body(`{"openid":"oAlice","session_key":"***"}`),
		"session_key too short":  fakewechat.Body(`{"openid":"oAlice","session_key":"c2hvcnQ="}`),
		"errcode and openid":     fakewechat.Body(`{"errcode":40029,"openid":"oAlice",` + key + `}`),
		"errcode is an object":   fakewechat.Body(`{"errcode":{},"openid":"oAlice",` + key + `}`),
		"over 64 KiB":            fakewechat.Body(`{"openid":"oAlice",` + key + `,"pad":"` + strings.Repeat("x", 70<<10) + `"}`),
		"status 500":             {Status: 500},
		"status 204":             {Status: 204},
		"redirect":               {Redirect: "http://127.0.0.1:1/", Status: 302},
		"truncated":              {Truncate: 5},
		"hang-up before":         {HangUp: fakewechat.HangUpBefore},
		"hang-up after headers":  {HangUp: fakewechat.HangUpAfter},
	}
	cases := make(map[string]exchangeCase)
	for name, script := range scripts {
		tc := exchangeCase{script: script, status: 502, name: "wechat_bad_reply"}
		if name == "errcode and openid" {
			tc.status, tc.name, tc.errcode = 401, "invalid_code", "40029"
		}
		cases[name] = tc
	}
	for name, script := range map[string]fakewechat.Script{
		"no answer": {Hold: true},
		"dripping":  {DripMS: 200},
		"endless":   {Endless: true},
		"stalled":   {Truncate: 5, Stall: true},
	} {
		tc := exchangeCase{script: script, status: 504, name: "wechat_timeout"}
		if name == "endless" {
			// Its bound is the size, which it reaches first.
			tc.status, tc.name = 502, "wechat_bad_reply"
		}
		cases[name] = tc
	}
	return cases
}

func TestEveryAnswerOfWeChat(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "exchange_timeout " + exchangeTimeout.String()})
	for _, cases := range []map[string]exchangeCase{errcodes(), hostile()} {
		for name, tc := range cases {
			t.Run(name, func(t *testing.T) {
				// Each case begins and ends with a good login: the breaker is
				// closed, and what was bad did no lasting harm.
				g.Login("witness")
				t.Cleanup(func() {
					g.WeChat.Release()
					g.Login("witness")
				})
				user := "user of " + name
				code := g.WeChat.IssueCode(gatewaytest.AppID, user)
				tc.script.Code = code
				g.WeChat.Script(tc.script)

				start := time.Now()
				resp := g.Post("/login", `{"code":"`+code+`"}`)
				require.Less(t, time.Since(start), soon)
				require.Equal(t, tc.status, resp.Status, resp.Body)
				require.Equal(t, tc.name, resp.ErrorName())
				require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
				require.Equal(t, tc.retry, resp.Header.Get("Retry-After") != "")
				var body map[string]json.RawMessage
				require.NoError(t, json.Unmarshal([]byte(resp.Body), &body))
				require.Equal(t, tc.errcode, string(body["errcode"]))
				require.NotContains(t, resp.Body, "rid", "WeChat's words are for the log")
				require.Equal(t, max(tc.calls, 1), g.WeChat.CallsWith(code))

				// Nothing was stored, under the user's openid or the reply's.
				for _, openID := range []string{g.OpenID(user), "oAlice"} {
					require.Equal(t, http.StatusNotFound, g.AdminStatus("/wxgate/users/"+gatewaytest.AppID+"/"+url.PathEscape(openID)))
				}
				// The code is not sent again, whatever became of it.
				require.Equal(t, "code_used", g.Post("/login", `{"code":"`+code+`"}`).ErrorName())
				require.Equal(t, max(tc.calls, 1), g.WeChat.CallsWith(code))
			})
		}
	}
}

func TestOneRetryAfterBusyMakesASession(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	code := g.WeChat.IssueCode(gatewaytest.AppID, "alice")
	busy := int64(-1)
	g.WeChat.Script(fakewechat.Script{Errcode: &busy, Code: code})
	resp := g.Post("/login", `{"code":"`+code+`"}`)
	require.Equal(t, http.StatusOK, resp.Status, resp.Body)
	require.Equal(t, 2, g.WeChat.CallsWith(code))
}

func TestParallelLoginsWithOneCodeShareOneSession(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	code := g.WeChat.IssueCode(gatewaytest.AppID, "alice")
	g.WeChat.Script(fakewechat.Script{Hold: true, Code: code})

	const clients = 50
	answers := make([]gatewaytest.Response, clients)
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() { answers[i] = g.Post("/login", `{"code":"`+code+`"}`) })
	}
	// The first has reached WeChat; the others join it or come too late for
	// it, and in neither case is there a second call.
	g.Eventually(func() bool { return g.WeChat.CallsWith(code) == 1 }, "one call is under way")
	g.WeChat.Release()
	group.Wait()

	tokens := make(map[string]int)
	for _, answer := range answers {
		var login gatewaytest.Login
		require.NoError(t, json.Unmarshal([]byte(answer.Body), &login))
		if answer.Status == http.StatusOK {
			tokens[login.Token]++
			continue
		}
		require.Equal(t, "code_used", answer.ErrorName())
	}
	require.Len(t, tokens, 1)
	require.Equal(t, 1, g.WeChat.CallsWith(code))
	require.Equal(t, "code_used", g.Post("/login", `{"code":"`+code+`"}`).ErrorName())
	require.Equal(t, 1, g.WeChat.CallsWith(code))
}

// A reload makes a new WeChat client, but which codes were sent is still known.
func TestUsedCodesAreKnownAfterAReload(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	code := g.WeChat.IssueCode(gatewaytest.AppID, "alice")
	require.Equal(t, http.StatusOK, g.Post("/login", `{"code":"`+code+`"}`).Status)
	out, err := g.Reload(gatewaytest.Config{})
	require.NoError(t, err, out)
	resp := g.Post("/login", `{"code":"`+code+`"}`)
	require.Equal(t, "code_used", resp.ErrorName())
	require.NotContains(t, resp.Body, "errcode", "the gateway says so, not WeChat")
	require.Equal(t, 1, g.WeChat.CallsWith(code))
}

func TestNoTokenMapsToAForeignOpenID(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "login_rate off\nexchange_timeout 10s"})
	const users = 1000
	var group sync.WaitGroup
	slots := make(chan struct{}, 64)
	for i := range users {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			user := "user" + strconv.Itoa(i)
			code := g.WeChat.IssueCode(gatewaytest.AppID, user)
			script := fakewechat.Script{Code: code, DelayMS: i * 7 % 50}
			// Few enough that five in a row, which open the breaker, are rare.
			switch i % 50 {
			case 3:
				script.HangUp = fakewechat.HangUpAfter
			case 27:
				script.HangUp = fakewechat.HangUpBefore
			}
			g.WeChat.Script(script)
			body := `{"code":"` + code + `"}`
			if i%10 == 5 {
				// A client that goes before the answer comes.
				gatewaytest.SendAndLeave(g.Addr, "POST /login HTTP/1.1\nHost: "+g.Addr+"\nContent-Type: application/json\nContent-Length: "+strconv.Itoa(len(body))+"\n\n"+body)
				return
			}
			resp := g.Post("/login", body)
			if script.HangUp != "" {
				if resp.Status == http.StatusOK {
					t.Errorf("user %d has a session from a broken reply", i)
				}
				return
			}
			var login gatewaytest.Login
			_ = json.Unmarshal([]byte(resp.Body), &login)
			if login.Token == "" {
				// An open breaker may keep a user out, but never mix users up.
				if resp.ErrorName() != "wechat_busy" {
					t.Errorf("user %d: %s", i, resp.Body)
				}
				return
			}
			g.Get("/who?"+user, gatewaytest.Token(login.Token))
		})
	}
	group.Wait()
	received := g.Upstream.Take()
	require.Greater(t, len(received), users/2)
	for _, r := range received {
		_, user, _ := strings.Cut(r.URI, "?")
		require.Equal(t, []string{g.OpenID(user)}, r.Lines("X-OpenID"), user)
	}
}

func TestClientBytesStayLiteral(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	for _, code := range []string{
		"a+b", "a=b", "a/b", "../a", "~a", "A.b_c-d", strings.Repeat("a", 128),
	} {
		t.Run(code, func(t *testing.T) {
			encoded, err := json.Marshal(map[string]string{"code": code})
			require.NoError(t, err)
			require.Equal(t, "invalid_code", g.Post("/login", string(encoded)).ErrorName())
			require.Equal(t, 1, g.WeChat.CallsWith(code), "WeChat received that very code")
		})
	}
	before := len(g.WeChat.Calls())
	for _, code := range []string{
		"{env.WX_SECRET}", "{http.request.host}", "{$HOME}", "x&appid=" + gatewaytest.OtherAppID, "%26", "a#b", "a%2Bb", "😀", "\\u0041", `"`, "<script>", "a'b", "a;b", "a\nb", "a\x7fb",
	} {
		t.Run("not a code "+strconv.Quote(code), func(t *testing.T) {
			encoded, err := json.Marshal(map[string]string{"code": code})
			require.NoError(t, err)
			resp := g.Post("/login", string(encoded))
			require.Equal(t, http.StatusBadRequest, resp.Status, resp.Body)
			require.Contains(t, resp.Body, "a code is 1 to 128 of letters, digits and -._~+/=")
		})
	}
	for name, body := range map[string]string{
		"CR LF": `{"code":"a\r\nb"}`, "space": `{"code":"a b"}`, "NUL": `{"code":"a\u0000b"}`, "half a surrogate": `{"code":"\ud800"}`,
		"not UTF-8": "{\"code\":\"\xff\"}", "long": `{"code":"` + strings.Repeat("a", 129) + `"}`, "empty": `{"code":""}`, "null": `{"code":null}`,
		"none": `{}`, "number": `{"code":7}`, "list": `["a"]`, "trailing": `{"code":"a"}x`, "mock": `{"code":"the code is a mock one"}`,
		"code twice": `{"code":"a","code":"b"}`, "appid twice": `{"code":"a","appid":"` + gatewaytest.AppID + `","appid":"` + gatewaytest.AppID + `"}`,
		"another case": `{"Code":"a"}`, "only a string": `"a"`, "nothing": ``,
		"bad appid": `{"code":"a","appid":"shop"}`, "unknown appid": `{"code":"a","appid":"wx00000000000000ff"}`,
	} {
		t.Run(name, func(t *testing.T) {
			resp := g.Post("/login", body)
			require.Equal(t, http.StatusBadRequest, resp.Status)
			require.Equal(t, "bad_request", resp.ErrorName())
		})
	}
	require.Len(t, g.WeChat.Calls(), before)
}

func TestLoginRequestsThatAreNotOnes(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	form := "code=" + g.WeChat.IssueCode(gatewaytest.AppID, "alice")
	utf8 := `{"code":"` + g.WeChat.IssueCode(gatewaytest.AppID, "alice") + `"}`
	for name, tc := range map[string]struct {
		request string
		status  int
		want    string
	}{
		"form":       {"POST /login HTTP/1.1\nHost: " + g.Addr + "\nContent-Type: application/x-www-form-urlencoded\nContent-Length: " + strconv.Itoa(len(form)) + "\n\n" + form, 200, ""},
		"GET":        {"GET /login?code=abc HTTP/1.1\nHost: " + g.Addr + "\n\n", 405, "method_not_allowed"},
		"media type": {"POST /login HTTP/1.1\nHost: " + g.Addr + "\nContent-Type: text/plain\nContent-Length: 12\n\n{\"code\":\"a\"}", 415, "unsupported_media_type"},
		"charset":    {"POST /login HTTP/1.1\nHost: " + g.Addr + "\nContent-Type: application/json; charset=gbk\nContent-Length: 12\n\n{\"code\":\"a\"}", 415, "unsupported_media_type"},
		"utf8":       {"POST /login HTTP/1.1\nHost: " + g.Addr + "\nContent-Type: Application/JSON;charset=UTF8\nContent-Length: " + strconv.Itoa(len(utf8)) + "\n\n" + utf8, 200, ""},
		"no type":    {"POST /login HTTP/1.1\nHost: " + g.Addr + "\nContent-Length: 12\n\n{\"code\":\"a\"}", 415, "unsupported_media_type"},
		"too large":  {"POST /login HTTP/1.1\nHost: " + g.Addr + "\nContent-Type: application/json\nContent-Length: 5000\n\n" + strings.Repeat(" ", 5000), 413, "body_too_large"},
		"two codes":  {"POST /login HTTP/1.1\nHost: " + g.Addr + "\nContent-Type: application/x-www-form-urlencoded\nContent-Length: 13\n\ncode=a&code=b", 400, "bad_request"},
	} {
		t.Run(name, func(t *testing.T) {
			resp := g.Raw(tc.request)
			require.Equal(t, tc.status, resp.Status, resp.Body)
			require.Equal(t, tc.want, resp.ErrorName())
			if tc.status == http.StatusMethodNotAllowed {
				require.Equal(t, "POST", resp.Header.Get("Allow"))
			}
		})
	}
	g.RequireNothing(t)
}

func TestSeveralMiniPrograms(t *testing.T) {
	two := "miniprogram " + gatewaytest.OtherAppID + " {env.WX_OTHER_SECRET}"
	g := gatewaytest.Start(t, gatewaytest.Config{App: two, Site: "inject openid X-OpenID\ninject appid X-App"})
	login := func(appID, user, appIDInBody, referer string) gatewaytest.Response {
		body := fmt.Sprintf(`{"code":%q`, g.WeChat.IssueCode(appID, user))
		if appIDInBody != "" {
			body += fmt.Sprintf(`,"appid":%q`, appIDInBody)
		}
		var lines []string
		if referer != "" {
			lines = append(lines, "Referer: https://servicewechat.com/"+referer+"/1/page-frame.html")
		}
		return g.Post("/login", body+"}", lines...)
	}
	require.Equal(t, "bad_request", login(gatewaytest.AppID, "alice", "", "").ErrorName())
	require.Equal(t, "bad_request", login(gatewaytest.AppID, "alice", "", "wx00000000000000ff").ErrorName())
	require.Equal(t, "invalid_code", login(gatewaytest.AppID, "alice", gatewaytest.OtherAppID, "").ErrorName())
	for _, tc := range []struct{ appID, said, referer string }{
		{gatewaytest.AppID, gatewaytest.AppID, ""},
		{gatewaytest.OtherAppID, gatewaytest.OtherAppID, gatewaytest.AppID},
		{gatewaytest.OtherAppID, "", gatewaytest.OtherAppID},
	} {
		resp := login(tc.appID, "alice", tc.said, tc.referer)
		require.Equal(t, http.StatusOK, resp.Status, resp.Body)
		var in gatewaytest.Login
		require.NoError(t, json.Unmarshal([]byte(resp.Body), &in))
		require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(in.Token)).Status)
		received := g.Upstream.Take()
		require.Equal(t, []string{tc.appID}, received[0].Lines("X-App"))
		require.Equal(t, []string{g.WeChat.OpenID(tc.appID, "alice")}, received[0].Lines("X-OpenID"))
	}

	// A site that serves the other mini program refuses the token of this one.
	token := g.LoginTo(gatewaytest.AppID, "bob").Token
	out, err := g.Reload(gatewaytest.Config{App: two, Site: "miniprograms " + gatewaytest.OtherAppID})
	require.NoError(t, err, out)
	require.Equal(t, "invalid_session", g.Get("/", gatewaytest.Token(token)).ErrorName())
	g.RequireNothing(t)
}

func TestSecretRotation(t *testing.T) {
	g := gatewaytest.New(t)
	// WeChat still has the old secret: the new one is refused with 40125.
	g.Run(gatewaytest.Config{Whole: `{
		admin $ADMIN
		auto_https off
		servers {
			expected_underscore_headers 3rd_session
		}
		wxgate {
			miniprogram ` + gatewaytest.AppID + ` {env.NEW_SECRET} {env.WX_SECRET}
			wechat_api $WECHAT
		}
	}
	http://$LISTEN {
		wxgate
		reverse_proxy $UPSTREAM
	}`, Env: []string{"NEW_SECRET=ffffffffffffffffffffffffffffffff"}})
	code := g.WeChat.IssueCode(gatewaytest.AppID, "alice")
	resp := g.Post("/login", `{"code":"`+code+`"}`)
	require.Equal(t, http.StatusOK, resp.Status, resp.Body)
	require.Equal(t, 2, g.WeChat.CallsWith(code), "the new secret, then the old one, once")
	g.WeChat.SetSecret(gatewaytest.AppID, "ffffffffffffffffffffffffffffffff")
	code = g.WeChat.IssueCode(gatewaytest.AppID, "alice")
	require.Equal(t, http.StatusOK, g.Post("/login", `{"code":"`+code+`"}`).Status)
	require.Equal(t, 1, g.WeChat.CallsWith(code))
}
