package wechat

import (
	"context"
	"slices"
	"sync"
	"time"
)

// waitingPerPlace bounds the memory of those who wait for a place.
const waitingPerPlace = 64

// turns is a semaphore whose places are given in turn to the sources that wait, so that
// one source with thousands of calls delays another's by one call and not by thousands.
type turns struct {
	mu         sync.Mutex
	places     int // in all
	taken      int
	waiting    int
	maxWaiting int
	queues     map[string][]chan bool // of each source that waits, oldest first; true is a place, false a refusal
	order      []string               // the sources that wait; the first has the next turn
}

func newTurns(places int) *turns {
	return &turns{places: places, maxWaiting: places * waitingPerPlace, queues: make(map[string][]chan bool)}
}

// take waits for a place, at most for the duration patience.
func (t *turns) take(ctx context.Context, source string, patience time.Duration) *Error {
	busy := &Error{Kind: Busy, Reason: "too many calls are in flight", RetryAfter: busyRetryAfter}
	t.mu.Lock()
	if t.taken < t.places {
		t.taken++
		t.mu.Unlock()
		return nil
	}
	turn := t.enqueue(source)
	t.mu.Unlock()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	var err *Error
	select {
	case granted := <-turn:
		if !granted {
			return busy
		}
		return nil
	case <-timer.C:
		err = busy
	case <-ctx.Done():
		err = canceled(ctx.Err(), false)
	}
	if !t.leave(source, turn) && <-turn {
		t.release() // the place was given at the same moment
	}
	return err
}

// enqueue adds a turn of source. If too many wait, the source with the most loses its newest.
func (t *turns) enqueue(source string) chan bool {
	turn := make(chan bool, 1)
	if len(t.queues[source]) == 0 {
		t.order = append(t.order, source)
	}
	t.queues[source] = append(t.queues[source], turn)
	t.waiting++
	if t.waiting <= t.maxWaiting {
		return turn
	}
	longest := source
	for other, queue := range t.queues {
		if len(queue) > len(t.queues[longest]) {
			longest = other
		}
	}
	queue := t.queues[longest]
	refused := queue[len(queue)-1]
	t.remove(longest, len(queue)-1)
	refused <- false
	return turn
}

// leave removes a turn that is waiting, and reports whether it was.
func (t *turns) leave(source string, turn chan bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.queues[source], turn)
	if i < 0 {
		return false
	}
	t.remove(source, i)
	return true
}

func (t *turns) remove(source string, i int) {
	t.waiting--
	t.queues[source] = slices.Delete(t.queues[source], i, i+1)
	if len(t.queues[source]) == 0 {
		delete(t.queues, source)
		t.order = slices.DeleteFunc(t.order, func(s string) bool { return s == source })
	}
}

// release gives the place to the source whose turn it is.
func (t *turns) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.order) == 0 {
		t.taken--
		return
	}
	source := t.order[0]
	turn := t.queues[source][0]
	t.remove(source, 0)
	if len(t.queues[source]) > 0 {
		t.order = append(t.order[1:], source)
	}
	turn <- true
}
