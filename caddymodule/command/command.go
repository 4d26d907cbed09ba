// Package command is `caddy wxgate …`: what an operator does with a gateway from
// a shell, and the demo.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
)

// Exit codes; part of the help text.
const (
	exitFailed      = 1 // the command failed, or check found a fault
	exitUsage       = 2 // an unknown command, flag or argument
	exitNotFound    = 3 // there is no such user or session
	exitUnavailable = 4 // no gateway answers, or its store does not
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "wxgate",
		Usage: "<command>",
		Short: "Manages the login gateway for WeChat mini programs",
		Long: `
Manages the login gateway for WeChat mini programs.

Try the gateway in a sandbox, without any configuration:

	$ caddy wxgate demo

Develop an application behind it:

	$ caddy wxgate dev --upstream 127.0.0.1:3000

Find out what is wrong with a configuration, and how to fix it:

	$ caddy wxgate check --config /etc/wxgate/Caddyfile

The commands stats, user, revoke and backup call a running gateway through Caddy's
admin endpoint, by default at localhost:2019. --address names another one, or
--config the configuration that has it. A unix socket is written
unix//run/caddy/admin.sock.

Exit codes: 0 done; 1 failed, or check found a fault; 2 wrong usage; 3 no such user
or session; 4 no gateway answers, or its store does not.`,
		CobraFunc: func(cmd *cobra.Command) {
			for _, sub := range []*cobra.Command{
				statsCommand(), userCommand(), revokeCommand(),
				backupCommand(), restoreCommand(), migrateCommand(),
				checkCommand(), demoCommand(), devCommand(), versionCommand(),
			} {
				sub.DisableFlagsInUseLine = true // Use has those that matter
				cmd.AddCommand(sub)
			}
			// A mistyped command must not look like a success to a script.
			cmd.Args = cobra.ArbitraryArgs
			cmd.RunE = run(func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return usageError{fmt.Errorf("unknown command %q; see caddy wxgate --help", args[0])}
				}
				return cmd.Help()
			})
			cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
				return fail(cmd, usageError{err})
			})
		},
	})
}

// usageError is returned when a command was called in a wrong way.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// run makes a cobra command of a function: it is canceled by Ctrl+C, and its
// error becomes a line on stderr and an exit code.
func run(command func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		cmd.SetContext(ctx)
		if err := command(cmd, args); err != nil {
			return fail(cmd, err)
		}
		return nil
	}
}

// arguments demands n arguments.
func arguments(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := cobra.ExactArgs(n)(cmd, args); err != nil {
			return fail(cmd, usageError{fmt.Errorf("%w; usage: %s", err, cmd.UseLine())})
		}
		return nil
	}
}

// fail prints an error and returns one that makes Caddy exit with its code.
func fail(cmd *cobra.Command, err error) error {
	cmd.SilenceErrors = true
	if !errors.Is(err, errToldAlready) {
		fmt.Fprintf(cmd.ErrOrStderr(), "Error: %v\n", err)
	}
	code := exitCode(err)
	if code == exitFailed {
		return err
	}
	// Only Caddy's own wrapper can set another code.
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return code, nil })(cmd, nil)
}

// errToldAlready is returned by a command that has printed what is wrong.
var errToldAlready = errors.New("there are faults")

func exitCode(err error) int {
	var answer adminapi.Error
	switch {
	case errors.As(err, new(usageError)):
		return exitUsage
	case errors.Is(err, adminapi.ErrNoAnswer), errors.Is(err, errStoreDown):
		return exitUnavailable
	case !errors.As(err, &answer):
		return exitFailed
	}
	switch answer.Status {
	case http.StatusBadRequest:
		return exitUsage
	case http.StatusNotFound:
		return exitNotFound
	case http.StatusServiceUnavailable, adminapi.NoGateway:
		return exitUnavailable
	default:
		return exitFailed
	}
}

// jsonFlag lets scripts read a command's output.
func jsonFlag(cmd *cobra.Command) {
	cmd.Flags().Bool("json", false, "Print JSON")
}

// printResult writes the result of a command as JSON if --json is given, and else
// as print does.
func printResult(cmd *cobra.Command, result any, print func(io.Writer) error) error {
	if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
		return printJSON(cmd.OutOrStdout(), result)
	}
	return print(cmd.OutOrStdout())
}

// printJSON writes what a script reads.
func printJSON(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(value)
}

func plural[N int | int64](n N, what string) string {
	if n != 1 {
		what += "s"
	}
	return humanize.Comma(int64(n)) + " " + what
}
