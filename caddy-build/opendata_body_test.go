package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// send posts a body with these header lines.
func send(g *gatewaytest.Gateway, path, body string, lines ...string) gatewaytest.Response {
	return g.Raw("POST " + path + " HTTP/1.1\nHost: " + g.Addr + "\n" + strings.Join(append(lines, ""), "\n") + "Content-Length: " + strconv.Itoa(len(body)) + "\n\n" + body)
}

// What is marked is what the upstream reads, whatever it goes by.
func TestOpenDataNeedsOnePlainContentType(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: openDataSite})
	token := gatewaytest.Token(g.Login("alice").Token)
	fields := sealed(t, g, "alice", phone(watermark(gatewaytest.AppID, 0)))
	fields["x"] = "&openData[phoneNumber]=13800138000&y="
	body := encode(t, fields)

	for name, tc := range map[string]struct {
		lines []string
		want  string // in the answer
	}{
		"form":              {[]string{"Content-Type: application/x-www-form-urlencoded"}, `"application/x-www-form-urlencoded"`},
		"text":              {[]string{"Content-Type: text/plain"}, `"text/plain"`},
		"none":              {nil, `Content-Type is ""`},
		"two":               {[]string{"Content-Type: application/json", "Content-Type: application/x-www-form-urlencoded"}, `"application/json, application/x-www-form-urlencoded"`},
		"two in one":        {[]string{"Content-Type: application/json, application/json"}, `"application/json, application/json"`},
		"another JSON":      {[]string{"Content-Type: application/vnd.api+json"}, `"application/vnd.api+json"`},
		"broken parameters": {[]string{"Content-Type: application/json; charset"}, `"application/json; charset"`},
		"charset":           {[]string{"Content-Type: application/json; charset=utf-16"}, `charset=utf-16`},
		"encoding":          {[]string{"Content-Type: application/json", "Content-Encoding: gzip"}, `Content-Encoding is "gzip"`},
	} {
		t.Run(name, func(t *testing.T) {
			resp := send(g, "/user/phone", body, append(tc.lines, token)...)
			require.Equal(t, http.StatusUnsupportedMediaType, resp.Status, resp.Body)
			require.Equal(t, "unsupported_media_type", resp.ErrorName())
			require.Contains(t, strings.ReplaceAll(resp.Body, `\"`, `"`), tc.want)
			g.RequireNothing(t)
		})
	}
	for name, lines := range map[string][]string{
		"plain":    {"Content-Type: application/json"},
		"charset":  {"Content-Type: Application/JSON; charset=UTF-8"},
		"identity": {"Content-Type: application/json", "Content-Encoding: identity"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, http.StatusOK, send(g, "/user/phone", body, append(lines, token)...).Status)
			received := g.Upstream.Take()
			require.Len(t, received, 1)
			require.Equal(t, []string{"application/json"}, received[0].Lines("Content-Type"))
			require.Equal(t, []string{"verified"}, received[0].Lines("X-WX-Open-Data"))
		})
	}
}

// A body without open data arrives as it was sent, of whatever type and size.
func TestOtherBodiesPassOpenDataPaths(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: openDataSite})
	token := gatewaytest.Token(g.Login("alice").Token)
	large := strings.Repeat("x", 100<<10)
	upload := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.jpg\"\r\n\r\n" + strings.Repeat("\xff\xd8", 50<<10) + "\r\n--b--\r\n"
	for name, tc := range map[string]struct{ contentType, body string }{
		"upload":              {"multipart/form-data; boundary=b", upload},
		"upload of JSON":      {"application/octet-stream", `{"openData":1}`},
		"image":               {"image/png", "\x89PNG\r\n"},
		"form":                {"application/x-www-form-urlencoded", "nick=x&openData=1"},
		"large form":          {"application/x-www-form-urlencoded", "nick=" + large},
		"form with a brace":   {"application/x-www-form-urlencoded", "{=1"},
		"xml":                 {"text/xml", "<a/>"},
		"lines of JSON":       {"application/x-ndjson", "{\"openData\":1}\n{}"},
		"an array":            {"application/json", `[{"openData":1}]`},
		"white space":         {"application/json", "  \n"},
		"large JSON":          {"application/json", `{"text":"` + large + `","iv":"x","nested":{"openData":1}}`},
		"small JSON":          {"application/json", ` { "a" : 1e3, "iv": 7, "list": [{"openData":1}], "a":2, "A":3 } `},
		"deep JSON":           {"application/json", `{"a":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `}`},
		"encrypted elsewhere": {"application/json", `{"a":{"encryptedData":"x","iv":"y"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/user/avatar", "/user/public"} {
				resp := sendBytes(t, g, path, tc.contentType, tc.body, token)
				require.Equal(t, http.StatusOK, resp.Status, resp.Body)
				received := g.Upstream.Take()
				require.Len(t, received, 1)
				require.Equal(t, tc.body, string(received[0].Body))
				require.Empty(t, received[0].Lines("X-WX-Open-Data"))
				require.Equal(t, []string{tc.contentType}, received[0].Lines("Content-Type"))
			}
		})
	}
}

