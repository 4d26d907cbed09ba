package caddymodule_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// More ways around the gate: each has a sibling in TestNothingGoesAroundTheGate.
func TestSiblingsOfWaysAroundTheGate(t *testing.T) {
	setEnv(t)
	t.Setenv("APP_HOST", "127.0.0.1")
	const gated = "http://a.test {\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\n"
	for name, sites := range map[string]string{
		// A gate behind the proxy.
		"a proxy of every path before the gate":  "http://a.test {\nroute {\nreverse_proxy /* 127.0.0.1:3000\nwxgate\n}\n}",
		"a proxy that changes a status":          "http://a.test {\nroute {\nreverse_proxy 127.0.0.1:3000 {\n@failed status 500\nreplace_status @failed 502\n}\nwxgate\n}\n}",
		"a proxy that answers errors itself":     "http://a.test {\nroute {\nreverse_proxy 127.0.0.1:3000 {\n@failed status 500\nhandle_response @failed {\nrespond \"sorry\" 500\n}\n}\nwxgate\n}\n}",
		"a proxy that copies the response":       "http://a.test {\nroute {\nreverse_proxy 127.0.0.1:3000 {\n@failed status 500\nhandle_response @failed {\ncopy_response 502\n}\n}\nwxgate\n}\n}",
		"a proxy that fails on purpose":          "http://a.test {\nroute {\nreverse_proxy 127.0.0.1:3000 {\n@failed status 500\nhandle_response @failed {\nerror 502\n}\n}\nwxgate\n}\n}",
		"PHP before the gate":                    "http://a.test {\nroute {\nphp_fastcgi 127.0.0.1:9000\nwxgate\n}\n}",
		"a gate behind a proxy in a named route": "&(app) {\nreverse_proxy 127.0.0.1:3000\n}\nhttp://a.test {\nroute {\ninvoke app\nwxgate\n}\n}",
		"a gate behind an imported proxy":        "(app) {\nreverse_proxy 127.0.0.1:3000\n}\nhttp://a.test {\nroute {\nimport app\nwxgate\n}\n}",

		"behind the files, a proxy of some paths":        "http://a.test {\nroute {\nreverse_proxy /api/* 127.0.0.1:3000\nfile_server\nwxgate\n}\n}",
		"a proxy of some paths in route":                 "http://a.test {\nroute {\nreverse_proxy /api/* 127.0.0.1:3000\nwxgate\n}\n}",
		"a handle with the proxy, another with the gate": "http://a.test {\nhandle /api/* {\nreverse_proxy 127.0.0.1:3000\n}\nhandle {\nwxgate\n}\n}",
		"a status changed before the gate":               "http://a.test {\nroute {\nreverse_proxy 127.0.0.1:3000 {\n@failed status 500\nreplace_status @failed 502\n}\nwxgate\nreverse_proxy 127.0.0.1:3001\n}\n}",
		"every path before the gate of another proxy":    "http://a.test {\nroute {\nreverse_proxy /* 127.0.0.1:3000\nwxgate\nreverse_proxy 127.0.0.1:3001\n}\n}",

		// A second door.
		"every host of the same server":            gated + "http:// {\nreverse_proxy 127.0.0.1:3000\n}",
		"a wildcard host":                          gated + "http://*.test {\nreverse_proxy 127.0.0.1:3000\n}",
		"an imported site":                         "(app) {\nreverse_proxy 127.0.0.1:3000\n}\nhttp://a.test {\nwxgate\nimport app\n}\nhttp://b.test {\nimport app\n}",
		"a metrics port":                           gated + "http://:9090 {\nmetrics /metrics\nreverse_proxy /health 127.0.0.1:3000\n}",
		"PHP and a proxy to its port":              "http://a.test {\nwxgate\nphp_fastcgi 127.0.0.1:9000\n}\nhttp://b.test {\nreverse_proxy 127.0.0.1:9000 {\ntransport fastcgi\n}\n}",
		"a rewriting proxy behind a gate":          "http://a.test {\nwxgate\nreverse_proxy 127.0.0.1:3000 {\nrewrite /v1{uri}\n@file header X-Accel-Redirect *\nhandle_response @file {\nfile_server\n}\n}\n}\nhttp://b.test {\nreverse_proxy 127.0.0.1:3000\n}",
		"a proxy with a method and a gate":         "http://a.test {\nwxgate\nreverse_proxy 127.0.0.1:3000 {\nmethod POST\n@file header X-Accel-Redirect *\nhandle_response @file {\nfile_server\n}\n}\n}\nhttp://b.test {\nreverse_proxy 127.0.0.1:3000\n}",
		"a rewriting proxy that judges a response": "http://a.test {\nwxgate\nreverse_proxy 127.0.0.1:3000 {\nrewrite /v1{uri}\n@ok status 2xx\nhandle_response @ok {\nfile_server\n}\n}\n}\nhttp://b.test {\nreverse_proxy 127.0.0.1:3000\n}",
		"an IPv4 address mapped into IPv6":         "http://a.test {\nwxgate\nreverse_proxy 10.0.0.1:3000\n}\nhttp://b.test {\nreverse_proxy [::ffff:10.0.0.1]:3000\n}",
		"a zone by its number":                     "http://a.test {\nwxgate\nreverse_proxy [fe80::1%eth0]:3000\n}\nhttp://b.test {\nreverse_proxy [fe80::1%2]:3000\n}",
		"several sources of upstreams":             gated + "http://b.test {\nreverse_proxy {\ndynamic multi {\na 127.0.0.1 3000\n}\n}\n}",
		"several sources behind the gate":          "http://a.test {\nwxgate\nreverse_proxy {\ndynamic multi {\na app.internal 3000\n}\n}\n}\nhttp://b.test {\nreverse_proxy app.internal:3000\n}",
		"the second of two upstreams":              gated + "http://b.test {\nreverse_proxy 127.0.0.1:4000 {\nto 127.0.0.1:3000\nlb_policy first\n}\n}",
		"a range of ports":                         gated + "http://b.test {\nreverse_proxy 127.0.0.1:2999-3001\n}",
		"a host in the environment":                gated + "http://b.test {\nreverse_proxy {$APP_HOST}:3000\n}",
		"another loopback":                         otherSpelling("127.0.0.2:3000"),
		"IPv6 in full":                             otherSpelling("[0:0:0:0:0:0:0:1]:3000"),
		"IPv6 with a zone":                         otherSpelling("[::1%lo]:3000"),
		"any IPv6":                                 otherSpelling("[::]:3000"),
		"a name below localhost":                   otherSpelling("app.localhost:3000"),
		"upper case below localhost":               otherSpelling("App.LOCALHOST.:3000"),

		// A matcher that lets some pass the gate by.
		"path parameters":                 "http://a.test {\n@api path /api/*\nhandle @api {\nwxgate {\nlogin /api/login\nlogout /api/logout\n}\nreverse_proxy 127.0.0.1:3000\n}\nreverse_proxy 127.0.0.1:3000\n}",
		"path_regexp":                     "http://a.test {\n@api path_regexp ^/api/\nwxgate @api {\nlogin /api/login\nlogout /api/logout\n}\nreverse_proxy 127.0.0.1:3000\n}",
		"two regular expressions":         "http://a.test {\n@gate path_regexp ^/api/\n@app path_regexp ^/(api|pub)/\nwxgate @gate {\nlogin /api/login\nlogout /api/logout\n}\nreverse_proxy @app 127.0.0.1:3000\n}",
		"a query":                         "http://a.test {\n@q query debug=1\nhandle @q {\nreverse_proxy 127.0.0.1:3000\n}\nhandle {\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"an expression":                   "http://a.test {\n@e expression {http.request.method} == 'GET'\nwxgate @e\nencode\nreverse_proxy @e 127.0.0.1:3000\n}",
		"the client's address":            "http://a.test {\n@office client_ip 10.0.0.0/8\nhandle @office {\nreverse_proxy 127.0.0.1:3000\n}\nhandle {\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"a cookie":                        "http://a.test {\n@beta header Cookie *beta=1*\nroute {\nreverse_proxy @beta 127.0.0.1:3000\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"a protocol":                      "http://a.test {\n@ws {\nprotocol http/1.1\nheader Upgrade websocket\n}\nroute {\nreverse_proxy @ws 127.0.0.1:3000\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"a variable":                      "http://a.test {\nvars skip {header.X-Skip}\n@skip vars skip 1\nroute {\nreverse_proxy @skip 127.0.0.1:3000\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"a file":                          "http://a.test {\n@missing not file\nwxgate @missing\nreverse_proxy 127.0.0.1:3000\n}",
		"a method in small letters":       "http://a.test {\n@m method get GET\nwxgate @m {\npublic /x\n}\nreverse_proxy 127.0.0.1:3000\n}",
		"the same matcher without a gate": gated + "http://b.test {\nroute {\nheader /api/* X-A b\nencode\nreverse_proxy /api/* 127.0.0.1:3000\n}\n}",
		"handle_path":                     "http://a.test {\nroute {\nhandle_path /open/* {\nreverse_proxy 127.0.0.1:3000\n}\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"try_files":                       "http://a.test {\nroute {\nwxgate /api/* {\nlogin /api/login\nlogout /api/logout\n}\ntry_files {path} /api{path}\nreverse_proxy /api/* 127.0.0.1:3000\n}\n}",
		"a rewrite between":               "http://a.test {\nroute {\nwxgate /api/* {\nlogin /api/login\nlogout /api/logout\n}\nrewrite /x/* /api{uri}\nreverse_proxy /api/* 127.0.0.1:3000\n}\n}",
		"a method between":                "http://a.test {\nroute {\n@post method POST\nwxgate @post\nmethod POST\nreverse_proxy @post 127.0.0.1:3000\n}\n}",
		"a gate for one of two hosts":     "http://a.test, http://b.test {\n@a host a.test\nwxgate @a\nreverse_proxy 127.0.0.1:3000\n}",

		"two negations of headers":            "http://a.test {\n@a not header X-A *\n@b not header X-B *\nwxgate @a\nreverse_proxy @b 127.0.0.1:3000\n}",
		"a login at the gate of another site": "http://a.test {\nwxgate /api/*\nreverse_proxy /api/* 127.0.0.1:3000\n}\nhttp://b.test {\nwxgate\nreverse_proxy 127.0.0.1:3001\n}",

		// Error routes and copies.
		"errors of some statuses":              "http://a.test {\nwxgate\nreverse_proxy 127.0.0.1:3000\nhandle_errors 404 {\nrespond \"no\"\n}\nhandle_errors 5xx {\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"a gate behind the proxy in errors":    "http://a.test {\nwxgate\nreverse_proxy 127.0.0.1:3000\nhandle_errors {\nroute {\nreverse_proxy 127.0.0.1:3000\nwxgate\n}\n}\n}",
		"a named route in errors":              "&(app) {\nreverse_proxy 127.0.0.1:3000\n}\nhttp://a.test {\nroute {\nwxgate\ninvoke app\n}\nhandle_errors {\ninvoke app\n}\n}",
		"PHP in errors":                        "http://a.test {\nwxgate\nphp_fastcgi 127.0.0.1:9000\nhandle_errors {\nrewrite * /error.php\nphp_fastcgi 127.0.0.1:9000\n}\n}",
		"an authorization that answers itself": "http://a.test {\nroute {\nforward_auth 127.0.0.1:9091 {\nuri /verify\n}\nreverse_proxy 127.0.0.1:3000\n}\n}\nhttp://b.test {\nwxgate\nreverse_proxy 127.0.0.1:3000\n}",
		"intercept of the whole site":          "http://a.test {\nintercept {\n@refused status 401\nhandle_response @refused {\nreverse_proxy 127.0.0.1:3000\n}\n}\nroute {\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"handle_response behind no gate":       gated + "http://b.test {\nforward_auth 127.0.0.1:9091 {\nuri /verify\n@denied status 401\nhandle_response @denied {\nreverse_proxy 127.0.0.1:3000\n}\n}\nrespond ok\n}",

		// A login that the gate does not get.
		"nested handles":                 "http://a.test {\nhandle /api/* {\nhandle /api/v1/* {\nwxgate {\nlogin /api/login\nlogout /api/v1/logout\n}\nreverse_proxy 127.0.0.1:3000\n}\n}\n}",
		"a login in another letter case": "http://a.test {\n@m path_regexp ^/API/\nhandle @m {\nwxgate {\nlogin /api/login\nlogout /API/logout\n}\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"GET and HEAD alone":             "http://a.test {\n@read method GET HEAD\nwxgate @read\nreverse_proxy @read 127.0.0.1:3000\n}",
	} {
		t.Run(name, func(t *testing.T) { require.NotEmpty(t, routeFaults(t, sites)) })
	}
}

