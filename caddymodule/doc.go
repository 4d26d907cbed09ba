// Package caddymodule is the login gateway for WeChat mini programs as Caddy
// modules: everything of wxgate that touches Caddy.
//
// A mini program calls wx.login and sends the one-time code to the login path.
// The gateway exchanges it at WeChat for the user's openid and session_key,
// keeps both under a random token, and gives the client only the token, the
// 3rd_session. On every other path it checks that token and hands the request
// on with the openid in a header that the upstream can trust:
//
//	                 POST <login>
//	request ─▶ Handler ─┬─▶ login ─▶ wechat.Client.Code2Session ─▶ session.Manager.Create ─▶ JSON
//	                    └─▶ guard ─▶ session.Manager.Lookup ─▶ identity headers ─▶ next handler
//
// An App owns what several sites share: the mini programs, the policy, the
// store. A Handler, one per site, holds only paths and header names:
//
//	{
//		servers {
//			# Caddy drops request headers whose name has an underscore unless they are expected.
//			expected_underscore_headers 3rd_session
//		}
//		wxgate {
//			miniprogram wx0123456789abcdef {env.WX_SECRET}
//		}
//	}
//
//	api.example.com {
//		wxgate
//		reverse_proxy 127.0.0.1:3000
//	}
//
// The core knows no Caddy: package session decides who is logged in, package
// wechat speaks with WeChat, and this package joins them.
package caddymodule
