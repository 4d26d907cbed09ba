// Package session keeps the login sessions of WeChat mini programs.
//
// A login makes a token, which the client keeps; the Store keeps only its SHA-256,
// in the one record of the user:
//
//	user:<SHA-256 of appid, NUL and openid, 12 bytes>    session_key, live sessions
//	meta                                                 generations of the store
//
// The token shows, masked, whose it is, so that one read finds the record. A
// session is live only while the record lists it, and its generation is the
// store's. So a login, a renewal, and revoking one session, all of a user or all
// of the store are each one atomic write of one record, which counts at once on
// every node, and nothing depends on a deletion.
//
// Every value is sealed with AES-256-GCM before it reaches the Store, with its
// storage key as additional data: neither the engine nor its backups hold an
// openid or a session_key in the clear, and a record that is moved to another
// key does not open.
//
// The Manager is the only caller of a Store. It decides expiry from the
// records, never from the store's ttl, and tells "no live session" (ErrInvalid)
// apart from "the store cannot answer" (every other error). A record that does
// not open is reported and is no live session.
package session

import (
	"encoding/hex"
	"errors"
	"sync/atomic"
	"time"
)

// Errors of the Manager. Every other error means that the store could not
// answer, and must not be taken for "no session".
var (
	// ErrInvalid is returned when a token opens no live session: it is
	// malformed, unknown, expired or revoked. Reason returns which.
	ErrInvalid = errors.New("no live session")

	// ErrNoSuchUser is returned when the store has no record of a user.
	ErrNoSuchUser = errors.New("no such user")

	// ErrNoSessionKey is returned when a user has no live session, and so no
	// session_key that may be used.
	ErrNoSessionKey = errors.New("the user has no live session, and so no session_key")

	// ErrWrongKey is returned when the store was sealed with an encryption
	// key that is not among those configured.
	ErrWrongKey = errors.New("the store is sealed with another encryption key")

	// ErrVersion is returned when another version of wxgate wrote the store,
	// in a format that this version does not read.
	ErrVersion = errors.New("the store was written by another version of wxgate")

	// ErrDamaged is returned when a record does not open although its key is
	// known: its bytes are not those that were written under that key.
	ErrDamaged = errors.New("a stored record is damaged")
)

// A refusal is an ErrInvalid with its reason.
type refusal struct{ reason string }

var (
	errMalformedToken = &refusal{"malformed"}
	errUnknown        = &refusal{"unknown"}
	errIdle           = &refusal{"idle"}
	errLifetime       = &refusal{"lifetime"}
	errRevoked        = &refusal{"revoked"}
)

func (r *refusal) Error() string { return ErrInvalid.Error() + ": " + r.reason }

// Is makes a refusal an ErrInvalid.
func (r *refusal) Is(target error) bool { return target == ErrInvalid }

// Reason returns why a token was refused with ErrInvalid: malformed, unknown,
// idle, lifetime or revoked. It is for logs; clients must not tell the cases
// apart. A session that was refused or revoked earlier is unknown.
func Reason(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.reason
	}
	return errUnknown.reason
}

// A Login is WeChat's answer about a user, to be turned into a Session.
type Login struct {
	AppID      string // the mini program, wx and 16 hex digits
	OpenID     string // the user within that mini program; opaque
	UnionID    string // the user across an Open Platform account; may be empty
	SessionKey string // WeChat's key for the user's open data, base64
}

// A Session is a live session. Its exported fields do not change.
type Session struct {
	// ID is the first 16 hex digits of the SHA-256 of the token: enough to
	// name a session in logs and on the command line, useless for using it.
	ID      string
	AppID   string
	OpenID  string
	UnionID string // empty if WeChat has never sent it

	Created time.Time
	Expires time.Time // the absolute end, also of a lifetime shortened since; idle_timeout may end it sooner

	hash     hash
	user     userHash
	seen     atomic.Int64 // last use that this process knows of
	written  atomic.Int64 // last use in the store
	read     int64        // when the store was read
	versions versions     // what was read then
	attached atomic.Value
}

// newSession returns what callers see of a session in a user's record.
func (m *Manager) newSession(user userHash, r *userRecord, l listedSession) *Session {
	// The names share one allocation.
	all := make([]byte, 0, 128)
	all = hex.AppendEncode(all, l.hash[:idBytes])
	for _, name := range [][]byte{r.appID, r.openID, r.unionID} {
		all = append(all, name...)
	}
	names := string(all)
	next := func(n int) (name string) {
		name, names = names[:n], names[n:]
		return name
	}
	s := &Session{
		ID:      next(2 * idBytes),
		AppID:   next(len(r.appID)),
		OpenID:  next(len(r.openID)),
		UnionID: next(len(r.unionID)),
		Created: time.Unix(0, l.created).UTC(),
		Expires: time.Unix(0, m.endOfListed(l)).UTC(),
		hash:    l.hash,
		user:    user,
	}
	s.seen.Store(l.seen)
	s.written.Store(l.seen)
	return s
}

// used marks the session as used at a time.
func (s *Session) used(at int64) {
	if seen := s.seen.Load(); seen < at {
		s.seen.CompareAndSwap(seen, at)
	}
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
