package main_test

import (
	"crypto/sha1" // #nosec G505 -- WeChat's signature
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// openDataSite has one public path among those with open data.
const openDataSite = `
	public /user/public
	open_data /user/*`

// sealed encrypts fields with a user's session_key, and gives the body that a
// mini program sends.
func sealed(t *testing.T, g *gatewaytest.Gateway, user string, fields map[string]any) map[string]any {
	t.Helper()
	data, err := g.WeChat.OpenData(gatewaytest.AppID, user, fields)
	require.NoError(t, err)
	return map[string]any{"encryptedData": data.EncryptedData, "iv": data.IV}
}

func encode(t *testing.T, body any) string {
	t.Helper()
	text, err := json.Marshal(body)
	require.NoError(t, err)
	return string(text)
}

// phone is what wx.getPhoneNumber gives.
func phone(watermark any) map[string]any {
	return map[string]any{"phoneNumber": "13580006666", "purePhoneNumber": "13580006666", "countryCode": "86", "watermark": watermark}
}

// watermark is what WeChat puts into open data.
func watermark(appID string, age time.Duration) map[string]any {
	return map[string]any{"appid": appID, "timestamp": time.Now().Add(-age).Unix()}
}

func TestOpenDataReachesTheUpstreamDecrypted(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: openDataSite})
	token := g.Login("alice").Token

	body := sealed(t, g, "alice", phone(watermark(gatewaytest.AppID, 0)))
	body["orderId"], body["openData"] = 7, "forged"
	body["OPENDATA"] = "forged in another case"
	resp := g.Post("/user/phone", encode(t, body), gatewaytest.Token(token), "X-WX-Open-Data: verified", "x_wx_open_data: verified")
	require.Equal(t, http.StatusOK, resp.Status, resp.Body)
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	require.Equal(t, []string{"verified"}, received[0].Lines("X-WX-Open-Data"))
	require.Equal(t, []string{g.OpenID("alice")}, received[0].Lines("X-OpenID"))
	var got map[string]any
	require.NoError(t, json.Unmarshal(received[0].Body, &got))
	require.Len(t, got, 2)
	require.EqualValues(t, 7, got["orderId"])
	data := got["openData"].(map[string]any)
	require.Equal(t, "13580006666", data["phoneNumber"])
	require.Equal(t, gatewaytest.AppID, data["watermark"].(map[string]any)["appid"])
	require.NotContains(t, string(received[0].Raw), g.WeChat.SessionKey(gatewaytest.AppID, "alice"))

	// With a signature the signed text comes as userInfo.
	signed, err := g.WeChat.OpenData(gatewaytest.AppID, "alice", nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, g.Post("/user/profile", encode(t, signed), gatewaytest.Token(token)).Status)
	received = g.Upstream.Take()
	var profile struct{ UserInfo, OpenData map[string]any }
	require.NoError(t, json.Unmarshal(received[0].Body, &profile))
	require.NotEmpty(t, profile.UserInfo)
	require.Equal(t, g.OpenID("alice"), profile.OpenData["openId"])
}

func TestOpenDataThatIsNotThereChangesNothing(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: openDataSite})
	token := g.Login("alice").Token
	for name, tc := range map[string]struct{ path, body, want string }{
		"other members":     {"/user/name", `{ "name": "x" , "n": 1e3 }`, `{ "name": "x" , "n": 1e3 }`},
		"an array":          {"/user/name", `[1, 2]`, `[1, 2]`},
		"no body":           {"/user/name", ``, ``},
		"forged openData":   {"/user/name", `{"a":1,"openData":{"phoneNumber":"1"}}`, `{"a":1}`},
		"another path":      {"/orders", `{"openData":{"phoneNumber":"1"}}`, `{"openData":{"phoneNumber":"1"}}`},
		"iv of another use": {"/orders", `{"iv":"x"}`, `{"iv":"x"}`},
	} {
		t.Run(name, func(t *testing.T) {
			resp := g.Post(tc.path, tc.body, gatewaytest.Token(token), "X-WX-Open-Data: verified")
			require.Equal(t, http.StatusOK, resp.Status, resp.Body)
			received := g.Upstream.Take()
			require.Len(t, received, 1)
			require.Equal(t, tc.want, string(received[0].Body))
			require.Empty(t, received[0].Lines("X-WX-Open-Data"))
		})
	}
	// Without a session, too, nothing forged looks verified.
	require.Equal(t, http.StatusOK, g.Post("/user/public", `{"openData":1,"b":2}`, "X-WX-Open-Data: verified").Status)
	received := g.Upstream.Take()
	require.Equal(t, `{"b":2}`, string(received[0].Body))
	require.Empty(t, received[0].Lines("X-WX-Open-Data"))
	require.Equal(t, "missing_session", g.Post("/user/name", `{}`).ErrorName())
}

