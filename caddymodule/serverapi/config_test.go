package serverapi_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"

	_ "github.com/wxgate/wxgate/caddymodule"
	_ "github.com/wxgate/wxgate/caddymodule/serverapi"
)

const appID = "wx0123456789abcdef"

// whole is a Caddyfile with more lines in the global wxgate block, and sites.
func whole(app, sites string) string {
	return fmt.Sprintf("{\n\tauto_https off\n\twxgate {\n\t\tminiprogram %s {env.WX_SECRET}\n\t\t%s\n\t}\n}\n%s\n", appID, app, sites)
}

// local is a site on loopback.
func local(lines string) string {
	return "http://127.0.0.1:9001 {\n\tbind 127.0.0.1\n\twxgate_api {\n\t\t" + lines + "\n\t}\n}"
}

func load(t *testing.T, caddyfile string) error {
	t.Helper()
	t.Setenv("WX_SECRET", "0123456789abcdef0123456789abcdef")
	t.Setenv("API_KEY", "canary-api-key-0123456789")
	t.Setenv("SHORT", "short")
	t.Setenv("BLANK", "canary api key 0123456789")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err
	}
	return validate(t, config)
}

func validate(t *testing.T, config []byte) error {
	t.Helper()
	var cfg caddy.Config
	require.NoError(t, json.Unmarshal(config, &cfg))
	return caddy.Validate(&cfg)
}

// way is what Caddy puts before an error: it provisions apps in no order.
var way = regexp.MustCompile(`^.*provision (?:wxgate|http\.handlers\.wxgate(?:_api)?): |^parsing caddyfile tokens for 'wxgate(?:_api)?': `)

