package main_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
)

// A ledger holds what the gateway acknowledged.
type ledger struct {
	mu   sync.Mutex
	live map[string]string   // openid by token
	dead map[string]struct{} // tokens whose logout was acknowledged
	size atomic.Int64
}

func (l *ledger) loggedIn(token, openID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live[token] = openID
	l.size.Add(1)
}

// ending takes a token out while its logout is under way: until that is
// acknowledged either outcome is right.
func (l *ledger) ending(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.live, token)
}

func (l *ledger) ended(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead[token] = struct{}{}
	l.size.Add(1)
}

// check asks the gateway about every entry.
func (l *ledger) check(t *testing.T, g *gatewaytest.Gateway) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	client := &http.Client{}
	for token, openID := range l.live {
		resp := get(t, client, g.URL+"/ledger", token)
		require.Equal(t, http.StatusOK, resp.Status, "an acknowledged login is lost")
		received := g.Upstream.Take()
		require.Len(t, received, 1)
		require.Equal(t, []string{openID}, received[0].Lines("X-OpenID"))
	}
	for token := range l.dead {
		require.Equal(t, http.StatusUnauthorized, get(t, client, g.URL+"/ledger", token).Status, "an acknowledged logout is undone")
	}
	g.RequireNothing(t)
}

// get asks over a connection that is kept alive.
func get(t *testing.T, client *http.Client, url, token string) gatewaytest.Response {
	t.Helper()
	resp, err := getWith(client, url, token)
	require.NoError(t, err)
	return resp
}

func getWith(client *http.Client, url, token string) (gatewaytest.Response, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return gatewaytest.Response{}, err
	}
	req.Header["3rd_session"] = []string{token}
	return gatewaytest.ReadResponse(client.Do(req))
}

func loginWith(client *http.Client, g *gatewaytest.Gateway, user string) (token string, err error) {
	body := `{"code":"` + g.WeChat.IssueCode(gatewaytest.AppID, user) + `"}`
	resp, err := gatewaytest.ReadResponse(client.Post(g.URL+"/login", "application/json", strings.NewReader(body)))
	if err != nil {
		return "", err
	}
	var login gatewaytest.Login
	if err := json.Unmarshal([]byte(resp.Body), &login); err != nil || login.Token == "" {
		return "", fmt.Errorf("login: %d %s", resp.Status, resp.Body)
	}
	return login.Token, nil
}

func logoutWith(client *http.Client, g *gatewaytest.Gateway, token string) error {
	req, err := http.NewRequest(http.MethodPost, g.URL+"/logout", nil)
	if err != nil {
		return err
	}
	req.Header["3rd_session"] = []string{token}
	resp, err := gatewaytest.ReadResponse(client.Do(req))
	if err == nil && resp.Status != http.StatusNoContent {
		err = errors.New(resp.Body)
	}
	return err
}

func TestAcknowledgedSurvivesSIGKILL(t *testing.T) {
	const rounds, workers, entries = 6, 8, 150
	g := gatewaytest.New(t)
	book := &ledger{live: make(map[string]string), dead: make(map[string]struct{})}
	for round := range rounds {
		g.Run(gatewaytest.Config{App: "login_rate off"})
		book.check(t, g)
		enough := book.size.Load() + entries
		var group sync.WaitGroup
		for worker := range workers {
			group.Go(func() {
				client := &http.Client{Transport: new(http.Transport)}
				// Until the process is killed under it.
				for i := 0; ; i++ {
					user := fmt.Sprintf("user-%d-%d-%d", round, worker, i)
					token, err := loginWith(client, g, user)
					if err != nil {
						return
					}
					book.loggedIn(token, g.OpenID(user))
					if i%2 == 0 {
						continue
					}
					book.ending(token)
					if logoutWith(client, g, token) != nil {
						return
					}
					book.ended(token)
				}
			})
		}
		g.Eventually(func() bool { return book.size.Load() >= enough }, "the ledger grows")
		g.Kill()
		group.Wait()
	}
	g.Run(gatewaytest.Config{})
	book.check(t, g)
	require.GreaterOrEqual(t, book.size.Load(), int64(rounds*entries))
}

// syncDone is a line of strace in which a sync has returned.
var syncDone = regexp.MustCompile(`(msync|fsync|fdatasync)(\(| resumed>).*= 0$`)

