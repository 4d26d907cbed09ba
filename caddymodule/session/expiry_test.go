package session_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

func TestExpiry(t *testing.T) {
	cases := []struct {
		name           string
		idle, lifetime time.Duration
		steps          []time.Duration // from one look-up to the next; all but the last succeed
	}{
		{"idle timeout", time.Hour, 24 * time.Hour, []time.Duration{0, time.Hour}},
		{"just before the idle timeout", time.Hour, 24 * time.Hour, []time.Duration{time.Hour - 1, time.Hour}},
		{"use slides it", time.Hour, 24 * time.Hour, []time.Duration{50 * time.Minute, 50 * time.Minute, 50 * time.Minute, time.Hour}},
		{"lifetime does not slide", 8 * time.Hour, 24 * time.Hour, []time.Duration{7 * time.Hour, 7 * time.Hour, 7 * time.Hour, 3 * time.Hour}},
		{"just before the end", 8 * time.Hour, 9 * time.Hour, []time.Duration{7 * time.Hour, 2*time.Hour - 1, 1}},
		{"defaults", 0, 0, []time.Duration{71 * time.Hour, 71 * time.Hour, 72 * time.Hour}},
	}
	for _, c := range cases {
		for _, cached := range []bool{true, false} {
			name := c.name + ", uncached"
			if cached {
				name = c.name + ", cached"
			}
			t.Run(name, func(t *testing.T) {
				var store session.Store = openStore(t)
				if !cached {
					store = between(store)
				}
				f := manage(t, store, func(cfg *session.Config) {
					cfg.IdleTimeout, cfg.Lifetime = c.idle, c.lifetime
				})
				token := f.login("oAlice")
				for i, step := range c.steps {
					f.clock.Advance(step)
					if i < len(c.steps)-1 {
						f.lives(token, "oAlice")
						f.Close() // let the renewal finish
						f.restart()
					}
				}
				f.dead(token)
				user, err := f.User(t.Context(), appID, "oAlice")
				require.NoError(t, err)
				require.Empty(t, user.Sessions)
			})
		}
	}
}

func TestShorterLifetimeEndsExistingSessions(t *testing.T) {
	store := openStore(t)
	f := manage(t, store, func(c *session.Config) { c.Lifetime, c.IdleTimeout = 10*time.Hour, 100*time.Hour })
	token := f.login("oAlice")
	short := manage(t, store, func(c *session.Config) {
		c.Lifetime, c.IdleTimeout, c.Now = time.Hour, 100*time.Hour, f.clock.Now
	})
	long := manage(t, store, func(c *session.Config) {
		c.Lifetime, c.IdleTimeout, c.Now = 20*time.Hour, 100*time.Hour, f.clock.Now
	})
	f.clock.Advance(time.Hour)
	short.dead(token)
	f.clock.Advance(9 * time.Hour)
	long.dead(token)
}

// A longer lifetime is for the logins to come.
func TestLongerLifetimeProlongsNoSession(t *testing.T) {
	store := openStore(t)
	f := manage(t, store, func(c *session.Config) { c.Lifetime, c.IdleTimeout = 10*time.Hour, 100*time.Hour })
	token := f.login("oAlice")
	long := manage(t, store, func(c *session.Config) {
		c.Lifetime, c.IdleTimeout, c.Now = 20*time.Hour, 100*time.Hour, f.clock.Now
	})
	f.clock.Advance(10*time.Hour - 1)
	long.lives(token, "oAlice")
	f.clock.Advance(1)
	user, err := long.User(t.Context(), appID, "oAlice")
	require.NoError(t, err)
	require.Empty(t, user.Sessions)
	long.dead(token)
}

// A session that another node renews between the read and the write of its
// revocation is not ended.
func TestExpiredSessionThatIsRenewedMeanwhile(t *testing.T) {
	store := openStore(t)
	net := between(store)
	idle := func(c *session.Config) { c.IdleTimeout = 10 * time.Hour }
	here, there := manage(t, net, idle), manage(t, watched{between(store)}, idle)
	token := here.login("oAlice")
	there.lives(token, "oAlice")
	there.clock.Advance(9 * time.Hour)
	here.clock.Advance(10 * time.Hour)
	var once sync.Once
	net.set(func() {
		net.before = func(method, _ string) error {
			if method == "update" {
				once.Do(func() {
					there.lives(token, "oAlice")
					there.Close() // waits for the renewal
				})
			}
			return nil
		}
	})
	here.lives(token, "oAlice")
	here.lives(token, "oAlice")
}

