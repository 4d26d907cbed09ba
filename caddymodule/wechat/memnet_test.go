package wechat_test

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// A memNet is a network in memory, for tests in a synctest bubble: time
// goes on only while everyone waits, so that durations are exact.
type memNet struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemNet() *memNet {
	return &memNet{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (n *memNet) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case n.conns <- server:
		return client, nil
	case <-n.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *memNet) Accept() (net.Conn, error) {
	select {
	case conn := <-n.conns:
		return conn, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *memNet) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

func (n *memNet) Addr() net.Addr { return memAddr{} }

type memAddr struct{}

func (memAddr) Network() string { return "memory" }
func (memAddr) String() string  { return "127.0.0.1:80" }

// newMemClient returns a client with default timeouts of a sandbox, both in the
// test's bubble.
func newMemClient(t *testing.T, change func(*wechat.Config)) (*wechat.Client, *fakewechat.Server) {
	t.Helper()
	fake := newFake()
	network := newMemNet()
	server := &http.Server{Handler: fake}
	done := make(chan error, 1)
	go func() { done <- server.Serve(network) }()
	t.Cleanup(func() {
		fake.Close()
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	cfg := wechat.Config{
		BaseURL: "http://127.0.0.1",
		MiniPrograms: []wechat.MiniProgram{
			{AppID: appID, Secret: secret},
			{AppID: otherAppID, Secret: otherSecret},
		},
	}
	if change != nil {
		change(&cfg)
	}
	client, err := wechat.NewClient(cfg)
	require.NoError(t, err)
	client.SetDialContext(network.dial)
	return client, fake
}

// timed returns how long f takes on the bubble's clock.
func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// pass lets time go by on the bubble's clock, and what is due then happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
