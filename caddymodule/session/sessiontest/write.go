package sessiontest

import (
	"context"
	"time"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// Put writes value under key, whatever was there. A nil value is one of no
// bytes.
func Put(ctx context.Context, store session.Store, key string, value []byte, ttl time.Duration) error {
	return store.Update(ctx, key, to(string(value), ttl))
}

// Delete removes key; an absent key is not an error.
func Delete(ctx context.Context, store session.Store, key string) error {
	return store.Update(ctx, key, remove)
}

// to returns a change that writes a value.
func to(value string, ttl time.Duration) session.ChangeFunc {
	return func([]byte) ([]byte, time.Duration, error) { return []byte(value), ttl, nil }
}

func remove([]byte) ([]byte, time.Duration, error) { return nil, 0, nil }
