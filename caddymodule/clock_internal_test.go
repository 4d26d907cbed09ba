package caddymodule

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Each step advances both clocks, and then sets the wall clock.
func TestJumpClock(t *testing.T) {
	type step struct {
		elapsed time.Duration
		set     time.Duration // how far the wall clock is set forward, or back
		off     time.Duration // how far the time is from the unset clock
	}
	const days = 24 * time.Hour
	cases := []struct {
		name  string
		steps []step
		warns int
	}{
		{"no jump", []step{{time.Second, 0, 0}, {time.Hour, 0, 0}, {100 * days, 0, 0}}, 0},
		{"adjustments of less than a minute are followed", []step{
			{time.Second, time.Minute, time.Minute}, {time.Hour, -time.Minute, 0}, {time.Hour, -time.Minute, -time.Minute},
		}, 0},
		{"four days ahead for two seconds", []step{
			{time.Second, 4 * days, 0}, {2 * time.Second, 0, 0}, {0, -4 * days, 0}, {time.Hour, 0, 0},
		}, 1},
		{"four days back for two seconds", []step{
			{time.Second, -4 * days, 0}, {2 * time.Second, 0, 0}, {0, 4 * days, 0}, {time.Hour, 0, 0},
		}, 1},
		{"ahead for good", []step{
			{time.Second, 4 * days, 0}, {4 * time.Minute, 0, 0}, {59 * time.Second, 0, 0}, {time.Second, 0, 4 * days}, {time.Hour, 0, 4 * days},
		}, 1},
		{"back for good, by an idle gateway", []step{
			{time.Second, -4 * days, 0}, {time.Hour, 0, -4 * days}, {time.Hour, 0, -4 * days},
		}, 1},
		{"five minutes are counted from the last jump", []step{
			{time.Second, 4 * days, 0}, {4 * time.Minute, -2 * days, 0}, {4 * time.Minute, 0, 0}, {time.Minute, 0, 2 * days},
		}, 2},
		{"a small adjustment after a jump", []step{
			{time.Second, 4 * days, 0}, {4 * time.Minute, 30 * time.Second, 0}, {time.Minute, 0, 4*days + 30*time.Second},
		}, 1},
		{"again and again", []step{
			{time.Second, 4 * days, 0}, {time.Second, -4 * days, 0}, {time.Second, 4 * days, 0}, {time.Second, -4 * days, 0},
		}, 2},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			start := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
			var steady, set time.Duration
			var warns int
			clock := newJumpClock(
				func() (time.Time, time.Duration) { return start.Add(steady + set), steady },
				func(time.Duration) { warns++ },
			)
			for i, s := range c.steps {
				steady += s.elapsed
				set += s.set
				for range 3 {
					require.Equal(t, s.off, clock.now().Sub(start.Add(steady)), "step %d", i)
				}
			}
			require.Equal(t, c.warns, warns)
		})
	}
}

func TestSystemClock(t *testing.T) {
	require.WithinDuration(t, time.Now(), systemClock.now(), time.Second)
}

func BenchmarkSystemClock(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		systemClock.now()
	}
}
