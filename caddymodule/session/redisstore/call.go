package redisstore

import (
	"context"
	"sync"

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

// lanes bound the calls that are under way.
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
// ctx ends, but no longer than Timeout. If the caller has gone when the
// exchange succeeds, drop gets the result.
func call[T any](ctx context.Context, s *Store, slot uint16, exchange func(context.Context) (T, error), drop func(T)) (T, error) {
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
	}, drop)
}

// run does an exchange in a goroutine of its own, because rueidis cannot
// always be interrupted: a caller may wait for a connection that another one
// is making, or for room in a ring of 1024 commands that a hung server does
// not empty. For the same reason the exchange does not see the caller's
// cancellation: the connection that it may be making is everybody's.
//
// The exchange is always begun. It ends soon after Timeout.
func run[T any](ctx context.Context, s *Store, exchange func(context.Context) (T, error), drop func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result)
	s.exchanges.Go(func() {
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
		defer cancel()
		value, err := exchange(detached)
		select {
		case done <- result{value, err}:
		case <-ctx.Done():
			if drop != nil && err == nil {
				drop(value)
			}
		}
	})
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// A life counts the calls of a Store, so that Close can wait for them.
type life struct {
	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup
}

// enter begins a call, which ends with leave.
func (l *life) enter() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return session.ErrClosed
	}
	l.calls.Add(1)
	return nil
}

func (l *life) leave() { l.calls.Done() }

// end lets no more calls begin. It returns false if it was called before.
func (l *life) end() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.closed
	l.closed = true
	return first
}