// Safe siblings of those, which load.
func TestSiblingsOfSafeRoutes(t *testing.T) {
	setEnv(t)
	t.Setenv("OTHER_APP", "127.0.0.1:4000")
	for name, sites := range map[string]string{
		"a page of its own before the gate":               "http://a.test {\nroute {\nreverse_proxy /docs/* 127.0.0.1:4000\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"an answer that ends the request":                 "http://a.test {\nroute {\nhandle /old/* {\nrespond \"gone\" 410\n}\nhandle {\nwxgate\n}\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"an abort":                                        "http://a.test {\nroute {\nhandle /wp-admin* {\nabort\n}\nhandle {\nwxgate\n}\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"a gate that answers auth requests":               "http://a.test {\nroute {\nreverse_proxy /docs/* 127.0.0.1:4000\nwxgate\nrespond 204\n}\n}",
		"a gate for logins beside the pages":              "http://a.test {\nhandle /web/* {\nreverse_proxy 127.0.0.1:4000\n}\n@own path /login /logout\nhandle @own {\nwxgate\n}\n}",
		"private files behind the gate":                   "http://a.test {\nroute {\nreverse_proxy /hooks/* 127.0.0.1:4000\nwxgate\nfile_server\n}\n}",
		"a redirect":                                      "http://a.test {\nroute {\nhandle /old/* {\nredir https://b.test/new\n}\nhandle {\nwxgate\n}\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"forward_auth before the gate":                    "http://a.test {\nroute {\nforward_auth 127.0.0.1:9091 {\nuri /verify\ncopy_headers X-Ray\n}\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\n}\nhttp://auth.test {\nreverse_proxy 127.0.0.1:9091\n}",
		"forward_auth to the application of another gate": "http://a.test {\nwxgate\nforward_auth 127.0.0.1:9091 {\nuri /verify?from={uri}\nheader_up X-Why gate\n}\nreverse_proxy 127.0.0.1:3000\n}\nhttp://auth.test {\nreverse_proxy 127.0.0.1:9091\n}",
		"several sources and static upstreams":            "http://a.test {\nwxgate\nreverse_proxy {\ndynamic multi {\na app.internal 3000\n}\n}\n}\nhttp://b.test {\nwxgate\nreverse_proxy app.internal:3000\n}",
		"every path named":                                "http://a.test {\nwxgate\nreverse_proxy /* 127.0.0.1:3000\n}",
		"the proxy's status changed":                      "http://a.test {\nwxgate\nreverse_proxy 127.0.0.1:3000 {\n@failed status 500\nreplace_status @failed 502\n}\n}",
		"a snippet with both":                             "(app) {\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\nhttp://a.test {\nimport app\n}\nhttp://b.test {\nimport app\n}\nhttp://:9090 {\nimport app\n}",
		"a snippet of error routes":                       "(app) {\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\nhttp://a.test {\nimport app\nhandle_errors {\nimport app\n}\n}",
		"another upstream in the environment":             "http://a.test {\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\nhttp://b.test {\nreverse_proxy {env.OTHER_APP}\n}",
		"handles before the gate":                         "http://a.test {\nroute {\nhandle /a/* {\nheader X-A a\n}\nhandle {\nheader X-A b\n}\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"an error that ends the request":                  "http://a.test {\nroute {\nhandle /old/* {\nerror 404\n}\nhandle {\nwxgate\n}\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"a proxy that no request reaches":                 "http://a.test {\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\nhttp://b.test {\nroute {\nrespond closed 503\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"a placeholder behind another name":               "http://a.test {\nwxgate\nreverse_proxy app.internal:3000\n}\nhttp://*.b.test {\nreverse_proxy web-{labels.2}.internal:3000\n}",
		"two matchers in one set":                         "http://a.test {\n@m {\npath /api/*\nmethod GET POST\nremote_ip 10.0.0.0/8\n}\nwxgate @m {\nlogin /api/login\nlogout /api/logout\n}\nencode\nreverse_proxy @m 127.0.0.1:3000\n}",
		"some methods to another upstream":                "http://a.test {\n@get {\npath /*\nmethod GET\n}\nroute {\nreverse_proxy @get 127.0.0.1:4000\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\n}",
		"logins on a site of their own":                   "http://a.test {\nreverse_proxy 127.0.0.1:4000\n}\nhttp://b.test {\nwxgate\n}",
		"logins behind forward_auth":                      "http://a.test {\nroute {\nforward_auth 127.0.0.1:9091 {\nuri /verify\n}\nwxgate\n}\n}",
		"a gate behind a proxy that has one":              "http://a.test {\nroute {\nwxgate\nreverse_proxy /api/* 127.0.0.1:3000\nwxgate\n}\n}",
		"a gate for some paths in errors":                 "http://a.test {\nrespond a\nhandle_errors {\nhandle /api/* {\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\nrespond sorry\n}\n}",
		"two applications on two ports":                   "http://a.test {\nwxgate\nreverse_proxy 127.0.0.1:3000\n}\nhttp://b.test {\nreverse_proxy 127.0.0.1:30000 127.0.0.2:3001 [::1]:300\n}",
		"a single page and its API":                       "http://a.test {\nhandle /api/* {\nwxgate {\nlogin /api/login\nlogout /api/logout\n}\nreverse_proxy 127.0.0.1:3000\n}\nhandle {\ntry_files {path} /index.html\nfile_server\n}\n}",
		"try_files before the gate":                       "http://a.test {\ntry_files {path} {path}.html\nwxgate\nreverse_proxy 127.0.0.1:3000\n}",
		"two APIs":                                        "http://a.test {\nhandle /a/* {\nwxgate {\nlogin /a/login\nlogout /a/logout\n}\nreverse_proxy 127.0.0.1:3000\n}\nhandle /b/* {\nwxgate {\nlogin /b/login\nlogout /b/logout\n}\nreverse_proxy 127.0.0.1:3001\n}\n}",
		"PHP with a worker's address in two gates":        "http://a.test {\nwxgate\nphp_fastcgi 127.0.0.1:9000\n}\nhttp://b.test {\nwxgate {\npublic /*\n}\nphp_fastcgi 127.0.0.1:9000\n}",
	} {
		t.Run(name, func(t *testing.T) { require.Empty(t, routeFaults(t, sites)) })
	}
}
