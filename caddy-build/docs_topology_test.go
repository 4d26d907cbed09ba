package main_test

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
)

// background starts a program that ends with the test.
func background(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

func listens(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// startComposeRedis runs the command of docker-compose.yml, as a shell in the
// container would, with the paths and the port of the test.
func startComposeRedis(t *testing.T, secrets string) (address string) {
	t.Helper()
	gatewaytest.Needs(t, "redis-server")
	command := readCompose(t).Services["redis"].Command
	require.Equal(t, []string{"sh", "-c"}, command[:2])
	address = gatewaytest.FreeAddr(t)
	_, port, _ := net.SplitHostPort(address)
	script := strings.NewReplacer(
		"$$", "$", "/run/secrets", secrets, "dir /data", "dir "+t.TempDir()+"\nbind 127.0.0.1\nport "+port,
	).Replace(command[2])
	background(t, gatewaytest.Command(t, "sh", "-c", script))
	gatewaytest.Eventually(t, func() bool { return listens(address) }, "redis listens")
	return address
}

// TestComposeTopology runs what docker-compose.yml runs, with its own
// Caddyfiles, as processes: two gateways on one Redis behind a balancer.
func TestComposeTopology(t *testing.T) {
	secrets := t.TempDir()
	for name, text := range map[string]string{
		"wx_secret": gatewaytest.Secret, "wxgate_key": someKey, "redis_password": "0f1e2d3c",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(secrets, name), []byte(text+"\n"), 0o600))
	}
	redis := startComposeRedis(t, secrets)

	nodes := []*gatewaytest.Gateway{gatewaytest.New(t), gatewaytest.New(t)}
	first := nodes[0] // its sandbox and its upstream serve all
	for _, node := range nodes {
		node.Run(gatewaytest.Config{
			Whole: strings.NewReplacer(
				"\twxgate {\n\t\tminiprogram", "\tadmin $ADMIN\n\twxgate {\n\t\twechat_api "+first.Expand("$WECHAT")+"\n\t\tminiprogram",
				"redis:6379", redis, "/run/secrets", secrets, "http://:8080", "http://$LISTEN",
			).Replace(readFile(t, "docs/install/gateway.Caddyfile")),
			Env: []string{"WX_APPID=" + gatewaytest.AppID, "APP_ADDRESS=" + first.Upstream.Addr},
		})
	}
	balancer := gatewaytest.New(t)
	balancer.WeChat = first.WeChat
	balancer.Run(gatewaytest.Config{
		Whole: strings.NewReplacer(
			"{\n\tservers {", "{\n\tadmin $ADMIN\n\tservers {",
			"gateway1:8080", nodes[0].Addr, "gateway2:8080", nodes[1].Addr,
		).Replace(readFile(t, "docs/install/balancer.Caddyfile")),
		Env: []string{"SITE_ADDRESS=http://" + balancer.Addr},
	})

	token := balancer.Login("alice").Token
	for _, node := range append(nodes, balancer) {
		require.Equal(t, http.StatusOK, node.Get("/orders", gatewaytest.Token(token)).Status)
		first.RequireIdentity(t, first.OpenID("alice"), token)
	}
	// A revocation is at once where it happens, and elsewhere soon.
	bob := balancer.Login("bob").Token
	require.Equal(t, http.StatusOK, nodes[1].Get("/", gatewaytest.Token(bob)).Status)
	require.Equal(t, http.StatusNoContent, nodes[0].Post("/logout", "", gatewaytest.Token(bob)).Status)
	require.Equal(t, "invalid_session", nodes[0].Get("/", gatewaytest.Token(bob)).ErrorName())
	nodes[1].Eventually(func() bool {
		return nodes[1].Get("/", gatewaytest.Token(bob)).ErrorName() == "invalid_session"
	}, "the other node has heard of the logout")

	// A node that stops reports it and serves on, so no request fails.
	require.NoError(t, syscall.Kill(nodes[1].Pid(), syscall.SIGTERM))
	nodes[1].Eventually(func() bool {
		return nodes[1].Get("/healthz").Status == http.StatusServiceUnavailable
	}, "the node reports that it is stopping")
	require.Equal(t, http.StatusOK, nodes[1].Get("/", gatewaytest.Token(token)).Status)
	for listens(nodes[1].Addr) {
		require.Equal(t, http.StatusOK, balancer.Get("/orders", gatewaytest.Token(token)).Status)
	}
	require.Equal(t, http.StatusOK, balancer.Get("/orders", gatewaytest.Token(token)).Status)
}

