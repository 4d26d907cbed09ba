package session

import "time"

// SystemClockShowed makes the system's clock one that showed a time, until it
// was set back just now. undo makes it forget that.
func SystemClockShowed(t time.Time) (undo func()) {
	systemClock.mark.Store(&clockMark{reading: time.Now(), told: t.UnixNano()})
	return func() {
		now := time.Now()
		systemClock.mark.Store(&clockMark{reading: now, told: now.UnixNano()})
	}
}
