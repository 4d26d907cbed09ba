package main_test

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// A sample is an upstream of docs/upstream, as samples.json describes it.
type sample struct {
	Name    string
	Dir     string
	Needs   []string // commands, and files
	Prepare []string
	Command []string
	Env     map[string]string
}

func samples(t *testing.T, list string) []sample {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(gatewaytest.Root(), "docs", "upstream", list))
	require.NoError(t, err)
	var all []sample
	require.NoError(t, json.Unmarshal(text, &all))
	require.NotEmpty(t, all)
	return all
}

// start runs the sample on a port of its own and returns its address.
func (s sample) start(t *testing.T) string {
	t.Helper()
	gatewaytest.Needs(t, s.Needs...)
	// A copy, because preparing leaves files behind.
	dir := t.TempDir()
	source := os.DirFS(filepath.Join(gatewaytest.Root(), "docs", "upstream", s.Dir))
	require.NoError(t, os.CopyFS(dir, source))

	addr := gatewaytest.FreeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	run := func(words []string) *exec.Cmd {
		cmd := exec.Command(words[0], words[1:]...)
		if strings.HasPrefix(words[0], "./") {
			cmd.Path = filepath.Join(dir, words[0])
		}
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PORT="+port)
		for name, value := range s.Env {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		return cmd
	}
	if len(s.Prepare) > 0 {
		out, err := run(s.Prepare).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	cmd := run(s.Command)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	gatewaytest.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, s.Name+" listens")
	return addr
}

func TestUpstreamSamplesSeeTheUser(t *testing.T) {
	for _, s := range samples(t, "samples.json") {
		t.Run(s.Name, func(t *testing.T) {
			addr := s.start(t)
			g := gatewaytest.Start(t, gatewaytest.Config{Next: "reverse_proxy " + addr})
			token := g.Login("alice").Token

			resp := g.Get("/", gatewaytest.Token(token), "X-OpenID: forged", "x-openid: forged", "X_OpenID: forged", "X.OpenID: forged", "Connection: X-OpenID")
			require.Equal(t, http.StatusOK, resp.Status, resp.Body)
			var body struct{ OpenID string }
			require.NoError(t, json.Unmarshal([]byte(resp.Body), &body))
			require.Equal(t, g.OpenID("alice"), body.OpenID)
			require.NotContains(t, resp.Body, "forged")
			require.Equal(t, "missing_session", g.Get("/", "X-OpenID: forged").ErrorName())

			// It refuses requests that do not come through the gateway, and listens
			// where only the gateway reaches it.
			direct, err := gatewaytest.SendRaw(addr, "GET / HTTP/1.1\nHost: x\nConnection: close\n\n")
			require.NoError(t, err)
			require.Contains(t, []int{http.StatusUnauthorized, http.StatusForbidden}, direct.Status)
			_, port, _ := net.SplitHostPort(addr)
			_, err = net.Dial("tcp", "127.0.0.2:"+port)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
		})
	}
}
