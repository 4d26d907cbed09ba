package redisstore_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// What a server says instead of an answer becomes an error of the right kind,
// without what it repeats of the question.
func TestServerErrors(t *testing.T) {
	const password, value = "correct-horse", "canary-value"
	tests := []struct {
		name  string
		reply string
		is    error
		says  string
	}{
		{name: "value repeated", reply: "ERR unknown command 'EVAL', with args beginning with: 'return 1' '1' 'wxgate:k' '" + value + "' ", says: "unknown command"},
		{name: "password repeated", reply: "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' '" + password + "' ", says: "unknown command"},
		{name: "password in the text", reply: "ERR something about " + password, says: "something about ***"},
		{name: "out of memory", reply: "OOM command not allowed when used memory > 'maxmemory'.", is: session.ErrFull, says: "maxmemory"},
		{name: "read-only", reply: "READONLY You can't write against a read only replica.", is: redisstore.ErrReadOnly},
		{name: "loading", reply: "LOADING Redis is loading the dataset in memory", says: "LOADING"},
		{name: "cannot save", reply: "MISCONF Redis is configured to save RDB snapshots", says: "MISCONF"},
		{name: "no replicas", reply: "NOREPLICAS Not enough good replicas to write.", says: "NOREPLICAS"},
		{name: "cluster down", reply: "CLUSTERDOWN The cluster is down", says: "CLUSTERDOWN"},
		{name: "slot being moved", reply: "TRYAGAIN Multiple keys request during rehashing of slot", says: "TRYAGAIN"},
		{name: "moved", reply: "MOVED 1 127.0.0.1:1", says: "MOVED"},
		{name: "ask", reply: "ASK 1 127.0.0.1:1", says: "ASK"},
		{name: "unprintable", reply: "ERR \x1b[31mred\x00", says: "[31mred"},
		{name: "long", reply: "ERR " + strings.Repeat("long ", 1000), says: "long"},
		{name: "nothing", reply: "", says: ""},
	}
	server := redistest.Start(t, "requirepass "+password)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			proxy := redistest.StartProxy(t, server.Addr)
			o := patient("redis://:" + password + "@" + proxy.Addr)
			o.Timeout = 2 * time.Second
			s := open(t, o)
			// answer replaces the messages of the server that refused selects.
			answer := func(refused func(message []byte) bool) {
				proxy.Edit(func(message []byte) [][]byte {
					if !refused(message) {
						return [][]byte{message}
					}
					return [][]byte{[]byte("-" + tt.reply + "\r\n")}
				})
			}
			defer proxy.Edit(nil)
			requireSafe := func(err error, what string) {
				t.Helper()
				require.Error(t, err, what)
				require.NotErrorIs(t, err, session.ErrNotFound, what)
				text := fmt.Sprintf("%v %+v", err, err)
				require.NotContains(t, text, password, what)
				require.NotContains(t, text, value, what)
				require.NotContains(t, text, "\x1b", what)
				require.Less(t, len(err.Error()), 400, what)
			}
			update := func() error { return sessiontest.Put(t.Context(), s, "k", []byte(value), 0) }

			answer(func(message []byte) bool { return message[0] == ':' }) // the result of EVAL
			err := update()
			requireSafe(err, "write")
			require.ErrorContains(t, err, tt.says)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
			}

			answer(func(message []byte) bool { return message[0] != '>' })
			for what, call := range map[string]func() error{
				"get": func() error {
					_, err := s.Get(t.Context(), "k")
					return err
				},
				"update": update,
				"ping":   func() error { return s.(session.Pinger).Ping(t.Context()) },
				"count": func() error {
					_, err := s.(session.Counter).Count(t.Context(), "", one)
					return err
				},
				"scan": func() error {
					return s.(session.Scanner).Scan(t.Context(), "", func(string, []byte, time.Duration) error { return nil })
				},
			} {
				requireSafe(call(), what)
			}
		})
	}
}

// Whatever comes between two answers of a real server: the process lives, and
// the next connection works.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		"+OK\r\n", "$-5\r\n", "*99999999\r\n", "-MOVED\r\n", "-ASK 1\r\n", "-REDIRECT\r\n", ">2\r\n+invalidate\r\n:1\r\n", ">1\r\n+a\r\n",
		">3\r\n+message\r\n+a\r\n+b\r\n", ">3\r\n$9\r\nsubscribe\r\n+a\r\n:1\r\n", ">3\r\n$11\r\nunsubscribe\r\n+a\r\n:0\r\n",
		"*2\r\n+a\r\n$3\r\nabc\r\n", "%1\r\n+a\r\n+b\r\n", "|1\r\n+a\r\n+b\r\n", "=4\r\ntxt:\r\n", "\r\n\r\n", "#\r\n", "_x\r\n",
	} {
		f.Add([]byte(seed))
	}
	server := redistest.Start(f)
	proxy := redistest.StartProxy(f, server.Addr)
	o := patient(proxy.Addr)
	o.Timeout = 200 * time.Millisecond
	o.DialTimeout = 5 * time.Second
	var s session.Store
	require.Eventually(f, func() bool {
		var err error
		s, err = redisstore.Open(f.Context(), o)
		return err == nil
	}, recovery, 10*time.Millisecond)
	f.Cleanup(func() { require.NoError(f, s.Close()) })
	f.Fuzz(func(t *testing.T, injected []byte) {
		proxy.Edit(func(message []byte) [][]byte { return [][]byte{injected, message} })
		_, _ = s.Get(t.Context(), "k") // it may be what was injected
		_ = sessiontest.Put(t.Context(), s, "k", []byte("value"), 0)
		_ = increment(t.Context(), s, "n")
		proxy.Edit(nil)
		proxy.Cut()
		require.Eventually(t, func() bool {
			if sessiontest.Put(t.Context(), s, "k", []byte("value"), 0) != nil {
				return false
			}
			value, err := s.Get(t.Context(), "k")
			return err == nil && string(value) == "value"
		}, recovery, time.Millisecond)
	})
}
