package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
)

const subjectStore = "store"

// checkStore examines the session store, and opens it if nobody has it. keys
// may be nil: then whether they are its own cannot be told.
func (d *doctor) checkStore(ctx context.Context, keys [][]byte) {
	module, release, err := provisionStore(d.app)
	if err != nil {
		d.fault(subjectStore, err.Error(), "correct the option store; see docs/configuration.md")
		return
	}
	defer release()
	if _, shared := module.(SharedByNodes); shared && len(d.app.EncryptionKeys) == 0 {
		d.fault(subjectKey, "none is configured, and all nodes of this store need the same", "make one with `openssl rand -base64 32` and give it to every node: encryption_key {env.WXGATE_KEY}")
		keys = nil
	}
	if badger, ok := module.(*BadgerStore); ok && !d.checkBadger(badger) {
		return
	}
	d.openStore(ctx, module, keys)
}

// checkBadger examines a store directory from outside, and reports whether it
// makes sense to open it.
func (d *doctor) checkBadger(b *BadgerStore) bool {
	subject := "store badger " + b.Dir
	free, known := badgerstore.FreeBytes(existingParent(b.Dir))
	if known && free < b.minFree {
		d.fault(subject, fmt.Sprintf("%s are free and min_free is %s: nobody can log in", humanize.IBytes(free), humanize.IBytes(b.minFree)),
			"free some space, give the store a disk of its own, or lower min_free")
	}
	space := ""
	if known {
		space = ", " + humanize.IBytes(free) + " free"
	}
	if d.running != nil && d.running.Store.Name == storeTitle(b) {
		if d.running.Store.Options != b.StoreOptions() {
			d.warn(subject, fmt.Sprintf("the running gateway has it open with other options (%s, now %s), so a reload will be refused", d.running.Store.Options, b.StoreOptions()), "restart Caddy")
		}
		d.ok(subject, "in use by the running gateway%s", space)
		return false
	}
	info, err := os.Stat(b.Dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		d.ok(subject, "will be made at the first start%s", space)
		return false
	case err != nil:
		d.fault(subject, err.Error(), "give the gateway's user access to the directory, or name another")
		return false
	case !info.IsDir():
		d.fault(subject, "it is not a directory", "name another: store badger <dir>")
		return false
	case !ownedByUs(info):
		d.warn(subject, "it belongs to another user, so it is not opened: files that this user makes in it could keep the gateway from starting",
			"run this command as that user: sudo -u wxgate caddy wxgate check …")
		return false
	}
	if !b.StoreExists() {
		d.ok(subject, "empty%s", space)
		return false
	}
	return true
}

// existingParent is the nearest directory above dir that is there.
func existingParent(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// openTime bounds the opening of a store.
const openTime = 20 * time.Second

// openStore opens a store as a start would, and asks whether the keys are its.
func (d *doctor) openStore(ctx context.Context, module StoreModule, keys [][]byte) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	subject := "store " + storeTitle(module)
	warnings := new(warningCollector)
	if redis, ok := module.(*RedisStore); ok {
		if redis.Password != "" {
			d.checkSecret(subject, "the password", redis.Password)
		}
		redis.logger = slog.New(warnings)
	}
	store, err := module.Open(ctx)
	if err != nil {
		d.fault(subject, err.Error(), fixOpening(err))
		return
	}
	defer store.Close()
	for _, warning := range warnings.messages {
		d.fault(subject, warning, "put it into redis.conf, or at once: redis-cli CONFIG SET maxmemory-policy noeviction")
	}
	state, err := examineSeal(ctx, store, keys)
	switch {
	case errors.Is(err, session.ErrWrongKey):
		d.fault(subject, "another encryption key has sealed it", "put the earlier key behind the new one (encryption_key NEW OLD), or restore the key file from your backup; or remove the store, which ends all sessions")
	case err != nil:
		d.fault(subject, err.Error(), "see docs/troubleshooting.md")
	case len(warnings.messages) == 0:
		d.ok(subject, "opens; %s", state)
	}
}

// fixOpening says what to do about a store that does not open.
func fixOpening(err error) string {
	switch {
	case errors.Is(err, badgerstore.ErrInUse):
		return "if that is the gateway, let this command ask it: --address <admin endpoint>; else stop the other program"
	case errors.Is(err, badgerstore.ErrDamaged):
		return "restore a backup (caddy wxgate restore), or move the directory away: everybody logs in again then"
	case errors.Is(err, session.ErrFull):
		return "free some space"
	case errors.Is(err, redisstore.ErrReadOnly):
		return "give the address of the primary, or of the sentinels with `sentinel <master name>`"
	case errors.Is(err, redisstore.ErrNoClientCache):
		return "write `client_cache off` into the store's block, or use a Redis of version 6 or later"
	case errors.Is(err, fs.ErrPermission):
		return "run this command as the gateway's user, and give that user the directory"
	default:
		return "start it, or correct the address, user and password of the option store"
	}
}

// examineSeal says whether the keys are those of the store, and changes nothing.
func examineSeal(ctx context.Context, store session.Store, keys [][]byte) (state string, err error) {
	if len(keys) == 0 {
		return "whether the encryption key is its own could not be told", nil
	}
	seen := &readOnly{Store: store}
	manager, err := session.NewManager(ctx, session.Config{Store: seen, Keys: keys})
	if err != nil {
		return "", err
	}
	manager.Close()
	if seen.empty {
		return "no gateway has used it yet", nil
	}
	return "the encryption key is its own", nil
}

// readOnly is a store that takes writes for nothing, so that looking at it
// leaves no trace.
type readOnly struct {
	session.Store
	empty bool // what was to be updated was not there
}

func (*readOnly) Put(context.Context, string, []byte, time.Duration) error { return nil }

func (*readOnly) Delete(context.Context, string) error { return nil }

func (r *readOnly) Update(ctx context.Context, key string, change session.ChangeFunc) error {
	old, err := r.Get(ctx, key)
	if errors.Is(err, session.ErrNotFound) {
		old, r.empty = nil, true
	} else if err != nil {
		return err
	}
	_, _, err = change(old)
	return err
}

// warningCollector keeps what a store says while it opens.
type warningCollector struct{ messages []string }

// Enabled implements slog.Handler.
func (*warningCollector) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn
}

// Handle implements slog.Handler.
func (w *warningCollector) Handle(_ context.Context, record slog.Record) error {
	message := record.Message
	record.Attrs(func(a slog.Attr) bool {
		message += fmt.Sprintf(" (%s is %s)", a.Key, a.Value)
		return true
	})
	w.messages = append(w.messages, message)
	return nil
}

// WithAttrs implements slog.Handler.
func (w *warningCollector) WithAttrs([]slog.Attr) slog.Handler { return w }

// WithGroup implements slog.Handler.
func (w *warningCollector) WithGroup(string) slog.Handler { return w }
