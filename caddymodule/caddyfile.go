package caddymodule

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/wxgate/wxgate/caddymodule/identity"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("wxgate", parseGlobal)
	httpcaddyfile.RegisterHandlerDirective("wxgate", parseSite)
	// Before everything that serves content or proxies. redir and rewrite
	// come earlier, so the path that is judged is the one that goes on.
	httpcaddyfile.RegisterDirectiveOrder("wxgate", httpcaddyfile.Before, "basic_auth")
}

// parseGlobal reads the global option; see App for what each line means.
//
//	wxgate {
//		miniprogram <appid> <secret> [<old secret>]
//		wechat_api <url>
//		wechat_proxy <url>
//		exchange_timeout <duration>
//		exchange_concurrency <n>
//		login_rate <events> <window> | off
//		api_concurrency <n>
//		api_timeout <duration>
//		virtual_pay <appid> <app key> [<sandbox app key>]
//		encryption_key <base64 of 32 bytes>...
//		session {
//			idle_timeout <duration>
//			lifetime <duration>
//			max_per_user <n>
//		}
//		store <module> ...
//	}
func parseGlobal(d *caddyfile.Dispenser, existing any) (any, error) {
	d.Next() // the option's name
	if existing != nil {
		return nil, d.Err("wxgate is configured twice: put everything into one block")
	}
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	a := new(App)
	err := block(d, options{
		"wechat_api":           into(d, &a.WeChatAPI, checked(wechat.ValidateBaseURL)),
		"wechat_proxy":         into(d, &a.WeChatProxy, checked(checkProxy)),
		"exchange_timeout":     into(d, &a.ExchangeTimeout, durationArg),
		"exchange_concurrency": into(d, &a.ExchangeConcurrency, atLeast(1)),
		"api_concurrency":      into(d, &a.APIConcurrency, atLeast(1)),
		"api_timeout":          into(d, &a.APITimeout, durationArg),
		"*virtual_pay":         also(d, &a.VirtualPay, parseVirtualPay),
		"login_rate":           into(d, &a.LoginRate, parseLoginRate),
		"encryption_key":       into(d, &a.EncryptionKeys, checkedArgs(nil)),
		"session":              into(d, &a.Session, parseSessionPolicy),
		"store":                into(d, &a.StoreRaw, parseStore),
		"*miniprogram":         also(d, &a.MiniPrograms, parseMiniProgram),
	})
	if err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "wxgate", Value: caddyconfig.JSON(a, nil)}, nil
}

func parseMiniProgram(d *caddyfile.Dispenser) (MiniProgram, error) {
	args := d.RemainingArgs()
	switch {
	case len(args) < 2:
		return MiniProgram{}, d.Errf("miniprogram takes <appid> <secret> [<old secret>], not %d arguments; if the line has a {$NAME}, set that variable", len(args))
	case len(args) > 3:
		return MiniProgram{}, d.Errf("miniprogram takes <appid> <secret> [<old secret>], not %d arguments", len(args))
	}
	mp := MiniProgram{AppID: args[0], Secret: args[1]}
	if err := checkMiniProgram(mp); err != nil {
		return mp, d.WrapErr(err)
	}
	if len(args) == 3 {
		mp.OldSecret = args[2]
		if mp.OldSecret == "" {
			return mp, d.Errf("the old secret of %s is empty", mp.AppID)
		}
	}
	return mp, nil
}

func parseVirtualPay(d *caddyfile.Dispenser) (pay VirtualPay, err error) {
	args := d.RemainingArgs()
	if len(args) < 2 || len(args) > 3 || slices.Contains(args, "") {
		return pay, d.Err("virtual_pay takes <appid> <app key> [<sandbox app key>]; if the line has a {$NAME}, set that variable")
	}
	if err := checkAppID(args[0]); err != nil {
		return pay, d.WrapErr(err)
	}
	args = append(args, "")
	return VirtualPay{AppID: args[0], AppKey: args[1], SandboxKey: args[2]}, nil
}

