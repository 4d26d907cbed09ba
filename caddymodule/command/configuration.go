package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// errNoConfiguration says that there is no configuration file to look at.
var errNoConfiguration = errors.New("there is no configuration file")

// loadConfiguration reads a configuration file: JSON if its name ends so, and
// else what the adapter reads, by default a Caddyfile. Without a name it is the
// Caddyfile here. It says less on the terminal than Caddy's own LoadConfig.
func loadConfiguration(file, adapter string) ([]byte, error) {
	if file == "" {
		if _, err := os.Stat("Caddyfile"); errors.Is(err, fs.ErrNotExist) {
			return nil, errNoConfiguration
		}
		file = "Caddyfile"
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	if adapter == "" && filepath.Ext(file) != ".json" {
		adapter = "caddyfile"
	}
	if adapter != "" {
		from := caddyconfig.GetAdapter(adapter)
		if from == nil {
			return nil, usageError{fmt.Errorf("--adapter: there is no config adapter %q", adapter)}
		}
		if text, _, err = from.Adapt(text, map[string]any{"filename": file}); err != nil {
			return nil, fmt.Errorf("adapting %s: %w", file, err)
		}
	}
	return text, nil
}
