package main_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// A demo is a running `wxgate demo`.
type demo struct {
	cmd     *exec.Cmd
	printed string // all that it said until it was ready
	base    string // http://host:port
}

// startDemo runs a command that serves the demo, until it says how to stop it.
func startDemo(t *testing.T, cmd *exec.Cmd) *demo {
	t.Helper()
	if cmd.Env == nil {
		// It is killed, and could not remove its directory.
		cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	// `go run` has a child that must end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, cmd.Start())
	d := &demo{cmd: cmd}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		d.printed += lines.Text() + "\n"
		if strings.HasPrefix(lines.Text(), "Press Ctrl+C") {
			d.base = regexp.MustCompile(`http://[\d.:]+`).FindString(d.printed)
			return d
		}
	}
	require.FailNow(t, "the demo has ended", d.printed)
	return nil
}

// step is one of the numbered comments and the command below it.
var step = regexp.MustCompile(`(?m)^# (\d)\. (.*)\n(.*)$`)

// TestDemoAsPrinted does what the README tells a newcomer: the command, and
// then each line that it prints.
func TestDemoAsPrinted(t *testing.T) {
	require.Contains(t, readFile(t, "README.md"), "\ngo run ./caddy-build wxgate demo\n")
	gatewaytest.Needs(t, "curl", "time") // it links the binary once more
	cmd := exec.Command("go", "run", "./caddy-build", "wxgate", "demo", "--listen", gatewaytest.FreeAddr(t))
	cmd.Dir = gatewaytest.Root()
	d := startDemo(t, cmd)
	require.Contains(t, d.printed, "a sandbox, not for real users")
	require.Contains(t, d.printed, "这是沙箱，不要给真实用户使用")

	steps := step.FindAllStringSubmatch(d.printed, -1)
	require.Len(t, steps, 6)
	const separator = "\n-- next --\n"
	script := "set -eu\n"
	for _, s := range steps {
		script += s[3] + "\nprintf '" + strings.ReplaceAll(separator, "\n", `\n`) + "'\n"
	}
	script += `printf '%s %s' "$CODE" "$TOKEN"`
	shellcheck(t, script)
	out, err := exec.Command("sh", "-c", script).Output()
	require.NoError(t, err, string(out))
	answers := strings.Split(string(out), separator)
	require.Len(t, answers, 7)
	code, token, _ := strings.Cut(answers[6], " ")
	require.NotEmpty(t, code)
	require.Len(t, token, 43)

	// "the upstream receives X-OpenID and no token"
	var received struct {
		Path    string
		Headers http.Header
	}
	require.NoError(t, json.Unmarshal([]byte(answers[2]), &received))
	require.Equal(t, "/orders", received.Path)
	require.Len(t, received.Headers["X-Openid"], 1)
	require.NotContains(t, answers[2], token)

	// "401, and the upstream receives no request", "204", "401, the token is dead"
	for i, want := range map[int][2]string{
		3: {"HTTP/1.1 401 ", `"missing_session"`}, 4: {"HTTP/1.1 204 ", ""}, 5: {"HTTP/1.1 401 ", `"invalid_session"`},
	} {
		require.Contains(t, steps[i][2], want[0][len("HTTP/1.1 "):len(want[0])-1])
		require.True(t, strings.HasPrefix(answers[i], want[0]), answers[i])
		require.Contains(t, answers[i], want[1])
	}
}

func TestDemoPage(t *testing.T) {
	d := startDemo(t, exec.Command(gatewaytest.Binary(t), "wxgate", "demo", "--listen", gatewaytest.FreeAddr(t)))
	resp, err := gatewaytest.ReadResponse(http.Get(d.base + "/"))
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.Status)
	require.Equal(t, "text/html; charset=utf-8", resp.Header.Get("Content-Type"))
	require.Equal(t, readFile(t, "caddymodule/command/demo.html"), resp.Body)
	require.NotRegexp(t, `(src|href)=|https?://|@import|url\(`, resp.Body, "it must need nothing from elsewhere")
	// Each request of its script is answered as the script expects.
	for _, path := range []string{"/sandbox/", "/login", "/logout", "/orders"} {
		require.Contains(t, resp.Body, "'"+path)
	}
}

func TestDemoListensOnLoopbackOnly(t *testing.T) {
	for name, listen := range map[string]string{
		"all addresses":    "0.0.0.0:18080",
		"all, unsaid":      ":18080",
		"IPv6, all":        "[::]:18080",
		"an address":       "192.0.2.1:18080",
		"a name":           "example.com:18080",
		"no port":          "127.0.0.1",
		"no such port":     "127.0.0.1:99999",
		"loopback, mapped": "[::ffff:192.0.2.1]:18080",
	} {
		t.Run(name, func(t *testing.T) {
			out := finish(t, exec.Command(gatewaytest.Binary(t), "wxgate", "demo", "--listen", listen)).require(t, 2)
			require.Regexp(t, "^Error: .*127.0.0.1:8080", out.stderr, "it says what to write")
			require.NotContains(t, out.stderr, "panic")
		})
	}
}

// TestDemoHasItsPortAlone proves that a second demo does not take half of the
// first one's requests.
func TestDemoHasItsPortAlone(t *testing.T) {
	listen := gatewaytest.FreeAddr(t)
	demo := func() *exec.Cmd { return exec.Command(gatewaytest.Binary(t), "wxgate", "demo", "--listen", listen) }
	startDemo(t, demo())
	second := demo()
	timer := time.AfterFunc(time.Minute, func() { _ = second.Process.Kill() })
	defer timer.Stop()
	require.Contains(t, finish(t, second).require(t, 1).stderr, "--listen 127.0.0.1:8081")
}

func TestDemoEndsOnCtrlC(t *testing.T) {
	tmp := t.TempDir()
	cmd := exec.Command(gatewaytest.Binary(t), "wxgate", "demo", "--listen", gatewaytest.FreeAddr(t))
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	d := startDemo(t, cmd)
	left, err := filepath.Glob(filepath.Join(tmp, "*"))
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.NoError(t, d.cmd.Process.Signal(os.Interrupt))
	require.NoError(t, d.cmd.Wait())
	require.NoDirExists(t, left[0])
}

func TestDemoKeepsSessionsInTheGivenDirectory(t *testing.T) {
	dir := t.TempDir()
	listen := gatewaytest.FreeAddr(t)
	start := func() *demo {
		return startDemo(t, exec.Command(gatewaytest.Binary(t), "wxgate", "demo", "--listen", listen, "--dir", dir))
	}
	post := func(url, body string) string {
		t.Helper()
		resp, err := gatewaytest.ReadResponse(http.Post(url, "application/json", strings.NewReader(body)))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.Status, resp.Body)
		return resp.Body
	}
	d := start()
	var login gatewaytest.Login
	require.NoError(t, json.Unmarshal([]byte(post(d.base+"/login", post(d.base+"/sandbox/code?user=bob", ""))), &login))
	require.NoError(t, d.cmd.Process.Signal(os.Interrupt))
	require.NoError(t, d.cmd.Wait())

	start()
	resp, err := gatewaytest.SendRaw(listen, "GET /me HTTP/1.1\nHost: x\n"+gatewaytest.Token(login.Token)+"\nConnection: close\n\n")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.Status)
	require.Contains(t, resp.Body, `"X-Openid"`)
}
