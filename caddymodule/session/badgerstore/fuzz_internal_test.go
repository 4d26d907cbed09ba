package badgerstore

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A reserve may be any bytes after a loss of power: what is not whole is left
// out.
func FuzzReserve(f *testing.F) {
	r, err := openReserve(f.TempDir())
	require.NoError(f, err)
	require.NoError(f, r.append(7, map[string]*write{"user:a": {Key: "user:a", Value: []byte("v")}, "session:b": {Key: "session:b", Deleted: true}}))
	content, err := os.ReadFile(r.file.Name())
	require.NoError(f, err)
	f.Add(content[:r.used+20])
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, reserveFile), content, 0o600))
		r, err := openReserve(dir)
		require.NoError(t, err)
		defer r.file.Close()
		_, last := r.read(5)
		require.GreaterOrEqual(t, last, uint64(5))
		require.NoError(t, r.reset())
		writes, last := r.read(0)
		require.Empty(t, writes)
		require.Zero(t, last)
	})
}
