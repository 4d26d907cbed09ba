package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
)

// Prefix and name of the storage keys.
const (
	userPrefix = "user:"
	metaKey    = "meta"
)

func userKey(h userHash) string { return userPrefix + string(h[:]) }

// A userHash names a user in the store: the first bytes of the SHA-256 of appid,
// NUL and openid. An appid holds no NUL, so no two users have the same text; and
// where hashes are equal all the same, holds tells the users apart.
type userHash [12]byte

func hashUser(appID, openID string) userHash {
	sum := sha256.Sum256([]byte(appID + "\x00" + openID))
	return userHash(sum[:])
}

// A userRecord holds all that the store knows of a user. A session is live only
// while the record lists it. Times are nanoseconds since 1970.
type userRecord struct {
	appID   []byte
	openID  []byte
	unionID []byte // kept once seen

	key         []byte // WeChat's session_key, the newest
	keyReceived int64
	previous    []byte // the one before; may be empty

	sessions listedSessions
}

// listedSessions are the live sessions of a user as they are encoded,
// listedSize bytes each: a look-up needs one of them only.
type listedSessions []byte

// A listedSession is a live session in its user's record.
type listedSession struct {
	hash       hash
	generation uint64 // metaRecord.generation when the session was made
	created    int64
	seen       int64 // last use, as last written
	expires    int64 // the absolute end
}

const listedSize = len(hash{}) + 4*8

func (r *userRecord) encode() []byte {
	b := make([]byte, 0, 8+5*2+
		len(r.appID)+len(r.openID)+len(r.unionID)+len(r.key)+len(r.previous)+len(r.sessions))
	b = appendTime(b, r.keyReceived)
	for _, field := range [][]byte{r.appID, r.openID, r.unionID, r.key, r.previous} {
		b = appendBytes(b, field)
	}
	return append(b, r.sessions...)
}

// decodeUser returns a record that shares the bytes of b.
func decodeUser(b []byte) (userRecord, error) {
	in := fieldReader{rest: b}
	r := userRecord{
		keyReceived: in.time(),
		appID:       in.bytes(),
		openID:      in.bytes(),
		unionID:     in.bytes(),
		key:         in.bytes(),
		previous:    in.bytes(),
	}
	r.sessions = in.next(len(in.rest) / listedSize * listedSize)
	return r, in.end()
}

// holds reports whether the record is that of a user.
func (r *userRecord) holds(appID, openID string) bool {
	return string(r.appID) == appID && string(r.openID) == openID
}

// all returns an iterator over the sessions.
func (l listedSessions) all() iter.Seq[listedSession] {
	return func(yield func(listedSession) bool) {
		for in := (fieldReader{rest: l}); len(in.rest) > 0; {
			s := listedSession{hash: in.hash(), generation: in.uint64(), created: in.time(), seen: in.time(), expires: in.time()}
			if !yield(s) {
				return
			}
		}
	}
}

// find returns the session with a hash, and false if it is not listed.
func (l listedSessions) find(h hash) (listedSession, bool) {
	for s := range l.all() {
		if s.hash == h {
			return s, true
		}
	}
	return listedSession{}, false
}

func encodeListed(list []listedSession) listedSessions {
	b := make([]byte, 0, len(list)*listedSize)
	for _, s := range list {
		b = append(b, s.hash[:]...)
		b = binary.BigEndian.AppendUint64(b, s.generation)
		b = appendTime(b, s.created)
		b = appendTime(b, s.seen)
		b = appendTime(b, s.expires)
	}
	return b
}

// A metaRecord is the store's own record. That it opens proves that the
// encryption key is the store's.
type metaRecord struct {
	id         uint64 // random; another one means another beginning of the store
	generation uint64 // random, replaced when all sessions are revoked
	apps       []appGeneration
}

// An appGeneration takes the place of the store's generation for a mini program
// whose sessions were all revoked.
type appGeneration struct {
	appID      string
	generation uint64
}

// metaPadding makes the record as long before as after most revocations: a full
// store takes no longer one.
const metaPadding = 1 << 10

func (r *metaRecord) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, r.id)
	b = binary.BigEndian.AppendUint64(b, r.generation)
	for _, a := range r.apps {
		b = appendBytes(b, a.appID)
		b = binary.BigEndian.AppendUint64(b, a.generation)
	}
	b = append(b, 0, 0) // no further appid
	return append(b, make([]byte, -len(b)&(metaPadding-1))...)
}

func decodeMeta(b []byte) (metaRecord, error) {
	in := fieldReader{rest: b}
	r := metaRecord{id: in.uint64(), generation: in.uint64()}
	for appID := in.bytes(); len(appID) > 0; appID = in.bytes() {
		r.apps = append(r.apps, appGeneration{string(appID), in.uint64()})
	}
	if in.bad || !bytes.Equal(b, r.encode()) {
		return metaRecord{}, errMalformed
	}
	return r, nil
}

// generationOf returns the generation that the sessions of a mini program must
// have.
func (r *metaRecord) generationOf(appID []byte) uint64 {
	for _, a := range r.apps {
		if a.appID == string(appID) {
			return a.generation
		}
	}
	return r.generation
}

// revokeAll replaces the generation of a mini program, or of all.
func (r *metaRecord) revokeAll(appID string) {
	if appID == "" {
		r.generation, r.apps = newGeneration(), nil
		return
	}
	r.apps = slices.DeleteFunc(r.apps, func(a appGeneration) bool { return a.appID == appID })
	r.apps = append(r.apps, appGeneration{appID, newGeneration()})
}

// errMalformed is returned for a record that opens and is not one that this
// version writes.
var errMalformed = fmt.Errorf("%w: its form is unknown", ErrDamaged)

// Records are written as fixed-width big-endian numbers and names behind a
// two-byte length. There is one way to write a record, so a reader can be
// strict: whatever it accepts, encoding gives back byte for byte.

func appendBytes[T string | []byte](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func appendTime(b []byte, t int64) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(t))
}

// A fieldReader reads fields from the front of a record. After the first field
// that is missing it returns zero values only, so that callers check once.
type fieldReader struct {
	rest []byte
	bad  bool
}

func (r *fieldReader) next(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return nil
	}
	field := r.rest[:n]
	r.rest = r.rest[n:]
	return field
}

func (r *fieldReader) uint16() uint16 {
	if b := r.next(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *fieldReader) uint64() uint64 {
	if b := r.next(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *fieldReader) time() int64 { return int64(r.uint64()) }

func (r *fieldReader) hash() (h hash) {
	copy(h[:], r.next(len(h)))
	return h
}

func (r *fieldReader) bytes() []byte { return r.next(int(r.uint16())) }

// end returns errMalformed unless every field was there and nothing is left.
func (r *fieldReader) end() error {
	if r.bad || len(r.rest) > 0 {
		return errMalformed
	}
	return nil
}
