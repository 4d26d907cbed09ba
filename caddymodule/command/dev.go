package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func devCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev --upstream 127.0.0.1:3000 [--listen 127.0.0.1:8080] [--api 127.0.0.1:9001] [--lan]",
		Short: "Runs the gateway in front of your application on this machine, with a sandbox WeChat",
		Long: `
Runs the gateway in front of an application that you develop, with a sandbox that
plays WeChat, so that no AppSecret and no network are needed. Your application
receives each request as behind the real gateway: with X-OpenID and X-UnionID, and
without the token.

Any code logs in, and the code chooses the user: the same code is the same user. So
a page or a test logs in as alice with the code alice, and WeChat's developer tools
log in with what wx.login gives them, as a new user each time.

On --api your application reaches WeChat's server API as with wxgate_api, played by
the sandbox. Pages that are served from this machine or network may call the gateway
from their own origin (CORS).

With --lan it listens on an address of this machine in a private network, so that a
phone there reaches it. Everyone in that network can then log in as anyone, so do not
use it in a network that you do not trust. Never use real data.`,
		Args: arguments(0),
		RunE: run(runDev),
	}
	cmd.Flags().String("upstream", "", "Address of your application, host:port")
	cmd.Flags().String("listen", "127.0.0.1:8080", "Address of the gateway")
	cmd.Flags().String("api", "127.0.0.1:9001", "Loopback address of the sandbox's server API, or off")
	cmd.Flags().Bool("lan", false, "Listen on a private address, for a phone in the same network")
	cmd.Flags().StringSlice("public", nil, "Paths that pass without a session, as the option public")
	cmd.Flags().String("appid", sandboxAppID, "AppID of your mini program")
	cmd.Flags().String("dir", "", "Directory to keep sessions in (default: a temporary one)")
	return cmd
}

func runDev(cmd *cobra.Command, _ []string) error {
	flags := cmd.Flags()
	s := new(sandbox)
	s.Upstream, _ = flags.GetString("upstream")
	s.AppID, _ = flags.GetString("appid")
	s.Public, _ = flags.GetStringSlice("public")
	if _, port, err := net.SplitHostPort(s.Upstream); err != nil || port == "" || strings.ContainsAny(s.Upstream, "{}/ ") {
		return usageError{fmt.Errorf("the address of your application must be host:port, such as --upstream 127.0.0.1:3000, not %q", s.Upstream)}
	}
	lan, _ := flags.GetBool("lan")
	if lan && !flags.Changed("listen") {
		address, err := lanAddress()
		if err != nil {
			return err
		}
		if err := flags.Set("listen", net.JoinHostPort(address, "8080")); err != nil {
			return err
		}
	}
	ln, err := listenLocally(cmd, "listen", lan)
	if err != nil {
		return err
	}
	if api, _ := flags.GetString("api"); api != "off" {
		// Caddy listens there itself, and would share the port with another
		// Caddy, so that each would get some of the requests.
		probe, err := listenLocally(cmd, "api", false)
		if err != nil {
			return err
		}
		s.API = probe.Addr().String()
		if err := probe.Close(); err != nil {
			return err
		}
	}
	dir, _ := flags.GetString("dir")
	if err := s.start(dir); err != nil {
		return err
	}
	printDev(cmd.OutOrStdout(), s, ln.Addr().String(), lan)
	serve(ln, localOnly(s.takeAnyCode(s.gateway())))
	return nil
}

// lanAddress returns an address of this machine in a private network.
func lanAddress() (string, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("looking for an address of this machine: %w", err)
	}
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil && prefix.Addr().Is4() && prefix.Addr().IsPrivate() {
			return prefix.Addr().String(), nil
		}
	}
	return "", errors.New("--lan: this machine has no address in a private network; name one with --listen")
}

// isLocalHost reports whether a host, perhaps with a port, is this machine or a
// private network.
func isLocalHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || strings.HasSuffix(host, ".local") ||
		err == nil && (ip.IsLoopback() || ip.IsPrivate())
}

