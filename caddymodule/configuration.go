package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// configuration is what the commands look at of a Caddy configuration that they
// do not run.
type configuration struct {
	Admin   *caddy.AdminConfig `json:"admin"`
	Logging *caddy.Logging     `json:"logging"`
	Apps    struct {
		WXGate json.RawMessage `json:"wxgate"`
		HTTP   json.RawMessage `json:"http"`
	} `json:"apps"`

	raw []byte
}

// errNoConfiguration says that there is no configuration file to look at.
var errNoConfiguration = errors.New("there is no configuration file")

// loadConfiguration reads a configuration file: JSON if its name ends so, and
// else what the adapter reads, by default a Caddyfile. Without a name it is the
// Caddyfile here. It says less on the terminal than Caddy's own LoadConfig.
func loadConfiguration(file, adapter string) (*configuration, error) {
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
	return parseConfiguration(text)
}

func parseConfiguration(text []byte) (*configuration, error) {
	c := &configuration{raw: text}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("parsing configuration: %w", err)
	}
	return c, nil
}

// app returns the App of the configuration with its defaults, not provisioned.
func (c *configuration) app() (*App, error) {
	if len(c.Apps.WXGate) == 0 {
		return nil, errors.New("the configuration has no wxgate: add `wxgate { miniprogram <appid> {env.WX_SECRET} }` to the global options")
	}
	a := new(App)
	dec := json.NewDecoder(bytes.NewReader(c.Apps.WXGate))
	dec.DisallowUnknownFields()
	if err := dec.Decode(a); err != nil {
		return nil, fmt.Errorf("parsing the wxgate app: %w", err)
	}
	a.setDefaults()
	return a, nil
}

// provisionStore loads and provisions the store module of an App that is not
// going to run. release gives back what that took.
func provisionStore(a *App) (module StoreModule, release func(), err error) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	if err := a.loadStoreModule(ctx); err != nil {
		cancel()
		return nil, nil, err
	}
	return a.module, cancel, nil
}
