package caddymodule_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule"
)

// routeFaults provisions sites, or a whole Caddyfile, and returns what goes
// around the gate.
func routeFaults(t *testing.T, sites string) caddymodule.Findings {
	t.Helper()
	if !strings.HasPrefix(sites, "{") {
		sites = globals("") + sites
	}
	config, err := adapt([]byte(sites))
	require.NoError(t, err)
	return configFaults(t, config)
}

func configFaults(t *testing.T, config []byte) caddymodule.Findings {
	t.Helper()
	var cfg caddy.Config
	require.NoError(t, json.Unmarshal(config, &cfg))
	ctx, err := caddy.ProvisionContext(&cfg)
	require.NoError(t, err)
	app, err := ctx.App("wxgate")
	require.NoError(t, err)
	faults, err := app.(*caddymodule.App).RouteFaults()
	require.NoError(t, err)
	return faults
}

func globals(options string) string {
	return "{\n" + options + `
	admin off
	servers {
		expected_underscore_headers 3rd_session
	}
	wxgate {
		miniprogram wx0000000000000001 {env.WX_SECRET}
	}
}
`
}

// How requests can go around a gate, and what the error says.
func TestNothingGoesAroundTheGate(t *testing.T) {
	setEnv(t)
	t.Setenv("APP", "127.0.0.1:3000")
	for name, tc := range map[string]struct {
		sites string
		want  string // in the error
	}{
		"gate behind the proxy": {`http://a.test {
			route {
				reverse_proxy 127.0.0.1:3000
				wxgate
			}
		}`, "site a.test: reverse_proxy 127.0.0.1:3000 stands before its gate, so no request comes to the gate; write wxgate before reverse_proxy inside `route`"},
		"gate behind a proxy in a handle": {`http://a.test {
			route {
				handle {
					reverse_proxy 127.0.0.1:3000
				}
				file_server
				wxgate
			}
		}`, "site a.test: reverse_proxy 127.0.0.1:3000 stands before its gate"},
		"matcher on the gate": {`http://a.test {
			wxgate /api/* {
				login /api/login
				logout /api/logout
			}
			reverse_proxy 127.0.0.1:3000
		}`, "site a.test: reverse_proxy 127.0.0.1:3000 is also reached without its gate, by the requests that the gate's matcher does not match; write `public <path>...` inside wxgate instead of the matcher"},
		"all but OPTIONS": {`http://a.test {
			@notoptions not method OPTIONS
			wxgate @notoptions
			reverse_proxy 127.0.0.1:3000
		}`, "the gate's matcher does not match"},
		"another matcher": {`http://a.test {
			wxgate /api/* {
				login /api/login
				logout /api/logout
			}
			reverse_proxy /api* 127.0.0.1:3000
		}`, "the gate's matcher does not match"},
		"one of two matchers": {`http://a.test {
			@a path /api/* /b/*
			wxgate /api/* {
				login /api/login
				logout /api/logout
			}
			reverse_proxy @a 127.0.0.1:3000
		}`, "the gate's matcher does not match"},
		"a matcher of headers": {`http://a.test {
			@m header X-OpenID *
			wxgate @m
			encode
			reverse_proxy @m 127.0.0.1:3000
		}`, "the gate's matcher does not match"},
		"a matcher of a placeholder": {`http://a.test {
			@m path /{vars.base}/*
			wxgate @m
			encode
			reverse_proxy @m 127.0.0.1:3000
		}`, "the gate's matcher does not match"},
		"the same matcher behind a rewrite": {`http://a.test {
			route {
				wxgate /api/* {
					login /api/login
					logout /api/logout
				}
				uri replace /x/ /api/
				reverse_proxy /api/* 127.0.0.1:3000
			}
		}`, "the gate's matcher does not match"},
		"the same matcher, taken by a group": {`http://a.test {
			route {
				handle /login {
					respond "x"
				}
				handle /api/* {
					wxgate {
						login /api/login
						logout /api/logout
					}
				}
				handle {
					uri replace /x/ /api/
				}
				reverse_proxy /api/* 127.0.0.1:3000
			}
		}`, "the gate's matcher does not match"},
		"two handles": {`http://a.test {
			handle /api/* {
				wxgate {
					login /api/login
					logout /api/logout
				}
				reverse_proxy 127.0.0.1:3000
			}
			handle {
				reverse_proxy 127.0.0.1:3000
			}
		}`, "reverse_proxy 127.0.0.1:3000 is reached without passing the gate, while reverse_proxy 127.0.0.1:3000 stands behind the gate; inside `route` write wxgate before the proxy"},
		"before the gate in route": {`http://a.test {
			route {
				reverse_proxy /open/* 127.0.0.1:3000
				wxgate
				reverse_proxy 127.0.0.1:3000
			}
		}`, "without passing the gate"},
		"a second site": {`http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000
		}
		http://b.test {
			reverse_proxy 127.0.0.1:3000
		}`, "site b.test: reverse_proxy 127.0.0.1:3000 is reached without a gate, while reverse_proxy 127.0.0.1:3000 of site a.test stands behind a gate; write wxgate here, too; with `public /*` inside, it lets everyone through and still removes the identity headers"},
		"a second server": {`http://a.test:8080 {
			wxgate
			reverse_proxy 127.0.0.1:3000
		}
		http://:8081 {
			reverse_proxy 127.0.0.1:3000
		}`, "site :8081: reverse_proxy 127.0.0.1:3000 is reached without a gate"},
		"among several upstreams": {`http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000 127.0.0.1:3001
		}
		http://b.test {
			reverse_proxy 127.0.0.1:3002 127.0.0.1:3001
		}`, "site b.test: reverse_proxy 127.0.0.1:3001 is reached without a gate"},
		"handle_errors": {`http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000
			handle_errors {
				reverse_proxy 127.0.0.1:3000
			}
		}`, "site a.test: reverse_proxy 127.0.0.1:3000 in handle_errors is reached without a gate, while reverse_proxy 127.0.0.1:3000 stands behind the gate; write wxgate into handle_errors, too"},
		"handle_errors of another site": {`http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000
		}
		http://b.test {
			respond "b"
			handle_errors 5xx {
				reverse_proxy 127.0.0.1:3000
			}
		}`, "site b.test: reverse_proxy 127.0.0.1:3000 in handle_errors"},
		"handle_errors with a gate for some": {`http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000
			handle_errors {
				wxgate /api/*
				reverse_proxy 127.0.0.1:3000
			}
		}`, "in handle_errors is reached without a gate"},
		"a named route": {`&(app) {
			reverse_proxy 127.0.0.1:3000
		}
		http://a.test {
			route {
				wxgate
				invoke app
			}
		}
		http://b.test {
			invoke app
		}`, "site b.test: reverse_proxy 127.0.0.1:3000 is reached without a gate"},
		"the gate in a named route": {`&(gate) {
			route {
				wxgate
				reverse_proxy 127.0.0.1:3000
			}
		}
		http://a.test {
			invoke gate
			handle_errors {
				reverse_proxy 127.0.0.1:3000
			}
		}`, "in handle_errors is reached without a gate"},
		"intercept around the gate": {`http://a.test {
			route {
				intercept {
					@refused status 401
					handle_response @refused {
						reverse_proxy 127.0.0.1:3000
					}
				}
				wxgate
				reverse_proxy 127.0.0.1:3000
			}
		}`, "without passing the gate"},
		"handle_response of another proxy": {`http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000
		}
		http://b.test {
			reverse_proxy 127.0.0.1:4000 {
				@missing status 404
				handle_response @missing {
					reverse_proxy 127.0.0.1:3000
				}
			}
		}`, "site b.test: reverse_proxy 127.0.0.1:3000 is reached without a gate"},
		"behind forward_auth alone": {`http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000
		}
		http://b.test {
			forward_auth 127.0.0.1:9091 {
				uri /verify
			}
			reverse_proxy 127.0.0.1:3000
		}`, "site b.test: reverse_proxy 127.0.0.1:3000 is reached without a gate"},
		"the application asked by forward_auth": {`http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000
		}
		http://b.test {
			forward_auth 127.0.0.1:3000 {
				uri /me
			}
			respond "b"
		}`, "site b.test: reverse_proxy 127.0.0.1:3000 is reached without a gate"},
		"PHP": {`http://a.test {
			wxgate
			php_fastcgi unix//run/php.sock
		}
		http://b.test {
			php_fastcgi unix//run/../run/php.sock
		}`, "site b.test: reverse_proxy unix//run/../run/php.sock is reached without a gate"},
		"a socket with h2c": {`http://a.test {
			wxgate
			reverse_proxy unix//run/app.sock
		}
		http://b.test {
			reverse_proxy unix+h2c//run/app.sock
		}`, "site b.test"},
		"localhost":          {otherSpelling("localhost:3000"), "site b.test"},
		"no host":            {otherSpelling(":3000"), "site b.test"},
		"IPv6":               {otherSpelling("[::1]:3000"), "site b.test"},
		"mapped":             {otherSpelling("[::ffff:127.0.0.1]:3000"), "site b.test"},
		"any address":        {otherSpelling("0.0.0.0:3000"), "site b.test"},
		"scheme":             {otherSpelling("http://LocalHost:3000"), "site b.test"},
		"h2c":                {otherSpelling("h2c://127.0.0.1:3000"), "site b.test"},
		"network":            {otherSpelling("tcp/127.0.0.1:3000"), "site b.test"},
		"network of IPv4":    {otherSpelling("tcp4/127.0.0.1:3000"), "site b.test"},
		"leading zero":       {otherSpelling("127.0.0.1:03000"), "site b.test"},
		"dot at the end":     {otherSpelling("localhost.:3000"), "site b.test"},
		"environment":        {otherSpelling("{env.APP}"), "site b.test"},
		"placeholder":        {otherSpelling("{http.request.header.X-Upstream}"), "site b.test"},
		"placeholder's port": {otherSpelling("127.0.0.1:{vars.port}"), "site b.test"},
		"placeholder's host": {otherSpelling("{labels.1}:3000"), "site b.test"},
		"two placeholders": {`http://*.a.test {
			wxgate
			reverse_proxy {labels.2}.internal:3000
		}
		http://*.b.test {
			reverse_proxy {labels.2}.internal:3000
		}`, "site *.b.test"},
		"dynamic name": {`http://a.test {
			wxgate
			reverse_proxy App.internal:3000
		}
		http://b.test {
			reverse_proxy {
				dynamic a app.internal 3000
			}
		}`, "site b.test"},
		"dynamic service": {`http://a.test {
			wxgate
			reverse_proxy {
				dynamic srv _app._tcp.internal
			}
		}
		http://b.test {
			reverse_proxy {
				dynamic srv {
					service app
					proto tcp
					name internal
				}
			}
		}`, "site b.test"},
		"login kept out": {`http://a.test {
			wxgate /api/*
			reverse_proxy /api/* 127.0.0.1:3000
		}`, "site a.test: the matchers in front of its gate keep out /login, so the gate never receives it; write `public <path>...` inside wxgate instead of the matcher, or give it `login` and `logout` paths that the matchers let in"},
		"login kept out by a method": {`http://a.test {
			@get method GET
			handle @get {
				wxgate
				reverse_proxy 127.0.0.1:3000
			}
		}`, "keep out /login"},
		"logout kept out by not": {`http://a.test {
			@not not path /logout
			handle @not {
				wxgate
				reverse_proxy 127.0.0.1:3000
			}
		}`, "keep out /logout"},
		"login goes to the pages": {`http://a.test {
			handle /api/* {
				wxgate {
					logout /api/logout
				}
				reverse_proxy 127.0.0.1:3000
			}
			handle {
				reverse_proxy 127.0.0.1:5173
			}
		}`, "keep out /login"},
	} {
		t.Run(name, func(t *testing.T) {
			faults := routeFaults(t, tc.sites)
			require.NotEmpty(t, faults)
			require.Contains(t, faults[0].Subject+": "+faults[0].Message+"; "+faults[0].Fix, tc.want)
		})
	}
}

