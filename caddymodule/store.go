package caddymodule

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// A StoreModule is a guest module of the namespace `wxgate.stores`: the
// configuration of a session store and how to open it.
type StoreModule interface {
	caddy.Module

	// StoreName names what Open opens, such as a directory. Configurations
	// with the same name share one open store, so that a reload does not
	// close it. It holds no secret.
	StoreName() string

	// Open opens the store. It is never called while validating.
	Open(ctx context.Context) (session.Store, error)
}

// Optional abilities of a StoreModule.
type (
	// A StoreTitler has another title for people than StoreName, which may
	// distinguish stores by a hash.
	StoreTitler interface {
		StoreTitle() string
	}

	// A StoreOptioner has options that an open store cannot change: a
	// configuration with the same name and other options is refused until
	// Caddy is restarted. They hold no secret.
	StoreOptioner interface {
		StoreOptions() string
	}

	// A StoreExaminer examines for `caddy wxgate check` what the store needs,
	// such as a directory, without opening it, and reports whether the store
	// may be opened then. inUse is whether the running gateway has it open. It
	// may change the module, which no gateway uses, so that Open is careful.
	StoreExaminer interface {
		ExamineStore(f *Findings, inUse bool) (open bool)
	}
)

// StoreTitle returns the name of a store for people.
func StoreTitle(module StoreModule) string {
	if t, ok := module.(StoreTitler); ok {
		return t.StoreTitle()
	}
	return module.StoreName()
}

func storeOptions(module StoreModule) string {
	if o, ok := module.(StoreOptioner); ok {
		return o.StoreOptions()
	}
	return ""
}

// SharedByNodes is implemented by store modules whose store several gateways
// use at once, so that they must be given the same encryption key.
type SharedByNodes interface {
	SharedByNodes()
}

// Existing is implemented by store modules that can tell, without opening it,
// that their store is there already. A new key file is then never made.
type Existing interface {
	StoreExists() bool
}

// Resetter is implemented by store modules that can begin with an empty store
// where theirs is damaged: sessions cost their users nothing to replace, and a
// gateway that does not start costs every user everything.
type Resetter interface {
	// Reset is called by the gateway, not by commands, with the error of Open.
	// If it returns nil, Open is called again; otherwise the start fails with
	// what it returns.
	Reset(err error) error
}

// stores keeps each open store while configurations come and go: Caddy
// provisions the new configuration before it cleans up the old one, and Badger
// locks its directory.
var stores = caddy.NewUsagePool()

// openTimeout bounds the start of a store, which may have to replay its log.
const openTimeout = 60 * time.Second

// errNotOpen is returned when this configuration has ended, or not begun.
var errNotOpen = errors.New("the session store is not open")

// sharedStore is an open store in the pool.
type sharedStore struct {
	name, options string
	session.Store
}

// Destruct closes the store when the last configuration has given it back. The
// store itself waits for the calls that are under way.
func (s *sharedStore) Destruct() error { return s.Close() }

// LoadStore provisions the store module of a configuration that is not going to
// run. raw is the option store in JSON, or nil for the default. release gives back
// what that took.
func LoadStore(raw json.RawMessage) (module StoreModule, release func(), err error) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	a := &App{StoreRaw: raw}
	if err := a.loadStoreModule(ctx); err != nil {
		cancel()
		return nil, nil, err
	}
	return a.module, cancel, nil
}

func (a *App) loadStoreModule(ctx caddy.Context) error {
	if a.StoreRaw == nil {
		a.StoreRaw = caddyconfig.JSONModuleObject(new(BadgerStore), "module", "badger", nil)
	}
	mod, err := ctx.LoadModule(a, "StoreRaw")
	if err != nil {
		return fmt.Errorf("loading store module: %w", err)
	}
	module, ok := mod.(StoreModule)
	if !ok {
		return fmt.Errorf("module %T is not a session store", mod)
	}
	a.module = module
	return nil
}

// sessions returns the session manager and opens the store if it is not open yet:
// Caddy starts apps in no order, so a request may come before Start. Requests
// that come meanwhile wait for the one attempt and share its outcome. After an
// attempt that failed they wait for none: it goes on in the background.
func (a *App) sessions() (*session.Manager, error) {
	if m := a.manager.Load(); m != nil {
		return m, nil
	}
	if err := a.outage.reason(); err != nil {
		return nil, err
	}
	_, err, _ := a.opening.Do("", func() (any, error) { return nil, a.openStore() })
	if err != nil {
		return nil, err
	}
	if m := a.manager.Load(); m != nil {
		return m, nil
	}
	return nil, errNotOpen
}

func (a *App) openStore() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return errNotOpen
	}
	if a.manager.Load() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(a.ctx, openTimeout)
	defer cancel()

	keys := a.keys
	if a.keyFile != "" {
		fresh := true
		if e, ok := a.module.(Existing); ok {
			fresh = !e.StoreExists()
		}
		key, err := a.readOrMakeKeyFile(a.keyFile, fresh)
		if err != nil {
			return err
		}
		keys = [][]byte{key}
		a.keys = keys // for APITokenKeys
	}
	if err := a.deriveAssertionKeys(keys); err != nil {
		return err
	}
	salt, err := hkdf.Key(sha256.New, keys[0], nil, "wxgate users in logs", sha256.Size)
	if err != nil {
		return fmt.Errorf("deriving the salt of users in logs: %w", err)
	}
	shared, err := takeStore(ctx, a.module)
	if err != nil {
		return fmt.Errorf("opening session store: %w", err)
	}
	manager, err := session.NewManager(ctx, session.Config{
		Store:       shared.Store,
		Now:         systemClock.now,
		Keys:        keys,
		IdleTimeout: time.Duration(a.Session.IdleTimeout),
		Lifetime:    time.Duration(a.Session.Lifetime),
		MaxPerUser:  *a.Session.MaxPerUser,
		Measure:     a.metrics.storeCall,
		Found:       a.metrics.lookedUp,
		Report: func(event string, err error) {
			a.logger.Error(event, zap.Error(err))
		},
	})
	if err != nil {
		_, closeErr := stores.Delete(shared.name)
		return errors.Join(a.explainForeignStore(err), closeErr)
	}
	a.shared = shared
	a.logSalt = salt
	a.keyID = session.KeyID(keys[0])
	a.manager.Store(manager)
	return nil
}