func parseLoginRate(d *caddyfile.Dispenser) (*LoginRate, error) {
	args := d.RemainingArgs()
	if len(args) == 1 && args[0] == "off" {
		return &LoginRate{Off: true}, nil
	}
	if len(args) != 2 {
		return nil, d.Err("login_rate takes <events> <window>, such as `600 1m`, or off")
	}
	events, err := strconv.Atoi(args[0])
	if err != nil || events < 1 {
		return nil, d.Errf("login_rate: %q is not a number of 1 or more", args[0])
	}
	window, err := caddy.ParseDuration(args[1])
	if err != nil || window < minDuration {
		return nil, d.Errf("login_rate: %q is not a duration such as 1m", args[1])
	}
	return &LoginRate{Events: events, Window: caddy.Duration(window)}, nil
}

func parseSessionPolicy(d *caddyfile.Dispenser) (*SessionPolicy, error) {
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	p := new(SessionPolicy)
	return p, block(d, options{
		"idle_timeout": into(d, &p.IdleTimeout, durationArg),
		"lifetime":     into(d, &p.Lifetime, durationArg),
		"max_per_user": func() error {
			n, err := atLeast(0)(d)
			p.MaxPerUser = &n
			return err
		},
	})
}

func parseStore(d *caddyfile.Dispenser) (json.RawMessage, error) {
	if !d.NextArg() {
		return nil, d.Err("store takes the name of a store module: badger or redis")
	}
	name := d.Val()
	id := "wxgate.stores." + name
	if _, err := caddy.GetModule(id); err != nil {
		return nil, d.Errf("there is no session store %q: use badger or redis, or build Caddy with a module for it", name)
	}
	unm, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return nil, err
	}
	module, ok := unm.(StoreModule)
	if !ok {
		return nil, d.Errf("module %s is not a session store", id)
	}
	return caddyconfig.JSONModuleObject(module, "module", name, nil), nil
}

// parseSite reads the directive; see Handler for what each line means.
//
//	wxgate [<matcher>] {
//		login <path>
//		logout <path>
//		token_from <source>...
//		inject <field> <header>
//		inject wx_cloud
//		public <path>...
//		miniprograms <appid>...
//		forward_token
//		recheck <duration>
//		health <path>
//		open_data <path>... {
//			max_age <duration>
//			phone [<member>]
//		}
//		assertion {
//			issuer <text>
//			audience <text>...
//			lifetime <duration>
//			jwks <path>
//		}
//		push <path> <appid> <token> [<EncodingAESKey>]
//	}
func parseSite(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h, d := new(Handler), helper.Dispenser
	d.Next() // the directive's name
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	if err := checkOrder(helper); err != nil {
		return nil, err
	}
	return h, block(d, options{
		"login":         into(d, &h.Login, checked(identity.CheckPath)),
		"logout":        into(d, &h.Logout, checked(identity.CheckPath)),
		"health":        into(d, &h.Health, checked(identity.CheckPath)),
		"token_from":    into(d, &h.TokenFrom, checkedArgs(identity.CheckTokenSource)),
		"miniprograms":  into(d, &h.MiniPrograms, checkedArgs(checkAppID)),
		"forward_token": into(d, &h.ForwardToken, flagArg),
		"recheck":       into(d, &h.Recheck, durationArg),
		"open_data":     into(d, &h.OpenData, parseOpenData),
		"assertion":     into(d, &h.Assertion, parseAssertion),
		"*push":         also(d, &h.Push, parsePush),
		"*inject":       also(d, &h.Inject, parseInject),
		"*public": func() error {
			paths, err := checkedArgs(identity.CheckPattern)(d)
			h.Public = append(h.Public, paths...)
			return err
		},
	})
}

func parseInject(d *caddyfile.Dispenser) (identity.Inject, error) {
	args := d.RemainingArgs()
	if len(args) == 1 && args[0] == identity.FieldWXCloud {
		return identity.Inject{Field: identity.FieldWXCloud}, nil
	}
	if len(args) != 2 {
		return identity.Inject{}, d.Err("inject takes <field> <header>, such as `openid X-OpenID`, or wx_cloud")
	}
	in := identity.Inject{Field: args[0], Header: args[1]}
	if err := in.Check(); err != nil {
		return in, d.WrapErr(err)
	}
	return in, nil
}