// The commands that operations.md asks an ACL to allow are enough, for all that
// a gateway does.
func TestDocumentedRedisACLIsEnough(t *testing.T) {
	acl := regexp.MustCompile("(?m)^\\| an ACL user \\|[^`\n]*`([^`]+)`").FindStringSubmatch(readFile(t, "docs/operations.md"))
	require.NotNil(t, acl)
	commands := "+" + strings.ReplaceAll(strings.ToLower(acl[1]), " ", " +")
	redis := redistest.Start(t, "user wxgate on >for-tests ~wxgate:* "+commands)
	g := gatewaytest.Start(t, gatewaytest.Config{
		App: "encryption_key {env.WXGATE_KEY}\nstore redis " + redis.Addr + " {\nusername wxgate\npassword {env.REDIS_PASSWORD}\n}",
		Env: []string{"WXGATE_KEY=" + someKey, "REDIS_PASSWORD=for-tests"}, Site: "health /healthz",
	})
	token := g.Login("alice").Token
	require.Equal(t, http.StatusOK, g.Get("/orders", gatewaytest.Token(token)).Status)
	require.Equal(t, http.StatusOK, g.Get("/healthz").Status)
	out, err := g.Try("wxgate", "stats", "--json", "--address", g.Admin)
	require.NoError(t, err)
	require.Contains(t, out, `"sessions": `, "it can count")
	require.Equal(t, http.StatusNoContent, g.Post("/logout", "", gatewaytest.Token(token)).Status)
	require.NotContains(t, g.Output(), "NOPERM")
	require.NotContains(t, g.Output(), `"level":"error"`)
}

// startNginx runs the documented configuration in front of a gateway, but for
// TLS, whose certificates the test has not.
func startNginx(t *testing.T, g *gatewaytest.Gateway, config string) (address string) {
	t.Helper()
	address = gatewaytest.FreeAddr(t)
	dir := filepath.Join(g.Dir, "nginx"+strconv.FormatInt(time.Now().UnixNano(), 36))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "tmp"), 0o700))
	config = strings.NewReplacer(
		"listen 443 ssl;", "listen "+address+";", "server 127.0.0.1:8080;", "server "+g.Addr+";",
		"\tssl_certificate_key", "\t#", "\tssl_certificate", "\t#",
	).Replace(config)
	var paths strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		paths.WriteString(kind + "_temp_path " + dir + "/tmp/" + kind + ";\n")
	}
	whole := "daemon off;\nmaster_process off;\npid " + dir + "/pid;\nerror_log " + dir + "/error.log;\nevents {}\n" +
		"http {\naccess_log off;\n" + paths.String() + config + "}\n"
	file := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(file, []byte(whole), 0o600))

	background(t, gatewaytest.Command(t, "nginx", "-e", dir+"/error.log", "-c", file))
	gatewaytest.Eventually(t, func() bool { return listens(address) }, "nginx listens")
	return address
}

func TestBehindNginx(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{
		Servers: "expected_underscore_headers 3rd_session\ntrusted_proxies static 127.0.0.1/32\ntrusted_proxies_strict",
	})
	config := readFile(t, "docs/install/nginx.conf")
	token := g.Login("alice").Token
	get := func(address string) gatewaytest.Response {
		t.Helper()
		resp, err := gatewaytest.SendRaw(address, "GET /orders HTTP/1.1\nHost: 127.0.0.1\n"+
			"X-Forwarded-For: 192.0.2.1\n"+gatewaytest.Token(token)+"\nConnection: close\n\n")
		require.NoError(t, err)
		return resp
	}
	t.Run("as documented", func(t *testing.T) {
		require.Equal(t, http.StatusOK, get(startNginx(t, g, config)).Status)
		received := g.Upstream.Take()
		require.Len(t, received, 1)
		require.Equal(t, []string{g.OpenID("alice")}, received[0].Lines("X-OpenID"))
		// Caddy adds the address of nginx to what a trusted proxy says.
		require.Equal(t, []string{"127.0.0.1, 127.0.0.1"}, received[0].Lines("X-Forwarded-For"))
	})
	t.Run("a photo passes, and a quiet socket stays", func(t *testing.T) {
		photo := strings.Repeat("x", 3<<20)
		resp, err := gatewaytest.SendRaw(startNginx(t, g, config), "POST /photos HTTP/1.1\nHost: 127.0.0.1\n"+gatewaytest.Token(token)+
			"\nContent-Length: "+strconv.Itoa(len(photo))+"\nConnection: close\n\n"+photo)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.Status)
		received := g.Upstream.Take()
		require.Len(t, received, 1)
		require.Contains(t, string(received[0].Raw), photo)
		require.Contains(t, config, "proxy_read_timeout 1h;")
	})
	t.Run("without underscores_in_headers the token vanishes", func(t *testing.T) {
		require.Contains(t, config, "\nunderscores_in_headers on;\n")
		without := strings.Replace(config, "\nunderscores_in_headers on;\n", "\n", 1)
		require.Equal(t, "missing_session", get(startNginx(t, g, without)).ErrorName())
		g.RequireNothing(t)
	})
}
