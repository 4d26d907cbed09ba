package badgerstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

// Nothing is acknowledged before the disk has it, and whoever comes while a
// sync runs waits for the next one: the running one may have begun before.
func TestSyncComesBeforeAcknowledgement(t *testing.T) {
	s := open(t, t.TempDir())
	m := manage(t, s)
	syncing, finish, letPass := holdSyncs(t, s)
	answers := make(chan session.Created, 8)
	create := func(openID string) {
		created, err := m.Create(t.Context(), sessiontest.Login(openID))
		assert.NoError(t, err)
		answers <- created
	}
	go create("oFirst")
	<-syncing
	require.Empty(t, answers, "answered before the sync was done")
	for i := range 4 {
		go create(fmt.Sprint("oLater", i))
	}
	waitForUsers(t, s, 5) // they have written, and go to wait
	require.Empty(t, answers)
	finish <- struct{}{}
	<-syncing
	<-answers
	require.Empty(t, answers, "the later ones wait for a sync of their own")
	letPass()
	for range 4 {
		<-answers
	}
}

// holdSyncs makes each sync say that the disk has the data, and wait to be
// finished before it is acknowledged, until letPass is called.
func holdSyncs(t *testing.T, s *badgerstore.Store) (syncing <-chan struct{}, finish chan<- struct{}, letPass func()) {
	held, finished, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s.DuringSync(func() {
		select {
		case held <- struct{}{}:
		case <-over:
			return
		}
		select {
		case <-finished:
		case <-over:
		}
	})
	letPass = sync.OnceFunc(func() { close(over) })
	t.Cleanup(letPass) // a test that failed must not keep the store from closing
	return held, finished, letPass
}

// waitForUsers waits until n users are in the store, synced or not.
func waitForUsers(t *testing.T, s *badgerstore.Store, n int64) {
	t.Helper()
	for {
		count, err := s.Count(t.Context(), "user:")
		require.NoError(t, err)
		if count >= n {
			return
		}
	}
}

// Writers that come together share syncs.
func TestSyncIsShared(t *testing.T) {
	s := open(t, t.TempDir())
	var syncs atomic.Int64
	s.DuringSync(func() { syncs.Add(1) })
	const writers, rounds = 64, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				assert.NoError(t, s.Put(t.Context(), fmt.Sprintf("session:%d-%d", w, i), []byte("v"), time.Hour))
				assert.NoError(t, s.Sync(t.Context()))
			}
		})
	}
	wg.Wait()
	require.Less(t, syncs.Load(), int64(writers*rounds/2))
}

// A caller who gives up does not take the sync from the others.
func TestSyncOutlivesItsFirstCaller(t *testing.T) {
	s := open(t, t.TempDir())
	syncing, finish, letPass := holdSyncs(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp, stayed := make(chan error, 1), make(chan error, 1)
	go func() { gaveUp <- s.Sync(ctx) }()
	<-syncing
	go func() { stayed <- s.Sync(t.Context()) }()
	cancel()
	require.ErrorIs(t, <-gaveUp, context.Canceled)
	finish <- struct{}{}
	letPass()
	require.NoError(t, <-stayed)
}

// After a sync has failed nobody knows what the disk has.
func TestNothingIsTrustedAfterAFailedSync(t *testing.T) {
	s := open(t, t.TempDir())
	require.NoError(t, s.Put(t.Context(), "session:a", []byte("v"), time.Hour))
	broken := errors.New("input/output error")
	require.ErrorIs(t, s.Fail(broken), broken)
	_, err := s.Get(t.Context(), "session:a")
	require.ErrorIs(t, err, broken)
	require.ErrorIs(t, s.Put(t.Context(), "session:a", []byte("v"), time.Hour), broken)
	require.ErrorIs(t, s.Sync(t.Context()), broken)
	require.ErrorIs(t, s.Fail(errors.New("another")), broken, "the first reason counts")
}

// A write may lie in a log file that was full just before the sync.
func TestSyncCoversFullLogs(t *testing.T) {
	s := open(t, t.TempDir())
	require.NoError(t, s.Sync(t.Context()))
	_, before := s.UnsyncedLogs()
	value := make([]byte, 256<<10)
	for i := range 3 * badgerstore.MemTableSize / len(value) {
		require.NoError(t, s.Put(t.Context(), fmt.Sprintf("session:%d", i), value, time.Hour))
	}
	require.NoError(t, s.Sync(t.Context()))
	oldest, newest := s.UnsyncedLogs()
	require.GreaterOrEqual(t, newest, before+2)
	require.Equal(t, newest, oldest, "all before the newest are done with")
}

func TestOneProcessPerDirectory(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir})
	require.ErrorIs(t, err, badgerstore.ErrInUse)
	require.ErrorContains(t, err, dir)
	require.NoError(t, s.Put(t.Context(), "session:a", []byte("v"), time.Hour), "the first one is not disturbed")

	second := exec.Command(os.Args[0], "-test.run=^TestChildOpens$")
	second.Env = append(os.Environ(), childDir+"="+dir)
	out, err := second.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), badgerstore.ErrInUse.Error())

	require.NoError(t, s.Close())
	open(t, dir)
}

const childDir = "WXGATE_TEST_CHILD_DIR"

// TestChildOpens is the second process of TestOneProcessPerDirectory.
func TestChildOpens(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	_, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: dir})
	fmt.Println(err)
}
