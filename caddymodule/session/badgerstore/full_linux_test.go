package badgerstore_test

import (
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
	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

// smallDisk mounts a disk of so many bytes.
func smallDisk(t *testing.T, size int) (dir string) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: this test mounts a disk, so it needs root")
	}
	dir = t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)), "this test mounts a tmpfs: run it as root")
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// filler is the file of another program.
func filler(disk string) string { return filepath.Join(disk, "filler") }

func freeOf(t *testing.T, disk string) uint64 {
	t.Helper()
	free, ok := storekit.FreeBytes(disk)
	require.True(t, ok)
	return free
}

// fill takes a disk's space slowly, until so many bytes are left.
func fill(t *testing.T, disk string, left uint64) {
	t.Helper()
	f, err := os.OpenFile(filler(disk), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	defer f.Close()
	block := make([]byte, 256<<10)
	for free := freeOf(t, disk); free > left; free = freeOf(t, disk) {
		if _, err := f.Write(block[:min(uint64(len(block)), free-left)]); err != nil {
			require.ErrorIs(t, err, unix.ENOSPC)
			return
		}
	}
}

// A page of a memory map that the disk has no block for would end the process.
func TestFilesHaveTheirBlocks(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		var stat unix.Stat_t
		require.NoError(t, unix.Stat(file, &stat))
		require.GreaterOrEqual(t, stat.Blocks*512, stat.Size, file)
	}
}

const mib = 1 << 20

