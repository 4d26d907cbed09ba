package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"unicode"

	"github.com/redis/rueidis"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// ErrReadOnly is returned when the server is a replica. Reads go on. The store
// makes new connections in case the address now leads to another server.
var ErrReadOnly = errors.New("server is a read-only replica")

// ErrNoClientCache is returned when the server does not push the keys that
// change. Options with ClientCache off work.
var ErrNoClientCache = errors.New("server does not support client-side caching (CLIENT TRACKING): set client_cache off")

// errNoAnswer is the cause of a call that outlasted Timeout.
var errNoAnswer = fmt.Errorf("no answer in time: %w", os.ErrDeadlineExceeded)

// A serverError is what the server answered instead of a result.
type serverError struct {
	text  string
	kinds []error // empty if the server will not change its mind
}

func (e *serverError) Error() string   { return e.text }
func (e *serverError) Unwrap() []error { return e.kinds }

// explain makes the error of a call out of what rueidis returned: it names what
// was being done and holds no value, password or address with a password.
func (s *Store) explain(ctx context.Context, doing string, err error) error {
	if err == nil || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrClosed) || errors.Is(err, session.ErrConflict) {
		return err
	}
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("%s: %w", doing, ended)
	}
	err = s.clean(err)
	if errors.Is(err, ErrReadOnly) {
		s.conns.renew("the server is a read-only replica")
	}
	if !errors.Is(err, session.ErrUnavailable) && !errors.As(err, new(*serverError)) {
		err = fmt.Errorf("%w: %w", session.ErrUnavailable, err) // the options did fit once
	}
	s.failed(err)
	return fmt.Errorf("%s: %w", doing, err)
}

// clean returns err without secrets, and classified.
func (s *Store) clean(err error) error {
	var reply *rueidis.RedisError
	switch {
	case errors.As(err, &reply):
		return newServerError(reply.Error(), s.secrets)
	case errors.Is(err, rueidis.ErrNoCache):
		return s.explainNoCache(err)
	case errors.Is(err, rueidis.ErrClosing):
		return fmt.Errorf("%w: connection was closed", session.ErrUnavailable)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, net.ErrClosed):
		// It was not the caller's deadline; and the heartbeat and rueidis
		// close connections over which no answer comes.
		err = errNoAnswer
	}
	if isMistake(err) || errors.Is(err, session.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", session.ErrUnavailable, err)
}

// isMistake reports whether an error without an answer of the server comes from
// the options rather than from an outage.
func isMistake(err error) bool {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.IsNotFound
	}
	var reply *serverError
	if errors.As(err, &reply) {
		return len(reply.kinds) == 0
	}
	return errors.Is(err, ErrNoClientCache) || errors.Is(err, errMismatch) ||
		errors.As(err, new(*tls.CertificateVerificationError)) || errors.As(err, new(tls.AlertError))
}

// optionOf names the option that an error is about; empty if there is none.
func optionOf(err error) string {
	var reply *serverError
	switch {
	case errors.As(err, &reply):
		for _, of := range []struct{ text, option string }{
			{"WRONGPASS", "username or password"},
			{"NOAUTH", "password"},
			{"DENIED", "password"},
			{"AUTH <password>", "password"},
			{"invalid password", "password"},
			{"NOPERM", "username"},
			{"can't run this command", "username"}, // NOPERM within a script
			{"DB index", "db"},
			{"SELECT is not allowed", "db"},
			{"cluster support disabled", "address"},
		} {
			if strings.Contains(reply.text, of.text) {
				return of.option
			}
		}
	case errors.As(err, new(*net.DNSError)):
		return "address"
	case errors.Is(err, errMismatch), errors.As(err, new(*tls.CertificateVerificationError)), errors.As(err, new(tls.AlertError)):
		return "tls"
	}
	return ""
}

// explainNoCache returns what the server had against CLIENT TRACKING, such as
// that the user may not. rueidis quotes it in front of the command. A server
// that is busy or loads its data refuses every command.
func (s *Store) explainNoCache(err error) error {
	text, _, quoted := strings.Cut(err.Error(), ": [CLIENT")
	if !quoted {
		return ErrNoClientCache
	}
	reply := newServerError(text, s.secrets)
	if len(reply.kinds) > 0 {
		return reply
	}
	return fmt.Errorf("%w: %w", ErrNoClientCache, reply)
}

// maxServerText bounds how much of a server's error is repeated.
const maxServerText = 200

// inScript matches what Redis 6 puts in front of the error of a command that a
// script called, "Error running script (call to f_…): @user_script: 4: ", and
// what Redis 7 puts behind it.
var inScript = regexp.MustCompile(`^(ERR )?Error running script .*@user_script: ?\d+: -?| script: [0-9a-f]{40}, on .*$`)

// newServerError makes an error of a server's text. Redis repeats the
// arguments of a command that it does not know, and HELLO has the password and
// EVAL the value among them.
func newServerError(text string, secrets []string) *serverError {
	text, _, _ = strings.Cut(text, ", with args")
	text = inScript.ReplaceAllString(text, "")
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
		e.kinds = []error{ErrReadOnly, session.ErrRefused, session.ErrUnavailable}
	case "OOM":
		e.kinds = []error{session.ErrFull, session.ErrRefused, session.ErrUnavailable}
	case "NOREPLICAS", "MISCONF":
		e.kinds = []error{session.ErrRefused, session.ErrUnavailable}
	case "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNKILLABLE", "MOVED", "ASK":
		e.kinds = []error{session.ErrUnavailable}
	default:
		if strings.Contains(text, "max number of clients") {
			e.kinds = []error{session.ErrUnavailable}
		}
	}
	return e
}
