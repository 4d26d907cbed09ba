package badgerstore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
)

// What Open has no time for is verified while the store is in use, and Badger
// compacts tables away meanwhile: it empties their files and then removes them.
func TestTablesAreVerifiedInTheBackground(t *testing.T) {
	dir := t.TempDir()
	p := populate(t, dir, false)
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir})
	require.NoError(t, err)
	defer s.Close()
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	require.NoError(t, err)
	require.NotEmpty(t, tables)

	emptied := filepath.Join(dir, "999998.sst")
	require.NoError(t, os.WriteFile(emptied, nil, 0o600))
	s.VerifyLater(append(tables, emptied, filepath.Join(dir, "999999.sst"))...)
	p.check(t, s)

	content, err := os.ReadFile(tables[0])
	require.NoError(t, err)
	f, err := os.OpenFile(tables[0], os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{^content[10]}, 10)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	s.VerifyLater(tables...)
	require.ErrorIs(t, s.Ping(t.Context()), badgerstore.ErrDamaged)
}
