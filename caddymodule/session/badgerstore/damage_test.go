package badgerstore_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// Whatever happens to a file of the store: after at most two starts that end
// the process, either the store is damaged, or nothing is lost. A session that
// was revoked never lives again.
func TestDamagedFiles(t *testing.T) {
	for name, crashed := range map[string]bool{"closed": false, "crashed": true} {
		t.Run(name, func(t *testing.T) {
			good := t.TempDir()
			p := populate(t, good, crashed)
			list := damagesOf(t, good)
			var mu sync.Mutex
			outcomes := make(map[string]int)
			t.Run("each", func(t *testing.T) {
				for i, d := range list {
					if i%damageStep() != 0 {
						continue
					}
					t.Run(d.name, func(t *testing.T) {
						t.Parallel()
						dir := t.TempDir()
						copyDir(t, good, dir)
						d.do(t, dir)
						outcome := openInChildren(t, dir, p)
						mu.Lock()
						defer mu.Unlock()
						outcomes[outcome]++
					})
				}
			})
			t.Logf("of %d damages: %v", len(list), outcomes)
			require.Positive(t, outcomes["damaged"])
			require.Positive(t, outcomes["whole"])
		})
	}
}

// damageStep is 1 where every damage is tried. Each takes a process that opens a
// store, so with -short every 17th is tried, and under the race detector every
// 7th: the plain run has them all. A file has 12, so each kind has its turn.
func damageStep() int {
	info, _ := debug.ReadBuildInfo()
	switch {
	case testing.Short():
		return 17
	case slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}):
		return 7
	}
	return 1
}

// openInChildren opens the store as a gateway does that is started again when
// it ends, and returns the outcome.
func openInChildren(t *testing.T, dir string, p population) string {
	t.Helper()
	text, err := json.Marshal(p)
	require.NoError(t, err)
	var last []byte
	for start := range 3 {
		child := exec.Command(os.Args[0], "-test.run=^TestChildExamines$")
		child.Env = append(os.Environ(), examineDir+"="+dir)
		child.Stdin = bytes.NewReader(text)
		out, err := child.Output()
		if err == nil {
			outcome, detail, _ := strings.Cut(string(out), "\n")
			t.Logf("start %d: %s: %s", start+1, outcome, detail)
			require.Contains(t, []string{"whole", "damaged"}, outcome)
			return outcome
		}
		last = out
	}
	require.Fail(t, "three starts ended the process", "%s", last)
	return ""
}

const examineDir = "WXGATE_TEST_EXAMINE_DIR"

// TestChildExamines is the process that opens a damaged store.
func TestChildExamines(t *testing.T) {
	dir := os.Getenv(examineDir)
	if dir == "" {
		return
	}
	var p population
	require.NoError(t, json.NewDecoder(os.Stdin).Decode(&p))
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir, SyncWrites: true})
	if err != nil {
		fmt.Printf("damaged\n%v\n", err)
		require.ErrorIs(t, err, badgerstore.ErrDamaged)
		require.ErrorContains(t, err, dir)
		return
	}
	p.check(t, s)
	require.NoError(t, s.Close())
	fmt.Println("whole")
}

// A damage is something that happens to a file of a directory.
type damage struct {
	name string
	do   func(t *testing.T, dir string)
}

// damagesOf lists what may happen to each file, in places spread over its
// content.
func damagesOf(t *testing.T, dir string) (list []damage) {
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		end := int64(len(bytes.TrimRight(content, "\x00")))
		add := func(what string, do func(t *testing.T, path string)) {
			list = append(list, damage{e.Name() + " " + what, func(t *testing.T, dir string) { do(t, filepath.Join(dir, e.Name())) }})
		}
		add("removed", func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) })
		add("emptied", truncateTo(0))
		add("zeroed", func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, make([]byte, len(content)), 0o600))
		})
		add("with something after it", func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			require.NoError(t, err)
			_, err = f.WriteString("something")
			require.NoError(t, errors.Join(err, f.Close()))
		})
		const places = 3
		for i := range int64(places + 1) {
			at := i * max(end-1, 0) / places
			if at >= int64(len(content)) {
				break
			}
			add(fmt.Sprint("cut at ", at), truncateTo(at))
			add(fmt.Sprint("flipped at ", at), flip(at))
		}
	}
	return list
}

func truncateTo(size int64) func(*testing.T, string) {
	return func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, size)) }
}

func flip(at int64) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		defer f.Close()
		b := make([]byte, 1)
		_, err = f.ReadAt(b, at)
		require.NoError(t, err)
		b[0] ^= 0x20
		_, err = f.WriteAt(b, at)
		require.NoError(t, err)
	}
}

// A directory that holds anything but a store is refused, and left as it is.
func TestDirectoryOfAnotherProgram(t *testing.T) {
	for _, name := range []string{"MANIFEST", "000001.sst", "letter"} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o600))
		_, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir})
		require.ErrorIs(t, err, badgerstore.ErrForeign, name)
		require.NotErrorIs(t, err, badgerstore.ErrDamaged, name)
		require.ErrorContains(t, err, name)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 1)
	}
}

