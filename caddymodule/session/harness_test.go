package session_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/sessiontest"
)

const appID = "wx0123456789abcdef"

// openStore opens a real store in a directory of the test.
func openStore(t testing.TB) *badgerstore.Store {
	t.Helper()
	s, err := badgerstore.Open(t.Context(), badgerstore.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// A network stands between the Manager and a real store, and can do what
// networks and disks do.
type network struct {
	session.Store

	mu      sync.Mutex
	calls   []string // method and prefix of the key, in order
	wrote   int      // updates that changed something
	before  func(method, key string) error
	after   func(method, key string, value []byte) ([]byte, error)
	room    error
	syncing error
}

func between(store session.Store) *network { return &network{Store: store} }

var errDown = errors.New("connection refused")

// down makes every call fail that does not get past the filter.
func (n *network) down(which func(method, key string) bool) {
	n.set(func() {
		n.before = func(method, key string) error {
			if which(method, key) {
				return errDown
			}
			return nil
		}
	})
}

func (n *network) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

func (n *network) up() {
	n.set(func() { n.before, n.after, n.room, n.syncing = nil, nil, nil, nil })
}

// taken returns the calls since the last time.
func (n *network) taken() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	calls := n.calls
	n.calls = nil
	return calls
}

func (n *network) enter(method, key string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	kind := key
	for i := range key {
		if key[i] == ':' {
			kind = key[:i]
			break
		}
	}
	n.calls = append(n.calls, method+" "+kind)
	if n.before == nil {
		return nil
	}
	return n.before(method, key)
}

func (n *network) Get(ctx context.Context, key string) ([]byte, error) {
	if err := n.enter("get", key); err != nil {
		return nil, err
	}
	value, err := n.Store.Get(ctx, key)
	n.mu.Lock()
	after := n.after
	n.mu.Unlock()
	if err == nil && after != nil {
		return after("get", key, value)
	}
	return value, err
}

func (n *network) Update(ctx context.Context, key string, change session.ChangeFunc) error {
	if err := n.enter("update", key); err != nil {
		return err
	}
	err := n.Store.Update(ctx, key, func(old []byte) ([]byte, time.Duration, error) {
		// As the contract allows, and a contended store does.
		if _, _, err := change(bytes.Clone(old)); err != nil {
			return nil, 0, err
		}
		return change(old)
	})
	if err == nil {
		n.set(func() { n.wrote++ })
	}
	return err
}

func (n *network) Sync(context.Context) error {
	if err := n.enter("sync", ""); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.syncing
}

func (n *network) Room() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.room
}

func (n *network) Free() (uint64, bool) { return 0, false }

// watched is a network whose store tells of changes, so that the Manager keeps
// sessions in memory.
type watched struct{ *network }

func (w watched) Observe(changed func(string)) (time.Duration, func()) {
	return w.Store.(session.Observer).Observe(changed)
}

// reports collects what a Manager reports.
type reports struct {
	mu     sync.Mutex
	events []string
}

func (r *reports) report(event string, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event)
}

func (r *reports) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.events...)
}

// A clock is for session.Config.Now, and stands still until it is moved.
type clock struct{ now atomic.Pointer[time.Time] }

// newClock returns a clock that stands at a fixed date.
func newClock() *clock {
	c := new(clock)
	begin := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	c.now.Store(&begin)
	return c
}

// Now returns where the clock stands.
func (c *clock) Now() time.Time { return *c.now.Load() }

// Advance moves the clock, back if d is negative.
func (c *clock) Advance(d time.Duration) {
	next := c.Now().Add(d)
	c.now.Store(&next)
}

// A fixture is a Manager, on a real store, whose time the test moves.
type fixture struct {
	*session.Manager
	t       testing.TB
	cfg     session.Config
	clock   *clock
	reports *reports
}

// manage makes a Manager. change may alter its configuration.
func manage(t testing.TB, store session.Store, change ...func(*session.Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, clock: newClock(), reports: new(reports)}
	cfg := session.Config{
		Store:  store,
		Keys:   [][]byte{sessiontest.Key(1)},
		Now:    f.clock.Now,
		Report: f.reports.report,
	}
	for _, c := range change {
		c(&cfg)
	}
	f.cfg = cfg
	f.restart()
	return f
}

// restart puts a new Manager in the place of one that was closed, as a reload
// does. Closing waits for renewals, so that a test can see what they did.
func (f *fixture) restart() {
	f.t.Helper()
	m, err := session.NewManager(f.t.Context(), f.cfg)
	require.NoError(f.t, err)
	f.t.Cleanup(m.Close)
	f.Manager = m
}

func (f *fixture) login(openID string) string {
	f.t.Helper()
	return f.create(sessiontest.Login(openID)).Token
}

func (f *fixture) create(login session.Login) session.Created {
	f.t.Helper()
	created, err := f.Create(f.t.Context(), login)
	require.NoError(f.t, err)
	return created
}

func (f *fixture) lives(token, openID string) *session.Session {
	f.t.Helper()
	s, err := f.Lookup(f.t.Context(), token)
	require.NoError(f.t, err)
	require.Equal(f.t, openID, s.OpenID)
	return s
}

func (f *fixture) dead(token string) {
	f.t.Helper()
	s, err := f.Lookup(f.t.Context(), token)
	require.ErrorIs(f.t, err, session.ErrInvalid)
	require.Nil(f.t, s)
}

// unanswered requires that the store's trouble is not taken for "no session".
func (f *fixture) unanswered(token string) error {
	f.t.Helper()
	_, err := f.Lookup(f.t.Context(), token)
	require.Error(f.t, err)
	require.NotErrorIs(f.t, err, session.ErrInvalid)
	return err
}

// count is a number that several goroutines add to.
type count struct{ atomic.Int64 }
