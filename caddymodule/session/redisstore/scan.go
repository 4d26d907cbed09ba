package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// scanPage is about how many keys are read at a time.
const scanPage = 128

// Scan visits the live keys that begin with prefix, on all masters. A key may
// be visited twice if the server resizes its table meanwhile, and keys that
// move between the nodes of a cluster may be missed. It has connections of its
// own, so that requests do not wait behind it and the server does not track
// what it reads. Each page must come within Timeout. Close ends it.
func (s *Store) Scan(ctx context.Context, prefix string, visit func(key string, value []byte, ttl time.Duration) error) error {
	if err := s.calls.Enter(); err != nil {
		return err
	}
	defer s.calls.Leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.calls.Stopping(), func() { cancel(session.ErrClosed) })()

	var refusal error
	err := s.scan(ctx, prefix, func(key string, value []byte, ttl time.Duration) error {
		refusal = visit(key, value, ttl)
		return refusal
	})
	switch {
	case refusal != nil:
		return refusal
	case errors.Is(context.Cause(ctx), session.ErrClosed):
		return session.ErrClosed
	}
	return s.explain(ctx, "scanning redis", err)
}

func (s *Store) scan(ctx context.Context, prefix string, visit func(string, []byte, time.Duration) error) error {
	client, err := s.connect(ctx, s.option)
	if err != nil {
		return err
	}
	defer client.Close()
	masters, err := s.masters(ctx, client)
	if err != nil {
		return err
	}
	for _, master := range masters {
		err := s.scanKeys(ctx, master, s.prefix+prefix, func(keys []string) error {
			return s.visitKeys(ctx, client, keys, visit)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// masters returns a client for each node that owns keys.
func (s *Store) masters(ctx context.Context, client rueidis.Client) ([]rueidis.Client, error) {
	var masters []rueidis.Client
	for _, node := range client.Nodes() {
		if client.Mode() == rueidis.ClientModeCluster {
			// HELLO without arguments changes nothing and needs no permission.
			greeting, err := read(ctx, s, 0, func(ctx context.Context) (map[string]rueidis.RedisMessage, error) {
				return node.Do(ctx, node.B().Arbitrary("HELLO").Build()).AsMap()
			})
			if err != nil {
				return nil, err
			}
			role := greeting["role"]
			if text, err := role.ToString(); err != nil || text != "master" {
				continue
			}
		}
		masters = append(masters, node)
	}
	return masters, nil
}

// scanKeys calls page with the keys of one node that begin with prefix.
func (s *Store) scanKeys(ctx context.Context, node rueidis.Client, prefix string, page func([]string) error) error {
	for cursor := uint64(0); ; {
		entry, err := read(ctx, s, 0, func(ctx context.Context) (rueidis.ScanEntry, error) {
			command := node.B().Scan().Cursor(cursor).Match(escapeGlob(prefix) + "*").Count(scanPage).Build()
			return node.Do(ctx, command).AsScanEntry()
		})
		if err != nil {
			return err
		}
		if err := page(entry.Elements); err != nil {
			return err
		}
		if cursor = entry.Cursor; cursor == 0 {
			return nil
		}
	}
}

// visitKeys reads keys and their ttl, and visits those that are still there.
func (s *Store) visitKeys(ctx context.Context, client rueidis.Client, keys []string, visit func(string, []byte, time.Duration) error) error {
	if len(keys) == 0 {
		return nil
	}
	replies, err := read(ctx, s, 0, func(ctx context.Context) ([]rueidis.RedisResult, error) {
		commands := make([]rueidis.Completed, 0, 2*len(keys))
		for _, key := range keys {
			commands = append(commands, client.B().Get().Key(key).Build(), client.B().Pttl().Key(key).Build())
		}
		replies := client.DoMulti(ctx, commands...)
		return replies, replies[0].NonRedisError()
	})
	if err != nil {
		return err
	}
	for i, key := range keys {
		value, err := bytesOf(replies[2*i])
		if errors.Is(err, session.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		left, err := replies[2*i+1].ToInt64()
		if err != nil {
			return err
		}
		if left == -2 { // it has gone between the two
			continue
		}
		ttl := max(0, time.Duration(left)*time.Millisecond) // -1: none
		if left == 0 {
			ttl = time.Millisecond // less than one is left, which is not none
		}
		if err := visit(strings.TrimPrefix(key, s.prefix), value, ttl); err != nil {
			return err
		}
	}
	return nil
}

// escapeGlob makes a pattern for MATCH that matches text itself.
func escapeGlob(text string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(text)
}

const (
	// countExactly is up to how many keys of a node are looked at one by one.
	countExactly = 5000

	// countSamples random keys stand for all of a larger node.
	countSamples = 1024
)

// Count implements session.Counter. It looks at every key of a node of up to 5000;
// of a larger one at 1024 random ones, which costs the server a few
// milliseconds.
func (s *Store) Count(ctx context.Context, prefix string, number func(key string, value []byte) int64) (int64, error) {
	if err := s.calls.Enter(); err != nil {
		return 0, err
	}
	defer s.calls.Leave()
	masters, err := s.masters(ctx, s.client)
	var sum int64
	for _, master := range masters {
		var n int64
		if n, err = s.countNode(ctx, master, s.prefix+prefix, number); err != nil {
			break
		}
		sum += n
	}
	return sum, s.explain(ctx, "counting in redis", err)
}

func (s *Store) countNode(ctx context.Context, node rueidis.Client, prefix string, number func(key string, value []byte) int64) (sum int64, err error) {
	size, err := read(ctx, s, 0, func(ctx context.Context) (int64, error) {
		return node.Do(ctx, node.B().Dbsize().Build()).ToInt64()
	})
	if err != nil {
		return 0, err
	}
	add := func(keys []string) error {
		return s.visitKeys(ctx, s.client, keys, func(key string, value []byte, _ time.Duration) error {
			sum += number(key, value)
			return nil
		})
	}
	if size > countExactly {
		var keys []string
		if keys, err = s.sample(ctx, node, prefix); err == nil {
			err = add(keys)
		}
		return sum * size / countSamples, err
	}
	seen := make(map[string]bool) // SCAN may return a key twice
	err = s.scanKeys(ctx, node, prefix, func(keys []string) error {
		keys = slices.DeleteFunc(keys, func(key string) bool {
			again := seen[key]
			seen[key] = true
			return again
		})
		return add(keys)
	})
	return sum, err
}

// sample returns those of countSamples random keys that begin with prefix.
func (s *Store) sample(ctx context.Context, node rueidis.Client, prefix string) (keys []string, err error) {
	replies, err := read(ctx, s, 0, func(ctx context.Context) ([]rueidis.RedisResult, error) {
		commands := make([]rueidis.Completed, countSamples)
		for i := range commands {
			commands[i] = node.B().Randomkey().Build()
		}
		replies := node.DoMulti(ctx, commands...)
		return replies, replies[0].NonRedisError()
	})
	if err != nil {
		return nil, err
	}
	for _, reply := range replies {
		key, err := reply.ToString()
		if rueidis.IsRedisNil(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("sampling keys: %w", err)
		}
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

var (
	_ session.Store       = (*Store)(nil)
	_ session.Pinger      = (*Store)(nil)
	_ session.Scanner     = (*Store)(nil)
	_ session.Counter     = (*Store)(nil)
	_ session.MultiGetter = (*Store)(nil)
	_ session.RoomChecker = (*Store)(nil)
)
