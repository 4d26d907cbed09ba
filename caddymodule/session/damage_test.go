package session_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

func withKeys(keys ...byte) func(*session.Config) {
	return func(c *session.Config) {
		c.Keys = nil
		for _, k := range keys {
			c.Keys = append(c.Keys, sessiontest.Key(k))
		}
	}
}

func TestWrongKey(t *testing.T) {
	store := openStore(t)
	f := manage(t, store, withKeys(1))
	token := f.login("oAlice")
	_, err := session.NewManager(t.Context(), session.Config{Store: store, Keys: [][]byte{sessiontest.Key(2)}})
	require.ErrorIs(t, err, session.ErrWrongKey)
	f.lives(token, "oAlice")
}

// Keys rotate while users stay logged in: first the new one opens everywhere,
// then it seals, then the old one goes.
func TestKeyRotation(t *testing.T) {
	store := openStore(t)
	f := manage(t, store, withKeys(1))
	alice, bob := f.login("oAlice"), f.login("oBob")
	f.Close()

	both := manage(t, store, withKeys(2, 1))
	both.lives(alice, "oAlice")
	both.Close() // waits until what was read has been sealed again
	require.Empty(t, both.reports.all())

	onlyNew := manage(t, store, withKeys(2))
	onlyNew.lives(alice, "oAlice")
	onlyNew.dead(bob) // was not seen meanwhile
	require.NotEmpty(t, onlyNew.reports.all())
	again := onlyNew.login("oBob")
	onlyNew.lives(again, "oBob")
	onlyNew.dead(bob)
	_, err := session.NewManager(t.Context(), session.Config{Store: store, Keys: [][]byte{sessiontest.Key(1)}})
	require.ErrorIs(t, err, session.ErrWrongKey)
}

func TestUserWhoseRecordDoesNotOpenCanBeRevoked(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"damaged":     func(v []byte) []byte { v[len(v)-1] ^= 1; return v },
		"unknown key": func(v []byte) []byte { v[2] ^= 1; return v },
		"empty":       func([]byte) []byte { return []byte{} },
	} {
		t.Run(name, func(t *testing.T) {
			store := openStore(t)
			f := manage(t, store)
			token := f.login("oAlice")
			before := dump(t, store, "user:")
			for key, value := range before {
				require.NoError(t, sessiontest.Put(t.Context(), store, key, spoil(slices.Clone(value)), 0))
			}
			ended, err := f.RevokeUser(t.Context(), appID, "oAlice")
			require.NoError(t, err)
			require.Empty(t, ended, "which is unknown")
			f.dead(token)
			after := dump(t, store, "user:")
			for key, value := range before {
				require.NotEqual(t, value, after[key])
				require.True(t, name == "empty" || after[key] != nil, "nothing depends on a deletion")
			}
			require.NotEmpty(t, f.reports.all())
			f.lives(f.login("oAlice"), "oAlice")
			f.dead(token)
		})
	}
}

// A record that is damaged is reported and is no session; its user logs in
// again.
func TestDamagedRecord(t *testing.T) {
	for at, name := range []string{"first", "middle", "last"} {
		t.Run(name, func(t *testing.T) {
			store := openStore(t)
			f := manage(t, store)
			token := f.login("oAlice")
			for key, value := range dump(t, store, "user:") {
				place := 5 + at*(len(value)-6)/2 // past the header, which names the key
				value[place] ^= 0x10
				require.NoError(t, sessiontest.Put(t.Context(), store, key, value, 0))
			}
			f.dead(token)
			f.dead(token)
			require.Equal(t, []string{"a stored record is damaged"}, f.reports.all())
			f.lives(f.login("oAlice"), "oAlice")
			f.dead(token)
		})
	}
}

func TestRecordsThatNoManagerWrote(t *testing.T) {
	store := openStore(t)
	f := manage(t, store)
	token := f.login("oAlice")
	users := dump(t, store, "user:")
	for _, value := range [][]byte{{}, {1}, []byte("{}"), make([]byte, 5), make([]byte, 300), bytes.Repeat([]byte{0xff}, 64<<10)} {
		for key, good := range users {
			require.NoError(t, sessiontest.Put(t.Context(), store, key, value, 0))
			_, err := f.Lookup(t.Context(), token)
			require.Error(t, err)
			require.NoError(t, sessiontest.Put(t.Context(), store, key, good, 0))
			f.lives(token, "oAlice")
		}
	}
}

