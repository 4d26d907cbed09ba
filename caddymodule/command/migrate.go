package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wxgate/wxgate/caddymodule"
	"github.com/wxgate/wxgate/caddymodule/session"
)

func migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate --from <store> --to <store>",
		Short: "Copies the live sessions from one store to another",
		Long: `
Copies the live sessions from one store to another, so that no user has to log in
again. A store is one of

	badger:<directory>     a badger store that no gateway has open
	file:<backup>          a file of caddy wxgate backup (only --from)
	redis://<host>:<port>  a Redis; rediss:// with TLS, /<n> for a database
	config:<file>          the store of a Caddyfile or JSON configuration, with
	                       all its options, such as a user, cluster or sentinel

The password of a Redis is in the variable WXGATE_FROM_PASSWORD or
WXGATE_TO_PASSWORD, or in the configuration.

The records stay sealed, so both stores need the same encryption_key: give the
gateway on the new store the key of the old one. For badger that is by default the
file wxgate/encryption.key in Caddy's data directory: encryption_key {file./path}.

Stop the gateway first: what it changes after it was copied is lost, revocations
included. The target must be empty, or hold a part of the same copy: a migration
that was interrupted may be run again.

	$ systemctl stop wxgate
	$ sudo -u wxgate caddy wxgate migrate --from badger:/var/lib/wxgate/.local/share/caddy/wxgate/sessions --to redis://127.0.0.1:6379
	$ systemctl start wxgate    # with store redis and encryption_key in the Caddyfile`,
		Args: arguments(0),
		RunE: run(runMigrate),
	}
	envFileFlag(cmd)
	cmd.Flags().String("from", "", "The store to copy from")
	cmd.Flags().String("to", "", "The store to copy to")
	return cmd
}

func runMigrate(cmd *cobra.Command, _ []string) error {
	ctx := cmd.Context()
	if err := loadEnvFiles(cmd); err != nil {
		return err
	}
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

	n, err := session.Migrate(ctx, source, target)
	// Only a store that was closed without an error has everything.
	err = errors.Join(err, target.Close())
	if errors.Is(err, session.ErrForeign) {
		err = fmt.Errorf("%w; empty it and start again, or name another", err)
	}
	if err != nil {
		return fmt.Errorf("migrating, after %s: %w", plural(n, "user"), err)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), `%s copied.
They are still sealed with the encryption key of the old store: the gateway on the
new one needs the same encryption_key, or it will not start.
`, plural(n, "user"))
	return err
}

// An end is one end of a migration: a store module, provisioned.
type end struct {
	module  caddymodule.StoreModule
	side    string // from or to
	release func() // called after its store was closed
}

// redisTimeout bounds one command of a Redis: no request waits for it.
const redisTimeout = "10s"

// findEnd finds the store that a flag names, without opening it.
func findEnd(ctx context.Context, cmd *cobra.Command, side string) (end, error) {
	spec, _ := cmd.Flags().GetString(side)
	if spec == "" {
		return end{}, usageError{fmt.Errorf("--%s is missing: badger:<directory>, redis://<host>:<port>, or another; see --help", side)}
	}
	kind, rest, _ := strings.Cut(spec, ":")
	switch {
	case kind == "badger" && rest != "":
		return loadEnd(side, map[string]any{"module": "badger", "dir": rest})
	case kind == "file" && rest != "" && side == "from":
		return unpackBackup(ctx, rest)
	case kind == "config" && rest != "":
		config, err := readConfiguration(rest, "")
		if err != nil {
			return end{}, err
		}
		var parsed struct {
			Apps struct {
				WXGate *struct{ Store any } `json:"wxgate"`
			}
		}
		if err := json.Unmarshal(config, &parsed); err != nil {
			return end{}, fmt.Errorf("parsing %s: %w", rest, err)
		}
		if parsed.Apps.WXGate == nil {
			return end{}, fmt.Errorf("%s has no global option wxgate", rest)
		}
		return loadEnd(side, parsed.Apps.WXGate.Store)
	case kind == "redis" || kind == "rediss":
		variable := "WXGATE_" + strings.ToUpper(side) + "_PASSWORD"
		if u, err := url.Parse(spec); err == nil {
			if _, has := u.User.Password(); has {
				return end{}, usageError{fmt.Errorf("--%s: a password on the command line is visible to every user of this machine; set the variable %s instead", side, variable)}
			}
		}
		redis := map[string]any{"module": "redis", "addresses": []string{spec}, "dial_timeout": redisTimeout, "timeout": redisTimeout, "client_cache": false}
		if os.Getenv(variable) != "" {
			redis["password"] = "{env." + variable + "}"
		}
		return loadEnd(side, redis)
	}
	// The text may hold a password, so it is not repeated.
	return end{}, usageError{fmt.Errorf("--%s names no store: write badger:<directory>, file:<backup> (only --from), redis://<host>:<port> or config:<file>", side)}
}

// loadEnd provisions a store module; store is its configuration, or nil for the
// default.
func loadEnd(side string, store any) (end, error) {
	var raw json.RawMessage
	if store != nil {
		var err error
		if raw, err = json.Marshal(store); err != nil {
			return end{}, err
		}
	}
	module, release, err := caddymodule.LoadStore(raw)
	if err != nil {
		return end{}, fmt.Errorf("--%s: %w", side, err)
	}
	return end{module, side, release}, nil
}

// open opens the store of an end.
func (e end) open(ctx context.Context) (session.Store, error) {
	if existing, ok := e.module.(caddymodule.Existing); ok && e.side == "from" && !existing.StoreExists() {
		return nil, fmt.Errorf("opening the store to copy from: there is no store: %s", e.module.StoreName())
	}
	store, err := e.module.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening the store to copy %s: %w; if a gateway has it open, stop the gateway, or let it write a backup (caddy wxgate backup -o FILE) and migrate --from file:FILE, which leaves out what happens afterwards", e.side, err)
	}
	return store, nil
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
	e, err := loadEnd("from", map[string]any{"module": "badger", "dir": dir})
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