func TestOpenDataIsRefused(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: openDataSite})
	token := g.Login("alice").Token
	g.Login("bob")
	flip := func(text string, at int) string {
		raw, err := base64.StdEncoding.DecodeString(text)
		require.NoError(t, err)
		raw[(at+len(raw))%len(raw)] ^= 1
		return base64.StdEncoding.EncodeToString(raw)
	}
	good := func() map[string]any {
		return sealed(t, g, "alice", map[string]any{"openId": g.OpenID("alice"), "nickName": "alice", "watermark": watermark(gatewaytest.AppID, 0)})
	}
	with := func(change func(body map[string]any)) map[string]any {
		body := good()
		change(body)
		return body
	}
	signature := func(rawData, key string) string {
		sum := sha1.Sum([]byte(rawData + key))
		return hex.EncodeToString(sum[:])
	}
	const rejected, malformed = "open_data_rejected", "bad_request"
	var refusals []string
	for name, tc := range map[string]struct {
		body map[string]any
		want string
	}{
		"another user's data": {sealed(t, g, "bob", phone(watermark(gatewaytest.AppID, 0))), rejected},
		"another openId":      {sealed(t, g, "alice", map[string]any{"openId": g.OpenID("bob"), "nickName": "alice", "watermark": watermark(gatewaytest.AppID, 0)}), rejected},
		"another app's":       {sealed(t, g, "alice", phone(watermark(gatewaytest.OtherAppID, 0))), rejected},
		"stale":               {sealed(t, g, "alice", phone(watermark(gatewaytest.AppID, 11*time.Minute))), rejected},
		"of the future":       {sealed(t, g, "alice", phone(watermark(gatewaytest.AppID, -2*time.Minute))), rejected},
		"no watermark":        {sealed(t, g, "alice", phone(nil)), rejected},
		"changed iv":          {with(func(b map[string]any) { b["iv"] = flip(b["iv"].(string), 0) }), rejected},
		"changed padding":     {with(func(b map[string]any) { b["encryptedData"] = flip(b["encryptedData"].(string), -17) }), rejected},
		"changed content":     {with(func(b map[string]any) { b["encryptedData"] = flip(b["encryptedData"].(string), 0) }), rejected},
		"wrong signature": {with(func(b map[string]any) {
			b["rawData"], b["signature"] = `{}`, signature(`{}`, "another key")
		}), rejected},
		"signed list": {with(func(b map[string]any) {
			b["rawData"], b["signature"] = `[]`, signature(`[]`, g.WeChat.SessionKey(gatewaytest.AppID, "alice"))
		}), rejected},
		"not base64":        {with(func(b map[string]any) { b["encryptedData"] = "***" }), malformed},
		"half a block":      {with(func(b map[string]any) { b["encryptedData"] = "YWJj" }), malformed},
		"short iv":          {with(func(b map[string]any) { b["iv"] = "YWJj" }), malformed},
		"iv is a number":    {with(func(b map[string]any) { b["iv"] = 7 }), malformed},
		"iv is missing":     {with(func(b map[string]any) { delete(b, "iv") }), malformed},
		"data is null":      {with(func(b map[string]any) { b["encryptedData"] = nil }), malformed},
		"body is too large": {with(func(b map[string]any) { b["pad"] = strings.Repeat("x", 65<<10) }), malformed},
	} {
		t.Run(name, func(t *testing.T) {
			resp := g.Post("/user/phone", encode(t, tc.body), gatewaytest.Token(token))
			require.Equal(t, tc.want, resp.ErrorName(), resp.Body)
			if tc.want == rejected {
				require.Equal(t, http.StatusConflict, resp.Status)
				refusals = append(refusals, resp.Body)
			}
			g.RequireNothing(t)
		})
	}
	for _, refusal := range refusals {
		require.Equal(t, refusals[0], refusal, "the reasons are not told apart")
	}
	require.Equal(t, malformed, g.Post("/user/phone", `{"encryptedData":`, gatewaytest.Token(token)).ErrorName())
	require.Equal(t, malformed, g.Post("/user/phone", `{"iv":"YQ==","iv":"YQ==","encryptedData":"YQ=="}`, gatewaytest.Token(token)).ErrorName())
	g.RequireNothing(t)
}

