package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
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

	logger  *slog.Logger
	minFree uint64
}

const defaultMinFree = 256 << 20

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

// StoreOptions implements StoreModule.
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

// Open implements StoreModule.
func (b *BadgerStore) Open(ctx context.Context) (session.Store, error) {
	return badgerstore.Open(ctx, badgerstore.Options{
		Dir:        b.Dir,
		SyncWrites: b.syncWrites(),
		MinFree:    b.minFree,
		Logger:     b.logger,
	})
}

// UnmarshalCaddyfile reads
//
//	store badger [<dir>] {
//		sync_writes on|off
//		min_free    <size>
//	}
func (b *BadgerStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		b.Dir = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return block(d, map[string]func() error{
		"sync_writes": func() (err error) { b.SyncWrites, err = onOffArg(d); return err },
		"min_free": func() (err error) {
			if b.MinFree, err = oneArg(d); err == nil {
				if _, err = parseSize(b.MinFree); err != nil {
					err = d.WrapErr(err)
				}
			}
			return err
		},
	})
}

// Interface guards
var (
	_ StoreModule           = (*BadgerStore)(nil)
	_ Existing              = (*BadgerStore)(nil)
	_ caddy.Provisioner     = (*BadgerStore)(nil)
	_ caddyfile.Unmarshaler = (*BadgerStore)(nil)
)
