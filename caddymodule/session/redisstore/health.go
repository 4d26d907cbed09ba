package redisstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// health is what is known of the server without asking it.
type health struct {
	wake chan struct{} // to look now rather than after the pause

	mu   sync.Mutex
	down error // why the last write failed; nil while the store works
}

// Room returns nil, or why no session can be written: the last command failed,
// and so did every attempt to write since. So no code is sent to WeChat that
// could not become a session.
func (s *Store) Room() error {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	return s.health.down
}

// Free returns false: the server does not tell.
func (s *Store) Free() (bytes uint64, ok bool) { return 0, false }

// failed is called with the error of a command, classified. In a cluster it is
// the fault of one node, and whether the others work has to be found out first.
func (s *Store) failed(err error) {
	if s.clustered() {
		s.health.look()
		return
	}
	s.setDown(err)
}

func (s *Store) clustered() bool { return s.client.Mode() == rueidis.ClientModeCluster }

func (s *Store) setDown(err error) {
	s.health.mu.Lock()
	begins := s.health.down == nil
	s.health.down = err
	s.health.mu.Unlock()
	if begins {
		s.health.look()
	}
}

// look makes the heartbeat come at once.
func (h *health) look() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

const (
	heartbeatInterval = time.Second

	// missedLimit heartbeats in a row make a connection count as lost.
	// Together with the interval it bounds how long a partition goes
	// unnoticed. rueidis' own PING takes any reply, also one out of step.
	missedLimit = 2

	// recoveryAttempts writes of different keys have to fail before a cluster
	// counts as down.
	recoveryAttempts = 3
)

// heartbeat asks every node for a random word each second, and breaks the
// connection if another one comes back, or none. While the store is down it
// writes, too, to find out when it no longer is.
//
// Replies carry no name of their command: only their order tells which is which.
// One that got lost, in a proxy for example, would shift all that
// follow, and every read would return what another one asked for until the
// connection ends. The Manager refuses a record that is not the one it asked
// for, so no user could become another, but no user could be served either.
func (s *Store) heartbeat() {
	ticker := time.NewTicker(heartbeatInterval)
	defer ticker.Stop()
	missed := make(map[string]int)
	for {
		woken := false
		select {
		case <-ticker.C:
		case <-s.health.wake:
			woken = true
		case <-s.calls.Stopping().Done():
			return
		}
		if !woken {
			s.beat(missed)
		}
		if woken || s.Room() != nil {
			s.tryToRecover()
		}
	}
}

// beat asks all nodes once. missed counts, by address.
func (s *Store) beat(missed map[string]int) {
	nodes := s.client.Nodes()
	for address := range missed {
		if nodes[address] == nil {
			delete(missed, address)
		}
	}
	down := len(nodes) > 0
	for address, err := range s.echoAll(nodes) {
		down = down && errors.Is(err, session.ErrUnavailable)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			missed[address] = 0
			continue
		}
		if missed[address]++; missed[address] >= missedLimit {
			missed[address] = 0
			s.conns.closeTo(address)
		}
	}
	if down && s.Room() == nil {
		s.health.look()
	}
}

// tryToRecover sets whether the store is down by writing to it.
func (s *Store) tryToRecover() {
	attempts := 1
	if s.clustered() {
		attempts = recoveryAttempts
	}
	var err error
	for range attempts {
		key := probePrefix + rand.Text()
		if _, err = s.compareAndSwap(s.calls.Stopping(), key, "", "=1", probeTTL); err == nil {
			break
		}
	}
	if err == nil && !s.trackingProved {
		err = s.probeTracking(s.calls.Stopping(), probePrefix+rand.Text())
	}
	if s.calls.Stopping().Err() != nil {
		return
	}
	if err != nil {
		err = fmt.Errorf("trying to write to redis: %w", s.clean(err))
	}
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	s.health.down = err
}

// echoAll asks all nodes at once.
func (s *Store) echoAll(nodes map[string]rueidis.Client) map[string]error {
	var mu sync.Mutex
	errs := make(map[string]error, len(nodes))
	var all sync.WaitGroup
	for address, node := range nodes {
		all.Go(func() {
			err := s.echo(node)
			if errors.Is(err, errOutOfStep) {
				s.conns.renew(err.Error())
			} else if err != nil {
				err = s.clean(err)
			}
			mu.Lock()
			defer mu.Unlock()
			errs[address] = err
		})
	}
	all.Wait()
	return errs
}

var errOutOfStep = errors.New("replies are out of step with commands")

func (s *Store) echo(node rueidis.Client) error {
	ctx, cancel := context.WithTimeoutCause(s.calls.Stopping(), s.timeout, errNoAnswer)
	defer cancel()
	word := rand.Text()
	answer, err := run(ctx, s, func(ctx context.Context) (string, error) {
		return node.Do(ctx, node.B().Echo().Message(word).Build()).ToString()
	})
	if err == nil && answer != word {
		return errOutOfStep
	}
	return err
}
