package badgerstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// endingContext ends when it has been asked a few times.
type endingContext struct {
	context.Context
	end  context.CancelFunc
	left int
}

func (c *endingContext) Done() <-chan struct{} {
	if c.left--; c.left < 0 {
		c.end()
	}
	return c.Context.Done()
}

// Deleted and expired keys lie about until a sweep or a compaction comes by.
// There may be millions, and who looks through them can be interrupted there.
func TestDeadKeysDoNotHoldUpTheEnd(t *testing.T) {
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	for i := range 100 {
		key := fmt.Sprintf("session:%032d", i)
		require.NoError(t, sessiontest.Put(t.Context(), s, key, []byte("v"), time.Hour))
		require.NoError(t, sessiontest.Delete(t.Context(), s, key))
	}
	n, err := s.Count(t.Context(), "session:", one)
	require.NoError(t, err)
	require.Zero(t, n)
	for name, look := range map[string]func(ctx context.Context) error{
		"count": func(ctx context.Context) error {
			_, err := s.Count(ctx, "session:", one)
			return err
		},
		"scan": func(ctx context.Context) error {
			return s.Scan(ctx, "session:", func(string, []byte, time.Duration) error { return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			require.ErrorIs(t, look(&endingContext{Context: ctx, end: cancel, left: 10}), context.Canceled)
		})
	}
}
