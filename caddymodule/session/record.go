package session

import (
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
	appID      string
	openID     string
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
	b = appendString(b, r.appID)
	return appendString(b, r.openID)
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
		appID:      in.string(),
		openID:     in.string(),
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
	b = appendString(b, r.appID)
	b = appendString(b, r.openID)
	b = appendString(b, r.unionID)
	b = appendString(b, r.key)
	b = appendTime(b, r.keyed)
	b = appendString(b, r.previous)
	b = appendTime(b, r.replaced)
	for _, s := range r.sessions {
		b = append(b, s.hash[:]...)
		b = appendTime(b, s.created)
		b = appendTime(b, s.expires)
	}
	return b
}

func decodeUser(b []byte) (*userRecord, error) {
	in := fieldReader{rest: b}
	if in.uint8() != recordVersion {
		return nil, errMalformed
	}
	r := &userRecord{
		generation: in.uint64(),
		appID:      in.string(),
		openID:     in.string(),
		unionID:    in.string(),
		key:        in.string(),
		keyed:      in.time(),
		previous:   in.string(),
		replaced:   in.time(),
	}
	if n := len(in.rest) / listedSize; n > 0 {
		r.sessions = make([]listedSession, 0, n)
	}
	for len(in.rest) > 0 && !in.bad {
		r.sessions = append(r.sessions, listedSession{hash: in.hash(), created: in.time(), expires: in.time()})
	}
	if err := in.end(); err != nil {
		return nil, err
	}
	return r, nil
}

// lists reports whether the session is live as far as its user's record
// decides: it is the same user and generation, and it is in the list.
func (r *userRecord) lists(s *sessionRecord, h hash) bool {
	if r.appID != s.appID || r.openID != s.openID || r.generation != s.generation {
		return false
	}
	for i := range r.sessions {
		if r.sessions[i].hash == h {
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
