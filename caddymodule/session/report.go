package session

import (
	"sync"
	"time"
)

// reportInterval is the least time between two reports of the same event.
const reportInterval = time.Minute

// A reporter passes on failures of background work.
type reporter struct {
	callback func(event string, err error)
	now      func() int64

	mu   sync.Mutex
	last map[string]int64
}

// report calls the callback, unless it did so for the same event a short while
// ago.
func (r *reporter) report(event string, err error) {
	if r.callback == nil {
		return
	}
	now := r.now()
	r.mu.Lock()
	last, known := r.last[event]
	due := !known || now-last >= int64(reportInterval)
	if due {
		r.last[event] = now
	}
	r.mu.Unlock()
	if due {
		r.callback(event, err)
	}
}
