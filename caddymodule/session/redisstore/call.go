package redisstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/redis/rueidis"

	"github.com/wxgate/wxgate/caddymodule/session"
)

const (
	// laneCount parts of the key space have a lane each. A node of a cluster
	// owns ranges of slots, so a lane mostly belongs to one node, and the
	// lanes of a hung node do not hold up the others.
	laneCount = 64

	// laneWidth calls may be under way in a lane. It bounds the memory that a
	// hung server costs, and is far more than a healthy one ever has waiting.
	laneWidth = 64

	slotCount = 16384
)

// lanes are semaphores that bound the calls under way.
type lanes [laneCount]chan struct{}

func newLanes() (l lanes) {
	for i := range l {
		l[i] = make(chan struct{}, laneWidth)
	}
	return l
}

// of returns the lane of a command's slot. Bits above the slot say whether
// rueidis needs it.
func (l *lanes) of(slot uint16) chan struct{} {
	return l[slot%slotCount/(slotCount/laneCount)]
}

// call runs one exchange with the server in the lane of slot. It waits until
// ctx ends, but no longer than Timeout.
func call[T any](ctx context.Context, s *Store, slot uint16, exchange func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, errNoAnswer)
	defer cancel()
	var none T
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	lane := s.lanes.of(slot)
	select {
	case lane <- struct{}{}:
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
	return run(ctx, s, func(ctx context.Context) (T, error) {
		defer func() { <-lane }()
		return exchange(ctx)
	})
}

// readAttempts bounds how often one read is sent. The second finds a new
// connection where the first one broke; after that the caller is better served
// with an error than the server with more attempts.
const readAttempts = 3

// read is call for an exchange that changes nothing, so that it is done again
// when the connection was lost.
func read[T any](ctx context.Context, s *Store, slot uint16, exchange func(context.Context) (T, error)) (T, error) {
	return call(ctx, s, slot, func(ctx context.Context) (value T, err error) {
		for attempt := range time.Duration(readAttempts) {
			if attempt > 0 {
				<-time.After(attempt * (5*time.Millisecond + rand.N(10*time.Millisecond)))
			}
			value, err = exchange(ctx)
			if err == nil || ctx.Err() != nil || !isLost(err) {
				break
			}
		}
		return value, err
	})
}

// isLost reports whether an error is that of a connection rather than an answer
// of the server.
func isLost(err error) bool {
	return !errors.Is(err, session.ErrNotFound) && !errors.Is(err, rueidis.ErrClosing) &&
		!errors.As(err, new(*rueidis.RedisError)) && !errors.Is(err, rueidis.ErrNoCache)
}

// run does an exchange in a goroutine of its own, because rueidis cannot
// always be interrupted: a caller may wait for a connection that another one
// is making, or for room in a ring of 1024 commands that a hung server does
// not empty (https://github.com/redis/rueidis/issues/858). For the same reason
// the exchange does not see the caller's deadline: the connection that it may
// be making serves all callers, and over a slow link takes longer than a command.
//
// The exchange is always begun.
func run[T any](ctx context.Context, s *Store, exchange func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	s.exchanges.Go(func() {
		patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout+2*s.option.Dialer.Timeout)
		defer cancel()
		value, err := exchange(patient)
		done <- result{value, err}
	})
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}