func TestTheSyncReturnsBeforeTheAnswerIsWritten(t *testing.T) {
	gatewaytest.Needs(t, "strace")
	g := gatewaytest.Start(t, gatewaytest.Config{})
	token := g.Login("warm-up").Token

	trace := gatewaytest.Command(t, "strace", "-f", "-s", "128", "-e", "trace=msync,fsync,fdatasync,read,write,writev", "-p", strconv.Itoa(g.Pid()))
	stderr, err := trace.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, trace.Start())
	lines := make(chan string, 1<<16)
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(stderr)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			lines <- scanner.Text()
		}
	}()
	first := <-lines // strace is attached
	require.Contains(t, first, "attached")

	g.Login("alice")
	require.Equal(t, http.StatusNoContent, g.Post("/logout", "", gatewaytest.Token(token)).Status)
	require.NoError(t, trace.Process.Signal(syscall.SIGINT))

	// Between a request and its answer there is a sync that returned.
	var answers, synced int
	for line := range lines {
		switch {
		case strings.Contains(line, `"POST /log`):
			synced = 0
		case syncDone.MatchString(line):
			synced++
		case strings.Contains(line, `"HTTP/1.1 200 OK\r\nCache-Control: no-store`), strings.Contains(line, `"HTTP/1.1 204 No Content`):
			require.NotZero(t, synced, "the answer goes out before its data is on disk: %s", line)
			answers++
		}
	}
	_ = trace.Wait()
	require.Equal(t, 2, answers, "the login and the logout were seen")
}

func TestReloadsUnderLoad(t *testing.T) {
	const reloads, workers = 40, 6
	g := gatewaytest.Start(t, gatewaytest.Config{App: "login_rate off"})
	good := g.Expand(mustRead(t, filepath.Join(g.Dir, "Caddyfile")))
	bad := strings.Replace(good, "{env.WX_SECRET}", "{env.NO_SUCH_SECRET}", 1)
	alice := g.Login("alice").Token

	var stop atomic.Bool
	var served, reset atomic.Int64
	var group sync.WaitGroup
	tokens := make(chan string, 1<<16)
	for worker := range workers {
		group.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
			for i := 0; !stop.Load(); i++ {
				resp, err := getWith(client, g.URL+"/"+strconv.Itoa(worker), alice)
				if err != nil {
					// Caddy's hand-over of the listener resets a few connections.
					reset.Add(1)
					continue
				}
				if resp.Status != http.StatusOK {
					t.Errorf("a request failed during a reload: %d %s", resp.Status, resp.Body)
				}
				served.Add(1)
				if i%20 == 0 {
					if token, err := loginWith(client, g, fmt.Sprintf("user-%d-%d", worker, i)); err == nil {
						tokens <- token
					} else if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !strings.Contains(err.Error(), "code_used") {
						t.Errorf("a login failed during a reload: %v", err)
					}
				}
			}
		})
	}
	load := func(caddyfile string) int {
		resp, err := gatewaytest.ReadResponse(g.AdminClient().Post("http://admin/load", "text/caddyfile", strings.NewReader(caddyfile)))
		require.NoError(t, err)
		return resp.Status
	}
	require.Equal(t, http.StatusOK, load(good))
	goroutines, files := g.Resources()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := range reloads {
		<-tick.C
		if i%2 == 0 {
			require.Equal(t, http.StatusOK, load(good+"# "+strconv.Itoa(i)+"\n"))
		} else {
			require.Equal(t, http.StatusBadRequest, load(bad))
		}
	}
	stop.Store(true)
	group.Wait()
	close(tokens)
	t.Logf("%d requests served, %d connections reset", served.Load(), reset.Load())
	require.Positive(t, served.Load())
	g.Eventually(func() bool {
		goroutinesAfter, filesAfter := g.Resources()
		return goroutinesAfter < goroutines+reloads/2 && filesAfter < files+reloads/2
	}, "goroutines and files do not grow with reloads")

	g.Upstream.Take()
	for token := range tokens {
		require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status, "a session is lost")
	}
	for _, r := range g.Upstream.Take() {
		require.Len(t, r.Lines("X-OpenID"), 1)
	}
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

