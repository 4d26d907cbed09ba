// Package redistest runs the real redis-server for tests: alone, as a cluster,
// under Sentinels, with TLS or users. Every server listens on free loopback
// ports, keeps its files in the test's temporary directory and ends with the
// test. redis-server and redis-cli of Redis 7 or later must be in PATH; with
// -short the tests that start one are skipped.
package redistest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// startTimeout is generous, since the machine may be busy with other tests.
const startTimeout = 30 * time.Second

// A Server is one redis-server process.
type Server struct {
	// Addr is host:port, with TLS if there is a TLS configuration.
	Addr string

	dir  string
	conf string // path of the configuration file
	cli  []string

	mu      sync.Mutex
	process *os.Process
	exited  chan struct{}
}

// Start runs a single server. Each directive is a line of redis.conf, such as
// "requirepass secret". Nothing is written to disk unless one says so.
func Start(t testing.TB, directives ...string) *Server {
	t.Helper()
	return start(t, serverMode, nil, directives)
}

// A mode is what tells that a process is ready.
type mode struct {
	flags []string
	ready string
}

var (
	serverMode   = mode{ready: "Ready to accept connections"}
	loadingMode  = mode{ready: "Server initialized"}
	sentinelMode = mode{flags: []string{"--sentinel"}, ready: "+monitor"}
)

// start tries several ports, since a free one may be taken before the server
// gets to it.
func start(t testing.TB, m mode, tls *TLS, directives []string) *Server {
	t.Helper()
	gatewaytest.Needs(t, "redis-server", "redis-cli")
	var err error
	for range 5 {
		s := &Server{Addr: gatewaytest.FreeAddr(t), dir: t.TempDir()}
		s.configure(t, m, tls, directives)
		if err = s.launch(t, m); err == nil {
			t.Cleanup(s.Kill)
			return s
		}
	}
	t.Fatalf("starting redis-server: %v", err)
	return nil
}

func (s *Server) configure(t testing.TB, m mode, tls *TLS, directives []string) {
	t.Helper()
	_, port, _ := net.SplitHostPort(s.Addr)
	lines := []string{"bind 127.0.0.1", "dir " + s.dir, "daemonize no", "logfile \"\""}
	if len(m.flags) == 0 {
		lines = append(lines, "save \"\"", "appendonly no", "enable-debug-command yes")
	}
	if tls == nil {
		lines = append(lines, "port "+port)
		s.cli = []string{"-p", port}
	} else {
		lines = append(lines, "port 0", "tls-port "+port, "tls-auth-clients no",
			"tls-cert-file "+tls.CertFile, "tls-key-file "+tls.KeyFile, "tls-ca-cert-file "+tls.CAFile)
		s.cli = []string{"-p", port, "--tls", "--cacert", tls.CAFile}
	}
	s.conf = filepath.Join(s.dir, "redis.conf")
	text := strings.Join(append(lines, directives...), "\n") + "\n"
	if err := os.WriteFile(s.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// launch starts the process and waits until it is ready.
func (s *Server) launch(t testing.TB, m mode) error {
	cmd := gatewaytest.Command(t, "redis-server", append([]string{s.conf}, m.flags...)...)
	cmd.SysProcAttr = processAttributes()
	output, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	ready := make(chan struct{})
	var last string
	go func() {
		defer close(exited)
		lines := bufio.NewScanner(output)
		waiting := true
		for lines.Scan() {
			last = lines.Text()
			if waiting && strings.Contains(last, m.ready) {
				waiting = false
				close(ready)
			}
		}
		_, _ = io.Copy(io.Discard, output) // a line too long must not block the server
		_ = cmd.Wait()                     // it is killed in the end
	}()
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case <-ready:
	case <-exited:
		return fmt.Errorf("ended: %s", last)
	case <-timer.C:
		_ = cmd.Process.Kill()
		<-exited
		return fmt.Errorf("not ready after %s: %s", startTimeout, last)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process, s.exited = cmd.Process, exited
	return nil
}

// Do runs a command with redis-cli and returns what it prints.
func (s *Server) Do(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.Try(t, args...)
	if err != nil {
		t.Fatalf("redis-cli %s: %v: %s", args[0], err, out)
	}
	return out
}

// Try is Do for a command that may fail.
func (s *Server) Try(t testing.TB, args ...string) (string, error) {
	t.Helper()
	out, err := gatewaytest.Command(t, "redis-cli", append(s.cli, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Stop freezes the process: connections stay open and nothing answers.
func (s *Server) Stop() { s.signal(syscall.SIGSTOP) }

// Continue ends what Stop began.
func (s *Server) Continue() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		_ = s.process.Signal(sig) // it may have ended
	}
}

// Kill ends the process at once and waits until its port is free.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		_ = s.process.Kill() // it may have ended
		<-s.exited
		s.process = nil
	}
}

// Restart starts a server that was killed, with the same address,
// configuration and files.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if err := s.launch(t, serverMode); err != nil {
		t.Fatalf("restarting redis-server: %v", err)
	}
}

// RestartLoading is Restart with more directives, which do not go away, and
// does not wait until the server has loaded its data.
func (s *Server) RestartLoading(t testing.TB, directives ...string) {
	t.Helper()
	conf, err := os.OpenFile(s.conf, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conf.WriteString(strings.Join(directives, "\n") + "\n")
	if closed := conf.Close(); err == nil {
		err = closed
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.launch(t, loadingMode); err != nil {
		t.Fatalf("restarting redis-server: %v", err)
	}
}

// port returns the port of an address.
func port(t testing.TB, addr string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
