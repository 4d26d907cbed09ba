package badgerstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// population is what a directory's sessions must be.
type population struct {
	live    map[string]string // token to openid
	revoked []string
}

// populate makes a directory as a gateway leaves it: several tables, and if it
// crashed, a log with acknowledged writes that no table has.
func populate(t *testing.T, dir string, crashed bool) population {
	t.Helper()
	p := population{live: make(map[string]string)}
	for round := range 3 {
		s := open(t, dir)
		m := manage(t, s)
		for i := range 30 {
			openID := fmt.Sprintf("o%d-%d", round, i)
			p.live[login(t, m, openID)] = openID
		}
		for token, openID := range p.live { // some of this round and of those before
			if len(p.revoked) == 10*(round+1) {
				break
			}
			if len(p.revoked)%2 == 0 {
				_, err := m.Revoke(t.Context(), token)
				require.NoError(t, err)
			} else {
				_, err := m.RevokeUser(t.Context(), appID, openID)
				require.NoError(t, err)
			}
			p.revoked = append(p.revoked, token)
			delete(p.live, token)
		}
		if round == 2 && crashed {
			crash := t.TempDir()
			copyDir(t, dir, crash) // as kill -9 would leave it
			m.Close()
			require.NoError(t, s.Close())
			require.NoError(t, os.RemoveAll(dir))
			copyDir(t, crash, dir)
			return p
		}
		m.Close()
		require.NoError(t, s.Close())
	}
	return p
}

const appID = "wx0123456789abcdef"

func manage(t testing.TB, s session.Store) *session.Manager {
	t.Helper()
	m, err := session.NewManager(t.Context(), session.Config{Store: s, Keys: [][]byte{sessiontest.Key(1)}})
	require.NoError(t, err)
	t.Cleanup(m.Close)
	return m
}

func login(t testing.TB, m *session.Manager, openID string) string {
	t.Helper()
	created, err := m.Create(t.Context(), sessiontest.Login(openID))
	require.NoError(t, err)
	return created.Token
}

// check requires that the sessions are exactly those they must be.
func (p population) check(t *testing.T, s session.Store) {
	t.Helper()
	m := manage(t, s)
	defer m.Close()
	for _, token := range p.revoked {
		_, err := m.Lookup(t.Context(), token)
		require.ErrorIs(t, err, session.ErrInvalid, "a revoked session")
	}
	for token, openID := range p.live {
		found, err := m.Lookup(t.Context(), token)
		require.NoError(t, err)
		require.Equal(t, openID, found.OpenID)
	}
}

// copyDir copies the files of a directory, with their holes.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(to, 0o700))
	entries, err := os.ReadDir(from)
	require.NoError(t, err)
	for _, e := range entries {
		copyFile(t, filepath.Join(from, e.Name()), filepath.Join(to, e.Name()))
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return // made a table of since
	}
	require.NoError(t, err)
	defer in.Close()
	out, err := os.Create(to)
	require.NoError(t, err)
	defer out.Close()
	buf := make([]byte, 64<<10)
	var at int64
	for {
		n, err := in.ReadAt(buf, at)
		if !allZero(buf[:n]) {
			_, err := out.WriteAt(buf[:n], at)
			require.NoError(t, err)
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
	}
	require.NoError(t, out.Truncate(at))
}

func allZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// logged is where a store's log goes.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// Whatever happens to a file of the store, either it does not open and says
// why, or nothing is lost. A revoked session never comes back, and a store that
// was in use never looks like a new one.
func TestDamagedFiles(t *testing.T) {
	for name, crashed := range map[string]bool{"closed": false, "crashed": true} {
		t.Run(name, func(t *testing.T) {
			good := t.TempDir()
			p := populate(t, good, crashed)
			var refused, opened int
			for _, file := range filesOfEachKind(t, good) {
				for _, d := range damages(t, filepath.Join(good, file)) {
					t.Run(file+" "+d.name, func(t *testing.T) {
						dir := t.TempDir()
						copyDir(t, good, dir)
						d.do(t, filepath.Join(dir, file))
						s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir, SyncWrites: true})
						if err != nil {
							refused++
							require.ErrorIs(t, err, badgerstore.ErrDamaged)
							require.Contains(t, err.Error(), dir)
							requireStillRefused(t, dir)
							return
						}
						defer func() { require.NoError(t, s.Close()) }()
						opened++
						p.check(t, s)
					})
				}
			}
			t.Logf("%d damages kept the store from opening, %d did no harm", refused, opened)
			require.Positive(t, refused)
			require.Positive(t, opened)
		})
	}
}

