package caddymodule_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What is safe is accepted.
func TestSafeRoutesAreAccepted(t *testing.T) {
	setEnv(t)
	for name, sites := range map[string]string{
		"the README's":        "http://a.test {\nwxgate\nreverse_proxy 127.0.0.1:3000\n}",
		"the other way round": "http://a.test {\nreverse_proxy 127.0.0.1:3000\nwxgate\n}",
		"no gate at all":      "http://a.test {\nreverse_proxy 127.0.0.1:3000\n}",
		"CORS in route": `http://a.test {
			route {
				header Access-Control-Allow-Origin https://h5.test
				@preflight method OPTIONS
				respond @preflight 204
				wxgate
				reverse_proxy 127.0.0.1:3000
			}
		}`,
		"static files beside it": `http://a.test {
			handle /static/* {
				file_server
			}
			handle {
				wxgate
				reverse_proxy 127.0.0.1:3000
			}
		}`,
		"API in a handle": `http://a.test {
			handle /api/* {
				wxgate {
					login /api/login
					logout /api/logout
				}
				reverse_proxy 127.0.0.1:3000
			}
			handle {
				file_server
			}
		}`,
		"API under a prefix": `http://a.test {
			handle_path /api/* {
				wxgate
				reverse_proxy 127.0.0.1:3000
			}
			file_server
		}`,
		"the same matcher": `http://a.test {
			@api path /api/*
			wxgate @api {
				login /api/login
				logout /api/logout
			}
			reverse_proxy @api 127.0.0.1:3000
			file_server
		}`,
		"pages from another upstream": `http://a.test {
			handle /api/* {
				wxgate {
					login /api/login
					logout /api/logout
				}
				reverse_proxy 127.0.0.1:3000
			}
			reverse_proxy 127.0.0.1:5173
		}`,
		"login at a gate of its own": `http://a.test {
			handle /login {
				wxgate {
					logout /none
				}
			}
			handle /none {
				wxgate {
					login /login
					logout /none
				}
			}
			handle /api/* {
				wxgate {
					logout /api/logout
				}
				reverse_proxy 127.0.0.1:3000
			}
		}`,
		"an error page from another upstream": `http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000
			handle_errors {
				reverse_proxy 127.0.0.1:4000
			}
		}`,
		"error pages from files": `http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000
			handle_errors {
				rewrite * /{err.status_code}.html
				file_server
			}
		}`,
		"a gate in handle_errors": `http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000
			handle_errors {
				wxgate
				reverse_proxy 127.0.0.1:3000
			}
		}`,
		"webhooks on a site of their own": `http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000
		}
		http://hooks.test {
			wxgate {
				public /*
			}
			reverse_proxy 127.0.0.1:3000
		}`,
		"webhooks to another upstream before the gate": `http://a.test {
			route {
				reverse_proxy /hooks/* 127.0.0.1:4000
				wxgate
				reverse_proxy 127.0.0.1:3000
			}
		}`,
		"another site with another upstream": `http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000
		}
		http://b.test {
			reverse_proxy 127.0.0.1:3001 unix//run/b.sock b.internal:3000 10.0.0.1:3000
		}`,
		"another machine in upper case": `http://a.test {
			wxgate
			reverse_proxy APP.internal:3000
		}
		http://b.test {
			reverse_proxy app.internal.example:3000
		}`,
		"a placeholder of another port": `http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000
		}
		http://*.b.test {
			reverse_proxy {labels.2}.internal:8080
		}`,
		"two dynamic services": `http://a.test {
			wxgate
			reverse_proxy {
				dynamic srv _a._tcp.internal
			}
		}
		http://b.test {
			reverse_proxy {
				dynamic srv _b._tcp.internal
			}
		}`,
		"forward_auth behind the gate and before another site": `http://a.test {
			wxgate
			forward_auth 127.0.0.1:9091 {
				uri /verify
			}
			reverse_proxy 127.0.0.1:3000
		}
		http://b.test {
			forward_auth 127.0.0.1:9091 {
				uri /verify
			}
			reverse_proxy 127.0.0.1:4000
		}
		http://auth.test {
			reverse_proxy 127.0.0.1:9091
		}`,
		"redir, rewrite, respond, metrics": `http://a.test {
			redir /old /new
			rewrite /v1/* /v2{uri}
			respond /ping "pong"
			metrics /metrics
			wxgate
			encode
			reverse_proxy 127.0.0.1:3000
		}`,
		"www to the bare domain": `http://www.a.test {
			redir http://a.test{uri}
		}
		http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000
		}`,
		"WebSocket by a header": `http://a.test {
			@ws header Connection *Upgrade*
			wxgate
			reverse_proxy @ws 127.0.0.1:3001
			reverse_proxy 127.0.0.1:3000
		}`,
		"PHP and files": `http://a.test {
			wxgate {
				public /static/*
			}
			php_fastcgi unix//run/php.sock
			file_server
		}`,
		"X-Accel-Redirect": `http://a.test {
			wxgate
			reverse_proxy 127.0.0.1:3000 {
				@file header X-Accel-Redirect *
				handle_response @file {
					rewrite * {rp.header.X-Accel-Redirect}
					file_server
				}
			}
		}`,
		"intercept behind the gate": `http://a.test {
			wxgate
			intercept {
				@failed status 5xx
				handle_response @failed {
					reverse_proxy 127.0.0.1:3000
				}
			}
			reverse_proxy 127.0.0.1:3000
		}`,
		"a named route with the gate": `&(app) {
			route {
				wxgate
				reverse_proxy 127.0.0.1:3000
			}
		}
		http://a.test {
			invoke app
		}
		http://b.test {
			invoke app
		}`,
		"two gates on one way": `http://a.test {
			wxgate
			wxgate /admin/* {
				inject openid X-Admin
			}
			reverse_proxy 127.0.0.1:3000
		}`,
		"every handle has a gate": `http://a.test {
			route {
				handle /a/* {
					wxgate {
						login /a/login
						logout /a/logout
					}
				}
				handle {
					wxgate
				}
				reverse_proxy 127.0.0.1:3000
			}
		}`,
		"matchers of address and host": `http://a.test, http://b.test {
			@inside remote_ip 10.0.0.0/8
			respond @inside "hello"
			@a host a.test
			handle @a {
				wxgate
				reverse_proxy 127.0.0.1:3000
			}
			handle {
				wxgate
				reverse_proxy 127.0.0.1:3001
			}
		}`,
		"maps and variables": `http://a.test {
			map {path} {kind} {
				/a a
				default b
			}
			vars kind {kind}
			wxgate
			request_header X-Kind {vars.kind}
			reverse_proxy 127.0.0.1:3000
		}`,
	} {
		t.Run(name, func(t *testing.T) { require.Empty(t, routeFaults(t, sites)) })
	}
}
