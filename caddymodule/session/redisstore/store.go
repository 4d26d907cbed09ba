package redisstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

// A Store keeps values in Redis. Make one with Open.
//
// Its errors wrap session.ErrUnavailable if the server does not answer or
// refuses now what it will do later; session.ErrFull if it is out of memory;
// and os.ErrDeadlineExceeded if it did not answer within Options.Timeout. In
// the last case, and when the connection is lost, a write may have happened or
// not.
type Store struct {
	client  rueidis.Client
	option  rueidis.ClientOption // for the clients that scans make
	conns   *conns
	prefix  string
	timeout time.Duration
	secrets []string // passwords, which no error may hold
	watch   *watch   // nil without ClientCache
	health  health

	// trackingProved is set when the server was seen to push a changed key. The
	// heartbeat tries it if the server took no writes at Open.
	trackingProved bool

	calls      *storekit.Calls
	lanes      lanes
	locks      *storekit.KeyLocks
	exchanges  sync.WaitGroup // goroutines that speak to the server
	background sync.WaitGroup // the heartbeat
}

// Get returns the value under key, or session.ErrNotFound. It asks the server
// every time.
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	values, err := s.GetMany(ctx, key)
	if err == nil && values[0] == nil {
		err = session.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return values[0], nil
}

// GetMany implements session.MultiGetter.
func (s *Store) GetMany(ctx context.Context, keys ...string) ([][]byte, error) {
	if err := s.calls.Enter(); err != nil {
		return nil, err
	}
	defer s.calls.Leave()
	if len(keys) == 0 {
		return nil, nil
	}
	values, err := s.get(ctx, s.watch != nil, keys...)
	return values, s.explain(ctx, "reading from redis", err)
}

// get reads whole keys; nil stands for an absent one. A tracked read is CLIENT
// CACHING YES and GET in one write, which rueidis does as a cached read with a
// cache that keeps nothing. Without tracking it is one MGET.
func (s *Store) get(ctx context.Context, tracked bool, keys ...string) ([][]byte, error) {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = s.prefix + key
	}
	first := s.client.B().Get().Key(names[0]).Build()
	return read(ctx, s, first.Slot(), func(ctx context.Context) ([][]byte, error) {
		if tracked {
			return s.getTracked(ctx, names)
		}
		replies, err := rueidis.MGet(s.client, ctx, names)
		values := make([][]byte, len(names))
		for i, name := range names {
			if reply := replies[name]; err == nil && !reply.IsNil() {
				var text string
				text, err = reply.ToString()
				values[i] = []byte(text)
			}
		}
		return values, err
	})
}

func (s *Store) getTracked(ctx context.Context, names []string) ([][]byte, error) {
	gets := make([]rueidis.CacheableTTL, len(names))
	for i, name := range names {
		gets[i] = rueidis.CT(s.client.B().Get().Key(name).Cache().ToStaticTTL(), MaxAge)
	}
	values := make([][]byte, len(names))
	for i, reply := range s.client.DoMultiCache(ctx, gets...) {
		value, err := bytesOf(reply)
		if err != nil && !errors.Is(err, session.ErrNotFound) {
			return nil, err
		}
		values[i] = value
	}
	return values, nil
}

