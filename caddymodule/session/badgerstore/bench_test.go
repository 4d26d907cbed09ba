package badgerstore_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

func BenchmarkStore(b *testing.B) { sessiontest.Bench(b, openForSuite) }

// BenchmarkPlainSyncWrites is what "durable put" is compared with: Badger by
// itself, with its own SyncWrites.
func BenchmarkPlainSyncWrites(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("durable put/writers=%d", writers), func(b *testing.B) {
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
