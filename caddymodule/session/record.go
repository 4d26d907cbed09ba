package session

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// recordVersion is the first byte of every opened record.
const recordVersion = 1

// Prefixes and names of the storage keys.
const (
	sessionPrefix = "session:"
	userPrefix    = "user:"
	metaKey       = "meta"
)

func sessionKey(h hash) string { return sessionPrefix + string(h[:]) }
func userKey(h hash) string    { return userPrefix + string(h[:]) }

// A sessionRecord says who a token stands for. Times are nanoseconds since
// 1970.
type sessionRecord struct {
	user       hash   // of the user's record
	store      uint64 // metaRecord.id of the store it was made in
	generation uint64 // the user's, when the session was made
	created    int64
	seen       int64 // last use, as last written
	expires    int64 // the absolute end
	appID      []byte
	openID     []byte
}

func (r *sessionRecord) encode() []byte {
	b := make([]byte, 0, 1+len(r.user)+5*8+2*2+len(r.appID)+len(r.openID))
	b = append(b, recordVersion)
	b = append(b, r.user[:]...)
	b = binary.BigEndian.AppendUint64(b, r.store)
	b = binary.BigEndian.AppendUint64(b, r.generation)
	b = appendTime(b, r.created)
	b = appendTime(b, r.seen)
	b = appendTime(b, r.expires)
	b = appendBytes(b, r.appID)
	return appendBytes(b, r.openID)
}

func decodeSession(b []byte) (sessionRecord, error) {
	in := fieldReader{rest: b}
	if in.uint8() != recordVersion {
		return sessionRecord{}, errMalformed
	}
	r := sessionRecord{
		user:       in.hash(),
		store:      in.uint64(),
		generation: in.uint64(),
		created:    in.time(),
		seen:       in.time(),
		expires:    in.time(),
		appID:      in.bytes(),
		openID:     in.bytes(),
	}
	return r, in.end()
}

// A userRecord holds what a user's sessions share. A session is live only if
// the record lists it under its generation.
type userRecord struct {
	appID   string
	openID  string
	unionID string // kept once seen

	// generation is random at birth and grows by one when all sessions are
	// ended. A record that was lost and is born again therefore never
	// matches a session of its former life.
	generation uint64

	key      string // session_key, the newest
	keyed    int64  // when it was received
	previous string // the one before; may be empty
	replaced int64  // when the newest took its place

	sessions []listedSession // as they were made
}

// A listedSession is a live session in its user's record.
type listedSession struct {
	hash    hash
	created int64
	expires int64
}

const listedSize = len(hash{}) + 2*8

func (r *userRecord) encode() []byte {
	b := make([]byte, 0, 1+3*8+5*2+2+
		len(r.appID)+len(r.openID)+len(r.unionID)+len(r.key)+len(r.previous)+
		len(r.sessions)*listedSize)
	b = append(b, recordVersion)
	b = binary.BigEndian.AppendUint64(b, r.generation)
	b = appendBytes(b, r.appID)
	b = appendBytes(b, r.openID)
	b = appendBytes(b, r.unionID)
	b = appendBytes(b, r.key)
	b = appendTime(b, r.keyed)
	b = appendBytes(b, r.previous)
	b = appendTime(b, r.replaced)
	for _, s := range r.sessions {
		b = append(b, s.hash[:]...)
		b = appendTime(b, s.created)
		b = appendTime(b, s.expires)
	}
	return b
}

// A userView is a user record where it lies: a look-up only has to know that
// the session is listed.
type userView struct {
	generation             uint64
	appID, openID, unionID []byte
	key, previous          []byte
	keyed, replaced        int64
	sessions               []byte // listedSize each
}

func viewUser(b []byte) (userView, error) {
	in := fieldReader{rest: b}
	if in.uint8() != recordVersion {
		return userView{}, errMalformed
	}
	v := userView{
		generation: in.uint64(),
		appID:      in.bytes(),
		openID:     in.bytes(),
		unionID:    in.bytes(),
		key:        in.bytes(),
		keyed:      in.time(),
		previous:   in.bytes(),
		replaced:   in.time(),
	}
	v.sessions = in.take(len(in.rest) / listedSize * listedSize)
	return v, in.end()
}

// record returns a copy of what the view shows, to be changed.
func (v *userView) record() *userRecord {
	r := &userRecord{
		appID:      string(v.appID),
		openID:     string(v.openID),
		unionID:    string(v.unionID),
		generation: v.generation,
		key:        string(v.key),
		keyed:      v.keyed,
		previous:   string(v.previous),
		replaced:   v.replaced,
	}
	in := fieldReader{rest: v.sessions}
	for len(in.rest) > 0 {
		r.sessions = append(r.sessions, listedSession{hash: in.hash(), created: in.time(), expires: in.time()})
	}
	return r
}

// lists reports whether a session is live as far as its user's record decides:
// it is the same user and generation, and it is in the list.
func (v *userView) lists(s *sessionRecord, h hash) bool {
	if v.generation != s.generation || !bytes.Equal(v.appID, s.appID) || !bytes.Equal(v.openID, s.openID) {
		return false
	}
	for rest := v.sessions; len(rest) > 0; rest = rest[listedSize:] {
		if hash(rest[:len(h)]) == h {
			return true
		}
	}
	return false
}

// A metaRecord is made once for a store, and never changes.
type metaRecord struct {
	index [32]byte // the HMAC key that turns users into storage keys
}

func (r *metaRecord) encode() []byte { return append([]byte{recordVersion}, r.index[:]...) }

func decodeMeta(b []byte) (metaRecord, error) {
	in := fieldReader{rest: b}
	if in.uint8() != recordVersion {
		return metaRecord{}, errMalformed
	}
	r := metaRecord{index: in.hash()}
	return r, in.end()
}

// user returns the hash that names a user in the store. Neither name holds a
// NUL, so no two users run into each other.
func (r *metaRecord) user(appID, openID string) (h hash) {
	mac := hmac.New(sha256.New, r.index[:])
	mac.Write([]byte(appID + "\x00" + openID))
	mac.Sum(h[:0])
	return h
}

// id tells this beginning of the store from any other. Sessions carry it:
// those of another beginning are in user records that nobody could find to
// end them.
func (r *metaRecord) id() uint64 {
	mac := hmac.New(sha256.New, r.index[:])
	mac.Write([]byte("store id"))
	return binary.BigEndian.Uint64(mac.Sum(nil))
}
