package redisstore

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

// Open connects to the server and makes sure that it does what the store needs
// of it: that keys can be written and, with ClientCache, that it pushes the
// keys that change. It returns a *Store, or a TrackingStore with ClientCache. A
// server that answers and takes no writes now (it is full, a replica, or misses
// its replicas) is no reason not to open: sessions that exist can be served.
//
// The error wraps session.ErrUnavailable if Open may succeed later. Otherwise
// the options do not fit the server, and the error names the option.
func Open(ctx context.Context, o Options) (session.Store, error) {
	s, err := open(ctx, o.withDefaults())
	if err != nil {
		if option := optionOf(err); option != "" && !errors.Is(err, session.ErrUnavailable) {
			err = fmt.Errorf("%s: %w", option, err)
		}
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
		conns:          newConns(o.Logger, o.SentinelMaster != "", secrets),
		prefix:         o.KeyPrefix,
		timeout:        o.Timeout,
		secrets:        secrets,
		health:         health{wake: make(chan struct{}, 1)},
		trackingProved: true,
		calls:          storekit.NewCalls(),
		lanes:          newLanes(),
		locks:          storekit.NewKeyLocks(),
	}
	option.DialCtxFn = s.conns.dial
	s.option = option
	if o.ClientCache {
		s.watch = &watch{prefix: o.KeyPrefix}
		s.trackingProved = false
		option.DisableCache = false
		option.NewCacheStoreFn = s.watch.newLink
	}
	s.client, err = s.connect(ctx, option)
	if err != nil {
		s.conns.closeForever() // an attempt may still be under way
		return nil, err
	}
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
			return nil, s.explainConnect(ctx, option, r.err)
		}
		return r.client, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				r.client.Close()
			}
		}()
		return nil, fmt.Errorf("%w: connecting: %w", session.ErrUnavailable, ctx.Err())
	}
}

// explainConnect says what to do about the errors that have to do with how
// servers and options fit together.
func (s *Store) explainConnect(ctx context.Context, option rueidis.ClientOption, err error) error {
	err = s.clean(err)
	text := err.Error()
	switch {
	case strings.Contains(text, "cluster support disabled"):
		err = fmt.Errorf("several addresses must be nodes of one cluster: %w", err)
	case strings.Contains(text, "SELECT is not allowed in cluster mode"):
		err = fmt.Errorf("a cluster has no database %d: %w", option.SelectDB, err)
	case option.Sentinel.MasterSet != "" && (strings.Contains(text, "No such master") || rueidis.IsRedisNil(err)):
		return fmt.Errorf("sentinel: the Sentinels know no master %q: %s", option.Sentinel.MasterSet, text)
	case errors.As(err, new(*net.DNSError)) && s.conns.outage.Load():
		err = fmt.Errorf("%w: %w", session.ErrUnavailable, err) // one name of several is wrong, and the others are down
	case errors.Is(err, session.ErrUnavailable) && !errors.As(err, new(*serverError)):
		if mismatch := s.tlsMismatch(ctx, option); mismatch != nil {
			err = mismatch
		}
	}
	return fmt.Errorf("connecting: %w", err)
}

// errMismatch is wrapped where one side of a connection speaks TLS and the
// other does not.
var errMismatch = errors.New("TLS does not match")

// maxMismatchTimeout bounds the search for a mismatch: a start waits for it.
const maxMismatchTimeout = 2 * time.Second

// tlsMismatch looks for a server that answers when TLS is left out, or added.
// Without it such a server looks like one that does not answer.
func (s *Store) tlsMismatch(ctx context.Context, option rueidis.ClientOption) error {
	ctx, cancel := context.WithTimeout(ctx, min(option.Dialer.Timeout, maxMismatchTimeout))
	defer cancel()
	for _, address := range option.InitAddress {
		if isSocket(address) {
			continue
		}
		raw, err := option.Dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			continue
		}
		deadline, _ := ctx.Deadline()
		_ = raw.SetDeadline(deadline) // a TCP connection has deadlines
		mismatch := speaksOther(raw, option.TLSConfig != nil)
		_ = raw.Close() // no result
		if mismatch != nil {
			return mismatch
		}
	}
	return nil
}

func speaksOther(raw net.Conn, configured bool) error {
	if configured {
		first := make([]byte, 1)
		_, err := io.WriteString(raw, "PING\r\n")
		if err == nil {
			_, err = io.ReadFull(raw, first)
		}
		if err == nil && (first[0] == '+' || first[0] == '-') {
			return fmt.Errorf("%w: the server does not speak TLS: leave out tls and rediss://", errMismatch)
		}
		return nil
	}
	// Nothing is sent over this connection, so it need not be trusted.
	err := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}).Handshake() // #nosec G402 -- see above
	if err == nil || errors.As(err, new(tls.AlertError)) {
		return fmt.Errorf("%w: the server speaks TLS: add tls, or write rediss://", errMismatch)
	}
	return nil
}

// probePrefix begins the keys of probes, and probeTTL frees those that could
// not be deleted.
const (
	probePrefix = "probe:"
	probeTTL    = time.Minute
)

// probe reads a key, and writes it in every way that the store does.
func (s *Store) probe(ctx context.Context) error {
	key := probePrefix + rand.Text()
	if _, err := s.GetMany(ctx, key); err != nil {
		return fmt.Errorf("trying to read: %w", err)
	}
	err := s.probeUpdate(ctx, key)
	if err == nil && s.watch != nil {
		err = s.probeTracking(ctx, key)
	}
	deleted := s.Update(ctx, key, func([]byte) ([]byte, time.Duration, error) { return nil, 0, nil })
	if err == nil {
		err = deleted
	}
	if errors.Is(err, session.ErrUnavailable) && ctx.Err() == nil {
		s.setDown(err)
		return nil
	}
	return err
}

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
// are servers and proxies that accept CLIENT TRACKING and push nothing.
func (s *Store) probeTracking(ctx context.Context, key string) error {
	pushed := make(chan struct{}, 1)
	cancel := s.watch.Add(func(changed string) {
		if changed == key {
			select {
			case pushed <- struct{}{}:
			default:
			}
		}
	})
	defer cancel()
	values, err := s.GetMany(ctx, key)
	if err != nil {
		return fmt.Errorf("trying to read: %w", err)
	}
	if _, err := s.compareAndSwap(ctx, key, presence(values[0]), "=changed", probeTTL); err != nil {
		return s.explain(ctx, "trying to write", err)
	}
	timer := time.NewTimer(max(s.timeout, time.Second))
	defer timer.Stop()
	select {
	case <-pushed:
		s.trackingProved = true
		return nil
	case <-timer.C:
		return ErrNoClientCache
	case <-ctx.Done():
		return fmt.Errorf("waiting for a changed key: %w", ctx.Err())
	}
}

// evicts returns the maxmemory-policy if the server may remove keys by it. A
// server that does not say is given the benefit of the doubt.
func (s *Store) evicts(ctx context.Context) string {
	info, err := read(ctx, s, 0, func(ctx context.Context) (string, error) {
		return s.client.Do(ctx, s.client.B().Info().Section("memory").Build()).ToString()
	})
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
