package session

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClock(t *testing.T) {
	cases := []struct {
		name string
		// Each reading: what the monotonic clock and the wall clock have gone
		// on by since the begin.
		monotonic, wall []time.Duration
		want            []time.Duration
	}{
		{
			"both run",
			[]time.Duration{0, time.Second, 2 * time.Second},
			[]time.Duration{0, time.Second, 2 * time.Second},
			[]time.Duration{0, time.Second, 2 * time.Second},
		},
		{
			"set forward",
			[]time.Duration{time.Second, 2 * time.Second},
			[]time.Duration{time.Hour, time.Hour + time.Second},
			[]time.Duration{time.Hour, time.Hour + time.Second},
		},
		{
			"set back",
			[]time.Duration{time.Second, 2 * time.Second, 10 * time.Second},
			[]time.Duration{-time.Hour, -time.Hour, -time.Hour},
			[]time.Duration{time.Second, 2 * time.Second, 10 * time.Second},
		},
		{
			"set forward and back",
			[]time.Duration{time.Second, 2 * time.Second, 2*time.Second + 1, time.Minute},
			[]time.Duration{time.Hour, time.Hour + time.Second, 0, time.Second},
			[]time.Duration{time.Hour, time.Hour + time.Second, time.Hour + time.Second + 1, time.Hour + 59*time.Second},
		},
		{
			"slowly going ahead",
			[]time.Duration{0, 400 * time.Millisecond, 800 * time.Millisecond},
			[]time.Duration{0, 401 * time.Millisecond, 802 * time.Millisecond},
			[]time.Duration{0, 401 * time.Millisecond, 802 * time.Millisecond},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var mark clockMark
			var marked time.Duration // by the monotonic clock
			for i, wall := range c.wall {
				told, move := mark.tell(int64(wall), c.monotonic[i]-marked)
				require.Equal(t, c.want[i], time.Duration(told), "reading %d", i)
				if move {
					mark.told, marked = told, c.monotonic[i]
				}
			}
		})
	}
}

// Of a clock without a monotonic part, as tests use, only the wall is known.
func TestClockWithoutMonotonicPart(t *testing.T) {
	begin := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	reading := begin
	clock := NewClock(func() time.Time { return reading })
	for i, c := range []struct{ wall, want time.Duration }{
		{time.Hour, time.Hour},
		{2 * time.Hour, 2 * time.Hour},
		{-time.Hour, 2 * time.Hour},
		{time.Hour, 2 * time.Hour},
		{3 * time.Hour, 3 * time.Hour},
	} {
		reading = begin.Add(c.wall)
		require.Equal(t, c.want, time.Duration(clock.read()-begin.UnixNano()), "reading %d", i)
	}
}
