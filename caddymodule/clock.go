package caddymodule

import (
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

const (
	// jumpLimit is how far the wall clock may go from the monotonic clock
	// before that counts as a jump: more than any clock that is kept by NTP.
	jumpLimit = time.Minute

	// jumpSettleTime is how long the wall clock must keep its new value
	// after a jump before it is believed.
	jumpSettleTime = 5 * time.Minute

	// anchorInterval is how often the anchor follows the wall clock.
	anchorInterval = 10 * time.Second
)

// systemClock is where the process gets the time that decides about sessions.
// It survives reloads.
var systemClock = newJumpClock(readSystemClock(), func(by time.Duration) {
	caddy.Log().Named("wxgate").Warn("the system clock has jumped; sessions do not follow until it has kept its new time for five minutes",
		zap.Duration("by", by))
})

// readSystemClock returns a reading of the wall clock and of the monotonic one,
// which counts from the call.
func readSystemClock() func() (wall time.Time, steady time.Duration) {
	start := time.Now()
	return func() (time.Time, time.Duration) {
		now := time.Now()
		return now.Round(0), now.Sub(start)
	}
}

// A jumpClock is the wall clock without its jumps. After a jump of more than a
// minute against the monotonic clock it goes on by the monotonic clock until
// the wall clock has kept its new time for five minutes, so that no session is
// refused, revoked or dated by a time that is taken back.
type jumpClock struct {
	read   func() (wall time.Time, steady time.Duration)
	warn   func(by time.Duration) // called once per jump
	anchor atomic.Pointer[clockAnchor]
}

// A clockAnchor is a reading of both clocks that agree.
type clockAnchor struct {
	wall   time.Time
	steady time.Duration

	jump   time.Duration // by which the wall clock has jumped since; 0: not at all
	jumped time.Duration // when it did, on the monotonic clock
}

func newJumpClock(read func() (time.Time, time.Duration), warn func(time.Duration)) *jumpClock {
	c := &jumpClock{read: read, warn: warn}
	wall, steady := read()
	c.anchor.Store(&clockAnchor{wall: wall, steady: steady})
	return c
}

// now returns the time.
func (c *jumpClock) now() time.Time {
	wall, steady := c.read()
	anchor := c.anchor.Load()
	expected := anchor.wall.Add(steady - anchor.steady)
	off := wall.Sub(expected)
	switch {
	case off.Abs() <= jumpLimit:
		if anchor.jump != 0 || steady-anchor.steady >= anchorInterval {
			c.anchor.CompareAndSwap(anchor, &clockAnchor{wall: wall, steady: steady})
		}
		return wall
	case anchor.jump == 0 || (off-anchor.jump).Abs() > jumpLimit:
		jumped := *anchor
		jumped.jump, jumped.jumped = off, steady
		if c.anchor.CompareAndSwap(anchor, &jumped) {
			c.warn(off)
		}
	case steady-anchor.jumped >= jumpSettleTime:
		c.anchor.CompareAndSwap(anchor, &clockAnchor{wall: wall, steady: steady})
		return wall
	}
	return expected
}