func parseOpenData(d *caddyfile.Dispenser) (*OpenData, error) {
	paths, err := checkedArgs(identity.CheckPattern)(d)
	if err != nil {
		return nil, err
	}
	o := &OpenData{Paths: paths}
	return o, block(d, options{
		"max_age": func() error {
			text, err := oneArg(d)
			if err != nil {
				return err
			}
			age, err := caddy.ParseDuration(text)
			if err != nil || age < 0 {
				return d.Errf("max_age: %q is not a duration such as 10m, or 0 for any age", text)
			}
			o.MaxAge = new(caddy.Duration(age))
			return nil
		},
		"phone": func() error {
			if o.Phone = defaultPhoneMember; d.CountRemainingArgs() == 0 {
				return nil
			}
			return into(d, &o.Phone, checked(checkPhoneMember))()
		},
	})
}

// options maps the words of a block to what reads their arguments. A word that
// may stand more than once has a star before it.
type options map[string]func() error

// block reads a block, if there is one. An unknown word, or one that stands
// twice where that would silently drop the first, is an error.
func block(d *caddyfile.Dispenser, opts options) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		read, once := opts[word]
		if !once {
			read = opts["*"+word]
		}
		// The star is our mark and nothing that a file may say.
		if read == nil || strings.HasPrefix(word, "*") {
			return d.Errf("unrecognized option %q", word)
		}
		if once && seen[word] {
			return d.Errf("option %s is written twice", word)
		}
		seen[word] = true
		if err := read(); err != nil {
			return err
		}
	}
	return nil
}

// into returns a reader of an option that sets one field.
func into[T any](d *caddyfile.Dispenser, field *T, read func(*caddyfile.Dispenser) (T, error)) func() error {
	return func() (err error) { *field, err = read(d); return err }
}

// also returns a reader of an option that may stand more than once.
func also[T any](d *caddyfile.Dispenser, fields *[]T, read func(*caddyfile.Dispenser) (T, error)) func() error {
	return func() error {
		field, err := read(d)
		*fields = append(*fields, field)
		return err
	}
}

// flagArg reads an option that is a single word.
func flagArg(d *caddyfile.Dispenser) (bool, error) {
	if d.NextArg() {
		return false, d.ArgErr()
	}
	return true, nil
}

// oneArg reads the one, not empty, argument of an option.
func oneArg(d *caddyfile.Dispenser) (string, error) {
	word := d.Val()
	args := d.RemainingArgs()
	if len(args) != 1 {
		return "", d.Errf("%s takes one argument, not %d", word, len(args))
	}
	if args[0] == "" {
		return "", d.Errf("the argument of %s is empty", word)
	}
	return args[0], nil
}

func checked(check func(string) error) func(*caddyfile.Dispenser) (string, error) {
	return func(d *caddyfile.Dispenser) (string, error) {
		arg, err := oneArg(d)
		if err != nil {
			return "", err
		}
		if err := check(arg); err != nil {
			return "", d.WrapErr(err)
		}
		return arg, nil
	}
}

// checkedArgs reads one or more arguments; check may be nil.
func checkedArgs(check func(string) error) func(*caddyfile.Dispenser) ([]string, error) {
	return func(d *caddyfile.Dispenser) ([]string, error) {
		word := d.Val()
		args := d.RemainingArgs()
		if len(args) == 0 {
			return nil, d.Errf("%s takes at least one argument", word)
		}
		for _, arg := range args {
			if check == nil {
				break
			}
			if err := check(arg); err != nil {
				return nil, d.WrapErr(err)
			}
		}
		return args, nil
	}
}

func durationArg(d *caddyfile.Dispenser) (caddy.Duration, error) {
	word := d.Val()
	text, err := oneArg(d)
	if err != nil {
		return 0, err
	}
	dur, err := caddy.ParseDuration(text)
	if err != nil || dur < minDuration {
		return 0, d.Errf("%s: %q is not a duration of 1ms or more, such as 500ms, 72h or 30d", word, text)
	}
	return caddy.Duration(dur), nil
}

func atLeast(least int) func(*caddyfile.Dispenser) (int, error) {
	return func(d *caddyfile.Dispenser) (int, error) {
		word := d.Val()
		text, err := oneArg(d)
		if err != nil {
			return 0, err
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < least {
			return 0, d.Errf("%s: %q is not a number of %d or more", word, text, least)
		}
		return n, nil
	}
}

func onOffArg(d *caddyfile.Dispenser) (*bool, error) {
	word := d.Val()
	text, err := oneArg(d)
	if err != nil {
		return nil, err
	}
	if text != "on" && text != "off" {
		return nil, d.Errf("%s takes on or off, not %q", word, text)
	}
	return new(text == "on"), nil
}
