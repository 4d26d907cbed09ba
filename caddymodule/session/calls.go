package session

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// calls is the Store as the Manager uses it: each call is measured, and its
// error says what was being done.
type calls struct {
	store   Store
	measure func(op string, took time.Duration, err error)
}

func (c calls) get(ctx context.Context, key string) ([]byte, error) {
	begin := c.begin()
	value, err := c.store.Get(ctx, key)
	c.end(ctx, "get", begin, err)
	if err != nil {
		return nil, fmt.Errorf("reading session store: %w", err)
	}
	return value, nil
}

func (c calls) put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	begin := c.begin()
	err := c.store.Put(ctx, key, value, ttl)
	c.end(ctx, "put", begin, err)
	if err != nil {
		return fmt.Errorf("writing session store: %w", err)
	}
	return nil
}

// update returns an error of change as it is.
func (c calls) update(ctx context.Context, key string, change ChangeFunc) error {
	var refused error
	begin := c.begin()
	err := c.store.Update(ctx, key, func(old []byte) ([]byte, time.Duration, error) {
		value, ttl, err := change(old)
		refused = err
		return value, ttl, err
	})
	if refused != nil && errors.Is(err, refused) {
		c.end(ctx, "update", begin, nil)
		return refused
	}
	c.end(ctx, "update", begin, err)
	if err != nil {
		return fmt.Errorf("updating session store: %w", err)
	}
	return nil
}

func (c calls) delete(ctx context.Context, key string) error {
	begin := c.begin()
	err := c.store.Delete(ctx, key)
	c.end(ctx, "delete", begin, err)
	if err != nil {
		return fmt.Errorf("deleting from session store: %w", err)
	}
	return nil
}

// sync makes what was written so far durable, if the store needs to be told.
func (c calls) sync(ctx context.Context) error {
	syncer, ok := c.store.(Syncer)
	if !ok {
		return nil
	}
	begin := c.begin()
	err := syncer.Sync(ctx)
	c.end(ctx, "sync", begin, err)
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
	begin := c.begin()
	n, err := counter.Count(ctx, prefix)
	c.end(ctx, "count", begin, err)
	return n, err == nil
}

func (c calls) ping(ctx context.Context) error {
	begin := c.begin()
	var err error
	if pinger, ok := c.store.(Pinger); ok {
		err = pinger.Ping(ctx)
	} else if _, err = c.store.Get(ctx, metaKey); errors.Is(err, ErrNotFound) {
		err = nil
	}
	c.end(ctx, "ping", begin, err)
	if err != nil {
		return fmt.Errorf("asking session store: %w", err)
	}
	return nil
}

func (c calls) begin() time.Time {
	if c.measure == nil {
		return time.Time{}
	}
	return time.Now()
}

// end tells the measure. Absence is an answer, and a caller who went away is
// no fault of the store.
func (c calls) end(ctx context.Context, op string, begin time.Time, err error) {
	if c.measure == nil {
		return
	}
	if errors.Is(err, ErrNotFound) || errors.Is(ctx.Err(), context.Canceled) {
		err = nil
	}
	c.measure(op, time.Since(begin), err)
}