// bytesOf returns the value in a reply to GET. Only the server's explicit null
// means that there is none.
func bytesOf(reply rueidis.RedisResult) ([]byte, error) {
	text, err := reply.ToString()
	if rueidis.IsRedisNil(err) {
		return nil, session.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return []byte(text), nil
}

// Ping reads a key that does not exist, so that it fails whenever reading a
// session would.
func (s *Store) Ping(ctx context.Context) error {
	_, err := s.GetMany(ctx, "ping")
	return err
}

// updateTimeouts is how many times Timeout an Update may take: it waits for
// the updates of the same key, and then sends at least two commands.
const updateTimeouts = 4

// Update changes one key atomically: it reads the key and writes it with a
// script, which writes only if the key still has the value that was read.
// Otherwise it starts over, after a short random pause. The error is
// session.ErrConflict if it has not succeeded after four times Timeout.
func (s *Store) Update(ctx context.Context, key string, change session.ChangeFunc) error {
	if err := s.calls.Enter(); err != nil {
		return err
	}
	defer s.calls.Leave()
	const doing = "updating redis"
	working, cancel := context.WithTimeoutCause(ctx, updateTimeouts*s.timeout, errNoAnswer)
	defer cancel()
	unlock, err := s.locks.Lock(working, key)
	if err != nil && ctx.Err() == nil { // the server is not to blame
		err = fmt.Errorf("%w: other updates of the key take too long", session.ErrConflict)
	}
	if err != nil {
		return s.explain(ctx, doing, err)
	}
	defer unlock()
	for attempt := 0; ; attempt++ {
		values, err := s.get(working, false, key)
		if err != nil {
			return s.explain(ctx, doing, err)
		}
		old, found := values[0], presence(values[0])
		value, ttl, err := change(old)
		switch {
		case err != nil:
			return err
		case ttl < 0:
			return errNegativeTTL
		case value == nil && old == nil:
			return nil
		}
		swapped, err := s.compareAndSwap(working, key, found, presence(value), ttl)
		s.changed(key)
		if swapped || err != nil {
			return s.explain(ctx, doing, err)
		}
		if pause(working, attempt) != nil {
			return s.explain(ctx, doing, fmt.Errorf("%w: %d attempts", session.ErrConflict, attempt+1))
		}
	}
}

// swapScript writes or deletes a key that still has its old value. Absent and
// empty differ, so every value has a character in front. A server that is out of
// memory refuses SET, but not in a script that has written; so a value that is no
// longer than the old one, as after a revocation, is written after a command that
// frees nothing and takes nothing. (DEL would lose the key where it is being moved
// to another node of a cluster.)
const swapScript = `local old = redis.call('GET', KEYS[1])
if (old and '=' .. old or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) return 1 end
local set = {'SET', KEYS[1], string.sub(ARGV[2], 2)}
if ARGV[3] ~= '0' then set[4], set[5] = 'PX', ARGV[3] end
if redis.pcall(unpack(set)).err then
  if #ARGV[2] <= #ARGV[1] then redis.pcall('PERSIST', KEYS[1]) end
  redis.call(unpack(set))
end
return 1`

// compareAndSwap reports whether the key had the old value, and has the new one
// now. Both are as presence returns them. The observers are not called. The
// command is sent once: after a lost connection it is not known whether the
// server has done it.
func (s *Store) compareAndSwap(ctx context.Context, key, old, value string, ttl time.Duration) (bool, error) {
	px := "0"
	if ttl > 0 {
		px = strconv.FormatInt(milliseconds(ttl), 10)
	}
	// EVAL, not EVALSHA: the script is short, and a second round trip after
	// each restart of the server is not worth its bytes.
	eval := s.client.B().Eval().Script(swapScript).Numkeys(1).Key(s.prefix+key).Arg(old, value, px).Build()
	n, err := call(ctx, s, eval.Slot(), func(ctx context.Context) (int64, error) {
		return s.client.Do(ctx, eval).ToInt64()
	})
	return n == 1, err
}

// presence is a value as swapScript takes it.
func presence(value []byte) string {
	if value == nil {
		return ""
	}
	return "=" + string(value)
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

var errNegativeTTL = errors.New("writing to redis: the ttl is negative")

// milliseconds rounds a ttl that is not 0 up to the server's unit.
func milliseconds(ttl time.Duration) int64 {
	return int64((ttl-1)/time.Millisecond) + 1
}

// changed calls the observers after a write through this Store, also after one
// that failed: the server may have done it all the same.
func (s *Store) changed(key string) {
	if s.watch != nil {
		s.watch.Changed(key)
	}
}

// closeTimeout bounds how long Close waits for the connections to end in an
// orderly way. Those that are left then are cut.
const closeTimeout = time.Second

// Close waits for the calls that are under way, which Timeout bounds, and ends
// scans early. Its error is always nil.
func (s *Store) Close() error {
	if !s.calls.Close() {
		return nil
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.client.Close()
		s.background.Wait() // it begins exchanges
		s.exchanges.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(closeTimeout):
	}
	s.conns.closeForever()
	<-ended
	return nil
}

// String does not show the address or the password.
func (s *Store) String() string { return fmt.Sprintf("redis store with prefix %q", s.prefix) }
