package main_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddy-build/gatewaytest"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
)

// aSecond is the recheck of these tests; endsWithin is the time in which a stream
// must have ended even on a busy machine. The default of a minute would show.
const (
	aSecond    = "recheck 1s"
	endsWithin = 20 * time.Second
)

func TestStreamsEndWithTheirSession(t *testing.T) {
	g := gatewaytest.New(t)
	g.RunTLS(gatewaytest.Config{Site: aSecond})
	upstream := newStreams(g)
	for protocol, open := range g.Openers() {
		for _, path := range []string{"/events", "/busy"} {
			t.Run(protocol+path, func(t *testing.T) {
				t.Parallel()
				token := g.Login(protocol + path).Token
				target := path + "?" + protocol
				stream, err := open(gatewaytest.RawRequest{Path: target, Header: []string{gatewaytest.Token(token)}})
				require.NoError(t, err)
				defer stream.Close()
				requireBegin(t, stream)
				requireLogout(t, g, token)
				ends(t, "the client's stream", drain(stream))
				_, gone := upstream.of(target)
				ends(t, "the upstream's stream", gone)
			})
		}
		t.Run(protocol+"/unread", func(t *testing.T) {
			t.Parallel()
			token := g.Login(protocol + "unread").Token
			target := "/busy?unread" + protocol
			stream, err := open(gatewaytest.RawRequest{Path: target, Header: []string{gatewaytest.Token(token)}})
			require.NoError(t, err)
			defer stream.Close()
			requireLogout(t, g, token)
			_, gone := upstream.of(target)
			ends(t, "the upstream's stream, whose client does not read", gone)
		})
		t.Run(protocol+"/silent", func(t *testing.T) {
			t.Parallel()
			token := g.Login(protocol + "silent").Token
			target := "/silent?" + protocol
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				if stream, err := open(gatewaytest.RawRequest{Path: target, Header: []string{gatewaytest.Token(token)}}); err == nil {
					defer stream.Close()
					_, _ = io.Copy(io.Discard, stream)
				}
			}()
			g.Eventually(func() bool { return upstreamHas(g, target) }, "the upstream has the request")
			requireLogout(t, g, token)
			ends(t, "the client's request", answered)
			_, gone := upstream.of(target)
			ends(t, "the upstream's request", gone)
		})
	}
}

// A file goes out in one call, in which nothing is asked.
func TestDownloadsEndWithTheirSession(t *testing.T) {
	g := gatewaytest.New(t)
	www := filepath.Join(g.Dir, "www")
	require.NoError(t, os.Mkdir(www, 0o700))
	file, err := os.Create(filepath.Join(www, "large"))
	require.NoError(t, err)
	require.NoError(t, file.Truncate(256<<30)) // takes no room, and minutes to read
	require.NoError(t, file.Close())
	g.RunTLS(gatewaytest.Config{Site: aSecond, Next: "root $DIR/www\nfile_server"})

	for protocol, open := range g.Openers() {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			token := g.Login(protocol).Token
			stream, err := open(gatewaytest.RawRequest{Path: "/large", Header: []string{gatewaytest.Token(token)}})
			require.NoError(t, err)
			defer stream.Close()
			require.Equal(t, http.StatusOK, stream.Status)
			download := drain(stream)
			requireLogout(t, g, token)
			ends(t, "the download", download)
		})
	}
}

func upstreamHas(g *gatewaytest.Gateway, target string) bool {
	for _, received := range g.Upstream.Received() {
		if received.URI == target {
			return true
		}
	}
	return false
}

func TestWebSocketsEndWithTheirSession(t *testing.T) {
	g := gatewaytest.New(t)
	// Extended CONNECT is off by default in Go's HTTP/2.
	g.RunTLS(gatewaytest.Config{Site: aSecond, Env: []string{"GODEBUG=http2xconnect=1"}})
	upstream := newStreams(g)
	for protocol, open := range g.Openers() {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			token := g.Login(protocol).Token
			request := gatewaytest.RawRequest{
				Path:   "/websocket?" + protocol,
				Header: []string{gatewaytest.Token(token), "Sec-WebSocket-Version: 13", "X-OpenID: oVICTIM"},
			}
			want := http.StatusOK
			if protocol == "h1" {
				request.Header = append(request.Header, "Connection: Upgrade, X-OpenID", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
				want = http.StatusSwitchingProtocols
			} else {
				request.Method, request.Protocol = http.MethodConnect, "websocket"
			}
			stream, err := open(request)
			require.NoError(t, err)
			defer stream.Close()
			require.Equal(t, want, stream.Status)
			requireBegin(t, stream)
			for _, received := range g.Upstream.Received() {
				if received.URI == request.Path {
					require.Equal(t, []string{g.OpenID(protocol)}, received.Lines("X-OpenID"))
				}
			}
			requireLogout(t, g, token)
			ends(t, "the client's WebSocket", drain(stream))
			_, gone := upstream.of(request.Path)
			ends(t, "the upstream's WebSocket", gone)
		})
	}
}

