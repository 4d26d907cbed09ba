package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wxgate/wxgate/caddymodule"
)

func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [--config <file>] [--json]",
		Short: "Examines a configuration and what it needs, and says what to do",
		Long: `
Examines the gateway of a configuration, line by line of what it needs: the admin
endpoint, each mini program and its secret, WeChat, the clock, the encryption key,
the store, each site and its upstreams, and the logs. Each line says ok, or what is
wrong and what to do about it. The configuration need not be one that starts.

Without --config it looks at the Caddyfile here, or else at the configuration of the
gateway that runs. A running gateway is no hindrance and is not disturbed.

Secrets are looked up in the environment of this command, and files as its user. Run
it as the gateway runs:

	$ sudo -u wxgate caddy wxgate check --config /etc/wxgate/Caddyfile --envfile /etc/wxgate/environment

WeChat is asked about each mini program with a made-up code. It answers 40029,
invalid code, when it accepts the appid and the secret.

Exit code 0 means that there is no fault, though perhaps a warning; 1, a fault.`,
		Args: arguments(0),
		RunE: run(runCheck),
	}
	adminFlags(cmd)
	jsonFlag(cmd)
	cmd.Flags().String("envfile", "", "A file with lines NAME=value to add to the environment")
	return cmd
}

func runCheck(cmd *cobra.Command, _ []string) error {
	if err := loadEnvFile(cmd); err != nil {
		return err
	}
	findings, err := examine(cmd)
	if err != nil {
		return err
	}
	faults := count(findings, caddymodule.StatusFault)
	if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
		if err := printJSON(cmd.OutOrStdout(), map[string]any{"ok": faults == 0, "findings": findings}); err != nil {
			return err
		}
	} else if err := printFindings(cmd.OutOrStdout(), findings); err != nil {
		return err
	}
	if faults > 0 {
		return errToldAlready
	}
	return nil
}

// examine looks at everything. Its error means that there was nothing to look
// at; what is wrong with what there was is a finding.
func examine(cmd *cobra.Command) ([]caddymodule.Finding, error) {
	ctx := cmd.Context()
	file, _ := cmd.Flags().GetString("config")
	adapter, _ := cmd.Flags().GetString("adapter")
	address, _ := cmd.Flags().GetString("address")
	config, err := loadConfiguration(file, adapter)
	switch {
	case errors.As(err, new(usageError)):
		return nil, err
	case errors.Is(err, errNoConfiguration):
		if config, err = runningConfiguration(ctx, cmd); err != nil {
			return nil, fmt.Errorf("there is no Caddyfile here, no --config, and no gateway to ask for its configuration: %w", err)
		}
	case err != nil:
		return []caddymodule.Finding{{
			Status: caddymodule.StatusFault, Subject: "configuration", Message: err.Error(),
			Fix: "correct it; `caddy validate` reports the same",
		}}, nil
	}
	return caddymodule.Examine(ctx, config, address), nil
}

func count(findings []caddymodule.Finding, status string) int {
	n := 0
	for _, f := range findings {
		if f.Status == status {
			n++
		}
	}
	return n
}

// runningConfiguration asks a running gateway for its configuration.
func runningConfiguration(ctx context.Context, cmd *cobra.Command) ([]byte, error) {
	client, err := newClient(cmd)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(ctx, http.MethodGet, "/config/")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the running configuration: %w", err)
	}
	return text, nil
}

// printFindings writes the report for people.
func printFindings(w io.Writer, findings []caddymodule.Finding) error {
	var b strings.Builder
	for _, f := range findings {
		status := f.Status
		if status != caddymodule.StatusOK {
			status = strings.ToUpper(status)
		}
		fmt.Fprintf(&b, "%-8s %s: %s\n", status, f.Subject, f.Message)
		if f.Fix != "" {
			fmt.Fprintf(&b, "         → %s\n", strings.ReplaceAll(f.Fix, "\n", "\n           "))
		}
	}
	faults, warnings := count(findings, caddymodule.StatusFault), count(findings, caddymodule.StatusWarning)
	if faults+warnings == 0 {
		b.WriteString("\nEverything is as it should be.\n")
	} else {
		fmt.Fprintf(&b, "\n%s, %s.\n", plural(faults, "fault"), plural(warnings, "warning"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
