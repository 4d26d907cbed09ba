package redisstore_test

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// No code is to be sent to WeChat while its session could not be written: Room
// returns why, from the first call that fails on, and also if there is no call.
func TestRoomWhileTheServerIsDown(t *testing.T) {
	server := redistest.Start(t)
	s := openImpatient(t, server.Addr)
	room := s.(session.RoomChecker).Room
	for _, call := range []bool{true, false} {
		require.NoError(t, room())
		server.Kill()
		if call {
			_, err := s.Get(t.Context(), "session:a")
			require.ErrorIs(t, err, session.ErrUnavailable)
			require.ErrorIs(t, room(), session.ErrUnavailable)
		}
		require.Eventually(t, func() bool { return errors.Is(room(), session.ErrUnavailable) }, recovery, 10*time.Millisecond)
		server.Restart(t)
		require.Eventually(t, func() bool { return room() == nil }, recovery, 10*time.Millisecond)
	}
}

// loseReplies makes the proxy swallow the next replies with a text in them, and
// cut the connection instead.
func loseReplies(proxy *redistest.Proxy, text string, n int32) {
	var left atomic.Int32
	left.Store(n)
	proxy.Edit(func(message []byte) [][]byte {
		if bytes.Contains(message, []byte(text)) && left.Add(-1) >= 0 {
			proxy.Cut()
			return nil
		}
		return [][]byte{message}
	})
}

// A read is sent again when its connection breaks; a write, which the server
// may have done, is not.
func TestReadsAreRepeated(t *testing.T) {
	proxy := redistest.StartProxy(t, redistest.Start(t).Addr)
	s := open(t, patient(proxy.Addr))
	require.NoError(t, sessiontest.Put(t.Context(), s, "session:a", []byte("the value"), time.Hour))

	loseReplies(proxy, "the value", 2)
	value, err := s.Get(t.Context(), "session:a")
	require.NoError(t, err)
	require.Equal(t, "the value", string(value))
	loseReplies(proxy, "the value", 3)
	_, err = s.Get(t.Context(), "session:a")
	require.ErrorIs(t, err, session.ErrUnavailable)

	proxy.Edit(nil)
	requireReads(t, s)
	loseReplies(proxy, ":1\r\n", 1) // the result of EVAL
	require.ErrorIs(t, sessiontest.Put(t.Context(), s, "session:a", []byte("another"), time.Hour), session.ErrUnavailable)
}

func requireReads(t *testing.T, s session.Store) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := s.Get(t.Context(), "session:a")
		return err == nil
	}, recovery, 10*time.Millisecond)
}

// A server that is a replica now may not be where the address leads: new
// connections are made.
func TestAReplicaIsLeft(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	s := open(t, patient(proxy.Addr))
	requireWrites := func() {
		t.Helper()
		require.Eventually(t, func() bool { return sessiontest.Put(t.Context(), s, "session:a", nil, time.Hour) == nil }, recovery, 10*time.Millisecond)
	}
	requireWrites()
	server.Do(t, "replicaof", "127.0.0.1", "1")
	connections := proxy.Accepted()
	require.ErrorIs(t, sessiontest.Put(t.Context(), s, "session:a", nil, time.Hour), redisstore.ErrReadOnly)
	require.Eventually(t, func() bool { return proxy.Accepted() > connections }, recovery, 10*time.Millisecond)
	server.Do(t, "replicaof", "no", "one")
	requireWrites()
}
