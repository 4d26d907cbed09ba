package main_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// startDev runs `wxgate dev` before an application that answers with the openid
// that it received, and returns a function that sends a request to the gateway.
func startDev(t *testing.T, args ...string) (d *demo, send func(method, path, body string, header ...string) gatewaytest.Response) {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-OpenID")+"|"+r.Header.Get("3rd_session"))
	}))
	t.Cleanup(app.Close)
	args = append([]string{
		"wxgate", "dev", "--upstream", strings.TrimPrefix(app.URL, "http://"), "--listen", gatewaytest.FreeAddr(t), "--api", gatewaytest.FreeAddr(t),
	}, args...)
	d = startDemo(t, exec.Command(gatewaytest.Binary(t), args...))
	return d, func(method, path, body string, header ...string) gatewaytest.Response {
		t.Helper()
		req, err := http.NewRequest(method, d.base+path, strings.NewReader(body))
		require.NoError(t, err)
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
			if header[i] == "Host" {
				req.Host = header[i+1]
			}
		}
		resp, err := gatewaytest.ReadResponse(http.DefaultClient.Do(req))
		require.NoError(t, err)
		return resp
	}
}

func TestDevLogsInWithAnyCode(t *testing.T) {
	_, send := startDev(t, "--public", "/static/*")
	openID := func(contentType, body string) string {
		t.Helper()
		resp := send("POST", "/login", body, "Content-Type", contentType)
		require.Equal(t, http.StatusOK, resp.Status, resp.Body)
		var login gatewaytest.Login
		require.NoError(t, json.Unmarshal([]byte(resp.Body), &login))
		resp = send("GET", "/me", "", "3rd_session", login.Token)
		require.Equal(t, http.StatusOK, resp.Status, resp.Body)
		id, token, _ := strings.Cut(resp.Body, "|")
		require.Empty(t, token, "the application receives no token")
		require.NotEmpty(t, id)
		return id
	}
	const form = "application/x-www-form-urlencoded"
	alice := openID("application/json", `{"code":"alice"}`)
	require.Equal(t, alice, openID("application/json", `{"code":"alice"}`), "the same code is the same user")
	require.Equal(t, alice, openID(form, "code=alice"))
	require.NotEqual(t, alice, openID("application/json", `{"code":"bob"}`))
	require.NotEqual(t, alice, openID("application/json", `{"code":"0e3Qb1000mXVtS1gkK300pV2tC2Qb10K"}`), "as wx.login gives it")

	// Mistakes are answered as by the real gateway.
	for name, tc := range map[string]struct {
		contentType, body, want string
	}{
		"no code":       {"application/json", `{}`, "bad_request"},
		"an empty code": {"application/json", `{"code":""}`, "bad_request"},
		"a long code":   {"application/json", `{"code":"` + strings.Repeat("x", 129) + `"}`, "bad_request"},
		"not JSON":      {"application/json", `code=alice`, "bad_request"},
		"another appid": {"application/json", `{"code":"alice","appid":"wx00000000000000ff"}`, "bad_request"},
		"text":          {"text/plain", `{"code":"alice"}`, "unsupported_media_type"},
		"much":          {"application/json", `{"code":"alice","x":"` + strings.Repeat("x", 16<<10) + `"}`, "body_too_large"},
	} {
		require.Equal(t, tc.want, send("POST", "/login", tc.body, "Content-Type", tc.contentType).ErrorName(), name)
	}
	require.Equal(t, "missing_session", send("GET", "/me", "", "X-OpenID", "oForged").ErrorName())
	require.Equal(t, "|", send("GET", "/static/a.js", "", "X-OpenID", "oForged").Body)
}

func TestDevServesLocalPagesOnly(t *testing.T) {
	_, send := startDev(t)
	preflight := send("OPTIONS", "/me", "", "Origin", "http://localhost:5173", "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "3rd_session")
	require.Equal(t, http.StatusNoContent, preflight.Status)
	require.Equal(t, "http://localhost:5173", preflight.Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "3rd_session", preflight.Header.Get("Access-Control-Allow-Headers"))
	login := func(header ...string) int {
		return send("POST", "/login", `{"code":"alice"}`, append([]string{"Content-Type", "application/json"}, header...)...).Status
	}
	require.Equal(t, http.StatusOK, login("Origin", "http://192.168.1.5:8080"))
	require.Equal(t, http.StatusForbidden, login("Origin", "https://www.example.com"))
	require.Equal(t, http.StatusForbidden, login("Host", "rebound.example.com"), "a name of the Internet that leads here")
	require.Equal(t, http.StatusOK, login("Origin", "http://127.0.0.1:9974", "Referer", "https://servicewechat.com/wx0123456789abcdef/devtools/page-frame.html"))
}

func TestDevHasTheServerAPI(t *testing.T) {
	d, _ := startDev(t)
	var api string
	for line := range strings.Lines(d.printed) {
		if address, ok := strings.CutPrefix(strings.TrimSpace(line), "server API"); ok {
			api = strings.TrimSpace(address)
		}
	}
	resp, err := gatewaytest.ReadResponse(http.Post(api+"/wxa/business/getuserphonenumber", "application/json", strings.NewReader(`{"code":"made-up"}`)))
	require.NoError(t, err)
	require.Contains(t, resp.Body, `"errcode":40029`, "WeChat's own answer, without a token of the application's")
}

func TestDevRefusesWhatOthersReach(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no application":          {nil, "--upstream 127.0.0.1:3000"},
		"a URL":                   {[]string{"--upstream", "http://127.0.0.1:3000"}, "host:port, such as --upstream 127.0.0.1:3000"},
		"all addresses":           {[]string{"--upstream", "127.0.0.1:3000", "--listen", "0.0.0.0:8080"}, "not loopback"},
		"all, with --lan":         {[]string{"--upstream", "127.0.0.1:3000", "--lan", "--listen", "0.0.0.0:8080"}, "not loopback"},
		"private without --lan":   {[]string{"--upstream", "127.0.0.1:3000", "--listen", "192.168.1.5:8080"}, "--lan"},
		"public with --lan":       {[]string{"--upstream", "127.0.0.1:3000", "--lan", "--listen", "203.0.113.1:8080"}, "not loopback"},
		"server API for everyone": {[]string{"--upstream", "127.0.0.1:3000", "--lan", "--listen", "127.0.0.1:0", "--api", "192.168.1.5:9001"}, "--api"},
	} {
		t.Run(name, func(t *testing.T) {
			out := finish(t, exec.Command(gatewaytest.Binary(t), append([]string{"wxgate", "dev"}, tc.args...)...)).require(t, 2)
			require.Contains(t, out.stderr, tc.want)
		})
	}
}
