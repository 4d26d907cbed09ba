package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
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
}

func parseConfiguration(text []byte) (*configuration, error) {
	c := new(configuration)
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

// ConfiguredStore provisions the store module of a configuration that is not
// going to run. release gives back what that took.
func ConfiguredStore(config []byte) (module StoreModule, release func(), err error) {
	conf, err := parseConfiguration(config)
	if err != nil {
		return nil, nil, err
	}
	a, err := conf.app()
	if err != nil {
		return nil, nil, err
	}
	return provisionStore(a)
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
