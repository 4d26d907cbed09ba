package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// calls is the Store as the Manager uses it: each call is measured, and its
// error says what was being done. Absence is returned as it is.
type calls struct {
	store   Store
	measure func(op string, took time.Duration, err error)
}

func (c calls) get(ctx context.Context, key string) ([]byte, error) {
	started := time.Now()
	value, err := c.store.Get(ctx, key)
	return value, c.finish(ctx, "get", "reading", started, err)
}

// update returns an error of change as it is.
func (c calls) update(ctx context.Context, key string, change ChangeFunc) error {
	var refused error
	started := time.Now()
	err := c.store.Update(ctx, key, func(old []byte) (value []byte, ttl time.Duration, err error) {
		value, ttl, refused = change(old)
		return value, ttl, refused
	})
	if refused != nil && errors.Is(err, refused) {
		_ = c.finish(ctx, "update", "updating", started, nil)
		return refused
	}
	return c.finish(ctx, "update", "updating", started, err)
}

// sync makes what was written so far durable, if the store needs to be asked.
func (c calls) sync(ctx context.Context) error {
	syncer, ok := c.store.(Syncer)
	if !ok {
		return nil
	}
	started := time.Now()
	return c.finish(ctx, "sync", "syncing", started, syncer.Sync(ctx))
}

func (c calls) count(ctx context.Context, prefix string, number func(key string, value []byte) int64) (int64, bool) {
	counter, ok := c.store.(Counter)
	if !ok {
		return 0, false
	}
	started := time.Now()
	n, err := counter.Count(ctx, prefix, number)
	return n, c.finish(ctx, "count", "counting", started, err) == nil
}

func (c calls) scan(ctx context.Context, prefix string, visit func(key string, value []byte, ttl time.Duration) error) error {
	scanner, ok := c.store.(Scanner)
	if !ok {
		return fmt.Errorf("reading all of the session store: %w", errors.ErrUnsupported)
	}
	started := time.Now()
	return c.finish(ctx, "scan", "reading all of", started, scanner.Scan(ctx, prefix, visit))
}

func (c calls) ping(ctx context.Context) error {
	started := time.Now()
	var err error
	if pinger, ok := c.store.(Pinger); ok {
		err = pinger.Ping(ctx)
	} else if _, err = c.store.Get(ctx, metaKey); errors.Is(err, ErrNotFound) {
		err = nil
	}
	return c.finish(ctx, "ping", "asking", started, err)
}

// finish calls measure, and returns err with what was being done. Absence is an
// answer, and a caller who has gone is no fault of the store.
func (c calls) finish(ctx context.Context, op, doing string, started time.Time, err error) error {
	absent := errors.Is(err, ErrNotFound)
	fault := err
	if absent || errors.Is(ctx.Err(), context.Canceled) {
		fault = nil
	}
	c.measure(op, time.Since(started), fault)
	if err == nil || absent {
		return err
	}
	return fmt.Errorf("%s session store: %w", doing, err)
}

// A reader reads from the store. It may hold values that were read in one round
// trip before they are asked for.
type reader struct {
	calls  calls
	keys   []string
	values [][]byte
	epoch  uint32
}

// readAhead returns a reader of the keys. If the store is no MultiGetter, they
// are read one by one when they are asked for.
func (c calls) readAhead(ctx context.Context, keys ...string) (reader, error) {
	getter, ok := c.store.(MultiGetter)
	if !ok {
		return reader{calls: c}, nil
	}
	started := time.Now()
	values, err := getter.GetMany(ctx, keys...)
	return reader{calls: c, keys: keys, values: values}, c.finish(ctx, "get", "reading", started, err)
}

// get returns the value under key, or ErrNotFound.
func (r reader) get(ctx context.Context, key string) ([]byte, error) {
	i := slices.Index(r.keys, key)
	switch {
	case i < 0:
		return r.calls.get(ctx, key)
	case r.values[i] == nil:
		return nil, ErrNotFound
	}
	return r.values[i], nil
}
