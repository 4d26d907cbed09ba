package redisstore

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net"
	"time"

	"github.com/redis/rueidis"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// turnCount locks are shared by all keys.
const turnCount = 1024

// turns let the updates of one key in this process go one after the other, so
// that they only meet those of other processes at the server.
type turns struct {
	seed  maphash.Seed
	locks [turnCount]chan struct{}
}

func newTurns() (t turns) {
	t.seed = maphash.MakeSeed()
	for i := range t.locks {
		t.locks[i] = make(chan struct{}, 1)
	}
	return t
}

// take waits for the key's turn until ctx ends.
func (t *turns) take(ctx context.Context, key string) (done func(), err error) {
	lock := t.locks[maphash.String(t.seed, key)%turnCount]
	select {
	case lock <- struct{}{}:
		return func() { <-lock }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Update changes one key atomically. It needs no Lua: it watches the key on a
// connection of its own, reads it, and writes in a transaction that the server
// refuses if anybody has written the key since. It then begins anew, after a
// short random pause, until it has won or Timeout is over, which is
// session.ErrConflict. Timeout is counted from the key's turn among the
// updates of this process, for which it waits as long at most.
func (s *Store) Update(ctx context.Context, key string, change session.ChangeFunc) error {
	if err := s.life.enter(); err != nil {
		return err
	}
	defer s.life.leave()
	const doing = "updating redis"

	waiting, cancel := context.WithTimeoutCause(ctx, s.timeout, errNoAnswer)
	defer cancel()
	done, err := s.turns.take(waiting, key)
	if err != nil {
		return s.explain(ctx, doing, err)
	}
	defer done()

	working, cancel := context.WithTimeoutCause(ctx, s.timeout, errNoAnswer)
	defer cancel()
	for attempt := 0; ; attempt++ {
		refusal, err := s.tryUpdate(working, key, change)
		switch {
		case refusal != nil:
			return refusal
		case !errors.Is(err, errConflict):
			return s.explain(ctx, doing, err)
		}
		if pause(working, attempt) != nil {
			return s.explain(ctx, doing, fmt.Errorf("%w: %d attempts", session.ErrConflict, attempt+1))
		}
	}
}

// pause waits a random time after a lost attempt, longer with each one, so
// that of several processes one is alone for long enough.
func pause(ctx context.Context, attempt int) error {
	longest := time.Millisecond << min(attempt, 5)
	timer := time.NewTimer(rand.N(longest))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tryUpdate makes one attempt. refusal is the error of change, which is run
// here and not with the exchanges, so that it has ended when Update returns.
func (s *Store) tryUpdate(ctx context.Context, key string, change session.ChangeFunc) (refusal, err error) {
	t, err := s.begin(ctx, s.prefix+key)
	if err != nil {
		return nil, err
	}
	value, ttl, refusal := change(t.old)
	if refusal == nil && ttl < 0 {
		refusal = errNegativeTTL
	}
	if refusal != nil || (value == nil && t.old == nil) {
		s.exchanges.Go(t.abandon)
		return refusal, nil
	}
	defer s.changed(key)
	return nil, s.commit(ctx, t, value, ttl)
}

// A transaction holds a connection on which a key is watched.
type transaction struct {
	conn    rueidis.DedicatedClient
	release func() // gives conn back
	key     string
	old     []byte // nil if the key is absent
	timeout time.Duration
}

// begin takes a connection, watches key and reads it. Nothing is changed by
// that, so it is tried again when the connection turns out to be broken, as
// all that were idle are when the server was restarted. When there is none of
// those left, a new one is made or the server cannot be reached.
func (s *Store) begin(ctx context.Context, key string) (*transaction, error) {
	watch := s.client.B().Watch().Key(key).Build()
	return call(ctx, s, watch.Slot(), func(ctx context.Context) (t *transaction, err error) {
		for range dedicatedConns + 1 {
			t = &transaction{key: key, timeout: s.timeout}
			t.conn, t.release = s.client.Dedicate()
			if err = t.read(ctx); err == nil {
				return t, nil
			}
			t.conn.Close()
			if !isBroken(err) || ctx.Err() != nil {
				break
			}
		}
		return nil, err
	}, (*transaction).abandon)
}

// isBroken says that a connection was lost, rather than that none could be
// made or that the server answered with an error.
func isBroken(err error) bool {
	var reply *rueidis.RedisError
	var op *net.OpError
	if errors.As(err, &reply) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errResting) {
		return false
	}
	return !errors.As(err, &op) || op.Op != "dial"
}

func (t *transaction) read(ctx context.Context) error {
	replies := t.conn.DoMulti(ctx,
		t.conn.B().Watch().Key(t.key).Build(),
		t.conn.B().Get().Key(t.key).Build(),
	)
	if err := replies[0].Error(); err != nil {
		return err
	}
	old, err := bytesOf(replies[1])
	if errors.Is(err, session.ErrNotFound) {
		return nil
	}
	t.old = old
	return err
}

// commit writes value, or deletes the key if it is nil, unless somebody else
// has changed it, which is errConflict. The transaction is over then.
func (s *Store) commit(ctx context.Context, t *transaction, value []byte, ttl time.Duration) error {
	if ctx.Err() != nil {
		s.exchanges.Go(t.abandon)
		return context.Cause(ctx)
	}
	write := t.conn.B().Del().Key(t.key).Build()
	if value != nil {
		write = set(t.conn.B(), t.key, value, ttl)
	}
	_, err := run(ctx, s, func(ctx context.Context) (struct{}, error) {
		err := t.exec(ctx, write)
		if err == nil || errors.Is(err, errConflict) {
			t.release()
		} else {
			t.conn.Close()
		}
		return struct{}{}, err
	}, nil)
	return err
}

func (t *transaction) exec(ctx context.Context, write rueidis.Completed) error {
	b := t.conn.B()
	replies := t.conn.DoMulti(ctx, b.Multi().Build(), write, b.Exec().Build())
	results, err := replies[2].ToArray()
	if rueidis.IsRedisNil(err) {
		return errConflict
	}
	for _, earlier := range replies[:2] {
		if refused := earlier.Error(); refused != nil {
			return refused // says more than the error of EXEC that follows it
		}
	}
	if err != nil {
		return err
	}
	if len(results) != 1 {
		return fmt.Errorf("%d results of one command", len(results))
	}
	return results[0].Error()
}

// abandon gives the connection back without writing.
func (t *transaction) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), t.timeout)
	defer cancel()
	if t.conn.Do(ctx, t.conn.B().Unwatch().Build()).Error() != nil {
		t.conn.Close()
		return
	}
	t.release()
}
