// Command soak runs one gateway on Badger for hours and draws what it holds:
//
//	make build && go run ./caddy-build/soak -for 2h
//
// Clients log in, ask, upload, log out, stay away until their session has expired, and
// keep WebSockets open, while the configuration is reloaded twenty times and the process
// is killed once. It fails if a session ends before its time, or any answer is wrong.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

const (
	appID   = "wx0000000000000001"
	secret  = "5ec2e70000000000000000000000000a"
	clients = 16
	streams = 50
	pause   = 20 * time.Millisecond // of a client between two requests
)

const caddyfile = `{
	admin unix/$DIR/admin.sock
	auto_https off
	persist_config off
	log {
		level ERROR
	}
	servers {
		expected_underscore_headers 3rd_session
	}
	wxgate {
		miniprogram ` + appID + ` {env.WX_SECRET}
		wechat_api $WECHAT
		login_rate off
		session {
			idle_timeout $IDLE
			lifetime $LIFE
		}
		store badger $DIR/sessions
	}
}
http://$LISTEN {
	wxgate
	reverse_proxy $UPSTREAM
}
`

// A soak is one run.
type soak struct {
	binary, dir, address string
	length, idle, life   time.Duration
	wechat               *fakewechat.Server
	gateway              *exec.Cmd
	outages              atomic.Int64 // odd while the gateway reloads or starts again
	broken               atomic.Int64 // requests, in an outage
	users                atomic.Int64
	logins, requests     atomic.Int64
	began                time.Time
	killed               time.Duration // after it
}

func main() {
	s := new(soak)
	flag.StringVar(&s.binary, "binary", ".build/wxgate", "the gateway, as make build leaves it")
	flag.DurationVar(&s.length, "for", 2*time.Hour, "how long")
	out := flag.String("out", "docs/images/soak.svg", "the plot")
	flag.Parse()
	s.idle, s.life = s.length/12, s.length/6
	dir, err := os.MkdirTemp("", "soak")
	check(err)
	s.dir = dir
	s.wechat = fakewechat.New(fakewechat.Config{MiniPrograms: map[string]string{appID: secret}})
	s.address, err = gatewaytest.FindAddr()
	check(err)
	config := strings.NewReplacer("$DIR", dir, "$LISTEN", s.address, "$WECHAT", httptest.NewServer(s.wechat).URL, "$IDLE", s.idle.String(),
		"$LIFE", s.life.String(), "$UPSTREAM", httptest.NewServer(http.HandlerFunc(serveUpstream)).Listener.Addr().String()).Replace(caddyfile)
	check(os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(config), 0o600))
	s.start()

	s.began = time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), s.length)
	defer cancel()
	var all sync.WaitGroup
	for range clients {
		all.Go(func() { s.client(ctx) })
	}
	for range streams {
		all.Go(func() { s.stream(ctx) })
	}
	all.Go(func() { s.disturb(ctx) })
	samples := s.watch(ctx)
	all.Wait()
	check(os.WriteFile(*out, plot(samples, s), 0o644)) //nolint:gosec // it is for everyone
	fmt.Printf("%d requests, %d of them broken by reloads and the kill; %d logins; %s\n", s.requests.Load(), s.broken.Load(), s.logins.Load(), *out)
	_ = s.gateway.Process.Kill()
	_ = s.gateway.Wait()
	check(os.RemoveAll(dir))
}

