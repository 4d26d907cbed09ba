package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// TestBackupWhileLoginsRunIsRestoredElsewhere takes backups from a gateway that
// users log in to without a pause, and makes another gateway of the last one.
func TestBackupWhileLoginsRunIsRestoredElsewhere(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "login_rate off"})
	file := filepath.Join(g.Dir, "sessions.backup")
	ended := g.Login("mallory").Token
	require.Equal(t, http.StatusNoContent, g.Post("/logout", "", gatewaytest.Token(ended)).Status)

	logins := keepLoggingIn(t, g)
	logins.await(50)
	var before []string
	for range 3 {
		before = logins.soFar()
		operate(t, g, "backup", "-o", file, "--address", g.Admin).require(t, 0)
		logins.await(len(before) + 20) // they went on meanwhile
	}
	logins.stop()
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())

	elsewhere := gatewaytest.New(t)
	dir := filepath.Join(elsewhere.Dir, "data", "caddy", "wxgate")
	restored := operate(t, elsewhere, "restore", file, "--dir", filepath.Join(dir, "sessions")).require(t, 0)
	require.Contains(t, restored.stdout, "records restored")
	copyFile(t, filepath.Join(g.Dir, "data", "caddy", "wxgate", "encryption.key"), filepath.Join(dir, "encryption.key"))
	elsewhere.Run(gatewaytest.Config{})
	for _, token := range before {
		require.Equal(t, http.StatusOK, elsewhere.Get("/", gatewaytest.Token(token)).Status)
	}
	require.Len(t, elsewhere.Upstream.Take(), len(before))
	require.Equal(t, "invalid_session", elsewhere.Get("/", gatewaytest.Token(ended)).ErrorName())
	require.NotContains(t, restored.stdout+restored.stderr, before[0])

	t.Run("stdout", func(t *testing.T) {
		out := operate(t, g, "backup", "-o", "-", "--address", g.Admin).require(t, 0)
		require.Contains(t, out.stdout, "wxgate backup")
		require.NotContains(t, out.stdout, g.OpenID("user 0 of 0"), "the copy is sealed")
	})
	t.Run("into a pipe", func(t *testing.T) {
		pipe := filepath.Join(g.Dir, "pipe")
		require.NoError(t, syscall.Mkfifo(pipe, 0o600))
		reader, err := os.OpenFile(pipe, os.O_RDWR, 0) // so opening does not wait
		require.NoError(t, err)
		defer reader.Close()
		begin := make([]byte, len("wxgate backup"))
		received := make(chan error, 1)
		go func() {
			_, err := io.ReadFull(reader, begin)
			received <- err
			_, _ = io.Copy(io.Discard, reader)
		}()
		require.Empty(t, operate(t, g, "backup", "-o", pipe, "--address", g.Admin).require(t, 0).stdout)
		require.NoError(t, <-received)
		require.Equal(t, "wxgate backup", string(begin))
		info, err := os.Stat(pipe)
		require.NoError(t, err)
		require.Equal(t, fs.ModeNamedPipe, info.Mode().Type(), "the pipe is still one")
	})
	t.Run("behind a link", func(t *testing.T) {
		target, link := filepath.Join(g.Dir, "target"), filepath.Join(g.Dir, "link")
		require.NoError(t, os.WriteFile(target, nil, 0o600))
		require.NoError(t, os.Symlink("target", link))
		operate(t, g, "backup", "-o", link, "--address", g.Admin).require(t, 0)
		written, err := os.ReadFile(target)
		require.NoError(t, err)
		require.Contains(t, string(written), "wxgate backup")
		info, err := os.Lstat(link)
		require.NoError(t, err)
		require.Equal(t, fs.ModeSymlink, info.Mode().Type(), "the link is still one")
	})
	t.Run("not behind another user's link", func(t *testing.T) {
		sticky := filepath.Join(g.Dir, "sticky")
		require.NoError(t, os.Mkdir(sticky, 0o777))
		require.NoError(t, os.Chmod(sticky, fs.ModeSticky|0o777))
		target, link := filepath.Join(g.Dir, "important"), filepath.Join(sticky, "sessions.backup")
		require.NoError(t, os.WriteFile(target, []byte("root's own"), 0o600))
		require.NoError(t, os.Symlink(target, link))
		if os.Lchown(link, 65534, 65534) != nil {
			return // only root can make such a link, and only root follows it
		}
		out := operate(t, g, "backup", "-o", link, "--address", g.Admin).require(t, 2)
		require.Contains(t, out.stderr, "another user's symbolic link")
		kept, err := os.ReadFile(target)
		require.NoError(t, err)
		require.Equal(t, "root's own", string(kept))
		through := filepath.Join(g.Dir, "through")
		require.NoError(t, os.Symlink(g.Dir, through))
		require.NoError(t, os.Lchown(through, 65534, 65534))
		operate(t, g, "backup", "-o", filepath.Join(through, "new"), "--address", g.Admin).require(t, 2)
	})
	t.Run("private whatever the umask", func(t *testing.T) {
		umask := syscall.Umask(0)
		defer syscall.Umask(umask)
		operate(t, g, "backup", "-o", filepath.Join(g.Dir, "open"), "--address", g.Admin).require(t, 0)
		info, err := os.Stat(filepath.Join(g.Dir, "open"))
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	})
	t.Run("not in place of a directory", func(t *testing.T) {
		out := operate(t, g, "backup", "-o", g.Dir, "--address", g.Admin).require(t, 2)
		require.Contains(t, out.stderr, "is a directory: name a file in it")
	})
	t.Run("onto a full disk", func(t *testing.T) {
		// By a link of the test's own: what took the place of a device would
		// take it from all the machine.
		full := filepath.Join(g.Dir, "full")
		require.NoError(t, os.Symlink("/dev/full", full))
		out := operate(t, g, "backup", "-o", full, "--address", g.Admin).require(t, 1)
		require.Contains(t, out.stderr, "writing the backup: ")
		require.Contains(t, out.stderr, "no space left")
		require.NotContains(t, out.stderr, "the gateway's log", "it does not know")
	})
	t.Run("not over what is there", func(t *testing.T) {
		out := operate(t, g, "restore", file, "--dir", filepath.Join(dir, "sessions")).require(t, 1)
		require.Contains(t, out.stderr, "not empty")
	})
	t.Run("not from half a file", func(t *testing.T) {
		whole, err := os.ReadFile(file)
		require.NoError(t, err)
		half := filepath.Join(g.Dir, "half")
		require.NoError(t, os.WriteFile(half, whole[:len(whole)/2], 0o600))
		out := operate(t, g, "restore", half, "--dir", filepath.Join(g.Dir, "from-half")).require(t, 1)
		require.Contains(t, out.stderr, "no complete backup")
	})
	t.Run("a failed backup leaves the last one", func(t *testing.T) {
		whole, err := os.ReadFile(file)
		require.NoError(t, err)
		g.Stop()
		operate(t, g, "backup", "-o", file, "--address", g.Admin).require(t, 4)
		still, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, whole, still)
		left, err := filepath.Glob(filepath.Join(g.Dir, ".sessions.backup*"))
		require.NoError(t, err)
		require.Empty(t, left)
	})
}