// otherSpelling has a gate in front of 127.0.0.1:3000 and another address for it
// without one.
func otherSpelling(address string) string {
	return "http://a.test {\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\nhttp://b.test {\nreverse_proxy " + address + "\n}"
}

func init() { caddy.RegisterModule(new(otherModule)) }

// An otherModule is a handler of another module, with routes of its own.
type otherModule struct {
	Routes caddyhttp.RouteList `json:"routes,omitempty"`
}

func (*otherModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.other_module", New: func() caddy.Module { return new(otherModule) }}
}

func (m *otherModule) Provision(ctx caddy.Context) error { return m.Routes.Provision(ctx) }

func (m *otherModule) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return m.Routes.Compile(next).ServeHTTP(w, r)
}

// What only JSON can say.
func TestNothingGoesAroundTheGateInJSON(t *testing.T) {
	setEnv(t)
	const proxy = `{"handler": "reverse_proxy", "upstreams": [{"dial": "127.0.0.1:3000"}]}`
	const gated = `{"match": [{"host": ["a.test"]}], "handle": [{"handler": "wxgate"}, ` + proxy + `], "terminal": true}`
	for name, tc := range map[string]struct {
		routes string
		fault  bool
	}{
		"routes of another module":             {gated + `, {"handle": [{"handler": "other_module", "routes": [{"handle": [` + proxy + `]}]}]}`, true},
		"a gate in another module":             {`{"handle": [{"handler": "other_module", "routes": [{"handle": [{"handler": "wxgate"}]}]}, ` + proxy + `]}`, true},
		"a gate before another module":         {`{"handle": [{"handler": "wxgate"}, {"handler": "other_module", "routes": [{"handle": [` + proxy + `]}]}]}`, false},
		"errors of a subroute":                 {gated + `, {"handle": [{"handler": "subroute", "routes": [{"handle": [{"handler": "error"}]}], "errors": {"routes": [{"handle": [` + proxy + `]}]}}]}`, true},
		"errors of a subroute behind the gate": {`{"handle": [{"handler": "wxgate"}, {"handler": "subroute", "routes": [{"handle": [{"handler": "error"}]}], "errors": {"routes": [{"handle": [` + proxy + `]}]}}]}`, false},
		"a gate in the errors alone":           {`{"handle": [{"handler": "subroute", "routes": [{"handle": [` + proxy + `]}], "errors": {"routes": [{"handle": [{"handler": "wxgate"}, ` + proxy + `]}]}}]}`, true},
		"a group of which one has a gate": {`{"group": "g", "match": [{"path": ["/a*"]}], "handle": [{"handler": "vars"}]},
			{"group": "g", "handle": [{"handler": "wxgate"}]}, {"handle": [` + proxy + `]}`, true},
		"a group of which another route may be taken": {`{"group": "g", "match": [{"path": ["/api/a*"]}], "handle": [{"handler": "vars"}]},
			{"group": "g", "match": [{"path": ["/api/*"]}], "handle": [{"handler": "wxgate", "login": "/api/login", "logout": "/api/logout"}]},
			{"match": [{"path": ["/api/*"]}], "handle": [` + proxy + `]}`, true},
		"a group of which none but this may be taken": {`{"group": "g", "match": [{"path": ["/api/*"]}], "handle": [{"handler": "wxgate", "login": "/api/login", "logout": "/api/logout"}]},
			{"match": [{"path": ["/api/*"]}], "handle": [` + proxy + `]}`, false},
		"a named route that invokes itself": {gated + `, {"handle": [{"handler": "invoke", "name": "loop"}]}`, false},
		"one matcher set of two":            {`{"match": [{"path": ["/*"]}], "handle": [{"handler": "wxgate"}]}, {"match": [{"path": ["/*"]}, {"method": ["GET"]}], "handle": [` + proxy + `]}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			config := `{"admin": {"disabled": true}, "apps": {
				"wxgate": {"miniprogram": [{"appid": "wx0000000000000001", "secret": "{env.WX_SECRET}"}]},
				"http": {"servers": {"s": {"listen": [":8080"], "expected_underscore_headers": ["3rd_session"], "routes": [` + tc.routes + `],
					"named_routes": {"loop": {"handle": [{"handler": "invoke", "name": "loop"}]}}}}}}}`
			if !tc.fault {
				require.Empty(t, configFaults(t, []byte(config)))
				return
			}
			require.NotEmpty(t, configFaults(t, []byte(config)))
		})
	}
}

// Caddy starts apps in no order, so that requests may come before the App has
// started, and refused its configuration.
func TestUnstartedConfigurationLetsNothingThrough(t *testing.T) {
	setEnv(t)
	config, err := adapt([]byte(globals("") + "http://a.test {\nwxgate /api/* {\npublic /api/*\n}\nrespond \"behind\"\n}\nhttp://b.test {\nreverse_proxy 127.0.0.1:1\n}"))
	require.NoError(t, err)
	var cfg caddy.Config
	require.NoError(t, json.Unmarshal(config, &cfg))
	ctx, err := caddy.ProvisionContext(&cfg)
	require.NoError(t, err)
	app, err := ctx.App("http")
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodGet, "http://a.test/api/x", nil)
	w := httptest.NewRecorder()
	app.(*caddyhttp.App).Servers["srv0"].ServeHTTP(w, r)
	require.Equal(t, http.StatusServiceUnavailable, w.Code, "its login path is kept out")
	require.NotContains(t, w.Body.String(), "behind")
}
