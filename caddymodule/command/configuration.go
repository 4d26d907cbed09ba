package command

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/spf13/cobra"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
)

// configFlags gives a command the flags that name a configuration and, with it
// or without, the running gateway.
func configFlags(cmd *cobra.Command) {
	cmd.Flags().String("address", "", "Address of the admin endpoint, such as localhost:2019 or unix//run/caddy/admin.sock")
	cmd.Flags().StringP("config", "c", "", "Configuration file; it names the admin endpoint if --address is not used")
	cmd.Flags().StringP("adapter", "a", "", "Name of the config adapter, if --config is used")
	envFileFlag(cmd)
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

func envFileFlag(cmd *cobra.Command) {
	cmd.Flags().StringSlice("envfile", nil, "Environment file(s) to load, as for caddy run")
}

// errNoConfiguration is returned when there is no configuration file to look at.
var errNoConfiguration = errors.New("there is no configuration file")

// loadConfiguration returns the configuration of the flags as JSON; without
// --config that of the Caddyfile in this directory.
func loadConfiguration(cmd *cobra.Command) ([]byte, error) {
	file, _ := cmd.Flags().GetString("config")
	adapter, _ := cmd.Flags().GetString("adapter")
	if file == "" {
		if _, err := os.Stat("Caddyfile"); errors.Is(err, fs.ErrNotExist) {
			return nil, errNoConfiguration
		}
		file = "Caddyfile"
	}
	return readConfiguration(file, adapter)
}

// readConfiguration reads a configuration file: JSON if its name ends so, and
// else what the adapter reads, by default a Caddyfile. It writes less to the
// terminal than Caddy's own LoadConfig.
func readConfiguration(file, adapter string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	if adapter = adapterOf(file, adapter); adapter == "" {
		return text, nil
	}
	from := caddyconfig.GetAdapter(adapter)
	if from == nil {
		return nil, usageError{fmt.Errorf("--adapter: there is no config adapter %q", adapter)}
	}
	if text, _, err = from.Adapt(text, map[string]any{"filename": file}); err != nil {
		return nil, fmt.Errorf("adapting %s: %w", file, err)
	}
	return text, nil
}

func adapterOf(file, adapter string) string {
	if adapter == "" && filepath.Ext(file) != ".json" {
		return "caddyfile"
	}
	return adapter
}

// configuredAdmin returns the address of the admin endpoint in a configuration
// file. It needs no other part of the file, so a variable that only the gateway
// has does not matter here.
func configuredAdmin(file, adapter string) (string, error) {
	var listen string
	if adapterOf(file, adapter) == "caddyfile" {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("reading configuration: %w", err)
		}
		blocks, err := caddyfile.Parse(file, text)
		if err != nil {
			return "", fmt.Errorf("parsing %s: %w", file, err)
		}
		if len(blocks) > 0 && len(blocks[0].Keys) == 0 { // the global options
			for _, segment := range blocks[0].Segments {
				if segment.Directive() == "admin" && len(segment) > 1 && segment[1].Text != "{" {
					listen = segment[1].Text
				}
			}
		}
	} else {
		text, err := readConfiguration(file, adapter)
		if err != nil {
			return "", err
		}
		var config struct{ Admin caddy.AdminConfig }
		if err := json.Unmarshal(text, &config); err != nil {
			return "", fmt.Errorf("parsing %s: %w", file, err)
		}
		if listen = config.Admin.Listen; config.Admin.Disabled {
			listen = "off"
		}
	}
	switch listen {
	case "":
		return caddy.DefaultAdminListen, nil
	case "off":
		return "", fmt.Errorf("%s has `admin off`, so this command cannot reach the gateway; remove it", file)
	}
	return caddy.NewReplacer().ReplaceKnown(listen, ""), nil
}

// loadEnvFiles adds the variables of --envfile to the environment. Like Caddy, it
// does not override those that are set.
func loadEnvFiles(cmd *cobra.Command) error {
	files, _ := cmd.Flags().GetStringSlice("envfile")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("reading --envfile: %w", err)
		}
		variables, err := parseEnvFile(text)
		if err != nil {
			return fmt.Errorf("reading --envfile %s: %w", file, err)
		}
		for name, value := range variables {
			if _, set := os.LookupEnv(name); set {
				continue
			}
			if err := os.Setenv(name, value); err != nil {
				return fmt.Errorf("reading --envfile %s: %s has a value that no variable can have", file, name)
			}
		}
	}
	return nil
}

// parseEnvFile reads NAME=value lines as Caddy does, whose own function is not
// exported. No error repeats a line, which may hold a secret.
func parseEnvFile(text []byte) (map[string]string, error) {
	variables := make(map[string]string)
	lines, number := bufio.NewScanner(bytes.NewReader(text)), 0
	for lines.Scan() {
		number++
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimPrefix(name, "export ")
		if !ok || name == "" || strings.Contains(name, " ") || strings.HasPrefix(value, " ") || strings.HasPrefix(value, "\t") {
			return nil, fmt.Errorf("line %d is not NAME=value", number)
		}
		if before, _, comment := strings.Cut(value, "#"); comment {
			value = strings.TrimRight(before, " \t")
		}
		if strings.HasPrefix(value, `"`) || strings.HasPrefix(value, "'") {
			quote := value[:1]
			// A quoted value may go on for lines.
			for !strings.HasSuffix(line, quote) || strings.HasSuffix(line, `\`+quote) {
				value = strings.ReplaceAll(value, `\`+quote, quote)
				if !lines.Scan() {
					break
				}
				number++
				line = strings.ReplaceAll(lines.Text(), `\`+quote, quote)
				value += "\n" + line
			}
			value = strings.TrimSuffix(strings.TrimPrefix(value, quote), quote)
		}
		variables[name] = value
	}
	return variables, lines.Err()
}
