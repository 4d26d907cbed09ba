package redisstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"

	"github.com/redis/rueidis"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// ErrReadOnly says that the server is a replica. Reads go on. The store makes
// new connections in case the address now leads to another server.
var ErrReadOnly = errors.New("server is a read-only replica")

// ErrNoClientCache says that the server does not tell of changed keys. Options
// with ClientCache off work.
var ErrNoClientCache = errors.New("server does not support client-side caching (CLIENT TRACKING): set client_cache off")

var (
	// errNoAnswer is the cause of a call that outlasted Timeout.
	errNoAnswer = fmt.Errorf("no answer in time: %w", os.ErrDeadlineExceeded)

	// errConflict says that another connection changed the watched key.
	errConflict = errors.New("key was changed by another client")
)

// A serverError is what the server answered instead of a result.
type serverError struct {
	text string
	kind error // ErrReadOnly, session.ErrFull or nil
}

func (e *serverError) Error() string {
	if e.kind != nil {
		return e.kind.Error() + ": " + e.text
	}
	return e.text
}

func (e *serverError) Unwrap() error { return e.kind }

// explain makes the error of a call out of what rueidis returned: it says what
// was being done and holds no value, password or address with a password.
func (s *Store) explain(ctx context.Context, doing string, err error) error {
	if err == nil || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrClosed) {
		return err
	}
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("%s: %w", doing, ended)
	}
	err = s.clean(err)
	if errors.Is(err, ErrReadOnly) {
		s.conns.renew("the server is a read-only replica")
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// clean returns err without what must not be told.
func (s *Store) clean(err error) error {
	var reply *rueidis.RedisError
	switch {
	case errors.As(err, &reply):
		return newServerError(reply.Error(), s.secrets)
	case errors.Is(err, rueidis.ErrNoCache):
		return s.explainNoCache(err)
	case errors.Is(err, rueidis.ErrClosing):
		return errors.New("connection was closed")
	case errors.Is(err, context.DeadlineExceeded):
		return errNoAnswer // it was not the caller's deadline
	default:
		return err
	}
}

// explainNoCache says what the server had against CLIENT TRACKING, such as that
// the user may not. rueidis quotes it in front of the command.
func (s *Store) explainNoCache(err error) error {
	said, _, quoted := strings.Cut(err.Error(), ": [CLIENT")
	if !quoted {
		return ErrNoClientCache
	}
	return fmt.Errorf("%w: %w", ErrNoClientCache, newServerError(said, s.secrets))
}

// maxServerText bounds how much of a server's error is repeated.
const maxServerText = 200

// newServerError makes an error of a server's text. Redis repeats the
// arguments of a command that it does not know, and HELLO has the password and
// SET the value among them.
func newServerError(text string, secrets []string) *serverError {
	text, _, _ = strings.Cut(text, ", with args")
	if len(text) > maxServerText {
		text = text[:maxServerText]
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	e := &serverError{text: text}
	switch code, _, _ := strings.Cut(text, " "); code {
	case "READONLY":
		e.kind = ErrReadOnly
	case "OOM":
		e.kind = session.ErrFull
	}
	return e
}
