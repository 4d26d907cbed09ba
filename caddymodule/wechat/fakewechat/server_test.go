package fakewechat_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

const (
	appID  = "wx0123456789abcdef"
	secret = "a secret"
)

// A world is a sandbox on loopback with a clock of its own.
type world struct {
	*fakewechat.Server
	url string
	now time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{now: time.Unix(1_700_000_000, 0)}
	w.Server = fakewechat.New(fakewechat.Config{
		MiniPrograms: map[string]string{appID: secret, "wx2": "another"},
		OpenPlatform: true,
		Now:          func() time.Time { return w.now },
	})
	server := httptest.NewServer(w)
	w.url = server.URL
	t.Cleanup(func() {
		w.Close()
		server.Close()
	})
	return w
}

// ask sends a query to code2Session and decodes the answer.
func (w *world) ask(t *testing.T, query url.Values) (reply struct {
	OpenID     string `json:"openid"`
	UnionID    string `json:"unionid"`
	SessionKey string `json:"session_key"`
	Errcode    any    `json:"errcode"`
	Errmsg     string `json:"errmsg"`
}) {
	t.Helper()
	resp, err := http.Get(w.url + "/sns/jscode2session?" + query.Encode())
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "text/plain", resp.Header.Get("Content-Type"))
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&reply))
	return reply
}

func good(code string) url.Values {
	return url.Values{"appid": {appID}, "secret": {secret}, "js_code": {code}, "grant_type": {"authorization_code"}}
}

func TestCode2Session(t *testing.T) {
	tests := []struct {
		name    string
		change  func(w *world, query url.Values)
		errcode any
		errmsg  string
	}{
		{name: "good", change: func(*world, url.Values) {}},
		{name: "at the end of its life", change: func(w *world, _ url.Values) { w.now = w.now.Add(5 * time.Minute) }},
		{"expired", func(w *world, _ url.Values) { w.now = w.now.Add(5*time.Minute + 1) }, 40029., "invalid code"},
		{"made up", func(_ *world, q url.Values) { q.Set("js_code", "x") }, 40029., "invalid code"},
		{"of another app", func(_ *world, q url.Values) { q.Set("appid", "wx2"); q.Set("secret", "another") }, 40029., "invalid code"},
		{"no appid", func(_ *world, q url.Values) { q.Del("appid") }, 41002., "appid missing"},
		{"no secret", func(_ *world, q url.Values) { q.Del("secret") }, 41004., "appsecret missing"},
		{"no code", func(_ *world, q url.Values) { q.Del("js_code") }, 41008., "missing code"},
		{"no grant_type", func(_ *world, q url.Values) { q.Del("grant_type") }, 40002., "invalid grant_type"},
		{"unknown appid", func(_ *world, q url.Values) { q.Set("appid", "wx3") }, 40013., "invalid appid"},
		{"wrong secret", func(_ *world, q url.Values) { q.Set("secret", "x") }, 40125., "invalid appsecret"},
		{"secret changed", func(w *world, _ url.Values) { w.SetSecret(appID, "new") }, 40125., "invalid appsecret"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			query := good(w.IssueCode(appID, "alice"))
			tt.change(w, query)
			reply := w.ask(t, query)
			require.Equal(t, tt.errcode, reply.Errcode)
			if tt.errcode != nil {
				require.Regexp(t, "^"+tt.errmsg+", rid: [0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}$", reply.Errmsg)
				require.Empty(t, reply.OpenID)
				return
			}
			require.Equal(t, w.OpenID(appID, "alice"), reply.OpenID)
			require.Equal(t, w.UnionID("alice"), reply.UnionID)
			require.Equal(t, w.SessionKey(appID, "alice"), reply.SessionKey)
			require.Len(t, reply.OpenID, 28)
			require.Len(t, reply.SessionKey, 24)
			require.Equal(t, 40163., w.ask(t, query).Errcode, "once only")
		})
	}
}

func TestANewLoginReplacesTheSessionKey(t *testing.T) {
	w := newWorld(t)
	first := w.ask(t, good(w.IssueCode(appID, "alice")))
	second := w.ask(t, good(w.IssueCode(appID, "alice")))
	require.Equal(t, first.OpenID, second.OpenID)
	require.NotEqual(t, first.SessionKey, second.SessionKey)
	require.Equal(t, second.SessionKey, w.SessionKey(appID, "alice"))
	require.NotEqual(t, first.OpenID, w.OpenID(appID, "bob"))
	require.NotEqual(t, first.OpenID, w.OpenID("wx2", "alice"))
}

func TestScriptsAreForTheCallsTheyName(t *testing.T) {
	w := newWorld(t)
	first, second := w.IssueCode(appID, "alice"), w.IssueCode(appID, "bob")
	script := fakewechat.Errcode(-1)
	script.Code, script.Calls = second, 2
	w.Script(script)
	require.Nil(t, w.ask(t, good(first)).Errcode)
	require.Equal(t, -1., w.ask(t, good(second)).Errcode)
	require.Equal(t, -1., w.ask(t, good(second)).Errcode)
	require.Nil(t, w.ask(t, good(second)).Errcode, "the errcode did not spend it")
	require.Equal(t, 3, w.CallsWith(second))
}

// Another process does over HTTP what a test does in Go.
func TestControlOverHTTP(t *testing.T) {
	w := newWorld(t)
	post := func(status int, path, body string) string {
		t.Helper()
		resp, err := http.Post(w.url+path, "application/json", strings.NewReader(body))
		require.NoError(t, err)
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, status, resp.StatusCode, "%s", answer)
		return string(answer)
	}
	var issued struct{ Code string }
	require.NoError(t, json.Unmarshal([]byte(post(200, "/fake/code?appid="+appID+"&user=alice", "")), &issued))
	post(409, "/fake/opendata?appid="+appID+"&user=alice", "")

	post(204, "/fake/script", `{"errcode":45011,"errcode_text":true}`)
	post(204, "/fake/script", `[{"body":"x"},{"status":500}]`)
	require.Equal(t, "45011", w.ask(t, good(issued.Code)).Errcode)
	post(204, "/fake/reset", "")
	require.NotEmpty(t, w.ask(t, good(issued.Code)).OpenID)

	resp, err := http.Get(w.url + "/fake/calls?code=" + issued.Code)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NotContains(t, string(answer), secret)
	var calls []fakewechat.Call
	require.NoError(t, json.Unmarshal(answer, &calls))
	require.Len(t, calls, 1)
	require.Equal(t, issued.Code, calls[0].Code)

	var data fakewechat.OpenData
	require.NoError(t, json.Unmarshal([]byte(post(200, "/fake/opendata?appid="+appID+"&user=alice", `{"phoneNumber":"1"}`)), &data))
	require.Equal(t, `{"phoneNumber":"1"}`, data.RawData)
	require.Equal(t, fakewechat.Sign(w.SessionKey(appID, "alice"), data.RawData), data.Signature)

	post(404, "/fake/code?appid=wx3&user=alice", "")
	post(400, "/fake/code?appid="+appID, "")
	post(400, "/fake/script", `{"errcod":1}`)
	post(400, "/fake/script", ``+"x")
	post(400, "/fake/opendata?appid="+appID+"&user=alice", `[]`)
	post(204, "/fake/release", "")
}