func TestFullDisk(t *testing.T) {
	gatewaytest.Needs(t, "root")
	disk := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=320m"))
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	cfg := gatewaytest.Config{App: "login_rate off\nstore badger " + disk + "/sessions {\nmin_free 128MiB\n}"}
	g := gatewaytest.Start(t, cfg)
	alice, bob := g.Login("alice").Token, g.Login("bob").Token
	var leaving []string
	for i := range 20 {
		leaving = append(leaving, g.Login("leaving-"+strconv.Itoa(i)).Token)
	}

	// Something else fills the disk while users log in.
	filler, err := os.Create(filepath.Join(disk, "filler"))
	require.NoError(t, err)
	block := make([]byte, 1<<20)
	full := false
	for i := 0; i < 400 && !full; i++ {
		if _, err := filler.Write(block); err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
		}
		resp := g.Post("/login", `{"code":"`+g.WeChat.IssueCode(gatewaytest.AppID, "u"+strconv.Itoa(i))+`"}`)
		if full = resp.Status == http.StatusServiceUnavailable; full {
			require.Equal(t, "store_unavailable", resp.ErrorName())
			require.NotEmpty(t, resp.Header.Get("Retry-After"))
		} else {
			require.Equal(t, http.StatusOK, resp.Status, resp.Body)
		}
	}
	require.True(t, full, "logins end before the disk does")
	g.Upstream.Take()
	require.Equal(t, http.StatusNoContent, g.Post("/logout", "", gatewaytest.Token(bob)).Status, "revocations go on")

	// The rest of the disk goes, too: sessions are revoked to the last byte.
	for err == nil {
		_, err = filler.Write(block)
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	for _, token := range leaving { // the first ones may come before the store has looked at the disk again
		require.Equal(t, http.StatusNoContent, g.Post("/logout", "", gatewaytest.Token(token)).Status)
	}
	g.Eventually(func() bool { return strings.Contains(g.Output(), "too full for the session store") }, "the log has it")
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(alice)).Status, "reads go on")
	g.RequireIdentity(t, g.OpenID("alice"), alice)
	require.Equal(t, http.StatusUnauthorized, g.Get("/", gatewaytest.Token(bob)).Status)
	for _, token := range leaving {
		require.Equal(t, http.StatusUnauthorized, g.Get("/", gatewaytest.Token(token)).Status)
	}
	g.Kill()

	require.NoError(t, filler.Truncate(0))
	g.Run(cfg)
	g.Eventually(func() bool {
		return g.Post("/login", `{"code":"`+g.WeChat.IssueCode(gatewaytest.AppID, "dave")+`"}`).Status == http.StatusOK
	}, "it recovers")
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(alice)).Status)
	require.Equal(t, http.StatusUnauthorized, g.Get("/", gatewaytest.Token(bob)).Status)
	for _, token := range leaving {
		require.Equal(t, http.StatusUnauthorized, g.Get("/", gatewaytest.Token(token)).Status, "the kill undid a logout")
	}
}

func TestKeyFileIsMadeOnceAndMissed(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{})
	token := g.Login("alice").Token
	keyFile := filepath.Join(g.Dir, "data", "caddy", "wxgate", "encryption.key")
	info, err := os.Stat(keyFile)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	key := mustRead(t, keyFile)

	for name, tc := range map[string]struct {
		content string // empty: the file is gone
		want    string
	}{
		"gone":    {"", "restore the file from your backup"},
		"another": {someKey, "did not seal the session store"},
		"garbage": {"not a key", "restore the file from your backup"},
	} {
		t.Run(name, func(t *testing.T) {
			g.Stop()
			if tc.content == "" {
				require.NoError(t, os.Remove(keyFile))
			} else {
				require.NoError(t, os.WriteFile(keyFile, []byte(tc.content), 0o600))
			}
			out, err := g.Try("run", "--config", filepath.Join(g.Dir, "Caddyfile"), "--adapter", "caddyfile")
			require.Error(t, err)
			require.Contains(t, out, tc.want)
			require.NoError(t, os.WriteFile(keyFile, []byte(key), 0o600))
			g.Run(gatewaytest.Config{})
			require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
		})
	}
}

// A disk of its own is a fine place for the store, and a new file system is not
// quite empty.
func TestFirstStartOnADiskOfItsOwn(t *testing.T) {
	g := gatewaytest.New(t)
	disk := filepath.Join(g.Dir, "disk")
	require.NoError(t, os.MkdirAll(filepath.Join(disk, "lost+found"), 0o700))
	g.Run(gatewaytest.Config{App: "store badger " + disk})
	token := g.Login("alice").Token
	require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
}

func TestKeyRotation(t *testing.T) {
	const newKey = "YW5vdGhlciBrZXkgZm9yIHRlc3RzLCAzMiBieXRlcy4="
	g := gatewaytest.Start(t, gatewaytest.Config{App: "encryption_key " + someKey})
	token := g.Login("alice").Token
	for _, keys := range []string{newKey + " " + someKey, newKey} {
		out, err := g.Reload(gatewaytest.Config{App: "encryption_key " + keys})
		require.NoError(t, err, out)
		// What was opened with the old key is sealed again, so that the next
		// configuration can leave it out.
		require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
		g.RequireIdentity(t, g.OpenID("alice"), token)
		g.Stop()
		g.Run(gatewaytest.Config{App: "encryption_key " + keys})
		require.Equal(t, http.StatusOK, g.Get("/", gatewaytest.Token(token)).Status)
		g.RequireIdentity(t, g.OpenID("alice"), token)
	}
	out, err := g.Reload(gatewaytest.Config{App: "encryption_key " + someKey})
	require.Error(t, err)
	require.Contains(t, out, "add the earlier key behind the new one")
}