// explainForeignStore adds what to do to the error of a store that another key
// has sealed or another version has written.
func (a *App) explainForeignStore(err error) error {
	if errors.Is(err, session.ErrVersion) {
		return fmt.Errorf("reading session store: %w; run the version that wrote it, or begin with an empty store, which ends all sessions", err)
	}
	if !errors.Is(err, session.ErrWrongKey) {
		return fmt.Errorf("reading session store: %w", err)
	}
	if a.keyFile != "" {
		return fmt.Errorf("the key in %s did not seal the session store: %w; restore the key file from your backup, or begin with an empty store, which ends all sessions", a.keyFile, err)
	}
	return fmt.Errorf("none of the keys of encryption_key sealed the session store: %w; add the earlier key behind the new one (encryption_key NEW OLD), or begin with an empty store, which ends all sessions", err)
}

// takeStore opens the store of module, or shares the one that is open.
func takeStore(ctx context.Context, module StoreModule) (*sharedStore, error) {
	name := module.StoreName()
	value, _, err := stores.LoadOrNew(name, func() (_ caddy.Destructor, err error) {
		// A panic here would leave the pool's entry locked for good.
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("opening panicked: %v", p)
			}
		}()
		store, err := module.Open(ctx)
		if resetter, ok := module.(Resetter); ok && err != nil {
			if err = resetter.Reset(err); err == nil {
				collected.storeResets.Inc()
				store, err = module.Open(ctx)
			}
		}
		if err != nil {
			return nil, err
		}
		return &sharedStore{name: name, options: storeOptions(module), Store: store}, nil
	})
	if err != nil {
		return nil, err
	}
	shared := value.(*sharedStore)
	if shared.options != storeOptions(module) {
		_, err := stores.Delete(name)
		return nil, errors.Join(fmt.Errorf("%s is open with other options (%s, now %s): restart Caddy to change them", name, shared.options, storeOptions(module)), err)
	}
	return shared, nil
}

// closeStore gives the store back if it was taken. The manager stays where it
// is, for requests of this configuration that are under way: its store answers
// them until the last configuration has given it back.
func (a *App) closeStore() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	if a.shared == nil {
		return nil
	}
	a.manager.Load().Close()
	name := a.shared.name
	a.shared = nil
	if _, err := stores.Delete(name); err != nil {
		return fmt.Errorf("closing session store: %w", err)
	}
	return nil
}

// troubleInterval keeps an outage, which every request meets, from flooding the
// log: it is logged at once and then this far apart.
const troubleInterval = 10 * time.Second

// An outage is what an App knows of trouble with its store. From the first
// trouble on, a goroutine tries the store until it works again.
type outage struct {
	log rate.Sometimes

	mu      sync.Mutex
	cause   error // of the last attempt; nil while there is no outage
	closed  bool
	running sync.WaitGroup
}

// reason returns why the store is not tried for a request; nil if it may be.
func (o *outage) reason() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cause
}

// close waits for the goroutine, which the App's context ends.
func (o *outage) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.running.Wait()
}

// storeTrouble logs that the store cannot answer, and watches for its recovery.
func (a *App) storeTrouble(err error) {
	a.outage.log.Do(func() {
		a.logger.Error("session store is not available; requests are answered 503", zap.Error(err))
	})
	o := &a.outage
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.cause != nil {
		return
	}
	o.cause = err
	o.running.Go(a.awaitRecovery)
}

// The pauses between attempts to open or ask a store that was in trouble.
const (
	firstRecoveryPause = 100 * time.Millisecond
	maxRecoveryPause   = time.Second
)

// awaitRecovery opens the store, or asks the one that is open, until it works.
func (a *App) awaitRecovery() {
	begin := time.Now()
	pause := firstRecoveryPause
	for {
		select {
		case <-time.After(pause):
		case <-a.ctx.Done():
			return
		}
		err := a.tryStore()
		if a.ctx.Err() != nil {
			return
		}
		a.outage.mu.Lock()
		a.outage.cause = err
		a.outage.mu.Unlock()
		if err == nil {
			a.logger.Info("session store is available again", zap.Duration("after", time.Since(begin)))
			return
		}
		if a.manager.Load() == nil {
			a.outage.log.Do(func() {
				a.logger.Error("session store cannot be opened; requests are answered 503", zap.Error(err))
			})
		}
		pause = min(2*pause, maxRecoveryPause)
	}
}

// tryStore returns nil if sessions can be read and written.
func (a *App) tryStore() error {
	if err := a.openStore(); err != nil {
		return err
	}
	sessions := a.manager.Load()
	if err := sessions.Ping(a.ctx); err != nil {
		return err
	}
	return sessions.Room()
}
