package sessiontest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// BenchMany measures a store with ten thousand to ten million sessions, of a
// user each, under a Manager: how long they take to make, what they occupy by
// size, how soon the store opens again, look-ups of random sessions, and logins.
// Select one with -bench 'Many/sessions=1000000$' -benchtime 1x.
func BenchMany(b *testing.B, open func(b *testing.B) (store func() session.Store, size func() (bytes int64))) {
	for _, sessions := range []int{10_000, 100_000, 1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("sessions=%d", sessions), func(b *testing.B) {
			for b.Loop() {
				reopen, size := open(b)
				measureMany(b, sessions, reopen, size)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func measureMany(b *testing.B, sessions int, reopen func() session.Store, size func() int64) {
	ctx := context.Background()
	manage := func() (session.Store, *session.Manager) {
		store := reopen()
		m, err := session.NewManager(ctx, session.Config{Store: store, Keys: [][]byte{Key(1)}})
		require.NoError(b, err)
		return store, m
	}
	store, m := manage()
	tokens := make([]string, sessions)
	create := func(i int) error {
		created, err := m.Create(ctx, Login(fmt.Sprintf("oMany%023d", i)))
		tokens[i%sessions] = created.Token
		return err
	}
	report := func(name string, value float64) { b.ReportMetric(value, name) }

	report("s-to-make", together(b, 64, sessions, create).Seconds())
	m.Close()
	require.NoError(b, store.Close())
	report("MiB-stored", float64(size())/(1<<20))
	debug.FreeOSMemory()
	before := anonymousMiB() // the tokens
	began := time.Now()
	store, m = manage()
	report("ms-to-open", float64(time.Since(began).Milliseconds()))

	lookup := func(int) error {
		_, err := m.Lookup(ctx, tokens[rand.IntN(sessions)])
		return err
	}
	latencies := make([]time.Duration, 200_000)
	for i := range latencies {
		began := time.Now()
		require.NoError(b, lookup(i))
		latencies[i] = time.Since(began)
	}
	slices.Sort(latencies)
	report("µs-look-up-p50", float64(latencies[len(latencies)/2].Nanoseconds())/1000)
	report("µs-look-up-p99", float64(latencies[len(latencies)*99/100].Nanoseconds())/1000)
	report("look-ups/s", 500_000/together(b, 16, 500_000, lookup).Seconds())
	debug.FreeOSMemory() // with the tokens there is more garbage than in a gateway
	report("MiB-live", anonymousMiB()-before)
	for _, clients := range []int{1, 16, 64} {
		n := 300 * clients
		report(fmt.Sprintf("logins/s-of-%d", clients), float64(n)/together(b, clients, n, create).Seconds())
	}
	m.Close()
	require.NoError(b, store.Close())
}

// anonymousMiB returns how much memory this process has that the system cannot
// drop, on Linux.
func anonymousMiB() (mib float64) {
	status, _ := os.ReadFile("/proc/self/status")
	_, line, _ := strings.Cut(string(status), "RssAnon:")
	_, _ = fmt.Sscan(line, &mib)
	return mib / 1024
}

// together does work n times in some goroutines, and returns how long it took.
func together(b *testing.B, goroutines, n int, work func(i int) error) time.Duration {
	began := time.Now()
	var next atomic.Int64
	var group errgroup.Group
	for range goroutines {
		group.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := work(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(b, group.Wait())
	return time.Since(began)
}
