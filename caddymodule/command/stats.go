package command

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/wxgate/wxgate/caddymodule"
	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
)

func statsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats [--json] [--address <admin endpoint>]",
		Short: "Shows the running gateway at a glance",
		Long: `
Shows the running gateway at a glance: its version, its store and the space left to
it, live sessions (an estimate), and logins by result since the process began. The
exit code is 4 if the store does not answer.`,
		Args: arguments(0),
		RunE: run(runStats),
	}
	configFlags(cmd)
	jsonFlag(cmd)
	return cmd
}

func runStats(cmd *cobra.Command, _ []string) error {
	client, err := newClient(cmd)
	if err != nil {
		return err
	}
	var stats adminapi.Stats
	if err := client.Call(cmd.Context(), http.MethodGet, "/wxgate/stats", &stats); err != nil {
		return err
	}
	err = printResult(cmd, stats, func(w io.Writer) error { return printStats(w, stats) })
	if err == nil && stats.Store.Down != "" {
		err = fmt.Errorf("%w: %s", errStoreDown, stats.Store.Down)
	}
	return err
}

// errStoreDown is returned when the gateway answers and its store does not.
var errStoreDown = errors.New("the session store does not answer")

func printStats(out io.Writer, stats adminapi.Stats) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "version\t%s\nstore\t%s\n", versionLine(stats.Build), stats.Store.Name)
	if stats.Store.Free != nil {
		fmt.Fprintf(w, "free space\t%s\n", humanize.IBytes(*stats.Store.Free))
	}
	if stats.Store.Full != "" {
		fmt.Fprintf(w, "new logins\trefused: %s\n", stats.Store.Full)
	}
	sessions := "unknown: the store cannot say"
	if stats.Sessions != nil {
		sessions = "about " + humanize.Comma(*stats.Sessions)
	}
	fmt.Fprintf(w, "live sessions\t%s\n", sessions)
	for _, mp := range stats.MiniPrograms {
		printCounts(w, "logins "+mp.AppID, mp.Logins)
	}
	printCounts(w, "logins, all", stats.Logins)
	printCounts(w, "requests", stats.Requests)
	printCounts(w, "revoked by", stats.Revocations)
	if len(stats.APICalls) > 0 {
		printCounts(w, "server API calls", stats.APICalls)
	}
	return w.Flush()
}

// printCounts prints what has happened, the most frequent first.
func printCounts(w io.Writer, what string, counts map[string]int64) {
	var names []string
	for name, n := range counts {
		if n > 0 {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	if len(names) == 0 {
		fmt.Fprintf(w, "%s\tnone\n", what)
	}
	for _, name := range names {
		fmt.Fprintf(w, "%s\t%s %s\n", what, humanize.Comma(counts[name]), name)
		what = ""
	}
}

func versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version [--json]",
		Short: "Prints the versions of wxgate, Caddy and Go in this binary",
		Args:  arguments(0),
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			build := caddymodule.Build()
			return printResult(cmd, build, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, versionLine(build))
				return err
			})
		}),
	}
	jsonFlag(cmd)
	return cmd
}

func versionLine(build adminapi.Build) string {
	return fmt.Sprintf("wxgate %s, Caddy %s, %s", build.Version, build.Caddy, build.Go)
}
