package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
)

func userCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user <openid or unionid> [--appid <appid>] [--json] [--address <admin endpoint>]",
		Short: "Shows the live sessions of a user",
		Long: `
Shows the live sessions of a user, oldest first. A session's id names it in logs
and for revoke; it is no token. In logs a hash stands for the openid; it is shown,
too. If the gateway serves one mini program, --appid is not needed. An openid that
begins with a dash is written last, behind --.

A UnionID shows the user of each mini program. It is looked for in the whole store,
which takes a while if there are millions of users.`,
		Args: arguments(1),
		RunE: run(runUser),
	}
	configFlags(cmd)
	jsonFlag(cmd)
	cmd.Flags().String("appid", "", "The mini program; may be left out if there is one")
	return cmd
}

func runUser(cmd *cobra.Command, args []string) error {
	client, path, err := findUser(cmd, args[0])
	var user adminapi.User
	if err == nil {
		if err = client.Call(cmd.Context(), http.MethodGet, path, &user); err == nil {
			return printResult(cmd, user, func(w io.Writer) error { return printUser(w, user) })
		}
	}
	// There is no such openid, or it needs an appid, which a UnionID does not.
	if code := exitCode(err); client == nil || cmd.Flags().Changed("appid") || code != exitNotFound && code != exitUsage {
		return err
	}
	var users adminapi.Users
	if unionErr := client.Call(cmd.Context(), http.MethodGet, adminapi.UnionIDPath(args[0]), &users); unionErr != nil {
		if code := exitCode(unionErr); code == exitNotFound || code == exitFailed {
			return err // also of a store that cannot be searched
		}
		return unionErr
	}
	return printResult(cmd, users, func(w io.Writer) error {
		for i, user := range users.Users {
			if i > 0 {
				fmt.Fprintln(w)
			}
			if err := printUser(w, user); err != nil {
				return err
			}
		}
		return nil
	})
}

// findUser returns the route of the user that the command names.
func findUser(cmd *cobra.Command, openID string) (*adminapi.Client, string, error) {
	if openID == "" {
		return nil, "", usageError{errors.New("the openid is empty")}
	}
	client, err := newClient(cmd)
	if err != nil {
		return nil, "", err
	}
	flag, _ := cmd.Flags().GetString("appid")
	appID, err := findAppID(cmd.Context(), client, flag)
	if err != nil {
		return client, "", err
	}
	return client, adminapi.UserPath(appID, openID), nil
}

// findAppID returns the mini program that a command is about: the one of the flag,
// or the only one there is.
func findAppID(ctx context.Context, client *adminapi.Client, flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	var stats adminapi.Stats
	if err := client.Call(ctx, http.MethodGet, "/wxgate/stats", &stats); err != nil {
		return "", err
	}
	if len(stats.MiniPrograms) == 1 {
		return stats.MiniPrograms[0].AppID, nil
	}
	var declared []string
	for _, mp := range stats.MiniPrograms {
		declared = append(declared, mp.AppID)
	}
	return "", usageError{fmt.Errorf("the gateway serves several mini programs: say which with --appid: %s", strings.Join(declared, ", "))}
}

func printUser(out io.Writer, user adminapi.User) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "openid\t%s\nappid\t%s\n", user.OpenID, user.AppID)
	if user.UnionID != "" {
		fmt.Fprintf(w, "unionid\t%s\n", user.UnionID)
	}
	fmt.Fprintf(w, "in logs\t%s\nlive sessions\t%d\n", user.LogName, len(user.Sessions))
	if err := w.Flush(); err != nil || len(user.Sessions) == 0 {
		return err
	}
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nSESSION\tCREATED\tLAST SEEN\tEXPIRES")
	for _, s := range user.Sessions {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.ID, localTime(s.Created), localTime(s.LastSeen), localTime(s.Expires))
	}
	return w.Flush()
}

func localTime(t time.Time) string { return t.Local().Format(time.DateTime) }

func revokeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke <openid> [--session <id>] [--appid <appid>] | --all [--appid <appid>]",
		Short: "Revokes the sessions of a user, or of all users",
		Long: `
Revokes all sessions of a user, or the one with the id of --session. With --all and
no openid it revokes the sessions of all users, or of all users of the mini program
of --appid, in one write.

When the command returns, the sessions have ended, and a crash does not bring them
back. Other nodes on the same Redis follow within milliseconds, at most 10 seconds. A
user can log in again at once: to keep a user out, block the user in the application.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all, _ := cmd.Flags().GetBool("all"); all {
				return arguments(0)(cmd, args)
			}
			return arguments(1)(cmd, args)
		},
		RunE: run(runRevoke),
	}
	configFlags(cmd)
	jsonFlag(cmd)
	cmd.Flags().String("appid", "", "The mini program; without --all it may be left out if there is one")
	cmd.Flags().String("session", "", "Revoke only the session with this id, as the command user shows it")
	cmd.Flags().Bool("all", false, "Revoke the sessions of all users")
	return cmd
}

func runRevoke(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return revokeAll(cmd)
	}
	client, path, err := findUser(cmd, args[0])
	if err != nil {
		return err
	}
	if cmd.Flags().Changed("session") {
		id, _ := cmd.Flags().GetString("session")
		if !adminapi.IsSessionID(id) {
			return usageError{fmt.Errorf("--session: %q is not the id of a session: 16 hex digits", id)}
		}
		path += "/sessions/" + url.PathEscape(id)
	}
	var revoked adminapi.Revoked
	if err := client.Call(cmd.Context(), http.MethodDelete, path, &revoked); err != nil {
		return err
	}
	return printRevoked(cmd, revoked, plural(revoked.Revoked, "session"))
}

func printRevoked(cmd *cobra.Command, result any, what string) error {
	return printResult(cmd, result, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s revoked\n", what)
		return err
	})
}

func revokeAll(cmd *cobra.Command) error {
	if cmd.Flags().Changed("session") {
		return usageError{errors.New("--all and --session cannot be used together")}
	}
	client, err := newClient(cmd)
	if err != nil {
		return err
	}
	appID, _ := cmd.Flags().GetString("appid")
	var revoked adminapi.RevokedAll
	if err := client.Call(cmd.Context(), http.MethodDelete, adminapi.AllPath(appID), &revoked); err != nil {
		return err
	}
	if appID != "" {
		appID = " of " + appID
	}
	return printRevoked(cmd, revoked, "all sessions"+appID)
}
