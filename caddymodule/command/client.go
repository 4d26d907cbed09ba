package command

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
)

// adminFlags gives a command the flags that say where the gateway is.
func adminFlags(cmd *cobra.Command) {
	cmd.Flags().String("address", "", "Address of the admin endpoint, such as localhost:2019 or unix//run/caddy/admin.sock")
	cmd.Flags().StringP("config", "c", "", "Configuration file that names the admin endpoint, if --address is not used")
	cmd.Flags().StringP("adapter", "a", "", "Name of the config adapter, if --config is used")
}

// jsonFlag lets scripts read a command's output.
func jsonFlag(cmd *cobra.Command) {
	cmd.Flags().Bool("json", false, "Print JSON")
}

// newClient finds the endpoint with the flags of adminFlags, as Caddy's
// own commands do.
func newClient(cmd *cobra.Command) (*adminapi.Client, error) {
	flags := caddycmd.Flags{FlagSet: cmd.Flags()}
	address, file, adapter := flags.String("address"), flags.String("config"), flags.String("adapter")
	var text []byte
	if address == "" && file != "" {
		conf, err := loadConfiguration(file, adapter)
		if err != nil {
			return nil, err
		}
		text = conf
	}
	address, err := caddycmd.DetermineAdminAPIAddress(address, text, file, adapter)
	if err != nil {
		return nil, fmt.Errorf("finding the admin endpoint: %w", err)
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
