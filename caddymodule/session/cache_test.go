package session_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

func TestSessionInUseCostsNoStoreCall(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, watched{net})
	token := f.login("oAlice")
	s := f.lives(token, "oAlice")
	net.taken()
	for range 100 {
		require.Same(t, s, f.lives(token, "oAlice"))
		require.NoError(t, f.Alive(t.Context(), s))
	}
	require.Empty(t, net.taken())
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = f.Lookup(t.Context(), token) }))
}

// A store that cannot tell of changes is read each time.
func TestUnobservedStoreIsNotKept(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, net)
	token := f.login("oAlice")
	f.lives(token, "oAlice")
	net.taken()
	f.lives(token, "oAlice")
	require.Equal(t, []string{"get session", "get user"}, net.taken())
}

// Whatever is guessed, it pushes nobody out and is not kept.
func TestUnknownTokensDoNotFlushTheCache(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, watched{net}, func(c *session.Config) { c.CacheSize = 8 })
	token := f.login("oAlice")
	f.lives(token, "oAlice")
	for i := range 1000 {
		f.dead(fmt.Sprintf("%043d", i))
	}
	net.taken()
	f.lives(token, "oAlice")
	require.Empty(t, net.taken())
}

func TestCacheIsBounded(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, watched{net}, func(c *session.Config) { c.CacheSize = 64 })
	var tokens []string
	for i := range 500 {
		tokens = append(tokens, f.login(fmt.Sprint("o", i)))
	}
	hot := tokens[0]
	for i, token := range tokens {
		f.lives(token, fmt.Sprint("o", i))
		f.clock.Advance(2 * time.Second)
		f.lives(hot, "o0")
	}
	net.taken()
	f.lives(hot, "o0")
	require.Empty(t, net.taken(), "the one in use stays")
	for i, token := range tokens {
		f.lives(token, fmt.Sprint("o", i))
	}
	require.Greater(t, len(net.taken()), 2*(500-64)-1)
}

// A sixteenth of the cache is ready to be used, the rest is packed.
func TestPackedSessions(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, watched{net}, func(c *session.Config) { c.CacheSize = 2048 })
	long := "o" + strings.Repeat("x", 80) // does not fit
	tokens := map[string]string{long: f.login(long)}
	for i := range 200 {
		openID := fmt.Sprint("o", i)
		tokens[openID] = f.login(openID)
	}
	for openID, token := range tokens {
		before := f.lives(token, openID)
		require.Equal(t, appID, before.AppID)
	}
	net.taken()
	for openID, token := range tokens {
		s := f.lives(token, openID)
		require.Equal(t, appID, s.AppID)
		require.Equal(t, f.clock.Now().UTC(), s.Created)
		require.Equal(t, f.clock.Now().Add(session.DefaultLifetime).UTC(), s.Expires)
		require.Len(t, s.ID, 16)
	}
	require.LessOrEqual(t, len(net.taken()), 2, "of the one that does not fit")

	// What is packed ends like the rest.
	for openID, token := range tokens {
		_, err := f.RevokeUser(t.Context(), appID, openID)
		require.NoError(t, err)
		f.dead(token)
	}
}

// A session that was used stays alive though its record is a tenth of the idle
// timeout behind: the last use is packed with it.
func TestPackedSessionKeepsItsLastUse(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, watched{net}, func(c *session.Config) { c.CacheSize = 2048 })
	token := f.login("oAlice")
	f.clock.Advance(session.DefaultIdleTimeout/10 - time.Second)
	f.lives(token, "oAlice")
	for i := range 200 { // pushes it out of the ready part, most likely
		openID := fmt.Sprint("o", i)
		f.lives(f.login(openID), openID)
		f.clock.Advance(2 * time.Second)
	}
	net.taken()
	f.clock.Advance(session.DefaultIdleTimeout - 401*time.Second)
	f.lives(token, "oAlice")
}

// What names the users is read for the first login, and then only when it may
// have changed.
func TestMetaIsReadWhenItMayHaveChanged(t *testing.T) {
	net := &aged{network: between(openStore(t))}
	f := manage(t, net)
	reads := func() (n int) {
		f.login("oAlice")
		for _, call := range net.taken() {
			if call == "get meta" {
				n++
			}
		}
		return n
	}
	require.Equal(t, 1, reads())
	require.Zero(t, reads())
	for _, key := range []string{"meta", ""} {
		net.changed(key)
		require.Equal(t, 1, reads(), "after a change of %q", key)
		require.Zero(t, reads())
	}
	f.clock.Advance(10*time.Second - 1)
	require.Zero(t, reads())
	f.clock.Advance(1)
	require.Equal(t, 1, reads(), "a change may not have been told")
	f.Close()
	require.Equal(t, 1, reads(), "nobody tells of changes any more")
}