// Two users may share a connection, behind a proxy that speaks HTTP/2.
func TestEndingOneStreamSparesTheOthersOfTheConnection(t *testing.T) {
	g := gatewaytest.New(t)
	g.RunTLS(gatewaytest.Config{Site: aSecond})
	upstream := newStreams(g)
	alice, bob := g.Login("alice").Token, g.Login("bob").Token

	conn, err := g.DialH2()
	require.NoError(t, err)
	open := func(target, token string) *gatewaytest.Stream {
		stream, err := conn.Open(gatewaytest.RawRequest{Method: "GET", Path: target, Authority: g.Addr, Header: []string{gatewaytest.Token(token)}})
		require.NoError(t, err)
		requireBegin(t, stream)
		return stream
	}
	aliceStream := open("/events?alice", alice)
	defer aliceStream.Close()
	bobStream := open("/events?bob", bob)
	requireLogout(t, g, bob)
	ends(t, "bob's stream", drain(bobStream))

	events, _ := upstream.of("/events?alice")
	events <- "still here\n"
	got := make([]byte, len("still here\n"))
	_, err = io.ReadFull(aliceStream, got)
	require.NoError(t, err)
	require.Equal(t, "still here\n", string(got))
}

func TestStreamsEndHoweverTheSessionDoes(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: aSecond, App: "session {\nmax_per_user 1\n}"})
	upstream := newStreams(g)
	for name, end := range map[string]func(t *testing.T, user, token string){
		"logout":     func(t *testing.T, _, token string) { requireLogout(t, g, token) },
		"next_login": func(_ *testing.T, user, _ string) { g.Login(user) },
		"revocation": func(_ *testing.T, user, _ string) { g.Revoke(user) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stream := openEvents(t, g, name)
			end(t, name, stream.token)
			stream.requireEnd(t, upstream)
		})
	}
}

func TestStreamsEndWhenAllSessionsAreRevoked(t *testing.T) {
	for name, app := range map[string]func() string{
		"badger": func() string { return "" },
		"redis": func() string {
			return "encryption_key " + someKey + "\nstore redis " + redistest.Start(t).Addr
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := gatewaytest.Start(t, gatewaytest.Config{Site: aSecond, App: app()})
			upstream := newStreams(g)
			stream := openEvents(t, g, "alice")
			require.Equal(t, http.StatusOK, deleteAdmin(t, g, "/wxgate/users").Status)
			stream.requireEnd(t, upstream)
		})
	}
}

func TestStreamsEndWhenTheSessionExpires(t *testing.T) {
	for name, limit := range map[string]string{"idle timeout": "idle_timeout 5s", "lifetime": "lifetime 5s"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gatewaytest.Start(t, gatewaytest.Config{Site: aSecond, App: "session {\n" + limit + "\n}"})
			upstream := newStreams(g)
			openEvents(t, g, "alice").requireEnd(t, upstream)
		})
	}
	t.Run("shortened by a reload", func(t *testing.T) {
		t.Parallel()
		g := gatewaytest.Start(t, gatewaytest.Config{Site: aSecond})
		upstream := newStreams(g)
		stream := openEvents(t, g, "alice")
		out, err := g.Reload(gatewaytest.Config{Site: aSecond, App: "session {\nlifetime 1ms\n}"})
		require.NoError(t, err, out)
		stream.requireEnd(t, upstream)
	})
}

// A WebSocket, stream or upload that moves data is use of its session, so none
// of them ends by idle_timeout.
func TestMovingDataIsUse(t *testing.T) {
	// With the default recheck: a timeout that is shorter makes it shorter.
	g := gatewaytest.Start(t, gatewaytest.Config{App: "session {\nidle_timeout 2s\n}"})
	upstream := newStreams(g)
	move := map[string]func(t *testing.T, token string, tick func() bool){
		"event stream": func(t *testing.T, token string, tick func() bool) {
			stream, err := g.OpenH1(gatewaytest.RawRequest{Path: "/events?moving", Header: []string{gatewaytest.Token(token)}})
			require.NoError(t, err)
			defer stream.Close()
			requireBegin(t, stream)
			events, _ := upstream.of("/events?moving")
			for tick() {
				events <- "begin\n"
				requireBegin(t, stream)
			}
		},
		"WebSocket": func(t *testing.T, token string, tick func() bool) {
			conn := dial(t, g, "GET /websocket?moving HTTP/1.1\r\nHost: "+g.Addr+"\r\n"+gatewaytest.Token(token)+
				"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			_, gone := upstream.of("/websocket?moving")
			for tick() {
				_, err := io.WriteString(conn, "x")
				require.NoError(t, err)
				select {
				case <-gone:
					require.FailNow(t, "the WebSocket has ended")
				default:
				}
			}
		},
		"upload": func(t *testing.T, token string, tick func() bool) {
			conn := dial(t, g, "POST /upload HTTP/1.1\r\nHost: "+g.Addr+"\r\n"+gatewaytest.Token(token)+"\r\nTransfer-Encoding: chunked\r\n\r\n")
			for tick() {
				_, err := io.WriteString(conn, "1\r\nx\r\n")
				require.NoError(t, err)
			}
			_, err := io.WriteString(conn, "0\r\n\r\n")
			require.NoError(t, err)
			status := make([]byte, len("HTTP/1.1 200"))
			_, err = io.ReadFull(conn, status)
			require.NoError(t, err)
			require.Equal(t, "HTTP/1.1 200", string(status))
		},
	}
	for name, move := range move {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			token := g.Login(name).Token
			ticker := time.NewTicker(300 * time.Millisecond)
			defer ticker.Stop()
			begin := time.Now()
			move(t, token, func() bool { return (<-ticker.C).Sub(begin) < 6*time.Second })
			require.Equal(t, http.StatusOK, g.Get("/after", gatewaytest.Token(token)).Status, "the session lives")
		})
	}
}

