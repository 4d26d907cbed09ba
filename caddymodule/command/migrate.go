package command

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/wxgate/wxgate/caddymodule"
	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
)

func migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate --from <store> --to <store>",
		Short: "Copies the live sessions from one store to another",
		Long: `
Copies the live sessions from one store to another, so that nobody has to log in
again. A store is one of

	badger:<directory>     a badger store that no gateway has open
	file:<backup>          what caddy wxgate backup has written (only --from)
	redis://<host>:<port>  a Redis; rediss:// with TLS, /<n> for a database
	config:<file>          the store of a Caddyfile or JSON configuration, with
	                       whatever options it has: cluster, sentinel, password

A password does not belong on a command line: give it in the environment as
WXGATE_FROM_PASSWORD or WXGATE_TO_PASSWORD, or in a file.

The records stay sealed. So both ends need the same encryption_key: the gateway on
the new store must be given the one of the old, which for badger is by default the
file wxgate/encryption.key in Caddy's data directory, as encryption_key {file./path}.

Stop the gateway first: what it changes behind the copy is lost, a revocation too.
The target must be empty, or hold a part of the same copy: a migration that was
interrupted may be run again.

	$ systemctl stop wxgate
	$ sudo -u wxgate caddy wxgate migrate --from badger:/var/lib/wxgate/.local/share/caddy/wxgate/sessions --to redis://127.0.0.1:6379
	$ systemctl start wxgate    # with store redis and encryption_key in the Caddyfile`,
		Args: arguments(0),
		RunE: run(runMigrate),
	}
	envFileFlag(cmd)
	for _, side := range []string{"from", "to"} {
		cmd.Flags().String(side, "", "The store to copy "+side)
		cmd.Flags().String(side+"-username", "", "The ACL user of a Redis to copy "+side)
		cmd.Flags().String(side+"-password-file", "", "A file with the password of a Redis to copy "+side)
		cmd.Flags().String(side+"-key-prefix", caddymodule.DefaultKeyPrefix, "The key_prefix of a Redis to copy "+side)
	}
	return cmd
}

func runMigrate(cmd *cobra.Command, _ []string) error {
	ctx := cmd.Context()
	from, err := findEnd(ctx, cmd, "from")
	if err != nil {
		return err
	}
	defer from.release()
	to, err := findEnd(ctx, cmd, "to")
	if err != nil {
		return err
	}
	defer to.release()
	if from.module.StoreName() == to.module.StoreName() {
		return usageError{errors.New("--from and --to name the same store")}
	}
	source, err := from.open(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := to.open(ctx)
	if err != nil {
		return err
	}
	defer target.Close()

	n, err := session.Migrate(ctx, source, target, nil)
	// Only a store that was closed without an error has everything.
	err = errors.Join(err, target.Close())
	if errors.Is(err, session.ErrForeign) {
		err = fmt.Errorf("%w; empty it and start again, or name another", err)
	}
	if err != nil {
		return fmt.Errorf("migrating, after %s: %w", recordsForPeople(n), err)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), `%s copied.
They are still sealed with the encryption key of the old store: the gateway on the
new one needs the same encryption_key, or it will not start.
`, recordsForPeople(n))
	return err
}

func recordsForPeople(n int64) string {
	if n == 1 {
		return "1 record"
	}
	return humanize.Comma(n) + " records"
}

// An end is one end of a migration: a store module, provisioned.
type end struct {
	module  caddymodule.StoreModule
	side    string // from or to
	release func() // gives back what finding it took, after its store was closed
}

// findEnd finds the store that a flag names, without opening it.
func findEnd(ctx context.Context, cmd *cobra.Command, side string) (end, error) {
	spec, _ := cmd.Flags().GetString(side)
	if spec == "" {
		return end{}, usageError{fmt.Errorf("say which store to copy %s: --%s badger:<directory>, redis://<host>:<port>, or another; see --help", side, side)}
	}
	kind, rest, _ := strings.Cut(spec, ":")
	switch {
	case kind == "badger" && rest != "":
		return findBadger(ctx, rest, side)
	case kind == "file" && rest != "" && side == "from":
		return unpackBackup(ctx, rest)
	case kind == "config" && rest != "":
		return findConfigured(cmd, rest, side)
	case kind == "redis" || kind == "rediss":
		return findRedis(ctx, cmd, spec, side)
	}
	// The text may hold a password, so it is not repeated.
	return end{}, usageError{fmt.Errorf("--%s names no store: write badger:<directory>, file:<backup> (only --from), redis://<host>:<port> or config:<file>", side)}
}