// check ends the program, and with it the gateway, if there is an error.
func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// start starts the gateway and waits until it accepts connections.
func (s *soak) start() {
	s.gateway = s.command("run")
	s.gateway.Stderr = os.Stderr
	check(s.gateway.Start())
	for {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			_ = conn.Close()
			return
		}
		if s.gateway.Process.Signal(syscall.Signal(0)) != nil {
			check(errors.New("the gateway has ended"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *soak) command(verb string, args ...string) *exec.Cmd {
	cmd := exec.Command(s.binary, append([]string{verb, "--config", filepath.Join(s.dir, "Caddyfile")}, args...)...)
	cmd.Env = append(os.Environ(), "WX_SECRET="+secret, "XDG_DATA_HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	return cmd
}

// disturb reloads the configuration twenty times, and kills the process once.
func (s *soak) disturb(ctx context.Context) {
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.length / 21):
		}
		s.outages.Add(1)
		if i == 10 {
			check(s.gateway.Process.Kill())
			_ = s.gateway.Wait()
			s.killed = time.Since(s.began)
			s.start()
		} else if out, err := s.command("reload", "--force", "--address", "unix/"+s.dir+"/admin.sock").CombinedOutput(); err != nil {
			check(fmt.Errorf("reloading: %w: %s", err, out))
		}
		time.Sleep(time.Second) // the old servers end a little later
		s.outages.Add(1)
	}
}

// A login is a session that was given and when it began and was last used.
type login struct {
	token       string
	began, used time.Time
}

// mayHaveEnded reports whether it is near one of its ends. The last use is written ten times
// in an idle timeout, so that a kill loses a tenth of it.
func (s *soak) mayHaveEnded(l login) bool {
	return time.Since(l.used) > s.idle*8/10 || time.Since(l.began) > s.life*98/100-time.Second
}

// client is a client with a hundred sessions.
func (s *soak) client(ctx context.Context) {
	logins := make([]login, 100)
	for ctx.Err() == nil {
		time.Sleep(pause)
		outage := s.outages.Load()
		l := &logins[rand.IntN(len(logins))]
		var err error
		switch dice := rand.IntN(100); {
		case l.token == "":
			*l, err = s.login()
		case dice == 0: // its user stays away, and another one comes
			*l = login{}
		case dice == 1:
			_, err = s.ask(http.MethodPost, "/logout", l.token, "", http.StatusNoContent, http.StatusUnauthorized)
			*l = login{}
		case dice == 2:
			err = s.use(l, http.MethodPost, strings.Repeat("x", 1<<20))
		default:
			err = s.use(l, http.MethodGet, "")
		}
		if errors.Is(err, errBroken) && (outage%2 == 1 || outage != s.outages.Load()) {
			s.broken.Add(1)
			continue
		}
		check(err)
	}
}

func (s *soak) login() (login, error) {
	code := s.wechat.IssueCode(appID, fmt.Sprint("o", s.users.Add(1)))
	body, err := s.ask(http.MethodPost, "/login", "", `{"code":"`+code+`"}`, http.StatusOK)
	var reply map[string]any
	_ = json.Unmarshal([]byte(body), &reply)
	token, _ := reply["3rd_session"].(string)
	s.logins.Add(1)
	return login{token, time.Now(), time.Now()}, err
}

// use makes a request, and forgets a session that has ended.
func (s *soak) use(l *login, method, body string) error {
	reply, err := s.ask(method, "/api", l.token, body, http.StatusOK, http.StatusUnauthorized)
	switch {
	case err != nil:
	case reply == fmt.Sprint(len(body)):
		l.used = time.Now()
	case !s.mayHaveEnded(*l):
		return fmt.Errorf("a session begun %v ago and used %v ago was refused: %s", time.Since(l.began), time.Since(l.used), reply)
	default:
		*l = login{}
	}
	return err
}

var errBroken = errors.New("the connection broke")

func (s *soak) ask(method, path, token, body string, want ...int) (string, error) {
	req, err := http.NewRequest(method, "http://"+s.address+path, strings.NewReader(body))
	check(err)
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header["3rd_session"] = []string{token}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	s.requests.Add(1)
	for _, status := range want {
		if resp.StatusCode == status {
			return string(text), nil
		}
	}
	return "", fmt.Errorf("%s %s was answered %s: %s", method, path, resp.Status, text)
}

// stream keeps a WebSocket open, with a session of its own, and opens another when it ends.
func (s *soak) stream(ctx context.Context) {
	for ctx.Err() == nil {
		time.Sleep(time.Second)
		l, err := s.login()
		conn, dialErr := net.Dial("tcp", s.address)
		if err != nil || dialErr != nil {
			continue // the clients report it
		}
		fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: soak\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n3rd_session: %s\r\n\r\n", l.token)
		replies := bufio.NewReader(conn)
		if resp, err := http.ReadResponse(replies, nil); err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
			for ctx.Err() == nil {
				if _, err := conn.Write([]byte("x")); err != nil {
					break
				}
				if _, err := replies.ReadByte(); err != nil {
					break
				}
				time.Sleep(time.Second)
			}
		}
		_ = conn.Close()
	}
}

// serveUpstream answers with the length of the body, and echoes what comes over a stream.
func serveUpstream(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	check(err)
	defer conn.Close()
	fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_, _ = io.Copy(conn, rw)
}