// A record under another key than its own does not open: no user becomes
// somebody else by moving bytes in the store.
func TestMovedRecords(t *testing.T) {
	store := openStore(t)
	f := manage(t, store)
	tokens := map[string]string{"oAlice": f.login("oAlice"), "oBob": f.login("oBob")}
	records := dump(t, store, "user:")
	keys := slices.Sorted(maps.Keys(records))
	require.Len(t, keys, 2)
	require.NoError(t, sessiontest.Put(t.Context(), store, keys[0], records[keys[1]], 0))
	require.NoError(t, sessiontest.Put(t.Context(), store, keys[1], records[keys[0]], 0))
	for _, token := range tokens {
		f.dead(token)
		f.dead(token)
	}
	for key, value := range records {
		require.NoError(t, sessiontest.Put(t.Context(), store, key, value, 0))
	}
	for openID, token := range tokens {
		f.lives(token, openID)
	}
}

// A proxy that mixes replies up makes a request fail, never logs a user out for
// good, and never lets one in as another.
func TestMixedUpReplies(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, net)
	tokens := map[string]string{"oAlice": f.login("oAlice"), "oBob": f.login("oBob")}
	var last []byte
	net.set(func() {
		net.after = func(_, _ string, value []byte) ([]byte, error) {
			value, last = last, value // each gets what the one before asked for
			if value == nil {
				value = last
			}
			return slices.Clone(value), nil
		}
	})
	for range 50 {
		for openID, token := range tokens {
			s, err := f.Lookup(t.Context(), token)
			if err == nil {
				require.Equal(t, openID, s.OpenID)
				continue
			}
			require.ErrorIs(t, err, session.ErrInvalid)
		}
	}
	net.up()
	for openID, token := range tokens {
		f.lives(token, openID)
	}
}

const emptied = "the session store was emptied while it was in use: all sessions are lost"

// FLUSHALL under running nodes: all users log in again, the nodes agree, and
// each reports it once.
func TestStoreEmptiedUnderRunningNodes(t *testing.T) {
	for name, observed := range map[string]func(session.Store) session.Store{
		"observed":   func(s session.Store) session.Store { return s },
		"unobserved": func(s session.Store) session.Store { return between(s) },
	} {
		t.Run(name, func(t *testing.T) {
			store := openStore(t)
			a, b := manage(t, observed(store)), manage(t, observed(store))
			token := a.login("oAlice")
			b.lives(token, "oAlice")
			for _, prefix := range []string{"user:", "meta"} {
				for key := range dump(t, store, prefix) {
					require.NoError(t, sessiontest.Delete(t.Context(), store, key))
				}
			}
			a.dead(token)
			b.dead(token)
			if name == "observed" {
				require.Equal(t, []string{emptied}, b.reports.all(), "it had the session in memory")
			}
			fresh := b.login("oAlice")
			a.lives(fresh, "oAlice")
			revoked, err := a.RevokeUser(t.Context(), appID, "oAlice")
			require.NoError(t, err)
			require.Len(t, revoked, 1)
			b.dead(fresh)
			c := manage(t, store)
			c.dead(fresh)
			c.lives(b.login("oAlice"), "oAlice")
			require.Equal(t, []string{emptied}, a.reports.all())
			require.Equal(t, []string{emptied}, b.reports.all())
			require.Empty(t, c.reports.all())
		})
	}
}