// An upload ends with its session, however steadily its bytes come.
func TestUploadsEndWithTheirSession(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: aSecond})
	gone := make(chan struct{})
	g.Upstream.Handle(func(http.ResponseWriter, *http.Request) { close(gone) }) // once the body has ended
	token := g.Login("alice").Token
	conn := dial(t, g, "POST /upload HTTP/1.1\r\nHost: "+g.Addr+"\r\n"+gatewaytest.Token(token)+"\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
	require.Eventually(t, func() bool { return len(g.Upstream.Pending()) > 0 }, endsWithin, 10*time.Millisecond, "a logout that came first would refuse it")
	requireLogout(t, g, token)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.After(endsWithin)
	for {
		select {
		case <-gone:
			return
		case <-timeout:
			require.FailNow(t, "the upload goes on")
		case <-ticker.C:
			_, _ = io.WriteString(conn, "1\r\nx\r\n")
		}
	}
}

// dial sends the beginning of a request.
func dial(t *testing.T, g *gatewaytest.Gateway, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", g.Addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, text)
	require.NoError(t, err)
	return conn
}

// A userStream is an open event stream of a user who has just logged in.
type userStream struct {
	*gatewaytest.Stream
	target, token string
}

func openEvents(t *testing.T, g *gatewaytest.Gateway, user string) userStream {
	t.Helper()
	s := userStream{target: "/events?" + user, token: g.Login(user).Token}
	var err error
	s.Stream, err = g.OpenH1(gatewaytest.RawRequest{Path: s.target, Header: []string{gatewaytest.Token(s.token)}})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	requireBegin(t, s)
	return s
}

func (s userStream) requireEnd(t *testing.T, upstream *streams) {
	t.Helper()
	ends(t, "the client's stream", drain(s))
	_, gone := upstream.of(s.target)
	ends(t, "the upstream's stream", gone)
}

// A store that is slow, but answers, leaves no stream of many open forever.
func TestStreamsEndWithASlowStore(t *testing.T) {
	proxy := redistest.StartProxy(t, redistest.Start(t).Addr)
	g := gatewaytest.Start(t, gatewaytest.Config{
		Site: aSecond,
		App:  "encryption_key " + someKey + "\nstore redis " + proxy.Addr + " {\nclient_cache off\n}",
	})
	upstream := newStreams(g)
	oldest := openEvents(t, g, "alice")
	for i := range 40 {
		openEvents(t, g, fmt.Sprintf("user-%d", i))
	}
	requireLogout(t, g, oldest.token)
	proxy.Edit(func(message []byte) [][]byte {
		<-time.After(20 * time.Millisecond) // all of them take longer than one look
		return [][]byte{message}
	})
	oldest.requireEnd(t, upstream)
}

func TestStreamsOutliveReloadsAndStillEnd(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: aSecond})
	upstream := newStreams(g)
	stream := openEvents(t, g, "alice")
	events, _ := upstream.of(stream.target)

	for i := range 3 {
		out, err := g.Reload(gatewaytest.Config{Site: fmt.Sprintf("%s\ninject openid X-OpenID\ninject appid X-App-%d", aSecond, i)})
		require.NoError(t, err, out)
		text := fmt.Sprintf("after reload %d\n", i)
		events <- text
		got := make([]byte, len(text))
		_, err = io.ReadFull(stream, got)
		require.NoError(t, err)
		require.Equal(t, text, string(got))
	}
	requireLogout(t, g, stream.token)
	stream.requireEnd(t, upstream)
}

// Ending a request spoils its connection, so it must not be used again: behind a
// proxy it would be somebody else.
func TestConnectionOfAnEndedRequestIsClosed(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Config{Site: aSecond})
	newStreams(g)
	for _, path := range []string{"/events", "/silent"} {
		token := g.Login("alice").Token
		conn, err := net.Dial("tcp", g.Addr)
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(endsWithin)))
		_, err = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: "+g.Addr+"\r\n"+gatewaytest.Token(token)+"\r\n\r\n")
		require.NoError(t, err)
		g.Eventually(func() bool { return upstreamHas(g, path) }, "the upstream has the request")
		requireLogout(t, g, token)
		answer, err := io.ReadAll(conn)
		require.NoError(t, err, "the gateway hangs up")
		if path == "/silent" {
			require.Empty(t, answer)
		}
		require.NotContains(t, string(answer), "\r\n0\r\n", "as if it were complete")
	}
}
