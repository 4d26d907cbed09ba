package session

import (
	"encoding/hex"
	"errors"
	"sync/atomic"
	"time"
)

// Errors of the Manager. Everything else that it returns means that the store
// could not answer, and must not be taken for "no session".
var (
	// ErrInvalid says that a token opens no live session: it is malformed,
	// unknown, expired or revoked. The cases are not told apart.
	ErrInvalid = errors.New("no live session")

	// ErrNoSuchUser says that the store has nothing about a user.
	ErrNoSuchUser = errors.New("no such user")

	// ErrWrongKey says that the store was sealed with an encryption key that
	// is not among those configured.
	ErrWrongKey = errors.New("the store is sealed with another encryption key")

	// ErrDamaged says that a record does not open although its key is known:
	// its bytes are not those that were written under that key.
	ErrDamaged = errors.New("a stored record is damaged")
)

// A Login is what WeChat said about a user, to be turned into a Session.
type Login struct {
	AppID      string // the mini program, wx and 16 hex digits
	OpenID     string // the user within that mini program; opaque
	UnionID    string // the user across an Open Platform account; may be empty
	SessionKey string // WeChat's key for the user's open data, base64
}

// A Session says who sent a token. Its fields do not change.
type Session struct {
	// ID is the first 16 hex digits of the SHA-256 of the token: enough to
	// name a session in logs and on the command line, useless for using it.
	ID      string
	AppID   string
	OpenID  string
	UnionID string // empty if WeChat never told it

	Created time.Time
	Expires time.Time // the absolute end; idle_timeout may end it sooner

	hash       hash
	user       hash // of the user's record
	generation uint64
	seen       atomic.Int64  // last use that this process knows of
	written    atomic.Int64  // last use in the store
	read       int64         // when the store was read
	versions   cacheVersions // what was read then
	oldKey     bool          // the record is sealed with an old key
	attached   atomic.Value
}

// name sets the names, which share one allocation.
func (s *Session) name(openID, unionID []byte) {
	all := make([]byte, 0, 128)
	all = hex.AppendEncode(all, s.hash[:idBytes])
	all = append(all, openID...)
	all = append(all, unionID...)
	names := string(all)
	s.ID, names = names[:2*idBytes], names[2*idBytes:]
	s.OpenID, s.UnionID = names[:len(openID)], names[len(openID):]
}

// Attach returns what build makes of the session, and calls it only the first
// time, or a few times if several requests come at once, of which one counts.
// It lets the edge keep what it needs for each request with the session.
// All users of a Manager share it, so build must always return the same type,
// not nil, and must not depend on who calls.
func (s *Session) Attach(build func(*Session) any) any {
	if made := s.attached.Load(); made != nil {
		return made
	}
	s.attached.CompareAndSwap(nil, build(s))
	return s.attached.Load()
}

// A User is what an operator may see of a user: never a token or a key.
type User struct {
	AppID    string
	OpenID   string
	UnionID  string
	Sessions []UserSession // oldest first, live ones only
}

// A UserSession is one live session of a User.
type UserSession struct {
	ID       string
	Created  time.Time
	LastSeen time.Time // as last written: up to a tenth of idle_timeout ago
	Expires  time.Time // when it ends if it is not used again
}
