package serverapi

import (
	"errors"
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("wxgate_api", func(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h := new(Handler)
		return h, h.UnmarshalCaddyfile(helper.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("wxgate_api", httpcaddyfile.Before, "respond")
}

// UnmarshalCaddyfile reads the directive; see Handler for what each line means.
//
//	wxgate_api [<matcher>] {
//		miniprograms <appid>...
//		allow <path>... | default
//		clients <cidr>... | private_ranges
//		key <name> <secret>...
//		max_body <size>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	options := map[string]func(args []string) error{
		"miniprograms": func(args []string) error { h.MiniPrograms = append(h.MiniPrograms, args...); return nil },
		"allow": func(args []string) error {
			h.Allow = append(h.Allow, args...)
			_, err := allowList(args)
			return err
		},
		"clients": func(args []string) error {
			h.Clients = append(h.Clients, args...)
			_, err := newClients(args)
			return err
		},
		"key": func(args []string) error {
			if len(args) == 1 {
				return errors.New("key takes <name> <secret>...; if the line has a {$NAME}, set that variable")
			}
			h.Keys = append(h.Keys, Key{Name: args[0], Secrets: args[1:]})
			return checkKeyName(args[0])
		},
		"max_body": func(args []string) error {
			if len(args) > 1 || h.MaxBody != "" {
				return errors.New("max_body takes one size, once")
			}
			h.MaxBody = args[0]
			_, err := parseSize(args[0])
			return err
		},
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		args := d.RemainingArgs()
		read := options[word]
		switch {
		case read == nil:
			return d.Errf("unrecognized option %q", word)
		case len(args) == 0:
			return d.Errf("%s takes at least one argument", word)
		case slices.Contains(args, ""):
			return d.Errf("an argument of %s is empty", word)
		}
		if err := read(args); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
