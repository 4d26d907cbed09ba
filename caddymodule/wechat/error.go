package wechat

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// A Kind is what an exchange failed of, as far as a caller must tell the
// cases apart. Its text is the name that wxgate's clients see, where there is
// one. A Kind is an error itself, so that errors.Is(err, wechat.CodeUsed) asks
// for it.
type Kind string

// The kinds of an Error. There are no others.
const (
	// BadRequest is returned when nothing was sent: the mini program is not one of
	// the Client's, or there is no code.
	BadRequest Kind = "bad_request"

	// MockCode is returned when the code is MockCodeText, which the developer tools
	// make up for a project without a real appid. Nothing was sent.
	MockCode Kind = "mock_code"

	// InvalidCode is returned when the code is made up, expired or another mini
	// program's (40029).
	InvalidCode Kind = "invalid_code"

	// CodeUsed is returned when the code has been exchanged before (40163).
	CodeUsed Kind = "code_used"

	// UserBlocked is returned when WeChat holds the user for a high risk (40226).
	UserBlocked Kind = "user_blocked"

	// RateLimited is returned when WeChat was asked too often for this user (45011).
	RateLimited Kind = "rate_limited"

	// RejectedGateway is returned when WeChat refuses the mini program or the
	// gateway, which its operator must fix, or gave an unknown errcode.
	RejectedGateway Kind = "wechat_rejected_gateway"

	// BadReply is returned when there was no answer or one that is not to be
	// trusted: no connection, a refused or broken one, TLS that does not
	// verify, a hang-up, a redirect, a status that is not 200, or a reply that
	// is not clean. Like nginx, which answers 502 to all of these.
	BadReply Kind = "wechat_bad_reply"

	// Busy is returned when WeChat or the way to it is overloaded, and the user
	// may come back after RetryAfter: errcode -1 twice, the daily quota
	// (45009), no free place for the call, or an open breaker.
	Busy Kind = "wechat_busy"

	// Timeout is returned when there was no answer in time.
	Timeout Kind = "wechat_timeout"

	// Canceled is returned when the caller's context ended. The error then also is
	// context.Canceled or context.DeadlineExceeded.
	Canceled Kind = "canceled"
)

// Error makes a Kind an error that an Error can be compared with.
func (k Kind) Error() string { return string(k) }

// An Error says why there is no session. Its text holds no URL, code or
// secret, and nothing that WeChat wrote but the errcode.
type Error struct {
	Kind Kind

	// Errcode is WeChat's, if HasErrcode.
	Errcode    int64
	HasErrcode bool

	// Errmsg and RID are what WeChat said about it, for the operator's log
	// only: WeChat's support asks for the rid. They are short, printable and
	// free of the code and the secrets, but foreign: nothing is to be decided by them.
	Errmsg string
	RID    string

	// Reason says in words of this package what went wrong, where the Kind
	// has more than one cause. It is from a closed set, but for the number of an
	// HTTP status.
	Reason string

	// RetryAfter is when it makes sense to come back; 0 if WeChat does not
	// have to recover first.
	RetryAfter time.Duration

	// Sent reports whether the code may have reached WeChat. If not, the user can
	// come back with the same code.
	Sent bool

	// outage is set if only WeChat or the way to it can have caused the error, and not the
	// code that a client chose. Such errors open the breaker.
	outage bool

	op    string // what failed; "" for an exchange of a code
	cause error  // the caller's context.Canceled or context.DeadlineExceeded, else nil
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(cmp.Or(e.op, "exchanging the code with WeChat") + ": ")
	b.WriteString(string(e.Kind))
	if e.HasErrcode {
		fmt.Fprintf(&b, ": errcode %d", e.Errcode)
	}
	if e.Reason != "" {
		b.WriteString(": " + e.Reason)
	}
	return b.String()
}

// Is makes an Error its Kind.
func (e *Error) Is(target error) bool {
	kind, ok := target.(Kind)
	return ok && kind == e.Kind
}

// Unwrap returns the caller's context error for the kind Canceled, else nil.
// What net/http said is never wrapped.
func (e *Error) Unwrap() error { return e.cause }
