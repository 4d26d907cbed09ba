package redisstore

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

const (
	heartbeatPause = time.Second

	// heartbeatsMissed in a row make a connection count as lost. Together
	// with the pause it bounds how long a partition goes unnoticed.
	heartbeatsMissed = 2
)

// heartbeat asks every node for a random word each second, and breaks the
// connection if another one comes back, or none.
//
// Answers carry no name of their question: they are told apart by their order
// alone. One that got lost, in a proxy for example, would shift all that
// follow, and every read would return what another one asked for until the
// connection ends. The Manager refuses a record that is not the one it asked
// for, so no user could become another, but nobody could be served either.
func (s *Store) heartbeat() {
	ticker := time.NewTicker(heartbeatPause)
	defer ticker.Stop()
	missed := make(map[string]int)
	for {
		select {
		case <-ticker.C:
		case <-s.stopping.Done():
			return
		}
		nodes := s.client.Nodes()
		for address := range missed {
			if nodes[address] == nil {
				delete(missed, address)
			}
		}
		for address, answered := range s.echoAll(nodes) {
			if answered {
				missed[address] = 0
				continue
			}
			if missed[address]++; missed[address] >= heartbeatsMissed {
				missed[address] = 0
				s.conns.close(address)
			}
		}
	}
}

// echoAll asks all nodes at once. It returns no answer for a node that refused
// the connection or the command: there is nothing to break.
func (s *Store) echoAll(nodes map[string]rueidis.Client) map[string]bool {
	var mu sync.Mutex
	answered := make(map[string]bool, len(nodes))
	var all sync.WaitGroup
	for address, node := range nodes {
		all.Go(func() {
			err := s.echo(node)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				answered[address] = true
			case errors.Is(err, errOutOfStep):
				s.conns.renew(err.Error())
			case errors.Is(err, errNoAnswer), errors.Is(err, context.DeadlineExceeded):
				answered[address] = false
			}
		})
	}
	all.Wait()
	return answered
}

var errOutOfStep = errors.New("answers are out of step with questions")

func (s *Store) echo(node rueidis.Client) error {
	ctx, cancel := context.WithTimeoutCause(s.stopping, s.timeout, errNoAnswer)
	defer cancel()
	word := rand.Text()
	answer, err := run(ctx, s, func(ctx context.Context) (string, error) {
		return node.Do(ctx, node.B().Echo().Message(word).Build()).ToString()
	}, nil)
	if err == nil && answer != word {
		return errOutOfStep
	}
	return err
}
