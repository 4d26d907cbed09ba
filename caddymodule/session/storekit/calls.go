// Package storekit holds the parts that session stores have in common: an
// in-flight counter, a list of observers and striped locks.
package storekit

import (
	"context"
	"sync"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// Calls is the in-flight counter of a store: Close waits for the calls that
// are under way, and no call begins afterwards. Make one with NewCalls.
type Calls struct {
	mu       sync.RWMutex // held for writing while stopping ends
	underway sync.WaitGroup
	stopping context.Context
	stop     context.CancelFunc
}

// NewCalls returns the in-flight counter of an open store.
func NewCalls() *Calls {
	c := new(Calls)
	c.stopping, c.stop = context.WithCancel(context.Background())
	return c
}

// Enter begins a call, which ends with Leave. It returns session.ErrClosed
// after Close. A call may begin others.
func (c *Calls) Enter() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.stopping.Err() != nil {
		return session.ErrClosed
	}
	c.underway.Add(1)
	return nil
}

// Leave ends a call.
func (c *Calls) Leave() { c.underway.Done() }

// Stopping returns a context that ends when Close is called, so that long
// calls can end early.
func (c *Calls) Stopping() context.Context { return c.stopping }

// Close lets no more calls begin, waits for those that are under way, and
// reports whether it was the first to be called.
func (c *Calls) Close() (first bool) {
	c.mu.Lock()
	first = c.stopping.Err() == nil
	c.stop()
	c.mu.Unlock()
	c.underway.Wait()
	return first
}
