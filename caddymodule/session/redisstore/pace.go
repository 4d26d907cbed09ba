package redisstore

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// While connections to an address cannot be made, the attempts are this far
// apart: short at first, since most failures pass, and longer with each one.
const (
	shortestRest = 10 * time.Millisecond
	longestRest  = 160 * time.Millisecond
)

// paces keep attempts to connect apart. Every call that finds no connection
// makes one, so without this a gateway with many requests would connect
// thousands of times in a second to a server that is down, has too many
// clients, or no longer takes the password, which with TLS costs that server
// more than anything else.
type paces struct {
	mu sync.Mutex
	of map[string]*pace // by address
}

// A pace is what is known of one address.
type pace struct {
	failures int       // since the last success
	next     time.Time // when the next attempt may begin
	trying   bool      // it is under way; the others wait for how it ends
	reason   error     // why the last one failed
}

func newPaces() *paces { return &paces{of: make(map[string]*pace)} }

// errUnanswered says that a connection was closed before the server said
// anything.
var errUnanswered = errors.New("server did not accept the last connection")

// errResting says that no attempt to connect was made.
var errResting = errors.New("connecting again in a moment")

// An attempt is one connection on its way.
type attempt struct {
	paces *paces
	pace  *pace
	alone bool // no other attempt may begin until this one has ended
	once  sync.Once
}

// begin begins an attempt, or says why none may be made now.
func (p *paces) begin(address string) (*attempt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.of[address]
	if known == nil {
		known = new(pace)
		p.of[address] = known
	}
	a := &attempt{paces: p, pace: known}
	if known.failures == 0 {
		return a, nil
	}
	if known.trying || time.Now().Before(known.next) {
		return nil, fmt.Errorf("%w: %w", errResting, known.reason)
	}
	known.trying, a.alone = true, true
	return a, nil
}

// end says how an attempt ended: nil if the server has accepted the
// connection. What comes later changes nothing.
func (a *attempt) end(err error) {
	a.once.Do(func() {
		a.paces.mu.Lock()
		defer a.paces.mu.Unlock()
		known, now := a.pace, time.Now()
		if a.alone {
			known.trying = false
		}
		switch {
		case err == nil:
			known.failures = 0
		case a.alone || known.failures == 0: // and not one of several that fail together
			known.failures++
			known.reason = err
			known.next = now.Add(min(longestRest, shortestRest<<min(known.failures-1, 8)))
		}
	})
}
