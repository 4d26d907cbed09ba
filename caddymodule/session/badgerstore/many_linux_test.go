package badgerstore_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

func BenchmarkMany(b *testing.B) {
	sessiontest.BenchMany(b, func(b *testing.B) (func() session.Store, func() int64) {
		dir := b.TempDir()
		store := func() session.Store {
			s, err := badgerstore.Open(b.Context(), badgerstore.Options{Dir: dir, SyncWrites: true})
			if err != nil {
				b.Fatal(err)
			}
			return s
		}
		return store, func() (bytes int64) {
			_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
				if info, infoErr := entry.Info(); err == nil && infoErr == nil {
					bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
				}
				return nil
			})
			return bytes
		}
	})
}

// BenchmarkOpen opens a store with the records of a million sessions, whose
// files are in the page cache, or not. Run it with -benchtime 5x.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	s := open(b, dir)
	for i := range 1_000_000 {
		h := sha256.Sum256(fmt.Append(nil, i))
		require.NoError(b, sessiontest.Put(b.Context(), s, "user:"+string(h[:12]), make([]byte, 230), time.Hour))
	}
	require.NoError(b, s.Close())
	for _, cached := range []bool{true, false} {
		b.Run(fmt.Sprintf("cached=%t", cached), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				if !cached {
					uncache(b, dir)
				}
				b.StartTimer()
				s, err := badgerstore.Open(b.Context(), badgerstore.Options{Dir: dir, SyncWrites: true})
				b.StopTimer()
				require.NoError(b, err)
				require.NoError(b, s.Close())
				b.StartTimer()
			}
		})
	}
}

// uncache makes the next reader of a directory's files wait for the disk.
func uncache(b *testing.B, dir string) {
	b.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(b, err)
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		require.NoError(b, err)
		require.NoError(b, f.Sync())
		require.NoError(b, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
		require.NoError(b, f.Close())
	}
}