// logins log in, from four goroutines, until stop is called.
func logins(t *testing.T, m *session.Manager) (admitted, refused *atomic.Int64, stop func()) {
	var end atomic.Bool
	var wg sync.WaitGroup
	admitted, refused = new(atomic.Int64), new(atomic.Int64)
	for g := range 4 {
		wg.Go(func() {
			for i := 0; !end.Load(); i++ {
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
	return admitted, refused, func() {
		end.Store(true)
		wg.Wait()
	}
}

// waitFor waits until a counter has come so far.
func waitFor(t *testing.T, n *atomic.Int64, least int64) {
	t.Helper()
	require.Eventually(t, func() bool { return n.Load() >= least }, time.Minute, time.Millisecond)
}

// A disk that fills up to the last byte during logins: logins are refused,
// sessions can be revoked and read, the process lives, and it recovers. What was
// revoked stays so if the process is killed meanwhile.
func TestDiskFillsUpDuringLogins(t *testing.T) {
	disk := smallDisk(t, 256*mib)
	dir := filepath.Join(disk, "sessions")
	var log logged
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir, SyncWrites: true, MinFree: 100 * mib, Logger: log.logger()})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	m := manage(t, s)
	p := population{Live: make(map[string]string)}
	for i := range 200 {
		openID := fmt.Sprint("o", i)
		p.Live[login(t, m, openID)] = openID
	}
	revoke := func(n int) {
		for token, openID := range p.Live {
			if n--; n < 0 {
				return
			}
			if n%2 == 0 {
				_, err := m.Revoke(t.Context(), token)
				require.NoError(t, err)
			} else {
				_, err := m.RevokeUser(t.Context(), appID, openID)
				require.NoError(t, err)
			}
			delete(p.Live, token)
			p.Revoked = append(p.Revoked, token)
		}
	}
	alive := func() {
		t.Helper()
		p.check(t, s)
	}
	admitted, refused, stop := logins(t, m)
	waitFor(t, admitted, 100)

	fill(t, disk, 90*mib)
	waitFor(t, refused, 100)
	require.ErrorIs(t, m.Room(), session.ErrFull)
	revoke(20)
	alive()

	fill(t, disk, 0)
	require.Zero(t, freeOf(t, disk))
	revoke(60)
	alive()
	require.Contains(t, log.String(), "too full for the session store")
	crash := t.TempDir()
	copyDir(t, dir, crash)
	p.check(t, open(t, crash))

	// A backup of the full store has the revocations, too.
	backup, err := os.Create(filepath.Join(t.TempDir(), "backup"))
	require.NoError(t, err)
	defer backup.Close()
	require.NoError(t, s.Backup(t.Context(), backup))
	_, err = backup.Seek(0, io.SeekStart)
	require.NoError(t, err)
	restored := t.TempDir()
	_, err = badgerstore.Restore(t.Context(), backup, restored)
	require.NoError(t, err)
	p.check(t, open(t, restored))

	require.NoError(t, os.Remove(filler(disk)))
	waitFor(t, admitted, admitted.Load()+100)
	stop()
	revoke(10)
	alive()
	require.NoError(t, m.Room())
	require.Contains(t, log.String(), "has room again")
	crash = t.TempDir()
	copyDir(t, dir, crash)
	p.check(t, open(t, crash))
}

// The reserve ends, too: then nothing is acknowledged that is not durable.
func TestReserveIsFull(t *testing.T) {
	disk := smallDisk(t, 256*mib)
	dir := filepath.Join(disk, "sessions")
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir, SyncWrites: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	fill(t, disk, 0)
	kept := 0
	for {
		err = sessiontest.Put(t.Context(), s, fmt.Sprint("user:", kept), make([]byte, 1000), time.Hour)
		if err == nil {
			err = s.Sync(t.Context())
		}
		if err != nil {
			break
		}
		kept++
	}
	require.ErrorIs(t, err, session.ErrFull)
	require.Greater(t, kept, 100)
	crash := t.TempDir()
	copyDir(t, dir, crash)
	again := open(t, crash)
	for i := range kept {
		_, err := again.Get(t.Context(), fmt.Sprint("user:", i))
		require.NoError(t, err)
	}
	_, err = again.Get(t.Context(), fmt.Sprint("user:", kept))
	require.ErrorIs(t, err, session.ErrNotFound)

	// The newest write counts, in whatever order it comes to the database.
	require.NoError(t, sessiontest.Put(t.Context(), s, "user:0", nil, time.Hour))
	require.NoError(t, os.Remove(filler(disk)))
	require.Eventually(t, func() bool { return s.Room() == nil }, time.Minute, time.Millisecond)
	require.NoError(t, sessiontest.Put(t.Context(), s, "user:1", []byte("newest"), time.Hour))
	require.NoError(t, s.Sync(t.Context()))
	value, err := s.Get(t.Context(), "user:1")
	require.NoError(t, err)
	require.Equal(t, "newest", string(value))
}

// Another program takes the rest of the disk at once while users log in: the
// process lives, and nothing that was acknowledged is lost.
func TestDiskIsTakenAtOnce(t *testing.T) {
	for range 4 {
		disk := smallDisk(t, 300*mib)
		dir := filepath.Join(disk, "sessions")
		s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir, SyncWrites: true})
		require.NoError(t, err)
		m := manage(t, s)
		admitted, refused, stop := logins(t, m)
		waitFor(t, admitted, 2000)
		token := login(t, m, "oAlice")
		f, err := os.Create(filler(disk))
		require.NoError(t, err)
		_ = unix.Fallocate(int(f.Fd()), 0, 0, int64(freeOf(t, disk)))
		require.NoError(t, f.Close())
		waitFor(t, refused, 100)
		_, err = m.Lookup(t.Context(), token)
		require.NoError(t, err)
		require.NoError(t, os.Remove(filler(disk)))
		waitFor(t, admitted, admitted.Load()+100)
		stop()
		m.Close()
		require.NoError(t, s.Close())
	}
}

// A disk that is full at the start refuses to open, which is no damage, and one
// that is full at the end loses nothing.
func TestDiskFullAtStartAndEnd(t *testing.T) {
	disk := smallDisk(t, 256*mib)
	dir := filepath.Join(disk, "sessions")
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir, SyncWrites: true})
	require.NoError(t, err)
	m := manage(t, s)
	p := population{Live: map[string]string{login(t, m, "oAlice"): "oAlice", login(t, m, "oBob"): "oBob"}}
	fill(t, disk, 0)
	for token := range p.Live {
		_, err := m.Revoke(t.Context(), token)
		require.NoError(t, err)
		delete(p.Live, token)
		p.Revoked = append(p.Revoked, token)
		break
	}
	m.Close()
	require.ErrorIs(t, s.Close(), session.ErrFull)
	require.Error(t, sessiontest.Put(t.Context(), s, "session:a", []byte("v"), time.Hour))

	_, err = badgerstore.Open(t.Context(), badgerstore.Options{Dir: filepath.Join(disk, "new")})
	require.ErrorIs(t, err, session.ErrFull)
	require.NotErrorIs(t, err, badgerstore.ErrDamaged)

	// The next process finds everything in the log and the reserve.
	left := t.TempDir()
	copyDir(t, dir, left)
	p.check(t, open(t, left))
}
