package badgerstore

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// A backup may be any bytes: it is read to its end or refused, in bounded
// memory.
func FuzzBackup(f *testing.F) {
	s, err := Open(f.Context(), Options{Dir: f.TempDir()})
	require.NoError(f, err)
	require.NoError(f, s.Put(f.Context(), "session:a", []byte("value"), 0))
	var whole bytes.Buffer
	require.NoError(f, s.Backup(f.Context(), &whole))
	require.NoError(f, s.Close())
	f.Add(whole.Bytes())
	f.Add([]byte(thisBackup))
	f.Fuzz(func(t *testing.T, backup []byte) {
		n := 0
		err := readBackup(bytes.NewReader(backup), func(w *write) error {
			require.NotEmpty(t, w.key)
			require.LessOrEqual(t, len(w.value), session.MaxValue)
			n++
			return nil
		})
		if err != nil {
			require.ErrorIs(t, err, ErrNoBackup)
		}
		require.LessOrEqual(t, n*recordHeader, len(backup))
	})
}

// A reserve may be any bytes after a loss of power: what is not whole is left
// out.
func FuzzReserve(f *testing.F) {
	r, err := openReserve(f.TempDir())
	require.NoError(f, err)
	require.NoError(f, r.append(7, []*write{{key: "user:a", value: []byte("v")}, {key: "session:b", deleted: true}}))
	content, err := os.ReadFile(r.file.Name())
	require.NoError(f, err)
	f.Add(content[:r.used+20])
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, reserveFile), content, 0o600))
		r, err := openReserve(dir)
		require.NoError(t, err)
		defer r.file.Close()
		last, err := r.read(5, func(w *write) { require.NotEmpty(t, w.key) })
		if err != nil {
			require.ErrorIs(t, err, ErrDamaged)
			return
		}
		require.GreaterOrEqual(t, last, uint64(5))
		require.NoError(t, r.reset())
		_, err = r.read(0, func(*write) { t.Error("something is left") })
		require.NoError(t, err)
	})
}
