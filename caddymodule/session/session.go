package session

import (
	"errors"
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
