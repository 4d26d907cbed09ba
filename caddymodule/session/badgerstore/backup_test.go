package badgerstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// A backup that is made while users log in holds everyone who was logged in
// when it began.
func TestBackupWhileInUse(t *testing.T) {
	s := open(t, t.TempDir())
	m := manage(t, s)
	tokens := make(map[string]string)
	for i := range 300 {
		openID := fmt.Sprint("o", i)
		tokens[login(t, m, openID)] = openID
	}
	ended := login(t, m, "oEnded")
	_, err := m.Revoke(t.Context(), ended)
	require.NoError(t, err)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_, err := m.Create(t.Context(), sessiontest.Login(fmt.Sprint("oLater", i)))
				assert.NoError(t, err)
			}
		}
	})
	var backup bytes.Buffer
	require.NoError(t, m.Backup(t.Context(), &backup))
	close(stop)
	wg.Wait()

	dir := filepath.Join(t.TempDir(), "restored")
	n, err := badgerstore.Restore(t.Context(), bytes.NewReader(backup.Bytes()), dir)
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, int64(300+1))
	restored := manage(t, open(t, dir))
	for token, openID := range tokens {
		found, err := restored.Lookup(t.Context(), token)
		require.NoError(t, err)
		require.Equal(t, openID, found.OpenID)
	}
	_, err = restored.Lookup(t.Context(), ended)
	require.ErrorIs(t, err, session.ErrInvalid)
}

func TestRestoreKeepsTTL(t *testing.T) {
	s := open(t, t.TempDir())
	want := map[string]time.Duration{"session:a": time.Hour, "session:b": 100 * time.Hour, "meta": 0}
	for key, ttl := range want {
		require.NoError(t, sessiontest.Put(t.Context(), s, key, []byte(key), ttl))
	}
	var backup bytes.Buffer
	require.NoError(t, s.Backup(t.Context(), &backup))
	dir := t.TempDir()
	_, err := badgerstore.Restore(t.Context(), &backup, dir)
	require.NoError(t, err)
	found := 0
	require.NoError(t, open(t, dir).Scan(t.Context(), "", func(key string, value []byte, ttl time.Duration) error {
		require.Equal(t, key, string(value))
		require.InDelta(t, want[key], ttl, float64(time.Minute))
		found++
		return nil
	}))
	require.Equal(t, len(want), found)
}

// A backup that is not whole is refused, and leaves nothing behind that looks
// like a store.
func TestRestoreRefuses(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range 50 {
		require.NoError(t, sessiontest.Put(t.Context(), s, fmt.Sprint("session:", i), []byte("value"), time.Hour))
	}
	var whole bytes.Buffer
	require.NoError(t, s.Backup(t.Context(), &whole))
	good := whole.Bytes()
	cases := map[string][]byte{
		"nothing":              {},
		"something else":       []byte("wxgate backup 3\nwhatever"),
		"something after it":   append(bytes.Clone(good), 0),
		"two in a row":         append(bytes.Clone(good), good...),
		"without the checksum": good[:len(good)-32],
		"cut in the middle":    good[:len(good)/2],
		"cut by a byte":        good[:len(good)-1],
	}
	for _, at := range []int{0, 20, len(good) / 3, len(good) / 2, len(good) - 40, len(good) - 1} {
		flipped := bytes.Clone(good)
		flipped[at] ^= 4
		cases[fmt.Sprint("flipped at ", at)] = flipped
	}
	for name, content := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := badgerstore.Restore(t.Context(), bytes.NewReader(content), dir)
			require.ErrorIs(t, err, badgerstore.ErrNoBackup)
			n, err := badgerstore.Restore(t.Context(), bytes.NewReader(good), dir)
			require.NoError(t, err, "the directory can be used again")
			require.EqualValues(t, 50, n)
		})
	}

	t.Run("a directory in use", func(t *testing.T) {
		dir := t.TempDir()
		other := open(t, dir)
		require.NoError(t, sessiontest.Put(t.Context(), other, "session:a", []byte("v"), time.Hour))
		_, err := badgerstore.Restore(t.Context(), bytes.NewReader(good), dir)
		require.ErrorIs(t, err, badgerstore.ErrNotEmpty)
		_, err = other.Get(t.Context(), "session:a")
		require.NoError(t, err)
	})
	t.Run("a directory with anything in it", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "letter"), nil, 0o600))
		_, err := badgerstore.Restore(t.Context(), bytes.NewReader(good), dir)
		require.ErrorIs(t, err, badgerstore.ErrNotEmpty)
	})
	t.Run("a reader that fails", func(t *testing.T) {
		broken := errors.New("connection reset")
		_, err := badgerstore.Restore(t.Context(), io.MultiReader(bytes.NewReader(good[:100]), failing{broken}), t.TempDir())
		require.ErrorIs(t, err, broken)
	})
	t.Run("a caller who left", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := badgerstore.Restore(ctx, bytes.NewReader(good), t.TempDir())
		require.ErrorIs(t, err, context.Canceled)
	})
}

