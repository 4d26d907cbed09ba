// Package wxgate is the WeChat mini program login gateway for Caddy. It only
// registers the modules, so that this is all an operator types:
//
//	xcaddy build --with github.com/wxgate/wxgate
//
// The gateway itself is package caddymodule.
package wxgate

import (
	// Registers the app, the handler, the stores, the admin routes and the command.
	_ "github.com/wxgate/wxgate/caddymodule"
)