// TestStopWhileABackupIsNotRead stops a gateway within what systemd allows it,
// though somebody has asked for a backup and does not read it.
func TestStopWhileABackupIsNotRead(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{App: "login_rate off"})
	conn, token := beginBackup(t, g)
	defer conn.Close()

	begin := time.Now()
	g.Stop()
	require.Less(t, time.Since(begin), 5*time.Second)
	require.Contains(t, g.Output(), "shutdown complete")
	rest, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.NotContains(t, string(rest), "\r\n0\r\n\r\n", "the client took it for the whole")
	g.Run(gatewaytest.Config{})
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
}

// beginBackup begins a backup that is larger than a socket takes ahead, of the
// token's session and many others.
func beginBackup(t *testing.T, g *gatewaytest.Gateway) (conn net.Conn, token string) {
	t.Helper()
	logins := keepLoggingIn(t, g)
	logins.await(1500)
	logins.stop()
	conn, err := net.Dial("unix", strings.TrimPrefix(g.Admin, "unix/"))
	require.NoError(t, err)
	_, err = io.WriteString(conn, "GET /wxgate/backup HTTP/1.1\r\nHost: admin\r\n\r\n")
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1))
	require.NoError(t, err)
	return conn, logins.soFar()[0]
}

// logins are those of users who log in without a pause.
type logins struct {
	tb     testing.TB
	cancel context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	tokens []string // acknowledged
}

func keepLoggingIn(t *testing.T, g *gatewaytest.Gateway) *logins {
	ctx, cancel := context.WithCancel(t.Context())
	l := &logins{tb: t, cancel: cancel}
	t.Cleanup(l.stop)
	for worker := range 2 {
		l.done.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				token, err := tryLogin(g, fmt.Sprintf("user %d of %d", n, worker))
				if err != nil {
					t.Errorf("logging in: %v", err)
					return
				}
				l.mu.Lock()
				l.tokens = append(l.tokens, token)
				l.mu.Unlock()
			}
		})
	}
	return l
}

// tryLogin logs in from any goroutine.
func tryLogin(g *gatewaytest.Gateway, user string) (token string, err error) {
	body := `{"code":"` + g.WeChat.IssueCode(gatewaytest.AppID, user) + `"}`
	resp, err := gatewaytest.SendRaw(g.Addr, fmt.Sprintf("POST /login HTTP/1.1\nHost: %s\nContent-Type: application/json\nContent-Length: %d\nConnection: close\n\n%s", g.Addr, len(body), body))
	if err != nil {
		return "", err
	}
	var login gatewaytest.Login
	if err := json.Unmarshal([]byte(resp.Body), &login); err != nil || resp.Status != http.StatusOK {
		return "", fmt.Errorf("status %d: %s", resp.Status, resp.Body)
	}
	return login.Token, nil
}

func (l *logins) soFar() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.tokens...)
}

func (l *logins) await(n int) {
	l.tb.Helper()
	gatewaytest.Eventually(l.tb, func() bool { return len(l.soFar()) >= n || l.tb.Failed() }, "enough logins")
}

func (l *logins) stop() {
	l.cancel()
	l.done.Wait()
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o700))
	require.NoError(t, os.WriteFile(to, content, 0o600))
}
