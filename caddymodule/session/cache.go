package session

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/maypok86/otter/v2"
)

// A cache keeps opened sessions, so that a session in use costs no store call,
// no decryption and no decoding.
//
// Invalidation: every user has a version counter (users share counters, by hash;
// sharing costs an extra read, never a stale one). A session carries the versions
// from before the store was read. A change during the read, or at any later time,
// makes them differ, and the session is read again. So an invalidation cannot
// slip between a read and the insertion.
type cache struct {
	sessions *otter.Cache[hash, *Session]
	versions []atomic.Uint32
	epoch    atomic.Uint32 // counts changes that concern every session
	maxAge   int64         // nanoseconds; 0: without bound
	cancel   func()        // stops the Observer's callbacks
}

// versionCounters is large enough that with DefaultCacheSize sessions in the
// cache, a change makes about one other in two be read again.
const versionCounters = 1 << 17

// versions are the epoch and the counter of a session's user.
type versions struct {
	epoch, user uint32
}

func newCache(size int, store Observer) *cache {
	c := &cache{
		sessions: otter.Must(&otter.Options[hash, *Session]{MaximumSize: size}),
		versions: make([]atomic.Uint32, versionCounters),
	}
	maxAge, cancel := store.Observe(c.changed)
	c.maxAge, c.cancel = int64(maxAge), cancel
	return c
}

// changed is the Observer's callback.
func (c *cache) changed(key string) {
	switch {
	case key == "" || key == metaKey:
		c.epoch.Add(1)
	case len(key) == len(userPrefix)+len(userHash{}) && key[:len(userPrefix)] == userPrefix:
		c.version(userHash([]byte(key[len(userPrefix):]))).Add(1)
	}
}

func (c *cache) version(h userHash) *atomic.Uint32 {
	return &c.versions[binary.LittleEndian.Uint32(h[:4])%versionCounters]
}

// current reports whether nothing that the session was made of has changed since
// it was read.
func (c *cache) current(s *Session, now int64) bool {
	return s.versions.user == c.version(s.user).Load() &&
		s.versions.epoch == c.epoch.Load() &&
		c.fresh(s.read, now)
}

// fresh reports whether a value that was read at a time may still be used if
// the Observer has reported no change.
func (c *cache) fresh(read, now int64) bool { return c.maxAge == 0 || now-read < c.maxAge }

// put keeps a session that was read, and returns the one to use: the same, or
// the one that a concurrent reader has put there first. The last use that is
// known of an outdated one is kept, because the record may be behind.
func (c *cache) put(s *Session, now int64) *Session {
	s, _ = c.sessions.Compute(s.hash, func(old *Session, found bool) (*Session, otter.ComputeOp) {
		switch {
		case !found:
			return s, otter.WriteOp
		case c.current(old, now):
			return old, otter.CancelOp
		}
		s.used(old.seen.Load())
		return s, otter.WriteOp
	})
	return s
}
