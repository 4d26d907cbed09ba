package sessiontest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// benchRecords is how many records a benchmark reads among.
const benchRecords = 20_000

// Bench measures a store by itself and under a Manager. Compare runs with
// benchstat.
func Bench(b *testing.B, open OpenFunc) {
	b.Run("store", func(b *testing.B) { benchStore(b, open) })
	b.Run("manager", func(b *testing.B) { benchManager(b, open) })
}

// benchKey spreads as the real ones do.
func benchKey(i uint64) string {
	h := sha256.Sum256(binary.BigEndian.AppendUint64(nil, i))
	return "session:" + string(h[:])
}

// inParallel does b.N pieces of work in so many goroutines, whatever the number
// of cores: they wait for the disk or the network, not for a core.
func inParallel(b *testing.B, goroutines int, work func(i uint64) error) {
	var next atomic.Uint64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range goroutines {
		wg.Go(func() {
			for i := next.Add(1); i <= uint64(b.N); i = next.Add(1) {
				if err := work(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func benchStore(b *testing.B, open OpenFunc) {
	value := make([]byte, 200)
	fill := func(b *testing.B) session.Store {
		s, _ := open(b)
		for i := range uint64(benchRecords) {
			require.NoError(b, s.Put(b.Context(), benchKey(i), value, time.Hour))
		}
		return s
	}

	b.Run("get", func(b *testing.B) {
		s := fill(b)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Get(b.Context(), benchKey(rand.Uint64N(benchRecords))); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("get absent", func(b *testing.B) {
		s := fill(b)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Get(b.Context(), benchKey(benchRecords+rand.Uint64())); err == nil {
				b.Fatal("found what was never written")
			}
		}
	})
	b.Run("put", func(b *testing.B) {
		s, _ := open(b)
		var i uint64
		for b.Loop() {
			i++
			if err := s.Put(b.Context(), benchKey(i), value, time.Hour); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("update", func(b *testing.B) {
		s := fill(b)
		for b.Loop() {
			err := s.Update(b.Context(), benchKey(rand.Uint64N(benchRecords)), func(old []byte) ([]byte, time.Duration, error) {
				return old, time.Hour, nil
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("durable put/writers=%d", writers), func(b *testing.B) {
			s, _ := open(b)
			syncer, _ := s.(session.Syncer)
			inParallel(b, writers, func(i uint64) error {
				err := s.Put(b.Context(), benchKey(i), value, time.Hour)
				if err == nil && syncer != nil {
					err = syncer.Sync(b.Context())
				}
				return err
			})
		})
	}
}

func benchManager(b *testing.B, open OpenFunc) {
	start := func(b *testing.B, cacheSize int) *session.Manager {
		s, _ := open(b)
		m, err := session.NewManager(b.Context(), session.Config{Store: s, Keys: [][]byte{Key(1)}, CacheSize: cacheSize})
		require.NoError(b, err)
		b.Cleanup(m.Close)
		return m
	}
	fill := func(b *testing.B, m *session.Manager, n int) []string {
		tokens := make([]string, n)
		for i := range tokens {
			created, err := m.Create(b.Context(), Login(fmt.Sprintf("oBench%022d", i)))
			require.NoError(b, err)
			tokens[i] = created.Token
		}
		return tokens
	}
	lookup := func(b *testing.B, m *session.Manager, tokens []string) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := m.Lookup(b.Context(), tokens[rand.IntN(len(tokens))]); err != nil {
				b.Fatal(err)
			}
		}
	}

	b.Run("lookup hit", func(b *testing.B) {
		m := start(b, 0)
		lookup(b, m, fill(b, m, 1000))
	})
	b.Run("lookup miss", func(b *testing.B) {
		m := start(b, 8) // nearly every look-up reads the store
		lookup(b, m, fill(b, m, 2000))
	})
	b.Run("lookup refused", func(b *testing.B) {
		m := start(b, 0)
		foreign := make([]string, 1000)
		for i := range foreign {
			foreign[i] = fmt.Sprintf("%043d", i)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := m.Lookup(b.Context(), foreign[rand.IntN(len(foreign))]); err == nil {
				b.Fatal("a made-up token was accepted")
			}
		}
	})
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("create/writers=%d", writers), func(b *testing.B) {
			m := start(b, 0)
			inParallel(b, writers, func(i uint64) error {
				_, err := m.Create(b.Context(), Login(fmt.Sprintf("oBench%022d", i)))
				return err
			})
		})
	}
}
