package session

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// A cache keeps opened sessions, so that a session in use costs no store call,
// no decryption and no decoding.
//
// It is a fixed table of small sets; a session can only be in the set that its
// hash names, and a full set gives up the one that was used longest ago, to
// the packed sessions. We looked at otter v2, which this replaces: its entries
// cost about 150 bytes beside the value, where this costs 12, and it has
// goroutines and buffers that every hit writes to, where a hit here only reads.
// What a general cache could do better, expiry and invalidation, is decided by
// the versions below.
//
// Invalidation: every storage key has a version counter (keys share counters,
// by hash; a shared one only makes more be read again). A session carries the
// versions of its two records as they were before the store was read. A change
// during the read, or at any time later, makes it differ, and the session is
// read again. So nothing has to be found and removed, and there is no moment
// in which a change can slip between a read and the insertion.
type cache struct {
	sets     []cacheSet
	locks    [64]sync.Mutex // of the sets, for insertion only
	packed   *packedSessions
	versions []atomic.Uint32
	meta     atomic.Uint32 // the version of the meta record
	epoch    atomic.Uint32 // counts changes of unknown extent
	stopped  atomic.Bool
	maxAge   int64 // nanoseconds; 0: without bound
}

// cacheWays sessions share a set.
const cacheWays = 8

// Tags spare the reader from following pointers to other sessions.
type cacheSet struct {
	tags  [cacheWays]atomic.Uint32
	slots [cacheWays]atomic.Pointer[Session]
}

// versionCounters is large enough that with DefaultCacheSize sessions in the
// cache, each with two counters, a change makes about one other be read again.
const versionCounters = 1 << 18

// cacheVersions are the versions that a session was read at.
type cacheVersions struct {
	epoch, session, user uint32
}

// readyShare is the part of the cache that is ready to be used, and most of
// which the garbage collector has to walk through again and again: some
// thousands are enough for those who are using their phones right now.
const readyShare = 16

func newCache(size int, appIDs *names) *cache {
	ready := max(1, size/readyShare/cacheWays)
	return &cache{
		sets:     make([]cacheSet, ready),
		packed:   newPackedSessions(size-ready*cacheWays, appIDs),
		versions: make([]atomic.Uint32, versionCounters),
	}
}

// observe begins to follow the store's changes. Without it, nothing may be
// kept.
func (c *cache) observe(o Observer) (cancel func()) {
	maxAge, cancel := o.Observe(c.changed)
	c.maxAge = int64(maxAge)
	return cancel
}

// changed is the Observer's callback.
func (c *cache) changed(key string) {
	switch {
	case key == "":
		c.epoch.Add(1)
	case key == metaKey:
		c.meta.Add(1)
	case len(key) == len(sessionPrefix)+len(hash{}) && key[:len(sessionPrefix)] == sessionPrefix:
		c.version(hash([]byte(key[len(sessionPrefix):]))).Add(1)
	case len(key) == len(userPrefix)+len(hash{}) && key[:len(userPrefix)] == userPrefix:
		c.version(hash([]byte(key[len(userPrefix):]))).Add(1)
	}
}

func (c *cache) version(h hash) *atomic.Uint32 {
	return &c.versions[binary.LittleEndian.Uint32(h[:4])%versionCounters]
}

// get returns the session, or nil if it has to be read.
func (c *cache) get(h *hash, now int64) *Session {
	set, tag := &c.sets[spread(h, len(c.sets))], tagOf(h)
	for i := range set.tags {
		if set.tags[i].Load() != tag {
			continue
		}
		if s := set.slots[i].Load(); s != nil && s.hash == *h {
			if !c.current(s, now) {
				return nil
			}
			return s
		}
	}
	if s := c.packed.get(h); s != nil && c.current(s, now) {
		return c.put(s, now)
	}
	return nil
}

// current reports whether neither record of the session has changed since it
// was read.
func (c *cache) current(s *Session, now int64) bool {
	return s.versions.session == c.version(s.hash).Load() &&
		s.versions.user == c.version(s.user).Load() &&
		s.versions.epoch == c.epoch.Load() &&
		c.young(s.read, now)
}

// young reports whether what was read at a time may still be kept, if no
// change was told.
func (c *cache) young(read, now int64) bool {
	return read > 0 && (c.maxAge == 0 || now-read < c.maxAge) && !c.stopped.Load()
}

// metaVersions are what the meta record is read at.
func (c *cache) metaVersions() cacheVersions {
	return cacheVersions{epoch: c.epoch.Load(), session: c.meta.Load()}
}

// put keeps a session that was read, and returns the one to use: the same, or
// the one that a concurrent reader has put there first.
func (c *cache) put(s *Session, now int64) *Session {
	index := spread(&s.hash, len(c.sets))
	set := &c.sets[index]
	lock := &c.locks[index%len(c.locks)]
	lock.Lock()
	defer lock.Unlock()

	slot := 0
	oldest := int64(1<<63 - 1)
	for i := range set.slots {
		old := set.slots[i].Load()
		if old == nil {
			if oldest != -1<<63 {
				slot, oldest = i, -1<<63
			}
			continue
		}
		if old.hash == s.hash {
			if c.current(old, now) {
				if seen := old.seen.Load(); seen < s.seen.Load() {
					old.seen.CompareAndSwap(seen, s.seen.Load())
				}
				return old
			}
			// The record may be behind what this process has seen.
			s.seen.Store(max(s.seen.Load(), old.seen.Load()))
			slot = i
			break
		}
		if seen := old.seen.Load(); seen < oldest {
			slot, oldest = i, seen
		}
	}
	if !c.current(s, now) {
		return s // right when it was read, but not to be kept
	}
	if old := set.slots[slot].Load(); old != nil && old.hash != s.hash && c.current(old, now) {
		c.packed.put(old)
	}
	set.slots[slot].Store(s)
	set.tags[slot].Store(tagOf(&s.hash))
	return s
}

// stop makes every session be read again from now on, and none be kept.
func (c *cache) stop() { c.stopped.Store(true) }

// spread returns a number below n that depends on the hash: on other bits of it
// than the version counters.
func spread(h *hash, n int) int {
	return int(uint64(binary.LittleEndian.Uint32(h[8:12])) * uint64(n) >> 32)
}

// tagOf tells most of the sessions of a set apart.
func tagOf(h *hash) uint32 { return binary.LittleEndian.Uint32(h[12:16]) }
