package session_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

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
	require.Equal(t, []string{"get user", "get meta"}, net.taken())
}

// A store across a network is asked for everything at once.
func TestReadsInOneRoundTrip(t *testing.T) {
	t.Run("observed", func(t *testing.T) {
		net := &aged{network: between(openStore(t))}
		f := manage(t, struct {
			*aged
			multiGetter
		}{net, multiGetter{net.network}})
		token := f.login("oAlice")
		net.taken()
		f.lives(token, "oAlice")
		require.Equal(t, []string{"get user"}, net.taken())
		f.clock.Advance(10 * time.Second)
		f.lives(token, "oAlice")
		require.Equal(t, []string{"get user+meta"}, net.taken())
		_, err := f.Revoke(t.Context(), token)
		require.NoError(t, err)
		net.changed("")
		net.taken()
		f.dead(token)
		require.Equal(t, []string{"get user+meta"}, net.taken())
	})
	t.Run("unobserved", func(t *testing.T) {
		net := between(openStore(t))
		f := manage(t, struct {
			*network
			multiGetter
		}{net, multiGetter{net}})
		token := f.login("oAlice")
		net.taken()
		f.lives(token, "oAlice")
		require.Equal(t, []string{"get user+meta"}, net.taken())
		f.dead(strings.Repeat("A", 43))
		require.Equal(t, []string{"get user+meta"}, net.taken())
		net.down(func(string, string) bool { return true })
		require.ErrorIs(t, f.unanswered(token), errDown)
	})
}

// multiGetter is the ability of a network to answer several reads at once.
type multiGetter struct{ net *network }

func (g multiGetter) GetMany(ctx context.Context, keys ...string) (values [][]byte, err error) {
	var kinds []string
	for _, key := range keys {
		kind, _, _ := strings.Cut(key, ":")
		kinds = append(kinds, kind)
	}
	if err := g.net.enter("get", strings.Join(kinds, "+")); err != nil {
		return nil, err
	}
	for _, key := range keys {
		value, err := g.net.Store.Get(ctx, key)
		if err != nil && !errors.Is(err, session.ErrNotFound) {
			return nil, err
		}
		values = append(values, value)
	}
	return values, nil
}

// Whatever is guessed, it pushes no session out and is not kept.
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
	require.Eventually(t, func() bool { return session.Cached(f.Manager) <= 64 }, 10*time.Second, time.Millisecond)
}

// The store's own record is read at the start, and then only when it may have
// changed.
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
	require.Equal(t, 1, reads(), "a start writes it, and hears of no change")
	require.Zero(t, reads())
	for _, key := range []string{"meta", ""} {
		net.changed(key)
		require.Equal(t, 1, reads(), "after a change of %q", key)
		require.Zero(t, reads())
	}
	f.clock.Advance(10*time.Second - 1)
	require.Zero(t, reads())
	f.clock.Advance(1)
	require.Equal(t, 1, reads(), "a change may have been lost")
	f.Close()
	require.Equal(t, 1, reads(), "nothing is kept")
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

	// A change is reported for the one record that matters.
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

// A revocation of all that no message tells of counts within the time that the
// observer promised, however late before that a session was read.
func TestRevokeAllThatIsNotTold(t *testing.T) {
	store := openStore(t)
	remote := manage(t, store)
	for name, warm := range map[string]bool{"a node that has just started": false, "a node in use": true} {
		t.Run(name, func(t *testing.T) {
			f := manage(t, &aged{network: between(store)})
			early, late := remote.login("oAlice"), remote.login("oBob")
			if warm {
				f.lives(early, "oAlice")
			}
			require.NoError(t, remote.RevokeAll(t.Context(), ""))
			f.clock.Advance(10*time.Second - 1)
			if warm {
				f.lives(late, "oBob") // it cannot know
			} else {
				f.dead(late)
			}
			f.clock.Advance(1)
			f.dead(late)
			f.dead(early)
		})
	}
}

// A change that comes while the store is being read must not be missed.
func TestChangeDuringRead(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, watched{net})
	other := manage(t, net.Store)
	token := f.login("oAlice")
	var once sync.Once
	net.set(func() {
		net.after = func(_, _ string, value []byte) ([]byte, error) {
			once.Do(func() {
				_, err := other.Revoke(t.Context(), token)
				assert.NoError(t, err)
			})
			return value, nil // as it was before
		}
	})
	f.lives(token, "oAlice") // it came first
	net.up()
	f.dead(token)
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

// A closed Manager keeps no session in memory, although requests of its
// configuration, or an idle connection, may keep the Manager itself.
func TestClosedManagerHoldsNoSessions(t *testing.T) {
	store := openStore(t)
	f := manage(t, store)
	token := f.login("oAlice")
	cache, cached := session.CacheOf(f.Manager), weak.Make(f.lives(token, "oAlice"))
	runtime.GC()
	require.NotNil(t, cache.Value())
	require.NotNil(t, cached.Value())
	f.Close()
	require.Eventually(t, func() bool {
		runtime.GC()
		return cache.Value() == nil && cached.Value() == nil
	}, 10*time.Second, time.Millisecond)
	f.lives(token, "oAlice")
}
