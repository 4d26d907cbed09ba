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

// A breaker keeps exchanges from WeChat while WeChat is down, overloaded or out of quota, so
// that users do not wait in vain and their codes stay good. Each mini program has its own,
// since WeChat counts quotas by mini program.
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

// isHealthy reports whether WeChat answered, be it that it refused the code.
func isHealthy(err error) bool {
	var e *Error
	return err == nil || errors.As(err, &e) && e.HasErrcode && !e.outage
}

// saysNothing reports whether an outcome does not show if WeChat is of use: the caller went
// away, or the reply was one that a firewall may have given to the client's code, such as a
// page of status 403 or a reset. A client must not be able to open the breaker for all others.
func saysNothing(err error) bool {
	var e *Error
	return errors.As(err, &e) && !e.outage && !e.HasErrcode
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

// openError returns the refusal of an open breaker. Its RetryAfter is when the next exchange
// is let through, or a guess while one is being tried.
func (b *breaker) openError() *Error {
	left := time.Until(time.Unix(0, b.until.Load()))
	return &Error{
		Kind:       Busy,
		Reason:     "recent calls failed, so none is made for a while",
		RetryAfter: max(left, busyRetryAfter),
	}
}
