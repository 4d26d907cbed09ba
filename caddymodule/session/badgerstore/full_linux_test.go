package badgerstore_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// smallDisk mounts a disk of so many bytes. Only root may; others do not see
// these tests.
func smallDisk(t *testing.T, size int) (dir string, ok bool) {
	t.Helper()
	dir = t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size))
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		t.Log("not tested: this user may not mount a disk to fill")
		return "", false
	}
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir, true
}

// fill writes to a disk until so many bytes are left.
func fill(t *testing.T, dir string, left uint64) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	defer f.Close()
	block := make([]byte, 256<<10)
	for {
		var disk unix.Statfs_t
		require.NoError(t, unix.Statfs(dir, &disk))
		free := disk.Bavail * uint64(disk.Bsize)
		if free <= left {
			return
		}
		_, err := f.Write(block[:min(uint64(len(block)), free-left)])
		if errors.Is(err, unix.ENOSPC) {
			return
		}
		require.NoError(t, err)
	}
}

const mib = 1 << 20

// A disk that fills up during logins: logins are refused, then revocations
// too, reads go on, the process lives, and it recovers by itself.
func TestDiskFillsUpDuringLogins(t *testing.T) {
	disk, ok := smallDisk(t, 256*mib)
	if !ok {
		return
	}
	dir := filepath.Join(disk, "sessions")
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir, SyncWrites: true, MinFree: 100 * mib})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	m := manage(t, s)
	before := map[string]string{}
	for i := range 200 {
		openID := fmt.Sprint("o", i)
		before[login(t, m, openID)] = openID
	}
	alive := func() {
		for token, openID := range before {
			found, err := m.Lookup(t.Context(), token)
			require.NoError(t, err)
			require.Equal(t, openID, found.OpenID)
		}
	}

	var stop atomic.Bool
	var admitted, refused atomic.Int64
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				_, err := m.Create(t.Context(), sessiontest.Login(fmt.Sprint("o", g, "-", i)))
				if err == nil {
					admitted.Add(1)
					continue
				}
				assert.ErrorIs(t, err, session.ErrFull)
				refused.Add(1)
			}
		})
	}
	waitFor(&admitted, 100)

	fill(t, disk, 90*mib)
	waitFor(&refused, 100)
	require.ErrorIs(t, m.Room(), session.ErrFull)
	alive()
	for token := range before { // a revocation does not need the room of a login
		_, err := m.Revoke(t.Context(), token)
		require.NoError(t, err)
		delete(before, token)
		break
	}

	fill(t, disk, 0)
	waitUntilFull(t, s)
	alive()
	for token, openID := range before {
		_, err := m.Revoke(t.Context(), token)
		require.ErrorIs(t, err, session.ErrFull)
		_, err = m.RevokeUser(t.Context(), appID, openID)
		require.ErrorIs(t, err, session.ErrFull)
		break
	}
	alive()

	require.NoError(t, os.Remove(filepath.Join(disk, "filler")))
	waitFor(&admitted, admitted.Load()+100)
	stop.Store(true)
	wg.Wait()
	alive()
	require.NoError(t, m.Room())
}

// waitFor waits until a counter has come so far.
func waitFor(n *atomic.Int64, least int64) {
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for n.Load() < least {
		<-pace.C
	}
}

// waitUntilFull waits until the store has noticed that nothing at all may be
// written any more, which it asks every few milliseconds.
func waitUntilFull(t *testing.T, s *badgerstore.Store) {
	t.Helper()
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for !errors.Is(s.Put(t.Context(), "filler", []byte("v"), time.Hour), session.ErrFull) {
		<-pace.C
	}
}

// A disk that is full at the start refuses to open, and one that is full at the
// end loses nothing.
func TestDiskFullAtStartAndEnd(t *testing.T) {
	disk, ok := smallDisk(t, 256*mib)
	if !ok {
		return
	}
	dir := filepath.Join(disk, "sessions")
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir, SyncWrites: true})
	require.NoError(t, err)
	m := manage(t, s)
	token := login(t, m, "oAlice")
	m.Close()
	crash := t.TempDir()
	copyDir(t, dir, crash)
	fill(t, disk, 0)
	require.ErrorIs(t, s.Close(), session.ErrFull)
	require.Error(t, s.Put(t.Context(), "session:a", []byte("v"), time.Hour))

	_, err = badgerstore.Open(t.Context(), badgerstore.Options{Dir: filepath.Join(disk, "new")})
	require.ErrorIs(t, err, session.ErrFull)

	// The next process finds everything in the log.
	left := t.TempDir()
	copyDir(t, dir, left)
	again := manage(t, open(t, left))
	found, err := again.Lookup(t.Context(), token)
	require.NoError(t, err)
	require.Equal(t, "oAlice", found.OpenID)

	var backup io.Reader = failing{errors.New("never read")}
	_, err = badgerstore.Restore(t.Context(), backup, filepath.Join(disk, "restored"))
	require.ErrorIs(t, err, session.ErrFull)
}