// aged is an observer that bounds how long values may be kept.
type aged struct {
	*network
	changed func(string)
}

func (a *aged) Observe(changed func(string)) (time.Duration, func()) {
	a.changed = changed
	return 10 * time.Second, func() {}
}

// With a node far away, a change may be told late or never.
func TestObserverOfOtherNodes(t *testing.T) {
	store := openStore(t)
	remote := manage(t, store)
	net := &aged{network: between(store)}
	f := manage(t, net)
	token := remote.login("oAlice")
	f.lives(token, "oAlice")

	// The change is lost, but not for longer than the observer promised.
	_, err := remote.Revoke(t.Context(), token)
	require.NoError(t, err)
	f.clock.Advance(10*time.Second - 1)
	f.lives(token, "oAlice")
	f.clock.Advance(1)
	f.dead(token)

	// The connection is lost, and any key may have changed.
	token = remote.login("oAlice")
	f.lives(token, "oAlice")
	_, err = remote.Revoke(t.Context(), token)
	require.NoError(t, err)
	net.changed("")
	f.dead(token)

	// A change is told for the one record that matters.
	token = remote.login("oAlice")
	f.lives(token, "oAlice")
	_, err = remote.RevokeUser(t.Context(), appID, "oAlice")
	require.NoError(t, err)
	for key := range dump(t, store, "user:") {
		net.changed(key)
	}
	f.dead(token)
	net.changed("something else")
	net.changed("user:short")
}

// A change that comes while the store is being read must not be missed.
func TestChangeDuringRead(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, watched{net})
	other := manage(t, net.Store)
	for _, prefix := range []string{"session:", "user:"} {
		token := f.login("oAlice")
		var once sync.Once
		net.set(func() {
			net.after = func(_, key string, value []byte) ([]byte, error) {
				if strings.HasPrefix(key, prefix) {
					once.Do(func() {
						_, err := other.Revoke(t.Context(), token)
						assert.NoError(t, err)
					})
				}
				return value, nil // as it was before
			}
		})
		_, _ = f.Lookup(t.Context(), token) // may still succeed: it came first
		net.up()
		f.dead(token)
	}
}

// Logins, look-ups, logouts and revocations of a few users at once: a token
// never opens another's session, and what was ended stays so.
func TestManyAtOnce(t *testing.T) {
	for name, cached := range map[string]bool{"cached": true, "uncached": false} {
		t.Run(name, func(t *testing.T) {
			var store session.Store = openStore(t)
			if !cached {
				store = between(store)
			}
			f := manage(t, store, func(c *session.Config) { c.MaxPerUser, c.CacheSize = 4, 16 })
			var wg sync.WaitGroup
			var lookups atomic.Int64
			for g := range 8 {
				openID := fmt.Sprint("o", g%4)
				wg.Go(func() {
					for i := range 40 {
						created, err := f.Create(t.Context(), sessiontest.Login(openID))
						if !assert.NoError(t, err) {
							return
						}
						for range 10 {
							s, err := f.Lookup(t.Context(), created.Token)
							if err != nil {
								assert.ErrorIs(t, err, session.ErrInvalid) // ended by another
								break
							}
							assert.Equal(t, openID, s.OpenID)
							lookups.Add(1)
						}
						switch i % 4 {
						case 0:
							_, err := f.Revoke(t.Context(), created.Token)
							if err != nil {
								assert.ErrorIs(t, err, session.ErrInvalid)
							}
						case 1:
							_, err := f.RevokeUser(t.Context(), appID, openID)
							assert.NoError(t, err)
						default:
							continue
						}
						_, err = f.Lookup(t.Context(), created.Token)
						assert.ErrorIs(t, err, session.ErrInvalid)
					}
				})
			}
			wg.Wait()
			require.Positive(t, lookups.Load())
		})
	}
}

func TestClosedManagerAnswersFromTheStore(t *testing.T) {
	store := openStore(t)
	f := manage(t, store)
	token := f.login("oAlice")
	f.lives(token, "oAlice")
	f.Close()
	f.Close()
	f.lives(token, "oAlice")
	other := manage(t, store)
	_, err := other.Revoke(t.Context(), token)
	require.NoError(t, err)
	f.dead(token)
}
