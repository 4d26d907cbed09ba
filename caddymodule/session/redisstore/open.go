package redisstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// Open connects to the server and makes sure that it does what the store needs
// of it: that keys can be written and, with ClientCache, that it tells of
// them. It returns a *Store, or a TrackingStore with ClientCache. A server
// that is full is no reason not to open: those who are logged in can be served.
//
// Errors: ErrReadOnly, ErrNoClientCache, what the server says about the user
// or the database, or why there is no connection.
func Open(ctx context.Context, o Options) (session.Store, error) {
	s, err := open(ctx, o.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("opening redis: %w", err)
	}
	if s.watch != nil {
		return TrackingStore{s}, nil
	}
	return s, nil
}

func open(ctx context.Context, o Options) (*Store, error) {
	option, err := o.clientOption()
	if err != nil {
		return nil, err
	}
	secrets := []string{option.Password, option.Sentinel.Password}
	s := &Store{
		conns:   newConns(o.Logger, o.SentinelMaster != "", secrets),
		prefix:  o.KeyPrefix,
		timeout: o.Timeout,
		secrets: secrets,
		lanes:   newLanes(),
		turns:   newTurns(),
	}
	option.DialCtxFn = s.conns.dial
	s.option = option
	if o.ClientCache {
		s.watch = newWatch(o.KeyPrefix)
		option.DisableCache = false
		option.NewCacheStoreFn = s.watch.newLink
	}
	s.client, err = s.connect(ctx, option)
	if err != nil {
		s.conns.end() // an attempt may still be under way
		return nil, err
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	if err := s.probe(ctx); err != nil {
		_ = s.Close() // always nil
		return nil, err
	}
	if warning := s.evicts(ctx); warning != "" {
		o.Logger.Warn("Redis may end sessions at any time: set maxmemory-policy noeviction", "maxmemory-policy", warning)
	}
	s.background.Go(s.heartbeat)
	return s, nil
}

// connect makes a client. rueidis bounds it by DialTimeout per step but knows
// no context here.
func (s *Store) connect(ctx context.Context, option rueidis.ClientOption) (rueidis.Client, error) {
	type result struct {
		client rueidis.Client
		err    error
	}
	done := make(chan result, 1)
	go func() {
		client, err := rueidis.NewClient(option)
		done <- result{client, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, s.explainConnect(option, r.err)
		}
		return r.client, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				r.client.Close()
			}
		}()
		return nil, fmt.Errorf("connecting: %w", ctx.Err())
	}
}

// explainConnect says what to do about the errors that have to do with how
// servers and options fit together.
func (s *Store) explainConnect(option rueidis.ClientOption, err error) error {
	err = s.clean(err)
	text := err.Error()
	switch {
	case strings.Contains(text, "cluster support disabled"):
		err = fmt.Errorf("several addresses must be nodes of one cluster: %w", err)
	case strings.Contains(text, "SELECT is not allowed in cluster mode"):
		err = fmt.Errorf("a cluster has no database %d: %w", option.SelectDB, err)
	case strings.Contains(text, "No such master"), option.Sentinel.MasterSet != "" && errors.Is(err, session.ErrNotFound):
		err = fmt.Errorf("the Sentinels know no master %q: %w", option.Sentinel.MasterSet, err)
	}
	return fmt.Errorf("connecting: %w", err)
}

// probe writes a key in every way that the store does.
func (s *Store) probe(ctx context.Context) error {
	key := "probe:" + rand.Text()
	err := s.probeUpdate(ctx, key)
	if errors.Is(err, session.ErrFull) {
		return nil
	}
	if err == nil && s.watch != nil {
		err = s.probeTracking(ctx, key)
	}
	if deleted := s.Delete(ctx, key); err == nil {
		err = deleted
	}
	return err
}

// probeTTL frees the key of a probe that could not delete it.
const probeTTL = time.Minute

func (s *Store) probeUpdate(ctx context.Context, key string) error {
	for _, want := range []string{"", "1"} {
		err := s.Update(ctx, key, func(old []byte) ([]byte, time.Duration, error) {
			if string(old) != want {
				return nil, 0, errors.New("the server returned another value than was written")
			}
			return []byte(want + "1"), probeTTL, nil
		})
		if err != nil {
			return fmt.Errorf("trying to write: %w", err)
		}
	}
	return nil
}

// probeTracking reads the key and changes it behind the store's back. There
// are servers and proxies that accept CLIENT TRACKING and tell nothing.
func (s *Store) probeTracking(ctx context.Context, key string) error {
	told := make(chan struct{}, 1)
	cancel := s.watch.add(func(changed string) {
		if changed == key {
			select {
			case told <- struct{}{}:
			default:
			}
		}
	})
	defer cancel()
	if _, err := s.Get(ctx, key); err != nil {
		return fmt.Errorf("trying to read: %w", err)
	}
	command := set(s.client.B(), s.prefix+key, []byte("changed"), probeTTL)
	if err := s.explain(ctx, "trying to write", s.do(ctx, command)); err != nil {
		return err
	}
	timer := time.NewTimer(max(s.timeout, time.Second))
	defer timer.Stop()
	select {
	case <-told:
		return nil
	case <-timer.C:
		return ErrNoClientCache
	case <-ctx.Done():
		return fmt.Errorf("waiting to be told of a change: %w", ctx.Err())
	}
}

// evicts returns the maxmemory-policy if the server may remove keys by it. A
// server that does not say is given the benefit of the doubt.
func (s *Store) evicts(ctx context.Context) string {
	info, err := call(ctx, s, 0, func(ctx context.Context) (string, error) {
		return s.client.Do(ctx, s.client.B().Info().Section("memory").Build()).ToString()
	}, nil)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(info) {
		if policy, ok := strings.CutPrefix(strings.TrimSpace(line), "maxmemory_policy:"); ok && policy != "noeviction" {
			return policy
		}
	}
	return ""
}