// sendBytes posts a body as it stands, without the change of line ends that Raw makes.
func sendBytes(t *testing.T, g *gatewaytest.Gateway, path, contentType, body, token string) gatewaytest.Response {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, g.URL+path, bytes.NewReader([]byte(body)))
	require.NoError(t, err)
	_, value, _ := strings.Cut(token, ": ")
	req.Header["3rd_session"] = []string{value}
	req.Header.Set("Content-Type", contentType)
	resp, err := gatewaytest.ReadResponse(http.DefaultClient.Do(req))
	require.NoError(t, err)
	return resp
}

// The openData of a client is gone from JSON of whatever size, and under whatever type is read for JSON.
func TestForgedOpenDataIsRemoved(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: openDataSite})
	token := gatewaytest.Token(g.Login("alice").Token)
	pad := `"pad":"` + strings.Repeat(`\"openData\":{`, 8<<10) + `"`
	for name, tc := range map[string]struct{ contentType, body string }{
		"small":            {"application/json", `{"openData":{"phoneNumber":"1"},"OPENDATA":2}`},
		"as text":          {"text/plain", `{"openData":1}`},
		"as a form":        {"application/x-www-form-urlencoded", `{"openData":1}`},
		"as other JSON":    {"application/problem+json", `{"openData":1}`},
		"with an escape":   {"application/json", `{"\u006fpenD\u0061ta":1}`},
		"large, at first":  {"application/json", `{"openData":1,` + pad + `}`},
		"large, at last":   {"application/json", `{` + pad + `,"n":[{"a":"}"},2] , "OpenData" :1}`},
		"large, an escape": {"application/json", `{` + pad + `,"\u006fpenD\u0061ta":1}`},
		"large, as text":   {"text/plain", `{` + pad + `,"openData":1}`},
		"long s":           {"application/json", "{\"a\":1,\"openData\":1,\"b\":\"\u017f\"}"},
	} {
		t.Run(name, func(t *testing.T) {
			resp := sendBytes(t, g, "/user/phone", tc.contentType, tc.body, token)
			require.Equal(t, http.StatusOK, resp.Status, resp.Body)
			received := g.Upstream.Take()
			require.Len(t, received, 1)
			var members map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(received[0].Body, &members))
			for member := range members {
				require.False(t, strings.EqualFold(member, "openData"))
			}
			if strings.HasPrefix(name, "large") {
				require.Contains(t, string(received[0].Body), pad)
				require.Len(t, received[0].Body, len(tc.body))
			}
		})
	}
	// An upstream may clean the path.
	for _, path := range []string{"/user//phone", "/user/./phone", "/x/../user/phone"} {
		resp := send(g, path, `{"openData":1}`, "Content-Type: application/json", token)
		require.Equal(t, http.StatusOK, resp.Status, path)
		require.Equal(t, `{}`, string(g.Upstream.Take()[0].Body), path)
	}
	// JSON that cannot be read is refused.
	for body, lines := range map[string][]string{
		`{"openData":1}`:                      {"Content-Type: application/json; charset=utf-7"},
		"\x00{\x00}":                          {"Content-Type: application/json; charset=utf-16be"},
		"\x1f\x8b":                            {"Content-Type: application/json", "Content-Encoding: gzip"},
		"\ufeff" + `{"openData":1}`:           {"Content-Type: application/json"},
		`{"openData":1,"x":"` + "\xff" + `"}`: {"Content-Type: application/json"},
	} {
		resp := send(g, "/user/phone", body, append(lines, token)...)
		require.Contains(t, []int{http.StatusBadRequest, http.StatusUnsupportedMediaType}, resp.Status, "%q", body)
		g.RequireNothing(t)
	}
	// Open data in a large body is refused where it is seen, and never marked.
	fields := sealed(t, g, "alice", phone(watermark(gatewaytest.AppID, 0)))
	first := `{"encryptedData":"` + fields["encryptedData"].(string) + `","iv":"` + fields["iv"].(string) + `",` + pad + `}`
	require.Equal(t, "bad_request", sendBytes(t, g, "/user/phone", "application/json", first, token).ErrorName())
	last := `{` + pad + `,"encryptedData":"` + fields["encryptedData"].(string) + `","iv":"` + fields["iv"].(string) + `"}`
	require.Equal(t, http.StatusOK, sendBytes(t, g, "/user/phone", "application/json", last, token).Status)
	received := g.Upstream.Take()
	require.Len(t, received, 1)
	require.Empty(t, received[0].Lines("X-WX-Open-Data"))
}

