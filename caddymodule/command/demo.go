package command

import (
	"cmp"
	_ "embed" // the demo's page
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

//go:embed demo.html
var demoPage []byte

func demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo [--listen 127.0.0.1:8080] [--dir <directory>]",
		Short: "Runs gateway, sandbox WeChat and an echo upstream on loopback",
		Long: `
Runs the gateway with a sandbox that plays WeChat and an upstream that echoes each
request, all in this process and on loopback, and prints the curl lines to try.
Sessions are kept in a temporary directory, or in that of --dir.

It is a sandbox: every client that reaches it can log in as anyone.`,
		Args: arguments(0),
		RunE: run(runDemo),
	}
	cmd.Flags().String("listen", "127.0.0.1:8080", "Loopback address to listen on")
	cmd.Flags().String("dir", "", "Directory to keep sessions in (default: a temporary one)")
	return cmd
}

func runDemo(cmd *cobra.Command, _ []string) error {
	ln, err := listenLocally(cmd, "listen", false)
	if err != nil {
		return err
	}
	echoes, err := serveLoopback(http.HandlerFunc(echo))
	if err != nil {
		return err
	}
	dir, _ := cmd.Flags().GetString("dir")
	s := &sandbox{AppID: sandboxAppID, Upstream: echoes.String()}
	if err := s.start(dir); err != nil {
		return err
	}
	printDemo(cmd.OutOrStdout(), "http://"+ln.Addr().String())
	serve(ln, demoPages(s))
	return nil
}

// demoIcon is the page's icon.
const demoIcon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#07a050"/>` +
	`<path d="M8 24V9h16v15M13 24v-9h6v9" fill="none" stroke="#fff" stroke-width="3"/></svg>`

// demoPages serves the page, and plays what is not the gateway: the phone, the
// application's calls, WeChat's pushes, the operator.
func demoPages(s *sandbox) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "image/svg+xml")
		_, _ = io.WriteString(w, demoIcon)
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(demoPage)
	})
	for _, what := range []string{"code", "opendata", "phone"} {
		mux.HandleFunc("POST /sandbox/"+what, func(w http.ResponseWriter, r *http.Request) {
			query := url.Values{"appid": {s.AppID}, "user": {demoUser(r)}}
			r.URL = &url.URL{Path: "/fake/" + what, RawQuery: query.Encode()}
			s.wechat.ServeHTTP(w, r)
		})
	}
	mux.HandleFunc("POST /sandbox/api", func(w http.ResponseWriter, r *http.Request) {
		content := fmt.Sprintf(`{"openid":%q,"scene":2,"version":2,"content":"hello"}`, s.wechat.OpenID(s.AppID, demoUser(r)))
		client := http.Client{Transport: s.over("api.sock"), Timeout: demoTimeout}
		resp, err := client.Post("http://api.weixin.qq.com/wxa/msg_sec_check", "application/json", strings.NewReader(content))
		pass(w, resp, err)
	})
	mux.HandleFunc("POST /sandbox/push", func(w http.ResponseWriter, _ *http.Request) {
		push := fakewechat.PushConfig{AppID: s.AppID, Token: sandboxPushToken, EncodingAESKey: sandboxPushKey}
		query, body := push.Seal(`{"ToUserName":"gh_sandbox","MsgType":"event","Event":"xpay_goods_deliver_notify","OutTradeNo":"42"}`, time.Now())
		client := http.Client{Transport: s.over("gateway.sock"), Timeout: demoTimeout}
		resp, err := client.Post("http://127.0.0.1/wechat/push?"+query.Encode(), "application/json", strings.NewReader(body))
		pass(w, resp, err)
	})
	mux.HandleFunc("POST /sandbox/revoke", func(w http.ResponseWriter, r *http.Request) {
		admin, err := adminapi.New("unix/" + filepath.Join(s.Dir, "admin.sock"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		resp, err := admin.Do(r.Context(), http.MethodDelete, adminapi.UserPath(s.AppID, s.wechat.OpenID(s.AppID, demoUser(r))))
		pass(w, resp, err)
	})
	mux.HandleFunc("GET /sandbox/stats", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]int{"calls": len(s.wechat.Calls())})
	})
	gateway := s.gateway()
	// Not all in one ServeMux, which redirects paths such as //login.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" && r.Method == http.MethodGet || r.URL.Path == "/favicon.ico" || strings.HasPrefix(r.URL.Path, "/sandbox/") {
			mux.ServeHTTP(w, r)
			return
		}
		gateway.ServeHTTP(w, r)
	})
}

// demoTimeout bounds a call that the page asks for.
const demoTimeout = 10 * time.Second

// pass sends an answer on.
func pass(w http.ResponseWriter, resp *http.Response, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// demoUser returns the user that the sandbox logs in.
func demoUser(r *http.Request) string { return cmp.Or(r.URL.Query().Get("user"), "alice") }

// echo is an upstream that answers with the request that it received.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, "reading body", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = printJSON(w, map[string]any{
		"method": r.Method, "path": r.URL.RequestURI(), "headers": r.Header, "body": string(body),
	})
}

// printDemo writes the steps to try. Each line is run by a test.
func printDemo(w io.Writer, base string) {
	fmt.Fprint(w, strings.ReplaceAll(`wxgate demo: a sandbox, not for real users. Every client that reaches it can log in as anyone.
wxgate 演示：这是沙箱，不要给真实用户使用。能访问它的人可以用任意身份登录。

Open BASE/ in a browser, or go through it with curl:

# 1. Get a code, as wx.login would on a phone (the sandbox plays WeChat)
CODE=$(curl -s -X POST 'BASE/sandbox/code?user=alice' | sed 's/.*"code":"\([^"]*\)".*/\1/')

# 2. Log in: the gateway exchanges the code and answers with a 3rd_session
TOKEN=$(curl -s BASE/login -H 'Content-Type: application/json' -d "{\"code\":\"$CODE\"}" | sed 's/.*"3rd_session":"\([^"]*\)".*/\1/')

# 3. Call with the token: the upstream receives X-OpenID and no token
curl -s BASE/orders -H "3rd_session: $TOKEN"

# 4. Call without it: 401, and the upstream receives no request
curl -s -i -w '\n' BASE/orders

# 5. Log out: 204
curl -s -i -X POST BASE/logout -H "3rd_session: $TOKEN"

# 6. Call again: 401, the token is dead
curl -s -i -w '\n' BASE/orders -H "3rd_session: $TOKEN"

Press Ctrl+C to stop.
`, "BASE", base))
}
