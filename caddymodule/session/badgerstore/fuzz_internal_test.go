package badgerstore

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// seedFiles makes a store and returns the content of a file of each kind.
func seedFiles(f *testing.F, pattern string) (contents [][]byte) {
	f.Helper()
	dir := f.TempDir()
	for range 2 {
		s, err := Open(f.Context(), Options{Dir: dir, SyncWrites: true})
		require.NoError(f, err)
		for _, key := range []string{"session:a", "session:b", "user:a"} {
			require.NoError(f, s.Put(f.Context(), key, []byte("value of "+key), time.Hour))
		}
		require.NoError(f, s.Delete(f.Context(), "session:b"))
		require.NoError(f, s.Sync(f.Context()))
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		require.NoError(f, err)
		for _, path := range paths {
			content, err := os.ReadFile(path)
			require.NoError(f, err)
			contents = append(contents, bytes.TrimRight(content, "\x00"))
		}
		require.NoError(f, s.Close())
	}
	require.NotEmpty(f, contents)
	return contents
}

// Whatever a log file holds, reading it ends, within its bounds, and what is
// cut off at the end reads as the same log.
func FuzzWAL(f *testing.F) {
	for _, content := range seedFiles(f, "*"+walExt) {
		f.Add(content)
		f.Add(append(bytes.Clone(content), make([]byte, 100)...))
		f.Add(content[:len(content)-7])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		found := readWAL(b)
		require.LessOrEqual(t, found.end, len(b))
		if len(b) < walHeader {
			return
		}
		require.GreaterOrEqual(t, found.end, walHeader)
		cut := readWAL(b[:found.end])
		require.Equal(t, walContent{end: found.end, synced: found.synced}, cut)
	})
}

// A table is only accepted with the checksums of what is in it.
func FuzzTable(f *testing.F) {
	for _, content := range seedFiles(f, "*"+tableExt) {
		f.Add(content, 0, byte(0))
		f.Add(content, len(content)/2, byte(1))
		f.Add(content, len(content)-1, byte(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, at int, change byte) {
		err := verifyTableFile(bytes.NewReader(b), int64(len(b)), true)
		if err != nil || at < 0 || at >= len(b) || change == 0 {
			return
		}
		b = bytes.Clone(b)
		b[at] ^= change
		require.Error(t, verifyTableFile(bytes.NewReader(b), int64(len(b)), true), "a changed byte was not found")
	})
}

// The marker is accepted as it was written, and not otherwise.
func FuzzMarker(f *testing.F) {
	f.Add((&markerState{phase: phaseOpen, synced: 7, manifest: 99, oldest: 1, newest: 2}).encode())
	f.Add([]byte(markerMagic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMarker(b)
		if err != nil {
			require.ErrorIs(t, err, ErrDamaged)
			return
		}
		require.Equal(t, b, m.encode())
	})
}

// A backup that is read to its end is what writing its records gives.
func FuzzBackup(f *testing.F) {
	var whole bytes.Buffer
	out := newBackupWriter(&whole)
	require.NoError(f, out.record([]byte("session:a"), []byte("value"), 0))
	require.NoError(f, out.record([]byte("user:a"), nil, 1<<40))
	require.NoError(f, out.finish())
	f.Add(whole.Bytes())
	f.Add(whole.Bytes()[:30])
	f.Add([]byte(backupMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again bytes.Buffer
		out := newBackupWriter(&again)
		err := readBackup(bytes.NewReader(b), func(key, value []byte, expiresAt uint64) error {
			require.NotEmpty(t, key)
			require.LessOrEqual(t, len(key), maxKey)
			require.LessOrEqual(t, len(value), maxValue)
			return out.record(key, value, expiresAt)
		})
		if err != nil {
			require.True(t, errors.Is(err, ErrNoBackup) || errors.Is(err, io.EOF), "%v", err)
			return
		}
		require.NoError(t, out.finish())
		require.Equal(t, b, again.Bytes())
	})
}
