package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
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

// How grave a finding is.
const (
	statusOK      = "ok"
	statusWarning = "warning"
	statusFault   = "fault"
)

// A finding is one line of the doctor's report. It holds no secret.
type finding struct {
	Status  string `json:"status"`
	Subject string `json:"subject"` // what was examined, such as a site
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"` // what to do
}

// doctor examines a configuration piece by piece: one that is broken cannot be
// loaded, and its other faults would stay hidden.
type doctor struct {
	conf     *configuration
	app      *App       // with its defaults, not provisioned
	running  *statsView // of the gateway that runs, or nil
	proxy    string     // the way to WeChat, resolved; empty if it is direct
	findings []finding
}

func (d *doctor) ok(subject, format string, args ...any) {
	d.findings = append(d.findings, finding{Status: statusOK, Subject: subject, Message: fmt.Sprintf(format, args...)})
}

func (d *doctor) warn(subject, message, fix string) {
	d.findings = append(d.findings, finding{statusWarning, subject, message, fix})
}

func (d *doctor) fault(subject, message, fix string) {
	d.findings = append(d.findings, finding{statusFault, subject, message, fix})
}

func (d *doctor) count(status string) int {
	n := 0
	for _, f := range d.findings {
		if f.Status == status {
			n++
		}
	}
	return n
}

func runCheck(cmd *cobra.Command, _ []string) error {
	if err := loadEnvFile(cmd); err != nil {
		return err
	}
	d := new(doctor)
	if err := d.examine(cmd); err != nil {
		return err
	}
	if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
		if err := printJSON(cmd.OutOrStdout(), map[string]any{"ok": d.count(statusFault) == 0, "findings": d.findings}); err != nil {
			return err
		}
	} else if err := d.print(cmd.OutOrStdout()); err != nil {
		return err
	}
	if d.count(statusFault) > 0 {
		return errToldAlready
	}
	return nil
}

// examine looks at everything. Its error means that there was nothing to look
// at; what is wrong with what there was is a finding.
func (d *doctor) examine(cmd *cobra.Command) error {
	ctx := cmd.Context()
	file, _ := cmd.Flags().GetString("config")
	adapter, _ := cmd.Flags().GetString("adapter")
	conf, err := loadConfiguration(file, adapter)
	switch {
	case errors.As(err, new(usageError)):
		return err
	case errors.Is(err, errNoConfiguration):
		if conf, err = runningConfiguration(ctx, cmd); err != nil {
			return fmt.Errorf("there is no Caddyfile here, no --config, and no gateway to ask for its configuration: %w", err)
		}
	case err != nil:
		d.fault("configuration", err.Error(), "correct it; `caddy validate` says the same")
		return nil
	}
	d.conf = conf
	d.checkAdmin()
	d.checkGateway(ctx, cmd)
	if d.app, err = conf.app(); err == nil {
		err = d.app.check()
	}
	if err != nil {
		d.fault("configuration", err.Error(), "correct the global option wxgate; see docs/configuration.md")
	}
	if d.app == nil {
		return nil
	}
	d.checkWeChat(ctx)
	keys := d.checkKeys()
	d.checkStore(ctx, keys)
	d.checkSites(ctx)
	d.checkLogs()
	return nil
}

// runningConfiguration asks a running gateway for its configuration.
func runningConfiguration(ctx context.Context, cmd *cobra.Command) (*configuration, error) {
	client, err := newAdminClient(cmd)
	if err != nil {
		return nil, err
	}
	resp, err := client.do(ctx, http.MethodGet, "/config/")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the running configuration: %w", err)
	}
	return parseConfiguration(text)
}

// print writes the report for people.
func (d *doctor) print(w io.Writer) error {
	var b strings.Builder
	for _, f := range d.findings {
		status := f.Status
		if status != statusOK {
			status = strings.ToUpper(status)
		}
		fmt.Fprintf(&b, "%-8s %s: %s\n", status, f.Subject, f.Message)
		if f.Fix != "" {
			fmt.Fprintf(&b, "         → %s\n", strings.ReplaceAll(f.Fix, "\n", "\n           "))
		}
	}
	faults, warnings := d.count(statusFault), d.count(statusWarning)
	if faults+warnings == 0 {
		b.WriteString("\nEverything is as it should be.\n")
	} else {
		fmt.Fprintf(&b, "\n%s, %s.\n", plural(faults, "fault"), plural(warnings, "warning"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