func TestBadCaddyfiles(t *testing.T) {
	const open = ", where everybody reaches it: add \"bind 127.0.0.1\" to the site, or give the callers a key: key <name> {env.WXGATE_API_KEY}"
	for name, tc := range map[string]struct{ caddyfile, want string }{
		"an argument":                     {whole("", "http://127.0.0.1:9001 {\n\tbind 127.0.0.1\n\twxgate_api /x y\n}"), "wrong argument count or unexpected line ending after 'y', at Caddyfile:10"},
		"an unknown option":               {whole("", local("login /login")), `unrecognized option "login", at Caddyfile:11`},
		"open":                            {whole("", "http://127.0.0.1:9001 {\n\twxgate_api\n}"), "wxgate_api listens on :9001" + open},
		"open by bind":                    {whole("", "http://:9001 {\n\tbind 127.0.0.1 0.0.0.0\n\twxgate_api\n}"), "wxgate_api listens on 0.0.0.0:9001" + open},
		"open on another interface":       {whole("", "http://:9001 {\n\tbind 10.0.0.1\n\twxgate_api\n}"), "wxgate_api listens on 10.0.0.1:9001" + open},
		"open with TLS":                   {whole("", "https://x.test:9001 {\n\ttls internal\n\twxgate_api\n}"), "wxgate_api listens on :9001" + open},
		"open with optional certificates": {whole("", "https://x.test:9001 {\n\ttls internal {\n\t\tclient_auth {\n\t\t\tmode request\n\t\t}\n\t}\n\twxgate_api\n}"), "wxgate_api listens on :9001" + open},
		"beside a gate": {whole("", "http://127.0.0.1:9001 {\n\tbind 127.0.0.1\n\twxgate_api /wxa/*\n\twxgate {\n\t\ttoken_from bearer\n\t}\n}"),
			"a wxgate site and a wxgate_api without a key both listen on 127.0.0.1:9001, so clients would reach WeChat's API in your name: give the wxgate_api an address of its own, such as http://127.0.0.1:9001 with `bind 127.0.0.1`, or a key"},
		"beside a gate on another site": {whole("", "http://a.test:9001 {\n\tbind 127.0.0.1\n\twxgate {\n\t\ttoken_from bearer\n\t}\n}\nhttp://b.test:9001 {\n\tbind 127.0.0.1\n\twxgate_api\n}"),
			"a wxgate site and a wxgate_api without a key both listen on 127.0.0.1:9001, so clients would reach WeChat's API in your name: give the wxgate_api an address of its own, such as http://127.0.0.1:9001 with `bind 127.0.0.1`, or a key"},
		"miniprograms without one":          {whole("", local("miniprograms")), "miniprograms takes at least one argument, at Caddyfile:11"},
		"an undeclared mini program":        {whole("", local("miniprograms wx0000000000000009")), "wxgate_api: miniprograms: wx0000000000000009 is not declared by a `miniprogram` line of the global options"},
		"a mini program twice":              {whole("", local("miniprograms "+appID+" "+appID)), "wxgate_api: miniprograms: " + appID + " is named twice"},
		"allow nothing":                     {whole("", local("allow")), "allow takes at least one argument, at Caddyfile:11"},
		"allow an empty word":               {whole("", local(`allow ""`)), "an argument of allow is empty, at Caddyfile:11"},
		"allow a glob":                      {whole("", local("allow /wxa/get*")), `"/wxa/get*" is not a path such as /wxa/msg_sec_check, or /wxa/sec/order/* for all below one, at Caddyfile:11`},
		"allow a URL":                       {whole("", local("allow https://api.weixin.qq.com/wxa/x")), `"https://api.weixin.qq.com/wxa/x" is not a path such as /wxa/msg_sec_check, or /wxa/sec/order/* for all below one, at Caddyfile:11`},
		"allow what is never allowed":       {whole("", local("allow /wxa/resetusersessionkey")), "/wxa/resetusersessionkey is never allowed: it takes the AppSecret, or its answer holds a session_key, at Caddyfile:11"},
		"allow below what is never allowed": {whole("", local("allow default /sns/*")), "/sns/* is never allowed: it takes the AppSecret, or its answer holds a session_key, at Caddyfile:11"},
		"allow a token path":                {whole("", local("allow /cgi-bin/token")), "/cgi-bin/token is answered by wxgate_api itself, at Caddyfile:11"},
		"allow the path of signatures":      {whole("", local("allow /wxgate/sign")), "/wxgate/sign is answered by wxgate_api itself, at Caddyfile:11"},
		"clients without one":               {whole("", local("clients")), "clients takes at least one argument, at Caddyfile:11"},
		"clients that are no range":         {whole("", local("clients 10.0.0.0/33")), `"10.0.0.0/33" is not a range of addresses such as 10.0.0.0/8, at Caddyfile:11`},
		"clients everyone":                  {whole("", local("clients ::/0")), "::/0 is every address; give the callers a key instead: key <name> {env.WXGATE_API_KEY}, at Caddyfile:11"},
		"a key without a secret":            {whole("", local("key app {$NOT_SET}")), "key takes <name> <secret>...; if the line has a {$NAME}, set that variable, at Caddyfile:11"},
		"a key's name":                      {whole("", local("key my,app {env.API_KEY}")), `"my,app" is not a key's name: a name has letters, digits, - and _ only, at Caddyfile:11`},
		"a key twice":                       {whole("", local("key app {env.API_KEY}\n\t\tkey app {env.API_KEY}")), "wxgate_api: key: app is given twice"},
		"a short key":                       {whole("", local("key app {env.SHORT}")), "wxgate_api: key: app: it is shorter than 16 characters; make one with `openssl rand -hex 32`"},
		"a key with blanks":                 {whole("", local("key app {env.BLANK}")), "wxgate_api: key: app: it holds blanks or characters that are not ASCII"},
		"a key that is not set":             {whole("", local("key app {env.NOT_SET}")), "wxgate_api: key: app: {env.NOT_SET} is not set, empty or not readable"},
		"max_body twice":                    {whole("", local("max_body 1MiB\n\t\tmax_body 2MiB")), "max_body takes one size, once, at Caddyfile:12"},
		"max_body nothing":                  {whole("", local("max_body 0")), `"0" is not a size such as 16MiB, at Caddyfile:11`},
		"max_body a word":                   {whole("", local("max_body much")), `"much" is not a size such as 16MiB, at Caddyfile:11`},
		"api_concurrency":                   {whole("api_concurrency 0", local("")), `api_concurrency: "0" is not a number of 1 or more, at Caddyfile:5`},
		"api_timeout":                       {whole("api_timeout soon", local("")), `api_timeout: "soon" is not a duration of 1ms or more, such as 500ms, 72h or 30d, at Caddyfile:5`},
		"virtual_pay without a key":         {whole("virtual_pay "+appID, local("")), "virtual_pay takes <appid> <app key> [<sandbox app key>]; if the line has a {$NAME}, set that variable, at Caddyfile:5"},
		"virtual_pay undeclared":            {whole("virtual_pay wx0000000000000009 {env.API_KEY}", local("")), "virtual_pay: wx0000000000000009 is not declared by a `miniprogram` line"},
		"virtual_pay twice":                 {whole("virtual_pay "+appID+" {env.API_KEY}\n\t\tvirtual_pay "+appID+" {env.API_KEY}", local("")), "virtual_pay: " + appID + " is named twice"},
		"virtual_pay not set":               {whole("virtual_pay "+appID+" {env.NOT_SET}", local("")), "virtual_pay " + appID + ": {env.NOT_SET} is not set, empty or not readable"},
	} {
		t.Run(name, func(t *testing.T) {
			err := load(t, tc.caddyfile)
			require.Error(t, err)
			require.Equal(t, tc.want, way.ReplaceAllString(err.Error(), ""))
			require.NotContains(t, err.Error(), "canary")
		})
	}
}

