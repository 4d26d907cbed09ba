package session

import (
	"sync"
	"time"
)

// packedSessions are the sessions that the cache has no ready pointer for, as
// plain memory: the garbage collector does not look into it, so that a hundred
// thousand of them cost nothing but their space. Unpacking one costs two
// allocations; reading it from the store costs two calls, two decryptions and
// some forty allocations.
type packedSessions struct {
	sets   []packedSet
	locks  [64]sync.Mutex // of the sets
	appIDs *names
}

type packedSet struct {
	tags     [cacheWays]uint32
	sessions [cacheWays]packedSession
}

// packedNames is room for an appid, an openid and a unionid: WeChat's have 18,
// 28 and 28 bytes. A session with longer ones is not packed.
const packedNames = 80

type packedSession struct {
	hash, user       hash
	generation       uint64
	created, expires int64
	seen, written    int64
	read             int64
	versions         cacheVersions
	appID, openID    uint8 // lengths
	unionID          uint8
	used             bool
	names            [packedNames]byte
}

func newPackedSessions(size int, appIDs *names) *packedSessions {
	return &packedSessions{sets: make([]packedSet, size/cacheWays), appIDs: appIDs}
}

// place returns the set where a session may be, and its tag.
func (p *packedSessions) place(h *hash) (set *packedSet, tag uint32, lock *sync.Mutex) {
	index := spread(h, len(p.sets))
	return &p.sets[index], tagOf(h), &p.locks[index%len(p.locks)]
}

// put packs a session, in place of the one that was used longest ago.
func (p *packedSessions) put(s *Session) {
	if len(p.sets) == 0 || s.oldKey || len(s.AppID)+len(s.OpenID)+len(s.UnionID) > packedNames {
		return
	}
	set, tag, lock := p.place(&s.hash)
	lock.Lock()
	defer lock.Unlock()
	slot := 0
	for i := range set.sessions {
		each := &set.sessions[i]
		if !each.used || set.tags[i] == tag && each.hash == s.hash {
			slot = i
			break
		}
		if each.seen < set.sessions[slot].seen {
			slot = i
		}
	}
	set.tags[slot] = tag
	set.sessions[slot].pack(s)
}

// get unpacks a session; nil if it is not there.
func (p *packedSessions) get(h *hash) *Session {
	if len(p.sets) == 0 {
		return nil
	}
	set, tag, lock := p.place(h)
	lock.Lock()
	defer lock.Unlock()
	for i := range set.sessions {
		if set.tags[i] == tag && set.sessions[i].used && set.sessions[i].hash == *h {
			return set.sessions[i].unpack(p.appIDs)
		}
	}
	return nil
}

func (p *packedSession) pack(s *Session) {
	*p = packedSession{
		hash:       s.hash,
		user:       s.user,
		generation: s.generation,
		created:    s.Created.UnixNano(),
		expires:    s.Expires.UnixNano(),
		seen:       s.seen.Load(),
		written:    s.written.Load(),
		read:       s.read,
		versions:   s.versions,
		appID:      uint8(len(s.AppID)),
		openID:     uint8(len(s.OpenID)),
		unionID:    uint8(len(s.UnionID)),
		used:       true,
	}
	n := copy(p.names[:], s.AppID)
	n += copy(p.names[n:], s.OpenID)
	copy(p.names[n:], s.UnionID)
}

func (p *packedSession) unpack(appIDs *names) *Session {
	appID, rest := p.names[:p.appID], p.names[p.appID:]
	s := &Session{
		AppID:      appIDs.intern(appID),
		Created:    time.Unix(0, p.created).UTC(),
		Expires:    time.Unix(0, p.expires).UTC(),
		hash:       p.hash,
		user:       p.user,
		generation: p.generation,
		read:       p.read,
		versions:   p.versions,
	}
	openID, rest := rest[:p.openID], rest[p.openID:]
	s.name(openID, rest[:p.unionID])
	s.seen.Store(p.seen)
	s.written.Store(p.written)
	return s
}
