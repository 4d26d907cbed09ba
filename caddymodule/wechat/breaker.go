package wechat

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

const (
	// breakerTrips is how many exchanges in a row must fail to open a breaker.
	breakerTrips = 5

	// breakerOpen is how long it then stays open. After that one exchange at
	// a time is let through, and the first that succeeds closes it.
	breakerOpen = 10 * time.Second
)

// A breaker keeps exchanges from WeChat while they are of no use, so that users
// wait for nothing, their codes are not burnt, and quotas are left alone. Each
// mini program has its own: the wrong secret of one does not stop another.
type breaker struct {
	circuit *gobreaker.CircuitBreaker[Code2Session]
	until   atomic.Int64 // when it last opened plus breakerOpen, in Unix nanoseconds
}

func newBreaker() *breaker {
	b := new(breaker)
	b.circuit = gobreaker.NewCircuitBreaker[Code2Session](gobreaker.Settings{
		Timeout: breakerOpen,
		ReadyToTrip: func(counts gobreaker.Counts) bool {
			return counts.ConsecutiveFailures >= breakerTrips
		},
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				b.until.Store(time.Now().Add(breakerOpen).UnixNano())
			}
		},
		IsSuccessful: isHealthy,
		IsExcluded:   saysNothing,
	})
	return b
}

// isHealthy says that WeChat answered as it should, be it that the code was
// bad: a client must not be able to open the breaker for everyone.
func isHealthy(err error) bool {
	if err == nil {
		return true
	}
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Kind == InvalidCode || e.Kind == CodeUsed || e.Kind == UserBlocked
}

// saysNothing says that an outcome tells neither way whether WeChat is of use: the
// caller went away, or WeChat answered with an errcode that concerns the one
// user or that nobody knows. 45011 is the limit of one user, who must not be able to
// open the breaker for everyone by logging in in a loop.
func saysNothing(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Kind == Canceled || e.Kind == RateLimited ||
		e.Kind == RejectedGateway && !isConfiguration(e.Errcode)
}

// refusal returns the error to give without waiting for a place, or nil.
func (b *breaker) refusal() *Error {
	if b.circuit.State() != gobreaker.StateOpen {
		return nil
	}
	return b.openError()
}

// do runs an exchange unless the breaker is open.
func (b *breaker) do(exchange func() (Code2Session, error)) (Code2Session, error) {
	session, err := b.circuit.Execute(exchange)
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return Code2Session{}, b.openError()
	}
	return session, err
}

// openError says when the breaker lets the next exchange through. While one is
// being tried, nobody knows.
func (b *breaker) openError() *Error {
	left := time.Until(time.Unix(0, b.until.Load()))
	return &Error{
		Kind:       Busy,
		Reason:     "recent calls failed, so none is made for a while",
		RetryAfter: max(left, busyRetryAfter),
	}
}