func TestOpenDataUnderTheKeyBefore(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: openDataSite})
	token := g.Login("alice").Token
	body := encode(t, sealed(t, g, "alice", phone(watermark(gatewaytest.AppID, 0))))
	g.Login("alice") // a new session_key; the page still holds data of the old
	require.Equal(t, http.StatusOK, g.Post("/user/phone", body, gatewaytest.Token(token)).Status)
	g.Login("alice")
	require.Equal(t, "open_data_rejected", g.Post("/user/phone", body, gatewaytest.Token(token)).ErrorName(), "two keys ago")
}

// The published vector V1 through the whole gateway: WeChat's own data of 2016.
func TestPublishedVectorThroughTheGateway(t *testing.T) {
	const appID, openID, key = "wx4f4bc4dec97d474b", "oGZUI0egBJY1zhBYw2KhdUfwVJJE", "tiihtNczf5v6AKRyjwEUhQ=="
	const encrypted = "CiyLU1Aw2KjvrjMdj8YKliAjtP4gsMZMQmRzooG2xrDcvSnxIMXFufNstNGTyaGS9uT5geRa0W4oTOb1WT7fJlAC+oNPdbB+3hVbJSRgv+4lGOETKUQz6OYStslQ142dNCuabNPGBzlooOmB231qMM85d2/fV6ChevvXvQP8Hkue1poOFtnEtpyxVLW1zAo6/1Xx1COxFvrc2d7UL/lmHInNlxuacJXwu0fjpXfz/YqYzBIBzD6WUfTIF9GRHpOn/Hz7saL8xz+W//FRAUid1OksQaQx4CMs8LOddcQhULW4ucetDf96JcR3g0gfRK4PC7E/r7Z6xNrXd2UIeorGj5Ef7b1pJAYB6Y5anaHqZ9J6nKEBvB4DnNLIVWSgARns/8wR2SiRS7MNACwTyrGvt9ts8p12PKFdlqYTopNHR1Vf7XjfhQlVsAJdNiKdYmYVoKlaRv85IfVunYzO0IKXsyl7JCUjCpoG20f0a04COwfneQAGGwd5oa+T8yO5hzuyDb/XcxxmK01EpqOyuxINew=="
	g := gatewaytest.Start(t, gatewaytest.Config{
		App:  "miniprogram " + appID + " {env.WX_OTHER_SECRET}",
		Site: "miniprograms " + appID + "\nopen_data /user/* {\nmax_age 0\n}",
	})
	g.WeChat.Script(fakewechat.Body(`{"openid":"` + openID + `","session_key":"` + key + `"}`))
	resp := g.Post("/login", `{"code":"the-code-of-2016"}`)
	require.Equal(t, http.StatusOK, resp.Status, resp.Body)
	var login gatewaytest.Login
	require.NoError(t, json.Unmarshal([]byte(resp.Body), &login))

	send := func(iv string) gatewaytest.Response {
		return g.Post("/user/profile", encode(t, map[string]string{"encryptedData": encrypted, "iv": iv}), gatewaytest.Token(login.Token))
	}
	require.Equal(t, http.StatusOK, send("r7BXXKkLb8qrSNn05n0qiA==").Status)
	received := g.Upstream.Take()
	var got struct {
		OpenData struct {
			OpenID, NickName, UnionID string
			Watermark                 struct{ Timestamp int64 }
		}
	}
	require.NoError(t, json.Unmarshal(received[0].Body, &got))
	require.Equal(t, openID, got.OpenData.OpenID)
	require.Equal(t, "Band", got.OpenData.NickName)
	require.Equal(t, "ocMvos6NjeKLIBqg5Mr9QjxrP1FA", got.OpenData.UnionID)
	require.EqualValues(t, 1477314187, got.OpenData.Watermark.Timestamp)

	require.Equal(t, "open_data_rejected", send("r7BXXKkLb8qrSNn05n2qiA==").ErrorName())
	g.RequireNothing(t)
}

