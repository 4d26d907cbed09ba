package badgerstore_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

func BenchmarkStore(b *testing.B) { sessiontest.Bench(b, openForSuite) }

// BenchmarkPlainSyncWrites is what "durable update" is compared with: Badger by
// itself, with its own SyncWrites.
func BenchmarkPlainSyncWrites(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("durable update/writers=%d", writers), func(b *testing.B) {
			db, err := badger.Open(badger.DefaultOptions(b.TempDir()).WithSyncWrites(true).WithLogger(nil))
			require.NoError(b, err)
			b.Cleanup(func() { require.NoError(b, db.Close()) })
			value := make([]byte, 200)
			var next atomic.Uint64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for i := next.Add(1); i <= uint64(b.N); i = next.Add(1) {
						key := sha256.Sum256(binary.BigEndian.AppendUint64(nil, i))
						if err := db.Update(func(txn *badger.Txn) error { return txn.Set(key[:], value) }); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkGetUnderWriters reports the latency of a look-up beside writers that
// sync.
func BenchmarkGetUnderWriters(b *testing.B) {
	for _, writers := range []int{0, 16} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			const records = 20_000
			s := open(b, b.TempDir())
			key := func(i uint64) string { return fmt.Sprintf("session:%032x", i*0x9e3779b97f4a7c15) }
			value := make([]byte, 200)
			for i := range uint64(records) {
				require.NoError(b, sessiontest.Put(b.Context(), s, key(i), value, time.Hour))
			}
			require.NoError(b, s.Sync(b.Context()))
			ctx, stop := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					for ctx.Err() == nil {
						if sessiontest.Put(ctx, s, key(rand.Uint64N(records)), value, time.Hour) == nil {
							_ = s.Sync(ctx)
						}
					}
				})
			}
			latencies := make([]time.Duration, 0, 1<<20)
			for b.Loop() {
				began := time.Now()
				if _, err := s.Get(b.Context(), key(rand.Uint64N(records))); err != nil {
					b.Fatal(err)
				}
				latencies = append(latencies, time.Since(began))
			}
			stop()
			wg.Wait()
			slices.Sort(latencies)
			b.ReportMetric(float64(latencies[len(latencies)/2]), "p50-ns")
			b.ReportMetric(float64(latencies[len(latencies)*99/100]), "p99-ns")
		})
	}
}
