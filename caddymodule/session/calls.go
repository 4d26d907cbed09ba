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
	started := c.start()
	value, err := c.store.Get(ctx, key)
	c.finish(ctx, "get", started, err)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("reading session store: %w", err)
	}
	return value, err
}

func (c calls) put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	started := c.start()
	err := c.store.Put(ctx, key, value, ttl)
	c.finish(ctx, "put", started, err)
	if err != nil {
		return fmt.Errorf("writing session store: %w", err)
	}
	return nil
}

// update returns an error of change as it is.
func (c calls) update(ctx context.Context, key string, change ChangeFunc) error {
	var refused error
	started := c.start()
	err := c.store.Update(ctx, key, func(old []byte) ([]byte, time.Duration, error) {
		value, ttl, err := change(old)
		refused = err
		return value, ttl, err
	})
	if refused != nil && errors.Is(err, refused) {
		c.finish(ctx, "update", started, nil)
		return refused
	}
	c.finish(ctx, "update", started, err)
	if err != nil {
		return fmt.Errorf("updating session store: %w", err)
	}
	return nil
}

func (c calls) delete(ctx context.Context, key string) error {
	started := c.start()
	err := c.store.Delete(ctx, key)
	c.finish(ctx, "delete", started, err)
	if err != nil {
		return fmt.Errorf("deleting from session store: %w", err)
	}
	return nil
}

// sync makes what was written so far durable, if the store needs to be asked.
func (c calls) sync(ctx context.Context) error {
	syncer, ok := c.store.(Syncer)
	if !ok {
		return nil
	}
	started := c.start()
	err := syncer.Sync(ctx)
	c.finish(ctx, "sync", started, err)
	if err != nil {
		return fmt.Errorf("syncing session store: %w", err)
	}
	return nil
}

func (c calls) count(ctx context.Context, prefix string) (int64, bool) {
	counter, ok := c.store.(Counter)
	if !ok {
		return 0, false
	}
	started := c.start()
	n, err := counter.Count(ctx, prefix)
	c.finish(ctx, "count", started, err)
	return n, err == nil
}

func (c calls) scan(ctx context.Context, prefix string, visit func(key string, value []byte, ttl time.Duration) error) error {
	scanner, ok := c.store.(Scanner)
	if !ok {
		return fmt.Errorf("reading all of the session store: %w", errors.ErrUnsupported)
	}
	started := c.start()
	err := scanner.Scan(ctx, prefix, visit)
	c.finish(ctx, "scan", started, err)
	if err != nil {
		return fmt.Errorf("reading all of the session store: %w", err)
	}
	return nil
}

func (c calls) ping(ctx context.Context) error {
	started := c.start()
	var err error
	if pinger, ok := c.store.(Pinger); ok {
		err = pinger.Ping(ctx)
	} else if _, err = c.store.Get(ctx, metaKey); errors.Is(err, ErrNotFound) {
		err = nil
	}
	c.finish(ctx, "ping", started, err)
	if err != nil {
		return fmt.Errorf("asking session store: %w", err)
	}
	return nil
}

func (c calls) start() time.Time {
	if c.measure == nil {
		return time.Time{}
	}
	return time.Now()
}

// finish calls measure. Absence is an answer, and a caller who has gone is no
// fault of the store.
func (c calls) finish(ctx context.Context, op string, started time.Time, err error) {
	if c.measure == nil {
		return
	}
	if errors.Is(err, ErrNotFound) || errors.Is(ctx.Err(), context.Canceled) {
		err = nil
	}
	c.measure(op, time.Since(started), err)
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
	started := c.start()
	values, err := getter.GetMany(ctx, keys...)
	c.finish(ctx, "get", started, err)
	if err != nil {
		return reader{}, fmt.Errorf("reading session store: %w", err)
	}
	return reader{calls: c, keys: keys, values: values}, nil
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
