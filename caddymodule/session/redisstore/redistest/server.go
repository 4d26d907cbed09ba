// Package redistest runs the real redis-server for tests: alone, as a cluster,
// under Sentinels, with TLS or users. Every server listens on free loopback
// ports, keeps its files in the test's temporary directory and ends with the
// test. redis-server and redis-cli of Redis 7 or later must be in PATH; with
// -short the tests that start one are skipped.
package redistest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// A Server is one redis-server process.
type Server struct {
	// Addr is host:port, with TLS if there is a TLS configuration.
	Addr string

	dir     string
	cli     []string // options of redis-cli
	process *os.Process
	exited  chan struct{}
}

// Start runs a single server. Each directive is a line of redis.conf, such as
// "requirepass secret". Nothing is written to disk unless one says so.
func Start(t testing.TB, directives ...string) *Server {
	t.Helper()
	return start(t, nil, ready, directives)
}

// What a server logs when it accepts connections, when it is about to load its
// data, and when it is a Sentinel.
const (
	ready    = "Ready to accept connections"
	loading  = "Server initialized"
	sentinel = "+monitor"
)

// start waits until the server has logged a text.
func start(t testing.TB, tls *TLS, logged string, directives []string) *Server {
	t.Helper()
	s := &Server{Addr: gatewaytest.FreeAddr(t), dir: t.TempDir()}
	own := fmt.Sprint(port(s.Addr))
	s.cli = []string{"-p", own}
	lines := []string{"bind 127.0.0.1", "dir " + s.dir, "daemonize no", `logfile ""`}
	if logged != sentinel {
		// Of a cluster's node; the default, port+10000, may be a client's by now.
		lines = append(lines, `save ""`, "appendonly no", "enable-debug-command yes", fmt.Sprint("cluster-port ", port(gatewaytest.FreeAddr(t))))
	}
	if tls == nil {
		lines = append(lines, "port "+own)
	} else {
		lines = append(lines, "port 0", "tls-port "+own, "tls-auth-clients no",
			"tls-cert-file "+tls.File, "tls-key-file "+tls.File, "tls-ca-cert-file "+tls.File)
		s.cli = append(s.cli, "--tls", "--cacert", tls.File)
	}
	s.configure(t, append(lines, directives...))
	s.launch(t, logged)
	return s
}

// path returns the path of one of the server's files.
func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

// configure appends lines to the configuration file.
func (s *Server) configure(t testing.TB, lines []string) {
	t.Helper()
	conf, err := os.OpenFile(s.path("redis.conf"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	_, err = conf.WriteString(strings.Join(lines, "\n") + "\n")
	require.NoError(t, err)
	require.NoError(t, conf.Close())
}

// launch starts the process and waits until it has logged a text.
func (s *Server) launch(t testing.TB, logged string) {
	t.Helper()
	log, err := os.Create(s.path("log"))
	require.NoError(t, err)
	defer log.Close()
	cmd := gatewaytest.Command(t, "redis-server", s.path("redis.conf"))
	if logged == sentinel {
		cmd.Args = append(cmd.Args, "--sentinel")
	}
	cmd.SysProcAttr, cmd.Stdout = processAttributes(), log
	require.NoError(t, cmd.Start())
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed in the end
		close(exited)
	}()
	s.process, s.exited = cmd.Process, exited
	t.Cleanup(s.Kill)
	gatewaytest.Eventually(t, func() bool {
		text, err := os.ReadFile(log.Name())
		require.NoError(t, err)
		select {
		case <-exited:
			require.Fail(t, "redis-server ended", string(text))
		default:
		}
		return strings.Contains(string(text), logged)
	}, "redis-server logs "+logged)
}

// Do runs a command with redis-cli and returns what it prints.
func (s *Server) Do(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.Try(t, args...)
	require.NoError(t, err, "redis-cli %s: %s", args[0], out)
	return out
}

// Try is Do for a command that may fail.
func (s *Server) Try(t testing.TB, args ...string) (string, error) {
	t.Helper()
	out, err := gatewaytest.Command(t, "redis-cli", append(s.cli, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Stop freezes the process: connections stay open and nothing answers.
func (s *Server) Stop() { _ = s.process.Signal(syscall.SIGSTOP) }

// Continue ends what Stop began.
func (s *Server) Continue() { _ = s.process.Signal(syscall.SIGCONT) }

// Kill ends the process at once and waits until its port is free.
func (s *Server) Kill() {
	_ = s.process.Kill() // it may have ended
	<-s.exited
}

// Restart starts a server that was killed, with the same address,
// configuration and files.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.launch(t, ready)
}

// RestartLoading is Restart with more directives, which do not go away, and
// does not wait until the server has loaded its data.
func (s *Server) RestartLoading(t testing.TB, directives ...string) {
	t.Helper()
	s.configure(t, directives)
	s.launch(t, loading)
}
