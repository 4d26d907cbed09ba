// Command caddy-build is Caddy with the standard modules and wxgate: the binary
// that the tests run and that `make build` leaves behind. Operators who want
// more modules build their own with xcaddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/wxgate/wxgate/caddymodule"
	_ "github.com/wxgate/wxgate/caddymodule/command"
	_ "github.com/wxgate/wxgate/caddymodule/serverapi"
)

func main() {
	caddycmd.Main()
}