func TestGoodCaddyfiles(t *testing.T) {
	for name, sites := range map[string]string{
		"nothing said":          "http://127.0.0.1:9001 {\n\tbind 127.0.0.1\n\twxgate_api\n}",
		"IPv6":                  "http://[::1]:9001 {\n\tbind ::1 localhost\n\twxgate_api\n}",
		"a unix socket":         "http:// {\n\tbind unix//run/wxgate/api.sock|0660\n\twxgate_api\n}",
		"a key":                 "http://:9001 {\n\twxgate_api {\n\t\tkey app {env.API_KEY}\n\t}\n}",
		"clients":               "http://:9001 {\n\twxgate_api {\n\t\tclients private_ranges 192.0.2.7\n\t}\n}",
		"certificates":          "https://x.test:9001 {\n\ttls internal {\n\t\tclient_auth {\n\t\t\tmode require_and_verify\n\t\t\ttrust_pool pki_root {\n\t\t\t\tauthority local\n\t\t\t}\n\t\t}\n\t}\n\twxgate_api\n}",
		"a key beside a gate":   "http://:9001 {\n\twxgate_api /wxa/* {\n\t\tkey app {env.API_KEY}\n\t}\n\twxgate {\n\t\ttoken_from bearer\n\t}\n}",
		"an address of its own": "http://:9000 {\n\twxgate {\n\t\ttoken_from bearer\n\t}\n}\n" + local("allow default /wxa/game/*\n\t\tallow /wxa/commit"),
		"every option":          local("miniprograms " + appID + "\n\t\tallow default /wxa/game/*\n\t\tclients private_ranges\n\t\tkey app {env.API_KEY} {env.API_KEY}\n\t\tmax_body 1GiB"),
	} {
		t.Run(name, func(t *testing.T) { require.NoError(t, load(t, whole("", sites))) })
	}
}

// JSON has the same options as the Caddyfile, and is judged in the same way.
func TestJSONIsEqualInPower(t *testing.T) {
	t.Setenv("WX_SECRET", "0123456789abcdef0123456789abcdef")
	t.Setenv("API_KEY", "canary-api-key-0123456789")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	type members = map[string]any
	config := func(listen string, app, handler members) []byte {
		whole := members{"miniprogram": []any{members{"appid": appID, "secret": "{env.WX_SECRET}"}}}
		for name, value := range app {
			whole[name] = value
		}
		route := members{"handler": "wxgate_api"}
		for name, value := range handler {
			route[name] = value
		}
		text, err := json.Marshal(members{"apps": members{"wxgate": whole, "http": members{"servers": members{"api": members{
			"listen": []string{listen}, "routes": []any{members{"handle": []any{route}}},
		}}}}})
		require.NoError(t, err)
		return text
	}
	require.NoError(t, validate(t, config("127.0.0.1:9001", nil, nil)))
	everything := members{
		"miniprograms": []string{appID}, "allow": []string{"default", "/wxa/game/*"}, "clients": []string{"private_ranges"},
		"key": []any{members{"name": "app", "secret": []string{"{env.API_KEY}"}}}, "max_body": "1MiB",
	}
	app := members{"api_concurrency": 8, "api_timeout": "10s", "virtual_pay": []any{members{"appid": appID, "app_key": "{env.API_KEY}", "sandbox_key": "{env.API_KEY}"}}}
	require.NoError(t, validate(t, config(":9001", app, everything)))
	for name, tc := range map[string]struct {
		listen       string
		app, handler members
		want         string
	}{
		"open":            {":9001", nil, nil, "wxgate_api listens on :9001, where everybody reaches it"},
		"allow":           {"127.0.0.1:9001", nil, members{"allow": []string{"/sns/jscode2session"}}, "wxgate_api: allow: /sns/jscode2session is never allowed"},
		"clients":         {"127.0.0.1:9001", nil, members{"clients": []string{"x"}}, `wxgate_api: clients: "x" is not a range`},
		"key":             {"127.0.0.1:9001", nil, members{"key": []any{members{"name": "app"}}}, "wxgate_api: key: app has no secret"},
		"max_body":        {"127.0.0.1:9001", nil, members{"max_body": "x"}, `wxgate_api: max_body: "x" is not a size`},
		"api_concurrency": {"127.0.0.1:9001", members{"api_concurrency": -1}, nil, "api_concurrency must be at least 1"},
		"api_timeout":     {"127.0.0.1:9001", members{"api_timeout": 30}, nil, "api_timeout: 30ns is less than 1ms"},
		"virtual_pay":     {"127.0.0.1:9001", members{"virtual_pay": []any{members{"appid": appID}}}, nil, "virtual_pay: the app key of " + appID + " is empty"},
		"a misspelt word": {"127.0.0.1:9001", nil, members{"keys": []any{}}, `unknown field "keys"`},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, validate(t, config(tc.listen, tc.app, tc.handler)), tc.want)
		})
	}
}
