package session

import (
	"sync/atomic"
	"time"
)

// A Clock tells the time and never goes backwards, so that setting the system's
// clock back does not revive an expired session: it is the later of the wall
// clock and the latest time told plus what has passed since by the monotonic
// clock.
//
// Across a restart only the wall clock is known. If it was set back meanwhile,
// a session may live longer by as much as the clock was set back, and never
// beyond the absolute end in its record as that clock reads it.
type Clock struct {
	now  func() time.Time
	mark atomic.Pointer[clockMark]
}

// A clockMark is one reading and what was told for it.
type clockMark struct {
	reading time.Time // with its monotonic part
	told    int64     // nanoseconds since 1970
}

// The mark moves when the wall clock leaves it behind, and otherwise once in
// markEvery, so that readers on many cores do not write one variable. For a
// clock without a monotonic part this is also how far it can go backwards.
const (
	markEvery = time.Second
	markDrift = time.Millisecond
)

// NewClock returns a Clock that follows now, which is time.Now but in tests.
func NewClock(now func() time.Time) *Clock {
	c := &Clock{now: now}
	reading := now()
	c.mark.Store(&clockMark{reading: reading, told: reading.UnixNano()})
	return c
}

// read returns nanoseconds since 1970.
func (c *Clock) read() int64 {
	reading := c.now()
	mark := c.mark.Load()
	told, move := mark.tell(reading.UnixNano(), reading.Sub(mark.reading))
	if move {
		c.mark.CompareAndSwap(mark, &clockMark{reading: reading, told: told})
	}
	return told
}

// tell returns the time for a reading of the wall clock, so long after the
// mark, and whether the mark has to move.
func (m *clockMark) tell(wall int64, elapsed time.Duration) (told int64, move bool) {
	elapsed = max(0, elapsed)
	floor := m.told + int64(elapsed)
	return max(wall, floor), elapsed >= markEvery || wall-floor >= int64(markDrift)
}