// Another program's database is not used, even beside a file of this package.
func TestDatabaseOfAnotherProgram(t *testing.T) {
	dir, fresh := t.TempDir(), t.TempDir()
	db, err := badger.OpenManaged(badger.DefaultOptions(dir).WithLogger(nil))
	require.NoError(t, err)
	require.NoError(t, db.Close())
	require.NoError(t, open(t, fresh).Close())
	copyFile(t, filepath.Join(fresh, "wxgate.store"), filepath.Join(dir, "wxgate.store"))
	_, err = badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir})
	require.ErrorContains(t, err, "magic")
}

// A store of another version is not a damaged one.
func TestAnotherVersion(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, open(t, dir).Close())
	path := filepath.Join(dir, "wxgate.store")
	// What the first version wrote, and its checksum.
	require.NoError(t, os.WriteFile(path, badgerstore.Checksummed("wxgate sessions 1\n and more"), 0o600))
	_, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir})
	require.ErrorIs(t, err, badgerstore.ErrVersion)
	require.NotErrorIs(t, err, badgerstore.ErrDamaged)
}

// A crash in the middle of a write is no damage: it was not acknowledged.
func TestTornWriteIsNoDamage(t *testing.T) {
	dir := t.TempDir()
	p := populate(t, dir, true)
	logs, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	require.NoError(t, err)
	newest := logs[len(logs)-1]
	content, err := os.ReadFile(newest)
	require.NoError(t, err)
	end := int64(len(bytes.TrimRight(content, "\x00"))) + 1
	f, err := os.OpenFile(newest, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("\x40\x00\x30\x80\x02 half of an entry"), end)
	require.NoError(t, errors.Join(err, f.Close()))
	p.check(t, open(t, dir))
}

// A kill while Badger makes a log file leaves an empty one, which it refuses
// once (Badger's issue 2207).
func TestKilledWhileALogWasMade(t *testing.T) {
	dir := t.TempDir()
	p := populate(t, dir, true)
	for _, number := range []int{90, 91} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%05d.mem", number)), nil, 0o600))
	}
	p.check(t, open(t, dir))
}

// A kill at any time leaves a store that opens, also while it closes or opens.
func TestFirstStartInterrupted(t *testing.T) {
	for name, files := range map[string][]string{
		"before anything":         nil,
		"before the file's bytes": {"wxgate.store"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, file := range files {
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), nil, 0o600))
			}
			open(t, dir)
		})
	}
}

// A process that ended twice while it opened the store does not try again.
func TestStartsThatEndTheProcess(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, open(t, dir).Close())
	opening := filepath.Join(dir, "wxgate.opening")
	require.NoError(t, os.WriteFile(opening, []byte(".."), 0o600))
	_, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir})
	require.ErrorIs(t, err, badgerstore.ErrDamaged)
	require.ErrorContains(t, err, opening)

	require.NoError(t, os.WriteFile(opening, []byte("."), 0o600))
	s := open(t, dir)
	require.NoFileExists(t, opening, "a start that succeeds is not counted")
	_, err = badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir})
	require.ErrorIs(t, err, badgerstore.ErrInUse)
	require.NoFileExists(t, opening, "nor is one that returns an error")
	require.NoError(t, s.Close())
}

// What the background finds in a table keeps the next start from opening it.
func TestDamageFoundLater(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, open(t, dir).Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "wxgate.opening"), []byte("block 7\n"), 0o600))
	_, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir})
	require.ErrorIs(t, err, badgerstore.ErrDamaged)
	require.ErrorContains(t, err, "block 7")
}

func TestStoreErrorsNameTheDirectoryAndNoData(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
	for name, opts := range map[string]badgerstore.Options{
		"no directory":   {},
		"a file":         {Dir: dir},
		"below a file":   {Dir: filepath.Join(dir, "below")},
		"a path too far": {Dir: strings.Repeat("x", 300)},
	} {
		_, err := badgerstore.Open(t.Context(), opts)
		require.ErrorContains(t, err, "opening session store in "+opts.Dir, name)
		require.NotErrorIs(t, err, badgerstore.ErrDamaged, name)
	}
}

func TestDirectoryIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := open(t, dir)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
	require.NoError(t, sessiontest.Put(t.Context(), s, "k", nil, time.Hour))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), e.Name())
	}
}

// After a commit has failed, memory and disk may differ.
func TestNothingIsTrustedAfterAFailedCommit(t *testing.T) {
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: t.TempDir(), SyncWrites: true})
	require.NoError(t, err)
	require.NoError(t, sessiontest.Put(t.Context(), s, "session:a", []byte("v"), time.Hour))
	s.CloseDatabase()
	failed := s.Sync(t.Context())
	require.Error(t, failed)
	_, err = s.Get(t.Context(), "session:a")
	require.Equal(t, failed, err)
	require.Equal(t, failed, sessiontest.Put(t.Context(), s, "session:a", []byte("v"), time.Hour))
	require.Equal(t, failed, s.Sync(t.Context()))
	assert.NoError(t, s.Close())
}

var _ session.Store = (*badgerstore.Store)(nil)