// filesOfEachKind lists the files of a store, but not more than two of a kind.
func filesOfEachKind(t *testing.T, dir string) (files []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	kinds := make(map[string]int)
	for _, e := range entries {
		kind := filepath.Ext(e.Name())
		if kind == "" {
			kind = e.Name()
		}
		if kinds[kind]++; kinds[kind] <= 2 {
			files = append(files, e.Name())
		}
	}
	return files
}

// requireStillRefused makes sure that a second attempt does not take what the
// first has left for good order.
func requireStillRefused(t *testing.T, dir string) {
	t.Helper()
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir, SyncWrites: true})
	if err == nil {
		require.NoError(t, s.Close())
	}
	require.ErrorIs(t, err, badgerstore.ErrDamaged)
}

// A damage is something that happens to a file.
type damage struct {
	name string
	do   func(t *testing.T, path string)
}

// damages lists what may happen to a file, in places spread over its content.
func damages(t *testing.T, path string) []damage {
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	end := int64(len(bytes.TrimRight(content, "\x00")))
	list := []damage{
		{"deleted", func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) }},
		{"emptied", truncateTo(0)},
		{"zeroed", func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, make([]byte, len(content)), 0o600))
		}},
		{"with something after it", func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			require.NoError(t, err)
			defer f.Close()
			_, err = f.WriteString("something")
			require.NoError(t, err)
		}},
	}
	const places = 3
	for i := range int64(places + 1) {
		at := i * max(end-1, 0) / places
		if at >= int64(len(content)) {
			break
		}
		list = append(list,
			damage{fmt.Sprintf("cut at %d", at), truncateTo(at)},
			damage{fmt.Sprintf("flipped at %d", at), flip(at)},
		)
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

func TestDirectoryOfSomebodyElse(t *testing.T) {
	for _, name := range []string{"MANIFEST", "000001.sst", "00001.mem", "000001.vlog", "KEYREGISTRY"} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o600))
		_, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir})
		require.ErrorIs(t, err, badgerstore.ErrDamaged, name)
		content, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, "mine", string(content), "somebody else's file was changed")
	}
}

// Files of one store in the directory of another do not fit, even if each of
// them is whole.
func TestFilesOfAnotherStore(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	populate(t, a, false)
	populate(t, b, false)
	marker, err := os.ReadFile(filepath.Join(b, "wxgate.store"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(a, "wxgate.store"), marker, 0o600))
	_, err = badgerstore.Open(t.Context(), badgerstore.Options{Dir: a})
	require.ErrorIs(t, err, badgerstore.ErrDamaged)
}

// Only the newest log may end in the middle of a write. In one that was full
// before, everything was written, and what follows shows that it was
// acknowledged.
func TestOlderLogDamaged(t *testing.T) {
	good := t.TempDir()
	p := populate(t, good, true)
	logs, err := filepath.Glob(filepath.Join(good, "*.mem"))
	require.NoError(t, err)
	older := filepath.Base(logs[len(logs)-1])
	var number int
	_, err = fmt.Sscanf(older, "%05d.mem", &number)
	require.NoError(t, err)
	newer := fmt.Sprintf("%05d.mem", number+1)
	copyFile(t, filepath.Join(good, older), filepath.Join(good, newer)) // the same writes again do no harm

	for name, damage := range map[string]func(*testing.T, string){
		"whole":   func(*testing.T, string) {},
		"flipped": flip(3000),
		"deleted": func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			copyDir(t, good, dir)
			damage(t, filepath.Join(dir, older))
			s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir, SyncWrites: true})
			if name != "whole" {
				require.ErrorIs(t, err, badgerstore.ErrDamaged)
				return
			}
			require.NoError(t, err)
			p.check(t, s)
			require.NoError(t, s.Close())
		})
	}
}

// A crash in the middle of a write is no damage: nobody was told that it had
// been done.
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

	var log logged
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir, SyncWrites: true, Logger: log.logger()})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	require.Contains(t, log.String(), "unfinished write")
	p.check(t, s)
}

// A first start that was killed leaves nothing that anybody relies on.
func TestFirstStartInterrupted(t *testing.T) {
	whole := t.TempDir()
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: whole})
	require.NoError(t, err)
	require.NoError(t, s.Close())
	entries, err := os.ReadDir(whole)
	require.NoError(t, err)
	require.NotEmpty(t, entries)
	// Killed before anything but the lock was there.
	dir := t.TempDir()
	copyFile(t, filepath.Join(whole, "wxgate.lock"), filepath.Join(dir, "wxgate.lock"))
	open(t, dir)
	// Killed when the marker had been made, but not written.
	dir = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "wxgate.store"), nil, 0o600))
	open(t, dir)
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
	}
}

func TestDirectoryIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := open(t, dir)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
	require.NoError(t, s.Put(t.Context(), "k", nil, time.Hour))
}
