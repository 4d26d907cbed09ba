package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/wxgate/wxgate/caddymodule"
	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
)

func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [--config <file>] [--json]",
		Short: "Examines a configuration and what it needs, with a cure for each fault",
		Long: `
Examines a configuration and what it needs: the admin endpoint, WeChat, each mini
program and its secret, the clock, the encryption key, the store, each site and its
upstreams, and the logs. Each line of the report is ok, or a warning or fault with
its cure. The configuration is provisioned as for a start, but not started.

Without --config it examines the Caddyfile in this directory, or else the
configuration of the running gateway. A running gateway is not disturbed.

Secrets come from the environment of this command, and files are read as its user.
To examine everything, run it as the gateway runs:

	$ sudo -u wxgate caddy wxgate check --config /etc/wxgate/Caddyfile --envfile /etc/wxgate/environment

WeChat is asked about each mini program with a made-up code. It answers 40029,
invalid code, when it accepts the appid and the secret.

The exit code is 0 without a fault, even if there are warnings, and 1 with one.`,
		Args: arguments(0),
		RunE: run(runCheck),
	}
	configFlags(cmd)
	jsonFlag(cmd)
	return cmd
}

func runCheck(cmd *cobra.Command, _ []string) error {
	caddy.BufferedLog() // Caddy's own lines are no part of the report
	c := &checkup{cmd: cmd}
	if err := c.examine(cmd.Context()); err != nil {
		return err
	}
	faults := count(c.Findings, caddymodule.StatusFault)
	err := printResult(cmd, map[string]any{"ok": faults == 0, "findings": c.Findings}, func(w io.Writer) error {
		return printFindings(w, c.Findings)
	})
	if err == nil && faults > 0 {
		err = errToldAlready
	}
	return err
}

// checkup is one run of the command.
type checkup struct {
	caddymodule.Findings

	cmd     *cobra.Command
	config  caddy.Config
	running *adminapi.Stats // of the gateway that runs, or nil
	logFile string          // what provisioning logs
}

// examine examines the configuration. Its error means that there is none; faults
// of the configuration are findings.
func (c *checkup) examine(ctx context.Context) error {
	if err := loadEnvFiles(c.cmd); err != nil {
		return err
	}
	config, err := loadConfiguration(c.cmd)
	switch {
	case errors.As(err, new(usageError)):
		return err
	case errors.Is(err, errNoConfiguration):
		if config, err = runningConfiguration(ctx, c.cmd); err != nil {
			return fmt.Errorf("there is no Caddyfile here, no --config, and no gateway to ask for its configuration: %w", err)
		}
	case err != nil:
		c.Error("configuration", err)
		return nil
	}
	if err := caddy.StrictUnmarshalJSON(caddy.RemoveMetaFields(config), &c.config); err != nil {
		c.Error("configuration", err)
		return nil
	}
	if len(c.config.AppsRaw["wxgate"]) == 0 {
		c.Fault("configuration", "it has no wxgate", "add `wxgate { miniprogram <appid> {env.WX_SECRET} }` to the global options")
		return nil
	}
	dir, err := os.MkdirTemp("", "wxgate-check-")
	if err != nil {
		return fmt.Errorf("making a directory for the log of this check: %w", err)
	}
	defer os.RemoveAll(dir)
	c.logFile = filepath.Join(dir, "log")

	c.examineAdmin()
	c.examineRunning(ctx)
	whole := c.examinePlaceholders()
	c.examineApp(ctx, whole)
	c.examineSites(ctx)
	return nil
}

// provision provisions some of the configuration's apps, and returns wxgate. What
// they do not need, such as the files of logs and certificates, is left alone.
func (c *checkup) provision(apps ...string) (*caddymodule.App, error) {
	partial := caddy.Config{Admin: c.config.Admin, StorageRaw: c.config.StorageRaw, AppsRaw: make(caddy.ModuleMap), Logging: c.logging()}
	for _, app := range apps {
		partial.AppsRaw[app] = slices.Clone(c.config.AppsRaw[app])
	}
	ctx, err := caddy.ProvisionContext(&partial)
	if err == nil {
		var app any
		if app, err = ctx.App("wxgate"); err == nil {
			return app.(*caddymodule.App), nil
		}
	}
	// Caddy's own words in front name modules, not options.
	for _, words := range []string{"loading wxgate app module: ", "provision wxgate: "} {
		if _, cause, found := strings.Cut(err.Error(), words); found {
			err = errors.New(cause)
		}
	}
	return nil, err
}

// examineApp provisions the app. If whole, the app examines what it needs.
func (c *checkup) examineApp(ctx context.Context, whole bool) {
	app, err := c.provision("wxgate")
	if err != nil {
		c.notProvisioned("configuration", err)
	} else if whole {
		c.Findings = append(c.Findings, app.Examine(ctx, c.running)...)
		c.addLogged()
	}
}

// notProvisioned adds an error of provisioning. With a gateway running, it is no
// fault that this shell lacks a secret or may not read a file.
func (c *checkup) notProvisioned(subject string, err error) {
	if c.running == nil || !secretPlaceholder.MatchString(err.Error()) && !strings.Contains(err.Error(), "permission denied") {
		c.Error(subject, err)
		return
	}
	c.Warn(subject, "could not be examined here: "+err.Error(), fixEnvironment)
}

// examineSites provisions the sites, too, and looks at each of them.
func (c *checkup) examineSites(ctx context.Context) {
	if c.config.AppsRaw["http"] == nil {
		c.config.AppsRaw["http"] = []byte("{}")
	}
	before := count(c.Findings, caddymodule.StatusFault)
	app, err := c.provision("wxgate", "http")
	if err != nil {
		if before == 0 {
			c.notProvisioned("site", err)
		}
		return
	}
	c.addLogged()
	c.Findings = append(c.Findings, app.ExamineSites(ctx, c.running)...)
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
	var config json.RawMessage
	if err := client.Call(ctx, http.MethodGet, "/config/", &config); err != nil {
		return nil, err
	}
	return config, nil
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
		b.WriteString("\nNo problems found.\n")
	} else {
		fmt.Fprintf(&b, "\n%s, %s.\n", plural(faults, "fault"), plural(warnings, "warning"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