func TestClockGoingBackRevivesNoSession(t *testing.T) {
	f := manage(t, openStore(t), func(c *session.Config) { c.IdleTimeout = time.Hour })
	token := f.login("oAlice")
	f.clock.Advance(time.Hour)
	f.dead(token)
	f.clock.Advance(-24 * time.Hour)
	f.dead(token)
	f.clock.Advance(24 * time.Hour)
	f.dead(token)
}

// A session that was refused as expired stays dead, whatever is configured
// later, on every node and after a restart.
func TestRefusedSessionStaysDead(t *testing.T) {
	generous := func(c *session.Config) {
		c.IdleTimeout, c.Lifetime, c.MaxPerUser = 1000*time.Hour, 2000*time.Hour, 10
	}
	shorten := map[string]func(*session.Config){
		"lifetime":     func(c *session.Config) { c.Lifetime = time.Hour },
		"idle timeout": func(c *session.Config) { c.IdleTimeout = time.Hour },
		"max per user": func(c *session.Config) { c.MaxPerUser = 1 },
	}
	for name, change := range shorten {
		for _, observed := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", observed: ", observed), func(t *testing.T) {
				store := openStore(t)
				wrap := func() session.Store {
					if observed {
						return store
					}
					return between(store)
				}
				long := manage(t, wrap(), generous)
				token := long.login("oAlice")
				long.clock.Advance(2 * time.Hour)
				long.lives(token, "oAlice")
				long.Close()
				long.restart()
				long.lives(token, "oAlice")
				long.clock.Advance(2 * time.Hour)

				short := manage(t, wrap(), generous, change, func(c *session.Config) { c.Now = long.clock.Now })
				if name == "max per user" {
					require.Len(t, short.create(sessiontest.Login("oAlice")).Evicted, 1)
				}
				short.dead(token)
				long.dead(token) // a node, or the configuration before a reload
				long.Close()
				long.restart()
				long.dead(token)
				for key, value := range dump(t, store, "user:") {
					require.NoError(t, sessiontest.Put(t.Context(), store, key, value, 0)) // so that it is read again
				}
				long.dead(token)
			})
		}
	}
}

// A session is refused as expired only if that can be kept.
func TestExpiredSessionThatCannotBeRevoked(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, net, func(c *session.Config) { c.Lifetime = time.Hour })
	created := f.create(sessiontest.Login("oAlice"))
	f.clock.Advance(time.Hour)
	net.down(func(method, _ string) bool { return method == "update" })
	require.ErrorIs(t, f.unanswered(created.Token), errDown)
	require.ErrorIs(t, f.Alive(t.Context(), created.Session), session.ErrInvalid, "a stream ends")
	net.up()
	f.dead(created.Token)
	long := manage(t, net, func(c *session.Config) { c.Lifetime, c.Now = 100*time.Hour, f.clock.Now })
	long.dead(created.Token)
}

// A connection that moves data is use of its session, one that waits is not.
func TestUseOfAnOpenConnection(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, net, func(c *session.Config) { c.IdleTimeout = 10 * time.Hour })
	used, waiting := f.create(sessiontest.Login("oAlice")).Session, f.create(sessiontest.Login("oBob")).Session
	for range 2 {
		f.clock.Advance(6 * time.Hour)
		require.NoError(t, f.Use(t.Context(), used))
		f.Close() // waits for the renewal
		f.restart()
	}
	require.NoError(t, f.Alive(t.Context(), used))
	require.ErrorIs(t, f.Alive(t.Context(), waiting), session.ErrInvalid)
	f.clock.Advance(11 * time.Hour)
	require.ErrorIs(t, f.Use(t.Context(), used), session.ErrInvalid, "it was idle before")
}