func TestRefusalsOfOpenDataAreCounted(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: openDataSite})
	alice, bob := gatewaytest.Token(g.Login("alice").Token), gatewaytest.Token(g.Login("bob").Token)
	good := encode(t, sealed(t, g, "alice", phone(watermark(gatewaytest.AppID, 0))))
	bad := encode(t, sealed(t, g, "bob", phone(watermark(gatewaytest.AppID, 0))))
	for range 20 {
		require.Equal(t, http.StatusOK, g.Post("/user/phone", good, alice).Status, "what verifies does not count")
		require.Equal(t, "bad_request", g.Post("/user/phone", `{"encryptedData":"x","iv":"y"}`, alice).ErrorName(), "nor what is malformed")
		require.Equal(t, "open_data_rejected", g.Post("/user/phone", bad, alice).ErrorName())
	}
	g.Upstream.Take()
	resp := g.Post("/user/phone", good, alice)
	require.Equal(t, http.StatusTooManyRequests, resp.Status)
	require.Equal(t, "rate_limited", resp.ErrorName())
	g.RequireNothing(t)
	require.Equal(t, http.StatusOK, g.Post("/user/phone", `{"a":1}`, alice).Status, "other bodies pass")
	require.Equal(t, http.StatusOK, g.Post("/user/phone", bad, bob).Status, "another session")
	again := gatewaytest.Token(g.Login("alice").Token)
	require.Equal(t, http.StatusOK, g.Post("/user/phone", good, again).Status, "the key before the last login still opens it")
	require.Equal(t, http.StatusTooManyRequests, g.Post("/user/phone", good, alice).Status)
}

func TestRefusalsOfOpenDataHaveTheirReasonInTheLog(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: openDataSite})
	token := gatewaytest.Token(g.Login("alice").Token)
	mark := watermark(gatewaytest.AppID, 0)
	changed := sealed(t, g, "alice", phone(mark))
	changed["signature"], changed["rawData"] = strings.Repeat("0", 40), "{}"
	g.Login("bob")
	var refusals []string
	for reason, body := range map[string]map[string]any{
		"stale":           sealed(t, g, "alice", phone(watermark(gatewaytest.AppID, time.Hour))),
		"from the future": sealed(t, g, "alice", phone(watermark(gatewaytest.AppID, -time.Hour))),
		"other app":       sealed(t, g, "alice", phone(watermark(gatewaytest.OtherAppID, 0))),
		"other user":      sealed(t, g, "alice", map[string]any{"openId": g.OpenID("bob"), "nickName": "a", "watermark": mark}),
		"key replaced":    sealed(t, g, "bob", phone(mark)),
		"shape":           sealed(t, g, "alice", map[string]any{"phoneNumber": "13580006666", "watermark": mark}),
		"signature":       changed,
	} {
		resp := g.Post("/user/phone", encode(t, body), token)
		require.Equal(t, http.StatusConflict, resp.Status)
		refusals = append(refusals, resp.Body)
		g.Eventually(func() bool { return strings.Contains(g.Output(), fmt.Sprintf(`"reason":%q`, reason)) }, reason+" is in the log")
	}
	for _, refusal := range refusals {
		require.Equal(t, refusals[0], refusal, "the client cannot tell them apart")
	}
	require.Equal(t, len(refusals), strings.Count(g.Output(), `"msg":"open data rejected"`))
	require.NotContains(t, g.Output(), "13580006666")
	g.RequireNothing(t)
}
