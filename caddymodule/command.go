package caddymodule

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "wxgate",
		Usage: "<command>",
		Short: "Works with the WeChat mini program login gateway",
		Long: `
Works with the WeChat mini program login gateway: see it, steer it, try it.

To see the whole thing at work in a sandbox, without any configuration:

	$ caddy wxgate demo`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(demoCommand())
		},
	})
}