// localOnly lets local pages call from their own origin, and refuses pages of
// the Internet: one whose name leads here would otherwise log in as anyone.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		u, err := url.Parse(origin)
		if !isLocalHost(r.Host) || origin != "" && origin != "null" && (err != nil || !isLocalHost(u.Host)) && !fromWeChat(r) {
			http.Error(w, "caddy wxgate dev serves local pages only", http.StatusForbidden)
			return
		}
		if origin == "" {
			next.ServeHTTP(w, r)
			return
		}
		header := w.Header()
		header.Set("Access-Control-Allow-Origin", origin)
		header.Add("Vary", "Origin")
		if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
			header.Set("Access-Control-Expose-Headers", "*")
			next.ServeHTTP(w, r)
			return
		}
		header.Set("Access-Control-Allow-Methods", r.Header.Get("Access-Control-Request-Method"))
		header.Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
		header.Set("Access-Control-Allow-Private-Network", "true")
		w.WriteHeader(http.StatusNoContent)
	})
}

// fromWeChat reports whether the developer tools or WeChat itself sent a request.
func fromWeChat(r *http.Request) bool {
	return strings.HasPrefix(r.Referer(), "https://servicewechat.com/")
}

// anyCode is a code that the gateway would send to WeChat.
var anyCode = regexp.MustCompile(`^[A-Za-z0-9._~+/=-]{1,128}$`)

// maxLoginBody is more than the gateway accepts.
const maxLoginBody = 8 << 10

// takeAnyCode puts a fresh code of the sandbox in place of the code of each
// login. The code names the user. Everything else is as the
// client sent it, so that mistakes are answered as by the real gateway.
func (s *sandbox) takeAnyCode(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == "/login" {
			body, err := io.ReadAll(io.LimitReader(r.Body, maxLoginBody))
			if err != nil {
				return // the client is gone
			}
			body = s.replaceCode(r.Header.Get("Content-Type"), body)
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			r.Header.Set("Content-Length", strconv.Itoa(len(body)))
		}
		next.ServeHTTP(w, r)
	})
}

func (s *sandbox) replaceCode(contentType string, body []byte) []byte {
	if strings.HasPrefix(contentType, "application/x-www-form-urlencoded") {
		form, err := url.ParseQuery(string(body))
		if err != nil || len(form["code"]) != 1 || !anyCode.MatchString(form.Get("code")) {
			return body
		}
		form.Set("code", s.wechat.IssueCode(s.AppID, form.Get("code")))
		return []byte(form.Encode())
	}
	var login map[string]json.RawMessage
	var code string
	if json.Unmarshal(body, &login) != nil || json.Unmarshal(login["code"], &code) != nil || !anyCode.MatchString(code) {
		return body
	}
	login["code"], _ = json.Marshal(s.wechat.IssueCode(s.AppID, code)) // a string always encodes
	changed, _ := json.Marshal(login)                                  // and so does what was decoded
	return changed
}

func printDev(w io.Writer, s *sandbox, listen string, lan bool) {
	if lan {
		fmt.Fprint(w, `WARNING: everyone in this network can log in as anyone and reach your application. Stop it when you are done.
警告：同一网络中的任何人都能以任意身份登录并访问你的应用，用完请停止。

`)
	}
	api := "off"
	if s.API != "" {
		api = "http://" + s.API
	}
	fmt.Fprintf(w, `wxgate dev: a sandbox for developing, not for real users. Any code logs in; the code chooses the user.
wxgate 开发环境：仅供开发，不要给真实用户使用。任意 code 都能登录，code 决定用户身份。

  gateway           http://%s
  your application  http://%s
  server API        %s
  sandbox WeChat    http://%s

# Log in as alice (in WeChat's developer tools: with the code of wx.login)
TOKEN=$(curl -s http://%[1]s/login -H 'Content-Type: application/json' -d '{"code":"alice"}' | sed 's/.*"3rd_session":"\([^"]*\)".*/\1/')

# Your application receives X-OpenID and no token
curl -i http://%[1]s/ -H "3rd_session: $TOKEN"

Press Ctrl+C to stop.
`, listen, s.Upstream, api, s.WeChat)
}
