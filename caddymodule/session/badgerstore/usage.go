package badgerstore

import "sync"

// usage counts the calls that are under way, so that Close can wait for them:
// Badger must not be closed under a reader.
type usage struct {
	mu      sync.RWMutex
	closed  bool
	calls   sync.WaitGroup
	closing chan struct{} // made at the first need, closed by close
	once    sync.Once
}

// begin opens a call, and returns false if the store is closed. A call may
// open others: nothing is held in between.
func (u *usage) begin() bool {
	u.mu.RLock()
	defer u.mu.RUnlock()
	if u.closed {
		return false
	}
	u.calls.Add(1)
	return true
}

func (u *usage) end() { u.calls.Done() }

// done is closed when the store begins to close, so that long calls give way.
func (u *usage) done() chan struct{} {
	u.once.Do(func() { u.closing = make(chan struct{}) })
	return u.closing
}

// close lets no more calls begin, waits for those that did, and returns false
// if it has been called before; then it waits too.
func (u *usage) close() bool {
	u.mu.Lock()
	first := !u.closed
	u.closed = true
	if first {
		close(u.done())
	}
	u.mu.Unlock()
	u.calls.Wait()
	return first
}
