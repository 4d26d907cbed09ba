package caddymodule_test

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
)

// jsonConfig is a whole configuration in JSON, with members of the app and of
// the handler of its only site.
func jsonConfig(t *testing.T, app, site map[string]any) []byte {
	whole := map[string]any{
		"miniprogram": []any{map[string]any{"appid": "wx0123456789abcdef", "secret": "{env.WX_SECRET}"}},
	}
	maps.Copy(whole, app)
	handler := map[string]any{"handler": "wxgate"}
	maps.Copy(handler, site)
	config, err := json.Marshal(map[string]any{"apps": map[string]any{
		"wxgate": whole,
		"http": map[string]any{"servers": map[string]any{"s": map[string]any{
			"listen":                      []string{"127.0.0.1:0"},
			"expected_underscore_headers": []string{"3rd_session"},
			"routes":                      []any{map[string]any{"handle": []any{handler}}},
		}}},
	}})
	require.NoError(t, err)
	return config
}

type members = map[string]any

func TestGoodJSON(t *testing.T) {
	setEnv(t)
	for name, tc := range map[string]struct{ app, site members }{
		"nothing said":         {nil, nil},
		"part of login_rate":   {members{"login_rate": members{"events": 5}}, nil},
		"window of login_rate": {members{"login_rate": members{"window": "1h"}}, nil},
		"no login_rate":        {members{"login_rate": members{"off": true}}, nil},
		"nanoseconds":          {members{"exchange_timeout": 5_000_000_000}, nil},
		"any age":              {nil, members{"open_data": members{"paths": []string{"/phone"}, "max_age": 0}}},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, validate(t, jsonConfig(t, tc.app, tc.site)))
		})
	}
}

func TestBadJSON(t *testing.T) {
	setEnv(t)
	redis := func(option string, value any) members {
		return members{
			"encryption_key": []string{"{env.WXGATE_KEY}"},
			"store":          members{"module": "redis", "addresses": []string{"127.0.0.1:1"}, option: value},
		}
	}
	for name, tc := range map[string]struct {
		app, site members
		want      string
	}{
		"unknown option":      {members{"wechat_apis": "x"}, nil, `unknown field "wechat_apis"`},
		"unknown site option": {nil, members{"tokens_from": "x"}, `unknown field "tokens_from"`},
		"negative rate":       {members{"login_rate": members{"events": -1}}, nil, "login_rate: events must be 1 or more, or off true"},
		"negative slots":      {members{"exchange_concurrency": -1}, nil, "exchange_concurrency must be at least 1"},

		// A number is nanoseconds: what looks like a minute would be nothing.
		"exchange_timeout":   {members{"exchange_timeout": 5}, nil, "exchange_timeout: 5ns is less than 1ms"},
		"negative":           {members{"exchange_timeout": "-5s"}, nil, "exchange_timeout: -5s is less than 1ms"},
		"idle_timeout":       {members{"session": members{"idle_timeout": 3600}}, nil, "session: idle_timeout: 3.6µs is less than 1ms"},
		"lifetime":           {members{"session": members{"lifetime": 3600}}, nil, "session: lifetime: 3.6µs is less than 1ms"},
		"window":             {members{"login_rate": members{"events": 600, "window": 60}}, nil, "login_rate: window: 60ns is less than 1ms"},
		"recheck":            {nil, members{"recheck": 60}, "recheck: 60ns is less than 1ms"},
		"max_age":            {nil, members{"open_data": members{"paths": []string{"/phone"}, "max_age": 600}}, "open_data: max_age: 600ns is less than 1ms"},
		"redis dial_timeout": {redis("dial_timeout", 1), nil, "store redis: dial_timeout: 1ns is less than 1ms"},
		"redis timeout":      {redis("timeout", 500), nil, "store redis: timeout: 500ns is less than 1ms"},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, validate(t, jsonConfig(t, tc.app, tc.site)), tc.want)
		})
	}
}
