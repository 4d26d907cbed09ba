package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// A Store keeps values in Redis. Make one with Open.
//
// Its errors wrap session.ErrFull if the server is out of memory,
// ErrReadOnly if it is a replica, and os.ErrDeadlineExceeded if it did not
// answer within Options.Timeout. In the last case, and when the connection is
// lost, a write may have happened or not.
type Store struct {
	client  rueidis.Client
	option  rueidis.ClientOption // for the clients that scans make
	conns   *conns
	prefix  string
	timeout time.Duration
	secrets []string // passwords, which no error may hold
	watch   *watch   // nil without ClientCache

	life       life
	lanes      lanes
	turns      turns
	exchanges  sync.WaitGroup     // goroutines that speak to the server
	background sync.WaitGroup     // the heartbeat
	stopping   context.Context    // of scans and the heartbeat
	stop       context.CancelFunc // ends it
}

// Get returns the value under key, or session.ErrNotFound. It asks the server
// every time.
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.life.enter(); err != nil {
		return nil, err
	}
	defer s.life.leave()
	value, err := s.get(ctx, s.prefix+key)
	return value, s.explain(ctx, "reading from redis", err)
}

// get reads a whole key. A tracked read is CLIENT CACHING YES and GET in one
// write, which rueidis does as a cached read with a cache that keeps nothing.
func (s *Store) get(ctx context.Context, key string) ([]byte, error) {
	if s.watch == nil {
		get := s.client.B().Get().Key(key).Build()
		return call(ctx, s, get.Slot(), func(ctx context.Context) ([]byte, error) {
			return bytesOf(s.client.Do(ctx, get))
		}, nil)
	}
	get := s.client.B().Get().Key(key).Cache().ToStaticTTL()
	return call(ctx, s, get.Slot(), func(ctx context.Context) ([]byte, error) {
		return bytesOf(s.client.DoCache(ctx, get, MaxAge))
	}, nil)
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

// Put writes value under key, whatever was there. It is sent once: after a
// lost connection it is not known whether the server has done it.
func (s *Store) Put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := s.life.enter(); err != nil {
		return err
	}
	defer s.life.leave()
	if ttl < 0 {
		return errNegativeTTL
	}
	defer s.changed(key)
	return s.explain(ctx, "writing to redis", s.do(ctx, set(s.client.B(), s.prefix+key, value, ttl)))
}

// Delete removes key.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.life.enter(); err != nil {
		return err
	}
	defer s.life.leave()
	defer s.changed(key)
	return s.explain(ctx, "deleting from redis", s.do(ctx, s.client.B().Del().Key(s.prefix+key).Build()))
}

// Ping reads a key that does not exist, so that it fails whenever reading a
// session would.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.life.enter(); err != nil {
		return err
	}
	defer s.life.leave()
	_, err := s.get(ctx, s.prefix+"ping")
	if errors.Is(err, session.ErrNotFound) {
		err = nil
	}
	return s.explain(ctx, "asking redis", err)
}

var errNegativeTTL = errors.New("writing to redis: the ttl is negative")

// set is the command that writes value. The ttl is rounded up to the server's
// milliseconds; 0 means none, and takes away the one that was there.
func set(b rueidis.Builder, key string, value []byte, ttl time.Duration) rueidis.Completed {
	// The string is a copy: rueidis may send it after the caller has gone.
	command := b.Set().Key(key).Value(string(value))
	if ttl == 0 {
		return command.Build()
	}
	return command.PxMilliseconds(int64((ttl-1)/time.Millisecond) + 1).Build()
}

// do runs one command whose result is of no interest.
func (s *Store) do(ctx context.Context, command rueidis.Completed) error {
	_, err := call(ctx, s, command.Slot(), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.client.Do(ctx, command).Error()
	}, nil)
	return err
}

// changed tells the observers of a write through this Store, also if it
// failed: the server may have done it all the same.
func (s *Store) changed(key string) {
	if s.watch != nil {
		s.watch.tell(key)
	}
}

// closeTimeout bounds how long Close waits for the connections to end in an
// orderly way. Those that are left then are cut.
const closeTimeout = time.Second

// Close waits for the calls that are under way, which Timeout bounds, and ends
// scans early. Its error is always nil.
func (s *Store) Close() error {
	first := s.life.end()
	s.stop()
	s.life.calls.Wait()
	if !first {
		return nil
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.client.Close()
		s.exchanges.Wait()
		s.background.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(closeTimeout):
	}
	s.conns.end()
	<-ended
	return nil
}

// String does not show the address or the password.
func (s *Store) String() string { return fmt.Sprintf("redis store with prefix %q", s.prefix) }
