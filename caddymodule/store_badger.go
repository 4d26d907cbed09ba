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

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/wxgate/wxgate/caddymodule/internal/files"
	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/storekit"
)

func init() {
	caddy.RegisterModule(new(BadgerStore))
}

// BadgerStore keeps sessions in an embedded Badger database: the store for one
// machine, with nothing else to run. Only one process can have a directory open.
type BadgerStore struct {
	// The directory. Default: wxgate/sessions in Caddy's data directory
	Dir string `json:"dir,omitempty"`

	// Whether a login or revocation is answered only after it is on stable
	// storage. Off, a loss of power may lose the last logins and revive the
	// last revoked sessions; a crash of the process never does. Default: on
	SyncWrites *bool `json:"sync_writes,omitempty"`

	// Below this much free space there are no new logins (503); sessions and
	// revocations go on. Badger would end the process on a full disk, so do
	// not set it to nothing. A size such as 256MiB. Default: 256MiB
	MinFree string `json:"min_free,omitempty"`

	// What a start does if the store's files are damaged: `reset` renames the
	// directory to <dir>.damaged-<time> and begins with an empty store, so that
	// every user logs in again; `refuse` does not start. Default: reset
	OnDamage string `json:"on_damage,omitempty"`

	logger  *slog.Logger
	minFree uint64
}

const defaultMinFree = 256 << 20

// The words of on_damage.
const (
	onDamageReset  = "reset"
	onDamageRefuse = "refuse"
)

// CaddyModule returns the Caddy module information.
func (*BadgerStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "wxgate.stores.badger",
		New: func() caddy.Module { return new(BadgerStore) },
	}
}

// Provision resolves the directory and the size; it does not touch the disk.
func (b *BadgerStore) Provision(ctx caddy.Context) error {
	b.logger = ctx.Slogger()
	dir := b.Dir
	if dir == "" {
		dir = filepath.Join(caddy.AppDataDir(), "wxgate", "sessions")
	}
	dir, err := caddy.NewReplacer().ReplaceOrErr(dir, true, true)
	if err != nil {
		return fmt.Errorf("store badger: directory: %w", err)
	}
	if b.Dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("store badger: directory: %w", err)
	}
	b.minFree = defaultMinFree
	if b.MinFree != "" {
		if b.minFree, err = parseSize(b.MinFree); err != nil {
			return fmt.Errorf("store badger: min_free: %w", err)
		}
	}
	return checkOnDamage(b.OnDamage)
}

func checkOnDamage(word string) error {
	if word != "" && word != onDamageReset && word != onDamageRefuse {
		return fmt.Errorf("store badger: on_damage: %q is neither reset nor refuse", word)
	}
	return nil
}

func parseSize(text string) (uint64, error) {
	size, err := humanize.ParseBytes(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size such as 256MiB", text)
	}
	return size, nil
}

// StoreName implements StoreModule.
func (b *BadgerStore) StoreName() string { return "badger " + b.Dir }

// StoreOptions implements StoreOptioner.
func (b *BadgerStore) StoreOptions() string {
	return fmt.Sprintf("sync_writes %s, min_free %s", onOff(b.syncWrites()), humanize.IBytes(b.minFree))
}

func (b *BadgerStore) syncWrites() bool { return b.SyncWrites == nil || *b.SyncWrites }

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// StoreExists implements Existing.
func (b *BadgerStore) StoreExists() bool { return badgerstore.Exists(b.Dir) }

// ExamineStore implements StoreExaminer.
func (b *BadgerStore) ExamineStore(f *Findings, inUse bool) (open bool) {
	subject := "store " + b.StoreName()
	parent := b.Dir
	for parent != filepath.Dir(parent) {
		if _, err := os.Stat(parent); err == nil {
			break
		}
		parent = filepath.Dir(parent)
	}
	if free, known := storekit.FreeBytes(parent); known && free < b.minFree {
		f.Fault(subject, fmt.Sprintf("%s are free and min_free is %s: new logins are refused", humanize.IBytes(free), humanize.IBytes(b.minFree)),
			"free some space, give the store a disk of its own, or lower min_free")
	}
	if inUse {
		return true
	}
	info, err := os.Stat(b.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !writable(parent):
		f.Fault(subject, "it cannot be made, because this user cannot write to "+parent, "give the gateway's user that directory, or name another: store badger <dir>; if it can, run this command as that user")
	case errors.Is(err, fs.ErrNotExist):
		f.OK(subject, "will be made at the first start")
	case err != nil:
		f.Fault(subject, err.Error(), "give the gateway's user access to the directory, or name another; if it has, run this command as that user")
	case !info.IsDir():
		f.Fault(subject, "it is not a directory", "name another: store badger <dir>")
	case !files.OwnedByUs(info):
		f.Warn(subject, "it belongs to another user, so it is not opened: files that this user makes in it could keep the gateway from starting",
			"run this command as the gateway's user: sudo -u wxgate caddy wxgate check …")
	case !writable(b.Dir):
		f.Fault(subject, "this user cannot write to the directory", "chmod 700 "+b.Dir)
	case !b.StoreExists():
		f.OK(subject, "empty")
	default:
		return true
	}
	return false
}

// writable reports whether this user can make files in a directory.
func writable(dir string) bool {
	probe, err := os.CreateTemp(dir, ".wxgate-check-*")
	if err != nil {
		return false
	}
	_ = probe.Close()
	return os.Remove(probe.Name()) == nil
}

// Open implements StoreModule.
func (b *BadgerStore) Open(ctx context.Context) (session.Store, error) {
	return badgerstore.Open(ctx, badgerstore.Options{
		Dir:        b.Dir,
		SyncWrites: b.syncWrites(),
		MinFree:    b.minFree,
		Logger:     b.logger,
	})
}

// Reset implements Resetter.
func (b *BadgerStore) Reset(err error) error {
	if !errors.Is(err, badgerstore.ErrDamaged) {
		return err
	}
	if b.OnDamage == onDamageRefuse {
		return fmt.Errorf("%w; restore a backup, or move %s away: every user logs in again then", err, b.Dir)
	}
	kept := b.Dir + ".damaged-" + time.Now().UTC().Format("20060102T150405Z")
	if renameErr := os.Rename(b.Dir, kept); renameErr != nil {
		return fmt.Errorf("%w; it cannot be set aside: %w; move what is in the directory away: every user logs in again then", err, renameErr)
	}
	b.logger.Error("the session store was damaged: it has been set aside, and an empty one takes its place; every session has ended and every user logs in again",
		"dir", b.Dir, "kept", kept, "error", err)
	return nil
}

// UnmarshalCaddyfile reads
//
//	store badger [<dir>] {
//		sync_writes on|off
//		min_free    <size>
//		on_damage   reset|refuse
//	}
func (b *BadgerStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		b.Dir = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return block(d, options{
		"sync_writes": into(d, &b.SyncWrites, onOffArg),
		"min_free":    into(d, &b.MinFree, checked(func(text string) error { _, err := parseSize(text); return err })),
		"on_damage":   into(d, &b.OnDamage, checked(checkOnDamage)),
	})
}

// Interface guards
var (
	_ StoreModule           = (*BadgerStore)(nil)
	_ StoreOptioner         = (*BadgerStore)(nil)
	_ StoreExaminer         = (*BadgerStore)(nil)
	_ Existing              = (*BadgerStore)(nil)
	_ Resetter              = (*BadgerStore)(nil)
	_ caddy.Provisioner     = (*BadgerStore)(nil)
	_ caddyfile.Unmarshaler = (*BadgerStore)(nil)
)
