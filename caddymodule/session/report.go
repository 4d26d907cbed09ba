package session

import (
	"sync"
	"time"
)

// reportEvery is how often the same trouble is reported at most. A store that
// is down for an hour should not fill a disk with what is known after a line.
const reportEvery = time.Minute

// A reporter passes trouble on that no caller waits for.
type reporter struct {
	report func(event string, err error)
	clock  *Clock

	mu   sync.Mutex
	last map[string]int64
}

func newReporter(report func(event string, err error), clock *Clock) *reporter {
	return &reporter{report: report, clock: clock, last: make(map[string]int64)}
}

// tell reports the event, unless it did so a short while ago.
func (r *reporter) tell(event string, err error) {
	if r.report == nil {
		return
	}
	now := r.clock.read()
	r.mu.Lock()
	last, known := r.last[event]
	due := !known || now-last >= int64(reportEvery)
	if due {
		r.last[event] = now
	}
	r.mu.Unlock()
	if due {
		r.report(event, err)
	}
}
