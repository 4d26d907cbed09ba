package badgerstore_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
)

// Badger writes its list of tables anew after ten thousand deletions. The new
// list is shorter, and a crash right behind it is no damage.
func TestCrashAfterTheListWasWrittenAnew(t *testing.T) {
	dir := t.TempDir()
	p := populate(t, dir, true)
	rewriteManifest(t, dir)
	s := open(t, dir)
	p.check(t, s)

	// The one that was cut is told apart from it, before and after.
	require.NoError(t, s.Close())
	manifest := filepath.Join(dir, "MANIFEST")
	info, err := os.Stat(manifest)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(manifest, info.Size()-1))
	requireStillRefused(t, dir)
}

// rewriteManifest does what Badger does when enough tables have come and gone.
func rewriteManifest(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, "MANIFEST")
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	before, err := f.Stat()
	require.NoError(t, err)
	manifest, _, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir))
	require.NoError(t, err)
	var set pb.ManifestChangeSet
	for id, table := range manifest.Tables {
		set.Changes = append(set.Changes, &pb.ManifestChange{
			Id: id, Op: pb.ManifestChange_CREATE, Level: uint32(table.Level),
			KeyId: table.KeyID, Compression: uint32(table.Compression),
		})
	}
	changes, err := proto.Marshal(&set)
	require.NoError(t, err)
	content := []byte("Bdgr\x00\x00\x00\x08")
	content = binary.BigEndian.AppendUint32(content, uint32(len(changes)))
	content = binary.BigEndian.AppendUint32(content, crc32.Checksum(changes, crc32.MakeTable(crc32.Castagnoli)))
	content = append(content, changes...)
	require.Less(t, int64(len(content)), before.Size())
	require.NoError(t, os.WriteFile(path, content, 0o600))
}

// The same in a store that nobody syncs: its log files have come and gone since
// the start.
func TestUnsyncedStoreFollowsTheList(t *testing.T) {
	dir := t.TempDir()
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	oldest, _ := s.UnsyncedLogs()
	fillUntil(t, s, func() bool { return exists(logFile(dir, oldest+1)) })
	for exists(logFile(dir, oldest)) {
		runtime.Gosched()
	}
	require.NoError(t, s.FollowShorterList())
	crash := t.TempDir()
	copyDir(t, dir, crash)
	open(t, crash)
}

// A kill while the store closes is no damage, even if nothing was written.
func TestKilledWhileClosing(t *testing.T) {
	dir, crash := t.TempDir(), t.TempDir()
	p := populate(t, dir, false)
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir, SyncWrites: true})
	require.NoError(t, err)
	s.DuringClose(func() { copyDir(t, dir, crash) })
	require.NoError(t, s.Close())
	p.check(t, open(t, crash))
}

// A backup keeps a log file from being removed, and those after it may be gone
// before it.
func TestSyncFindsTheLogBehindAReader(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	require.NoError(t, s.Put(t.Context(), "session:a", []byte("v"), time.Hour))
	syncing, _, letPass := holdSyncs(t, s) // so that nothing looks for files meanwhile
	first := make(chan error, 1)
	go func() { first <- s.Sync(t.Context()) }()
	<-syncing
	err := s.Scan(t.Context(), "session:a", func(string, []byte, time.Duration) error {
		held := s.NewestLog()
		fillUntil(t, s, func() bool { return exists(logFile(dir, held+2)) && !exists(logFile(dir, held+1)) })
		require.True(t, exists(logFile(dir, held)))
		letPass()
		require.NoError(t, <-first)
		require.NoError(t, s.Sync(t.Context()))
		_, newest := s.UnsyncedLogs()
		require.GreaterOrEqual(t, newest, held+2)
		return nil
	})
	require.NoError(t, err)
}

// fillUntil writes, without syncing, until done.
func fillUntil(t *testing.T, s *badgerstore.Store, done func() bool) {
	t.Helper()
	value := make([]byte, 256<<10)
	for i := 0; !done(); i++ {
		require.NoError(t, s.Put(t.Context(), fmt.Sprint("session:filler", i), value, time.Hour))
	}
}

func logFile(dir string, number int) string {
	return filepath.Join(dir, fmt.Sprintf("%05d.mem", number))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
