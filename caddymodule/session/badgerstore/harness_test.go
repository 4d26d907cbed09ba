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
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// population is what a directory's sessions must be.
type population struct {
	Live    map[string]string // token to openid
	Revoked []string
}

// populate makes a directory as a gateway leaves it: several tables, and if it
// crashed, a log with acknowledged writes that no table has.
func populate(t *testing.T, dir string, crashed bool) population {
	t.Helper()
	p := population{Live: make(map[string]string)}
	for round := range 3 {
		s := open(t, dir)
		m := manage(t, s)
		for i := range 30 {
			openID := fmt.Sprintf("o%d-%d", round, i)
			p.Live[login(t, m, openID)] = openID
		}
		for token, openID := range p.Live { // some of this round and of those before
			if len(p.Revoked) == 10*(round+1) {
				break
			}
			if len(p.Revoked)%2 == 0 {
				_, err := m.Revoke(t.Context(), token)
				require.NoError(t, err)
			} else {
				_, err := m.RevokeUser(t.Context(), appID, openID)
				require.NoError(t, err)
			}
			p.Revoked = append(p.Revoked, token)
			delete(p.Live, token)
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
	for _, token := range p.Revoked {
		_, err := m.Lookup(t.Context(), token)
		require.ErrorIs(t, err, session.ErrInvalid, "a revoked session")
	}
	for token, openID := range p.Live {
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

// one is what each key counts.
func one(string, []byte) int64 { return 1 }
