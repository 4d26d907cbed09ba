package badgerstore_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// The engine forgets what has expired, and nothing else.
func TestSweep(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range 100 {
		require.NoError(t, s.Put(t.Context(), fmt.Sprint("session:short", i), []byte("v"), time.Millisecond))
		require.NoError(t, s.Put(t.Context(), fmt.Sprint("session:long", i), []byte("v"), time.Hour))
	}
	require.NoError(t, s.Put(t.Context(), "meta", []byte("v"), 0))
	require.NoError(t, s.Delete(t.Context(), "session:long7"))

	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for i := range 100 { // the last written expires last
		for {
			_, err := s.Get(t.Context(), fmt.Sprint("session:short", i))
			if errors.Is(err, session.ErrNotFound) {
				break
			}
			require.NoError(t, err)
			<-pace.C
		}
	}
	require.NoError(t, s.Put(t.Context(), "session:short1", []byte("again"), time.Hour))

	steps, err := s.SweepInSteps(30)
	require.NoError(t, err)
	require.Equal(t, 7, steps)
	expired, err := s.Sweep()
	require.NoError(t, err)
	require.Equal(t, 99, expired)
	expired, err = s.Sweep()
	require.NoError(t, err)
	require.Zero(t, expired, "they are gone")

	for i := range 100 {
		_, err := s.Get(t.Context(), fmt.Sprint("session:long", i))
		if i == 7 {
			require.ErrorIs(t, err, session.ErrNotFound)
			continue
		}
		require.NoError(t, err)
	}
	value, err := s.Get(t.Context(), "session:short1")
	require.NoError(t, err)
	require.Equal(t, "again", string(value))
	_, err = s.Get(t.Context(), "meta")
	require.NoError(t, err)
}
