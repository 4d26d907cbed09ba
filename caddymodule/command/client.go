package command

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
)

// jsonFlag lets scripts read a command's output.
func jsonFlag(cmd *cobra.Command) {
	cmd.Flags().Bool("json", false, "Print JSON")
}

// newClient returns a client for the admin endpoint that the flags of configFlags
// name, or else for Caddy's default one.
func newClient(cmd *cobra.Command) (*adminapi.Client, error) {
	address, _ := cmd.Flags().GetString("address")
	file, _ := cmd.Flags().GetString("config")
	adapter, _ := cmd.Flags().GetString("adapter")
	if err := loadEnvFiles(cmd); err != nil {
		return nil, err
	}
	switch {
	case address != "":
	case file == "":
		address = caddy.DefaultAdminListen
	default:
		var err error
		if address, err = configuredAdmin(file, adapter); err != nil {
			return nil, err
		}
	}
	client, err := adminapi.New(address)
	if errors.Is(err, adminapi.ErrAddress) {
		return nil, usageError{err}
	}
	return client, err
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
