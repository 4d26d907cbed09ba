package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of Config.
const (
	DefaultIdleTimeout = 72 * time.Hour
	DefaultLifetime    = 30 * 24 * time.Hour
	DefaultCacheSize   = 64 << 10
)

// Config is the configuration of a Manager.
type Config struct {
	// Store keeps the records. The Manager does not close it.
	Store Store

	// Keys are the encryption keys, KeySize bytes each. The first seals, all
	// open, and a record that an old one opened is soon sealed again. An old
	// key may be dropped one Lifetime after it was replaced. If several nodes
	// share the store, each must have the new key as its second one before
	// the first node has it as its first.
	Keys [][]byte

	// IdleTimeout ends a session that was not used for so long.
	// Default DefaultIdleTimeout.
	IdleTimeout time.Duration

	// Lifetime ends a session however much it is used. A shorter one also
	// shortens the sessions that exist; a longer one does not prolong them.
	// Default DefaultLifetime.
	Lifetime time.Duration

	// MaxPerUser is how many sessions a user may have at a time; a login
	// beyond it evicts the oldest. 0 means the constant of this name, which is
	// the most.
	MaxPerUser int

	// CacheSize is how many opened sessions are kept in memory, at about 450
	// bytes each, if the Store is an Observer. Default DefaultCacheSize.
	CacheSize int

	// Now returns the time. Default time.Now.
	Now func() time.Time

	// Measure, if set, is called after each store call. op is one of get,
	// update, sync, scan, count and ping. An absent key and a caller who has
	// gone are not passed as errors.
	Measure func(op string, took time.Duration, err error)

	// Found, if set, is called for each look-up: inMemory is false if it had
	// to ask the store.
	Found func(inMemory bool)

	// Report, if set, is called when background work fails or a record cannot
	// be read. event is a constant; the same one is reported at most once a
	// minute. err names no user, token or key.
	Report func(event string, err error)
}

// A Manager makes, finds and revokes sessions. It is safe for concurrent use,
// and several may work on one Store, in one process or on many nodes.
type Manager struct {
	calls       calls
	sealer      *sealer
	now         func() int64 // nanoseconds since 1970
	reporter    *reporter
	cache       atomic.Pointer[cache] // nil if closed or the store is no Observer
	found       func(inMemory bool)
	meta        atomic.Pointer[knownMeta]
	renewals    renewals
	idleTimeout int64 // nanoseconds
	lifetime    int64 // nanoseconds
	maxPerUser  int

	mu       sync.Mutex
	closed   bool
	underway sync.WaitGroup // background work
}

// errUnchanged ends an Update that has nothing to write.
var errUnchanged = errors.New("nothing to change")

// NewManager begins to work on the store in cfg, and marks the store as its
// own if it is empty. The error wraps ErrWrongKey or ErrVersion if the store is
// not one that this version can open with the keys in cfg; another error is the
// store's.
func NewManager(ctx context.Context, cfg Config) (*Manager, error) {
	if cfg.Store == nil {
		return nil, errors.New("no session store is configured")
	}
	if cfg.IdleTimeout < 0 || cfg.Lifetime < 0 || cfg.MaxPerUser < 0 || cfg.MaxPerUser > MaxPerUser || cfg.CacheSize < 0 {
		return nil, errors.New("a session limit is out of its range")
	}
	sealer, err := newSealer(cfg.Keys)
	if err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Found == nil {
		cfg.Found = func(bool) {}
	}
	if cfg.Measure == nil {
		cfg.Measure = func(string, time.Duration, error) {}
	}
	if cfg.Report == nil {
		cfg.Report = func(string, error) {}
	}
	now := func() int64 { return cfg.Now().UnixNano() }
	m := &Manager{
		calls:       calls{store: cfg.Store, measure: cfg.Measure},
		sealer:      sealer,
		now:         now,
		found:       cfg.Found,
		reporter:    &reporter{callback: cfg.Report, now: now, last: make(map[string]int64)},
		idleTimeout: int64(cmp.Or(cfg.IdleTimeout, DefaultIdleTimeout)),
		lifetime:    int64(cmp.Or(cfg.Lifetime, DefaultLifetime)),
		maxPerUser:  cmp.Or(cfg.MaxPerUser, MaxPerUser),
	}
	if observer, ok := cfg.Store.(Observer); ok {
		m.cache.Store(newCache(cmp.Or(cfg.CacheSize, DefaultCacheSize), observer))
	}
	if err := m.startMeta(ctx); err != nil {
		m.Close()
		return nil, fmt.Errorf("starting on the session store: %w", err)
	}
	return m, nil
}

// Close ends the Manager's use of the store, waits for writes that are under
// way, and frees the memory of cached sessions. It does not close the store.
// Requests may still ask the Manager afterwards, as long as the store is open:
// they are answered from the store.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	if c := m.cache.Swap(nil); c != nil {
		c.cancel()
	}
	m.underway.Wait()
}

// backgroundTimeout bounds one piece of background work.
const backgroundTimeout = 5 * time.Second

// background does work in a goroutine that Close waits for. After Close, for a
// request of a configuration that a reload replaced, it is done at once.
func (m *Manager) background(work func(ctx context.Context)) {
	bounded := func() {
		ctx, cancel := context.WithTimeout(context.Background(), backgroundTimeout)
		defer cancel()
		work(ctx)
	}
	m.mu.Lock()
	closed := m.closed
	if !closed {
		m.underway.Go(bounded)
	}
	m.mu.Unlock()
	if closed {
		bounded()
	}
}

// Ping returns nil if the store would answer now.
func (m *Manager) Ping(ctx context.Context) error { return m.calls.ping(ctx) }

// Room returns an error wrapping ErrFull while the store has no room for new
// sessions.
func (m *Manager) Room() error {
	if checker, ok := m.calls.store.(RoomChecker); ok {
		return checker.Room()
	}
	return nil
}

// Free returns the bytes left to the store, and false if it cannot tell.
func (m *Manager) Free() (bytes uint64, ok bool) {
	if checker, ok := m.calls.store.(RoomChecker); ok {
		return checker.Free()
	}
	return 0, false
}

// Backup writes a consistent copy of the store to w while it is in use. The
// copy is sealed like the store. The error is errors.ErrUnsupported if the
// store has no such ability.
func (m *Manager) Backup(ctx context.Context, w io.Writer) error {
	backuper, ok := m.calls.store.(Backuper)
	if !ok {
		return fmt.Errorf("backing up this session store: %w", errors.ErrUnsupported)
	}
	if err := backuper.Backup(ctx, w); err != nil {
		return fmt.Errorf("backing up session store: %w", err)
	}
	return nil
}

// reportInterval is the least time between two reports of the same event.
const reportInterval = time.Minute

// A reporter passes on failures of background work.
type reporter struct {
	callback func(event string, err error)
	now      func() int64

	mu   sync.Mutex
	last map[string]int64
}

// report calls the callback, unless it did so for the same event a short while
// ago.
func (r *reporter) report(event string, err error) {
	now := r.now()
	r.mu.Lock()
	last, known := r.last[event]
	due := !known || now-last >= int64(reportInterval)
	if due {
		r.last[event] = now
	}
	r.mu.Unlock()
	if due {
		r.callback(event, err)
	}
}
