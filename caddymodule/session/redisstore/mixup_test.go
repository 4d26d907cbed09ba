package redisstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore/redistest"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// A mixup returns what the client gets instead of a message. Now and then, it
// is not what the server sent.
type mixup func() func(message []byte) [][]byte

// oneIn is how seldom a message is mixed up.
const oneIn = 20

func unlucky() bool { return rand.N(oneIn) == 0 }

// isValue reports whether a message is a record, and not one of a handshake.
func isValue(message []byte) bool { return message[0] == '$' && len(message) > 40 }

var mixups = map[string]mixup{
	"swapped": func() func([]byte) [][]byte {
		var mu sync.Mutex
		var held []byte
		return func(message []byte) [][]byte {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case held != nil && isValue(message):
				swapped := [][]byte{message, held}
				held = nil
				return swapped
			case held == nil && isValue(message) && unlucky():
				held = bytes.Clone(message)
				return nil
			}
			return [][]byte{message}
		}
	},
	"dropped": func() func([]byte) [][]byte {
		return func(message []byte) [][]byte {
			if isValue(message) && unlucky() {
				return nil
			}
			return [][]byte{message}
		}
	},
	"repeated": func() func([]byte) [][]byte {
		return func(message []byte) [][]byte {
			if isValue(message) && unlucky() {
				return [][]byte{message, message}
			}
			return [][]byte{message}
		}
	},
	"replaced by an older one": func() func([]byte) [][]byte {
		var last atomic.Pointer[[]byte]
		return func(message []byte) [][]byte {
			if !isValue(message) {
				return [][]byte{message}
			}
			older := last.Swap(&message)
			if older != nil && unlucky() {
				return [][]byte{*older}
			}
			return [][]byte{message}
		}
	},
	"edited": func() func([]byte) [][]byte {
		return func(message []byte) [][]byte {
			if isValue(message) && unlucky() {
				message = bytes.Clone(message)
				message[rand.N(len(message))] = byte(rand.N(256))
			}
			return [][]byte{message}
		}
	},
	"cut short": func() func([]byte) [][]byte {
		return func(message []byte) [][]byte {
			if isValue(message) && unlucky() {
				message = message[:rand.N(len(message))]
			}
			return [][]byte{message}
		}
	},
	"mixed with others": func() func([]byte) [][]byte {
		others := []string{"+OK\r\n", "-ERR no\r\n", "-MOVED\r\n", ":1\r\n", "*0\r\n", "%1\r\n+a\r\n+b\r\n", ">2\r\n+subscribe\r\n+a\r\n", "$3\r\nabc\r\n", "*-5\r\n"}
		return func(message []byte) [][]byte {
			if isValue(message) && unlucky() {
				return [][]byte{[]byte(others[rand.N(len(others))]), message}
			}
			return [][]byte{message}
		}
	},
}

// endsSessions are the mix-ups by which users may have to log in again: the
// Manager removes a record that it finds damaged twice, and here it may be
// intact in the store and look damaged both times.
var endsSessions = map[string]bool{"edited": true, "replaced by an older one": true, "mixed with others": true}

// Whatever happens to the answers of the server, a token opens its own session
// or none, the process lives, and all is well again when it has stopped.
func TestMixedUpAnswers(t *testing.T) {
	const users, readers, lookups = 16, 8, 60
	for name, mix := range mixups {
		for _, clientCache := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, client_cache=%t", name, clientCache), func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t)
				proxy := redistest.StartProxy(t, server.Addr)
				o := patient(proxy.Addr)
				o.ClientCache = clientCache
				o.Timeout = time.Second // a dropped answer is waited for
				s := open(t, o)
				m, err := session.NewManager(t.Context(), session.Config{Store: s, Keys: [][]byte{sessiontest.Key(1)}, CacheSize: 8})
				require.NoError(t, err)
				t.Cleanup(m.Close)
				var tokens []string
				for i := range users {
					created, err := m.Create(t.Context(), sessiontest.Login(fmt.Sprint("user", i)))
					require.NoError(t, err)
					tokens = append(tokens, created.Token)
				}

				proxy.Edit(mix())
				var right, failed atomic.Int64
				var all sync.WaitGroup
				for r := range readers {
					all.Go(func() {
						for i := range lookups {
							user := (i + r*7) % users
							found, err := m.Lookup(t.Context(), tokens[user])
							if err != nil {
								failed.Add(1)
								continue
							}
							right.Add(1)
							if want := fmt.Sprint("user", user); found.OpenID != want {
								t.Errorf("the token of %s opened a session of %s", want, found.OpenID)
							}
						}
					})
				}
				all.Wait()
				t.Logf("%d lookups were answered, %d failed", right.Load(), failed.Load())
				proxy.Edit(nil)
				for i, token := range tokens {
					require.Eventually(t, func() bool {
						found, err := m.Lookup(t.Context(), token)
						if errors.Is(err, session.ErrInvalid) && endsSessions[name] {
							return true
						}
						return err == nil && found.OpenID == fmt.Sprint("user", i)
					}, recovery, 10*time.Millisecond)
				}
			})
		}
	}
}