// open opens the store of an end.
func (e end) open(ctx context.Context) (session.Store, error) {
	if existing, ok := e.module.(caddymodule.Existing); ok && e.side == "from" && !existing.StoreExists() {
		return nil, fmt.Errorf("opening the store to copy from: there is no store: %s", e.module.StoreName())
	}
	store, err := e.module.Open(ctx)
	if errors.Is(err, badgerstore.ErrInUse) {
		return nil, fmt.Errorf("opening the store to copy %s: %w; stop the gateway, or let it write a backup (caddy wxgate backup -o FILE) and migrate --from file:FILE, which leaves out what happens afterwards", e.side, err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the store to copy %s: %w", e.side, err)
	}
	return store, nil
}

func findBadger(ctx context.Context, dir, side string) (end, error) {
	cctx, cancel := caddy.NewContext(caddy.Context{Context: ctx})
	badger := &caddymodule.BadgerStore{Dir: dir}
	if err := badger.Provision(cctx); err != nil {
		cancel()
		return end{}, err
	}
	return end{badger, side, cancel}, nil
}

// unpackBackup makes a store of a backup, for as long as the migration takes.
func unpackBackup(ctx context.Context, file string) (end, error) {
	dir, err := os.MkdirTemp("", "wxgate-migrate-")
	if err != nil {
		return end{}, fmt.Errorf("making a directory for the backup: %w", err)
	}
	remove := func() { _ = os.RemoveAll(dir) }
	if _, err := restoreFile(ctx, file, dir); err != nil {
		remove()
		return end{}, err
	}
	e, err := findBadger(ctx, dir, "from")
	if err != nil {
		remove()
		return end{}, err
	}
	release := e.release
	e.release = func() {
		release()
		remove()
	}
	return e, nil
}

// findConfigured finds the store that a configuration names.
func findConfigured(cmd *cobra.Command, file, side string) (end, error) {
	if err := loadEnvFiles(cmd); err != nil {
		return end{}, err
	}
	config, err := readConfiguration(file, "")
	if err != nil {
		return end{}, err
	}
	module, release, err := caddymodule.ConfiguredStore(config)
	if err != nil {
		return end{}, err
	}
	return end{module, side, release}, nil
}

// migrateTimeout bounds one command of a Redis: nobody waits for a page here.
const migrateTimeout = 10 * time.Second

func findRedis(ctx context.Context, cmd *cobra.Command, address, side string) (end, error) {
	if u, err := url.Parse(address); err == nil {
		if _, has := u.User.Password(); has {
			return end{}, usageError{fmt.Errorf("--%s: a password on the command line is visible to everyone on this machine: give it as WXGATE_%s_PASSWORD or with --%s-password-file", side, strings.ToUpper(side), side)}
		}
	}
	file, _ := cmd.Flags().GetString(side + "-password-file")
	if _, err := os.Stat(file); file != "" && err != nil {
		return end{}, usageError{fmt.Errorf("--%s-password-file: %w", side, err)}
	}
	off := false
	redis := &caddymodule.RedisStore{
		Addresses:   []string{address},
		Password:    endPassword(side, file),
		DialTimeout: caddy.Duration(migrateTimeout),
		Timeout:     caddy.Duration(migrateTimeout),
		ClientCache: &off,
	}
	redis.Username, _ = cmd.Flags().GetString(side + "-username")
	redis.KeyPrefix, _ = cmd.Flags().GetString(side + "-key-prefix")
	cctx, cancel := caddy.NewContext(caddy.Context{Context: ctx})
	if err := redis.Provision(cctx); err != nil {
		cancel()
		return end{}, usageError{fmt.Errorf("--%s: %w", side, err)}
	}
	return end{redis, side, cancel}, nil
}

// endPassword returns the placeholder of a Redis's password.
func endPassword(side, file string) string {
	variable := "WXGATE_" + strings.ToUpper(side) + "_PASSWORD"
	switch {
	case file != "":
		return "{file." + file + "}"
	case os.Getenv(variable) != "":
		return "{env." + variable + "}"
	default:
		return ""
	}
}
