package command

import (
	"cmp"
	"errors"

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
	err := loadEnvFiles(cmd)
	if err == nil && address == "" && file != "" {
		address, err = configuredAdmin(file, adapter)
	}
	if err != nil {
		return nil, err
	}
	client, err := adminapi.New(cmp.Or(address, caddy.DefaultAdminListen))
	if errors.Is(err, adminapi.ErrAddress) {
		return nil, usageError{err}
	}
	return client, err
}