// If only the store's own record is lost, nodes have nothing to disagree on:
// no session is live, and the next login or start makes another record.
func TestLostMeta(t *testing.T) {
	for name, lose := range map[string]func(*badgerstore.Store) error{
		"removed": func(s *badgerstore.Store) error { return sessiontest.Delete(t.Context(), s, "meta") },
		"damaged": func(s *badgerstore.Store) error {
			meta := dump(t, s, "meta")["meta"]
			meta[len(meta)-1] ^= 1
			return sessiontest.Put(t.Context(), s, "meta", meta, 0)
		},
		"empty": func(s *badgerstore.Store) error { return sessiontest.Put(t.Context(), s, "meta", nil, 0) },
	} {
		for _, by := range []string{"login", "start", "revocation"} {
			t.Run(name+", replaced by a "+by, func(t *testing.T) {
				store := openStore(t)
				a, b := manage(t, store), manage(t, store)
				old := a.login("oAlice")
				b.lives(old, "oAlice")
				require.NoError(t, lose(store))
				a.dead(old)
				b.dead(old)
				switch by {
				case "start":
					manage(t, store).dead(old)
				case "revocation":
					require.NoError(t, a.RevokeAll(t.Context(), ""))
				}
				fresh := b.login("oAlice")
				a.lives(fresh, "oAlice")
				_, err := a.RevokeUser(t.Context(), appID, "oAlice")
				require.NoError(t, err)
				b.dead(fresh)
				a.dead(old)
				b.dead(old)
				event := emptied
				if name != "removed" {
					event = "the session store's own record is damaged: all sessions are refused"
				}
				require.Equal(t, []string{event}, a.reports.all())
				require.Equal(t, []string{event}, b.reports.all())
			})
		}
	}
}

// A store in another format is neither damaged nor under another key.
func TestStoreOfAnotherVersion(t *testing.T) {
	store := openStore(t)
	f := manage(t, store)
	token := f.login("oAlice")
	records := dump(t, store, "")
	for key, value := range records {
		value[0] = 1
		require.NoError(t, sessiontest.Put(t.Context(), store, key, value, 0))
	}
	_, err := session.NewManager(t.Context(), f.cfg)
	require.ErrorIs(t, err, session.ErrVersion)
	require.NotErrorIs(t, err, session.ErrDamaged)
	require.NotErrorIs(t, err, session.ErrWrongKey)
	require.ErrorContains(t, err, "its format is 1, and this version reads 3")
	_, err = session.CheckKeys(t.Context(), store, f.cfg.Keys)
	require.ErrorIs(t, err, session.ErrVersion)
	f.dead(token)
	require.Equal(t, []string{"a stored record was written by another version of wxgate"}, f.reports.all())
	_, err = f.Create(t.Context(), sessiontest.Login("oAlice"))
	require.ErrorIs(t, err, session.ErrVersion, "its records are left alone")
	for key, value := range records {
		require.Equal(t, value, dump(t, store, key)[key])
	}
}

func TestCheckKeys(t *testing.T) {
	store := openStore(t)
	check := func(key byte) (bool, error) {
		return session.CheckKeys(t.Context(), store, [][]byte{sessiontest.Key(key)})
	}
	used, err := check(1)
	require.NoError(t, err)
	require.False(t, used)
	require.Empty(t, dump(t, store, ""), "looking leaves no trace")
	manage(t, store)
	used, err = check(1)
	require.NoError(t, err)
	require.True(t, used)
	_, err = check(2)
	require.ErrorIs(t, err, session.ErrWrongKey)
	_, err = session.CheckKeys(t.Context(), store, nil)
	require.Error(t, err)
	require.NoError(t, store.Close())
	_, err = check(1)
	require.ErrorIs(t, err, session.ErrClosed)
}

func TestReportsDoNotFlood(t *testing.T) {
	net := between(openStore(t))
	f := manage(t, net, func(c *session.Config) { c.IdleTimeout = 10 * time.Hour })
	var tokens []string
	for range 20 {
		tokens = append(tokens, f.login("oAlice"))
	}
	net.down(func(method, _ string) bool { return method == "update" })
	f.clock.Advance(2 * time.Hour)
	for _, token := range tokens {
		f.lives(token, "oAlice")
	}
	f.Close()
	require.Len(t, f.reports.all(), 1)
	for _, event := range f.reports.all() {
		require.False(t, strings.ContainsAny(event, "0123456789"), "an event is a constant")
	}
}