func TestDemoShowsOpenData(t *testing.T) {
	cmd := gatewaytest.New(t).Command("wxgate", "demo", "--listen", gatewaytest.FreeAddr(t))
	d := startDemo(t, cmd)
	post := func(path, body string, token string) gatewaytest.Response {
		req, err := http.NewRequest(http.MethodPost, d.base+path, strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		if token != "" {
			req.Header["3rd_session"] = []string{token}
		}
		resp, err := gatewaytest.ReadResponse(http.DefaultClient.Do(req))
		require.NoError(t, err)
		return resp
	}
	var login gatewaytest.Login
	require.NoError(t, json.Unmarshal([]byte(post("/login", post("/sandbox/code?user=bob", "", "").Body, "").Body), &login))
	echoed := post("/profile", post("/sandbox/opendata?user=bob", "", "").Body, login.Token)
	require.Equal(t, http.StatusOK, echoed.Status, echoed.Body)
	require.Contains(t, echoed.Body, `"X-Wx-Open-Data"`)
	require.Contains(t, echoed.Body, `openData`)
	require.NotContains(t, echoed.Body, `encryptedData`)
}

func TestCloudHostingHeaders(t *testing.T) {
	forged := []string{
		"X-WX-OPENID: forged", "x-wx-source: forged", "X-Wx-Unionid: forged", "X-WX-APPID: forged",
		// Where an environment is shared, these name the user.
		"X-WX-FROM-OPENID: forged", "x-wx-from-appid: forged", "X-WX-FROM-UNIONID: forged",
		"X-WX-CLOUDBASE-ACCESS-TOKEN: forged", "X-WX-FROM-CLOUDBASE-ACCESS-TOKEN: forged", "X-WX-ENV: forged",
	}
	aliases := strings.Split(strings.ReplaceAll(strings.Join(forged, "\n"), "-", "_"), "\n")
	for name, tc := range map[string]struct {
		servers string
		forged  []string
	}{
		"usual":      {"", forged},
		"permissive": {"expected_underscore_headers 3rd_session x_*", aliases},
	} {
		t.Run(name, func(t *testing.T) {
			g := gatewaytest.Start(t, gatewaytest.Config{Servers: tc.servers, Site: "inject wx_cloud\npublic /public/*"})
			token := g.Login("alice").Token
			lines := append([]string{"X~Wx-From-OpenID: forged"}, tc.forged...)
			require.Equal(t, http.StatusOK, g.Get("/", append(lines, gatewaytest.Token(token))...).Status)
			received := g.Upstream.Take()
			require.Len(t, received, 1)
			for name, want := range map[string]string{
				"X-WX-OPENID": g.OpenID("alice"), "X-WX-APPID": gatewaytest.AppID, "X-WX-UNIONID": g.WeChat.UnionID("alice"), "X-WX-SOURCE": "wx_client",
			} {
				require.Equal(t, []string{want}, received[0].Lines(name))
			}
			require.NotContains(t, string(received[0].Raw), "forged")

			require.Equal(t, http.StatusOK, g.Get("/public/a", lines...).Status)
			received = g.Upstream.Take()
			require.Len(t, received, 1)
			require.NotContains(t, string(received[0].Raw), "forged")
		})
	}
}