// failing is a connection that breaks.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestBackupToABrokenConnection(t *testing.T) {
	s := open(t, t.TempDir())
	require.NoError(t, sessiontest.Put(t.Context(), s, "session:a", []byte("v"), time.Hour))
	broken := errors.New("broken pipe")
	require.ErrorIs(t, s.Backup(t.Context(), failing{broken}), broken)
}

// A restore that was killed leaves a directory that does not open.
func TestRestoreInterrupted(t *testing.T) {
	dir := t.TempDir()
	reader, writer := io.Pipe()
	restored := make(chan error, 1)
	go func() {
		_, err := badgerstore.Restore(t.Context(), reader, dir)
		restored <- err
	}()
	_, err := writer.Write([]byte("wxgate backup 3\n"))
	require.NoError(t, err)
	_, err = writer.Write(make([]byte, 0))
	require.NoError(t, err)
	crash := t.TempDir()
	copyDir(t, dir, crash)
	require.NoError(t, writer.CloseWithError(io.ErrUnexpectedEOF))
	require.ErrorIs(t, <-restored, badgerstore.ErrNoBackup)
	_, err = badgerstore.Open(t.Context(), badgerstore.Options{Dir: crash})
	require.ErrorIs(t, err, badgerstore.ErrRestoring)
}

// Long reads give way to Close.
func TestCloseDuringScan(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range 100 {
		require.NoError(t, sessiontest.Put(t.Context(), s, fmt.Sprint("session:", i), []byte("value"), time.Hour))
	}
	closed := make(chan error, 1)
	visits := 0
	err := s.Scan(t.Context(), "session:", func(key string, _ []byte, _ time.Duration) error {
		if visits++; visits > 1 {
			return nil
		}
		go func() { closed <- s.Close() }()
		for { // the store may be used from within, until it closes
			if _, err := s.Get(t.Context(), key); errors.Is(err, session.ErrClosed) {
				return nil
			}
		}
	})
	require.ErrorIs(t, err, session.ErrClosed)
	require.NoError(t, <-closed)
}

// The receiver of a backup may stop reading. Close does not wait for that.
func TestCloseDuringAStalledBackup(t *testing.T) {
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: t.TempDir(), SyncWrites: true})
	require.NoError(t, err)
	for i := range 3 { // more than it writes at a time
		require.NoError(t, sessiontest.Put(t.Context(), s, fmt.Sprint("session:", i), make([]byte, 256<<10), time.Hour))
	}
	reader, writer := io.Pipe()
	backedUp := make(chan error, 1)
	go func() { backedUp <- s.Backup(t.Context(), writer) }()
	_, err = reader.Read(make([]byte, 1)) // the rest is not read
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, reader.CloseWithError(io.ErrClosedPipe))
	require.Error(t, <-backedUp)
}

func TestCountOfMany(t *testing.T) {
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	m := manage(t, s)
	const sessions = 10_000
	for i := range sessions {
		login(t, m, fmt.Sprint("o", i))
	}
	n, ok := m.Count(t.Context())
	require.True(t, ok)
	require.InEpsilon(t, sessions, n, 0.15)
}