func TestRenewal(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, net, func(c *session.Config) { c.IdleTimeout = 10 * time.Hour })
	token := f.login("oAlice")
	renewals := func() (n int) {
		f.Close()
		for _, call := range net.taken() {
			if call == "update user" {
				n++
			}
		}
		net.up()
		f.restart()
		return n
	}
	net.taken()
	f.lives(token, "oAlice")
	f.clock.Advance(time.Hour - 1)
	f.lives(token, "oAlice")
	require.Zero(t, renewals(), "within a tenth of the idle timeout")
	net.set(func() { net.wrote = 0 })
	f.clock.Advance(1)
	for range 5 {
		f.lives(token, "oAlice")
	}
	// Without a cache, a request that read the record before the renewal may
	// ask for another, which finds nothing to change.
	require.Positive(t, renewals())
	require.Equal(t, 1, net.wrote)
	user, err := f.User(t.Context(), appID, "oAlice")
	require.NoError(t, err)
	require.True(t, user.Sessions[0].LastSeen.Equal(f.clock.Now()))
	require.True(t, user.Sessions[0].Expires.Equal(f.clock.Now().Add(10*time.Hour)))

	t.Run("never refuses", func(t *testing.T) {
		net.down(func(method, _ string) bool { return method == "update" })
		f.clock.Advance(2 * time.Hour)
		for range 5 {
			f.lives(token, "oAlice")
		}
		require.Equal(t, 1, renewals(), "at most one attempt in a second")
		require.Len(t, f.reports.all(), 1)
	})
	t.Run("not without room", func(t *testing.T) {
		net.set(func() { net.room = session.ErrFull })
		f.clock.Advance(2 * time.Hour)
		f.lives(token, "oAlice")
		require.Zero(t, renewals())
	})
	t.Run("does not bring back", func(t *testing.T) {
		for _, end := range []func(key string) error{
			func(string) error {
				_, err := manage(t, net.Store).RevokeUser(t.Context(), appID, "oAlice")
				return err
			},
			func(key string) error { return sessiontest.Delete(t.Context(), net.Store, key) },
		} {
			renewals() // so that none is under way
			token := f.login("oAlice")
			var once sync.Once
			net.set(func() {
				net.before = func(method, key string) (err error) {
					if method == "update" {
						once.Do(func() { err = end(key) })
					}
					return err
				}
			})
			f.clock.Advance(2 * time.Hour)
			f.lives(token, "oAlice")
			f.Close()
			net.up()
			f.restart()
			f.dead(token)
			require.Len(t, f.reports.all(), 1, "a session that ended is no trouble")
		}
		require.Empty(t, dump(t, net.Store.(session.Scanner), "user:"))
	})
	t.Run("keeps the later use that another node has written", func(t *testing.T) {
		renewals()
		token := f.login("oCarol")
		other := manage(t, net.Store, func(c *session.Config) { c.IdleTimeout = 10 * time.Hour })
		other.clock.Advance(f.clock.Now().Sub(other.clock.Now()) + 4*time.Hour)
		var once sync.Once
		net.set(func() {
			net.before = func(method, _ string) error {
				if method == "update" {
					once.Do(func() {
						other.lives(token, "oCarol")
						other.Close()
					})
				}
				return nil
			}
		})
		f.clock.Advance(2 * time.Hour)
		f.lives(token, "oCarol")
		renewals()
		user, err := f.User(t.Context(), appID, "oCarol")
		require.NoError(t, err)
		require.True(t, user.Sessions[0].LastSeen.Equal(other.clock.Now()))
	})
	t.Run("of two sessions of a user at once", func(*testing.T) {
		renewals()
		one, two := f.login("oTwo"), f.login("oTwo")
		f.clock.Advance(6 * time.Hour)
		f.lives(one, "oTwo")
		f.lives(two, "oTwo")
		renewals()
		f.clock.Advance(6 * time.Hour)
		f.lives(one, "oTwo")
		f.lives(two, "oTwo")
	})
	t.Run("of a request that a reload overtook", func(*testing.T) {
		renewals()
		token := f.login("oDora")
		f.clock.Advance(6 * time.Hour)
		f.Close()
		f.lives(token, "oDora")
		f.clock.Advance(6 * time.Hour)
		f.restart()
		f.lives(token, "oDora")
	})
	t.Run("alive does not slide", func(t *testing.T) {
		renewals()
		s := f.create(sessiontest.Login("oBob")).Session
		net.taken()
		f.clock.Advance(9 * time.Hour)
		require.NoError(t, f.Alive(t.Context(), s))
		require.Zero(t, renewals())
		f.clock.Advance(time.Hour)
		require.ErrorIs(t, f.Alive(t.Context(), s), session.ErrInvalid)
	})
}

// Two records may share an entry of the table; a record whose neighbour is being
// written is written, too.
func TestRenewalsClaim(t *testing.T) {
	r := session.NewRenewals()
	const first, neighbour = "\x00\x04\x00\x00", "\x00\x08\x00\x00"
	release, ok := r.Claim(first, 10)
	require.True(t, ok)
	_, ok = r.Claim(first, 10)
	require.False(t, ok, "it is being written")
	passed, ok := r.Claim(neighbour, 10)
	require.True(t, ok)
	passed(30)
	_, ok = r.Claim(first, 30)
	require.False(t, ok, "its neighbour does not end its claim")
	release(20)
	_, ok = r.Claim(neighbour, 19)
	require.False(t, ok, "one of the entry failed just now")
	_, ok = r.Claim(neighbour, 20)
	require.True(t, ok)
}
