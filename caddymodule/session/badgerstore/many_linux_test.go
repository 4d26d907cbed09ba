package badgerstore_test

import (
	"io/fs"
	"path/filepath"
	"syscall"
	"testing"

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
