// Package wxgate is the WeChat mini program login gateway for Caddy. It only
// registers the modules, so that this is all an operator types:
//
//	xcaddy build --with github.com/wxgate/wxgate
//
// The gateway itself is package caddymodule.
package wxgate

import (
	// The app, the handler, the stores and the admin routes.
	_ "github.com/wxgate/wxgate/caddymodule"
	// The commands `caddy wxgate …`.
	_ "github.com/wxgate/wxgate/caddymodule/command"
	// The directive wxgate_api.
	_ "github.com/wxgate/wxgate/caddymodule/serverapi"
)
