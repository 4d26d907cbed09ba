package wechat_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

func TestConnectionsAreKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake, dials := newCountedClient(t, nil)
		login := func(want int) {
			t.Helper()
			requireLogin(t, client, fake)
			require.EqualValues(t, want, dials.Load())
		}
		login(1)
		require.Zero(t, client.IdleConnections(), "not before it was silent")
		login(2)
		pass(10 * time.Millisecond)
		require.Equal(t, 2, client.IdleConnections())
		login(2)
		pass(14 * time.Second)
		login(2)
		pass(14 * time.Second)
		require.Equal(t, 1, client.IdleConnections(), "the other was idle for 15 s")
		login(2)
		pass(15 * time.Second)
		require.Equal(t, 1, client.IdleConnections())
		pass(time.Second)
		require.Zero(t, client.IdleConnections())
		login(3)
		for range 31 { // five minutes
			pass(10 * time.Second)
			login(3)
		}
		pass(10 * time.Second)
		login(4)
	})
}

func TestIdleConnectionsAreBoundedAndClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake, dials := newCountedClient(t, func(cfg *wechat.Config) { cfg.Concurrency = 3 })
		burst := func() {
			fake.Script(fakewechat.Script{Hold: true, Calls: 3})
			var group sync.WaitGroup
			for range 3 {
				group.Go(func() { requireLogin(t, client, fake) })
			}
			synctest.Wait()
			fake.Release()
			group.Wait()
		}
		burst()
		burst() // before the first three are silent
		require.EqualValues(t, 6, dials.Load())
		pass(10 * time.Millisecond)
		require.Equal(t, 3, client.IdleConnections())
		burst()
		require.EqualValues(t, 6, dials.Load())

		// A reload closes the idle ones now, and those in use after their reply.
		pass(10 * time.Millisecond)
		fake.Script(fakewechat.Script{Hold: true})
		var last sync.WaitGroup
		last.Go(func() { requireLogin(t, client, fake) })
		synctest.Wait()
		client.Close()
		synctest.Wait()
		require.Zero(t, client.IdleConnections())
		fake.Release()
		last.Wait()
		pass(10 * time.Millisecond)
		require.Zero(t, client.IdleConnections())
	})
}

// A connection whose call was given up is never used again: its reply may still come.
func TestAConnectionThatWasGivenUpIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, fake, dials := newCountedClient(t, nil)
		requireLogin(t, client, fake)
		pass(10 * time.Millisecond)
		fake.Script(fakewechat.Script{DelayMS: 2000})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := client.Code2Session(ctx, appID, fake.IssueCode(appID, "alice"))
		require.True(t, requireKind(t, wechat.Canceled, err).Sent)
		require.EqualValues(t, 1, dials.Load())
		pass(10 * time.Second)
		require.Zero(t, client.IdleConnections())
		requireLogin(t, client, fake)
		require.EqualValues(t, 2, dials.Load())
	})
}

// A connection is kept only if its reply was read to its end, did not say that it is the
// last one, and was followed by silence.
func TestConnectionsThatAreNotOverAreNotKept(t *testing.T) {
	good := fmt.Sprintf(`{"session_key":"%s","openid":"o1"}`, goodKey)
	reply := func(length int, header string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n", header, length)
	}
	for name, tc := range map[string]struct {
		texts []string // with 5 ms between them
		fails bool
	}{
		"a byte in the quiet time":  {[]string{reply(len(good), "") + good, "x", "", "", "", ""}, false},
		"a reply in the quiet time": {[]string{reply(len(good), "") + good, reply(len(good), "") + good, "", "", "", ""}, false},
		"connection: close":         {[]string{reply(len(good), "Connection: close\r\n") + good, "", "", "", "", ""}, false},
		"HTTP/1.0":                  {[]string{"HTTP/1.0" + reply(len(good), "")[8:] + good, "", "", "", "", ""}, false},
		"a body that is not read":   {[]string{reply(200_000, "") + strings.Repeat(" ", 64<<10+1), "", "", "", "", "x"}, true},
		"a status that is not 200":  {[]string{"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nab", "", "", "", "", "cd"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, _ := newMemClient(t, nil)
				network := newMemNet()
				client.SetDialContext(network.dial)
				defer network.Close()
				go func() {
					for {
						conn, err := network.Accept()
						if err != nil {
							return
						}
						go answerOnce(t, conn, tc.texts)
					}
				}()
				for range 3 {
					session, err := client.Code2Session(t.Context(), appID, "code")
					if tc.fails {
						requireKind(t, wechat.BadReply, err)
					} else {
						require.NoError(t, err)
						require.Equal(t, "o1", session.OpenID)
					}
					pass(20 * time.Millisecond)
					require.Zero(t, client.IdleConnections())
				}
				pass(time.Second) // the other side comes to its end
				pass(time.Second) // the other side comes to its end
			})
		})
	}
}

// answerOnce answers the first request of a connection with texts, with pauses between them.
func answerOnce(t *testing.T, conn net.Conn, texts []string) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	if _, err := http.ReadRequest(r); err != nil {
		t.Error(err)
		return
	}
	go func() {
		if _, err := http.ReadRequest(r); err == nil {
			t.Error("a second request was sent")
		}
	}()
	for _, text := range texts {
		if text != "" { // in memory, nothing is something
			if _, err := io.WriteString(conn, text); err != nil {
				return // the client has closed it
			}
		}
		<-time.After(5 * time.Millisecond)
	}
}

// newCountedClient is newMemClient with a count of the connections.
func newCountedClient(t *testing.T, change func(*wechat.Config)) (*wechat.Client, *fakewechat.Server, *atomic.Int32) {
	t.Helper()
	client, fake := newMemClient(t, change)
	dials := new(atomic.Int32)
	client.OnDial(func() { dials.Add(1) })
	return client, fake, dials
}
