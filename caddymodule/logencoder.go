package caddymodule

import (
	"bytes"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/logging"
	"go.uber.org/zap"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
)

func init() {
	caddy.RegisterModule(new(LogEncoder))
}

// LogEncoder is the log format `wxgate`: JSON whose lines do not let a reader
// act as a user. The headers that carry a token are left out, a token anywhere
// else is replaced with REDACTED, and the parameter `code` is cut from the URI
// and from Referer.
type LogEncoder struct {
	// How user_id names the user of a request: `hash`, the salted hash of the
	// log of logins, or `clear`, the openid. Default: hash
	OpenID string `json:"openid,omitempty"`

	zapcore.Encoder `json:"-"`

	ctx     caddy.Context
	request *http.Request // the one that the line is about, if any
}

const openIDClear = "clear"

// CaddyModule returns the Caddy module information.
func (*LogEncoder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.encoders.wxgate",
		New: func() caddy.Module { return new(LogEncoder) },
	}
}

// Provision prepares the encoder. Logs are opened before the apps are, so the
// App is looked up when a line is written.
func (e *LogEncoder) Provision(ctx caddy.Context) error {
	e.ctx = ctx
	json := new(logging.JSONEncoder)
	e.Encoder = json
	return json.Provision(ctx)
}

// Validate checks the options.
func (e *LogEncoder) Validate() error { return checkOpenIDFormat(e.OpenID) }

// UnmarshalCaddyfile reads the format.
//
//	format wxgate {
//		openid hash|clear
//	}
func (e *LogEncoder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the format's name
	if d.NextArg() {
		return d.ArgErr()
	}
	return block(d, options{
		"openid": into(d, &e.OpenID, checked(checkOpenIDFormat)),
	})
}

func checkOpenIDFormat(format string) error {
	if !slices.Contains([]string{"", "hash", openIDClear}, format) {
		return errors.New("openid is hash or clear")
	}
	return nil
}

// Clone implements zapcore.Encoder.
func (e *LogEncoder) Clone() zapcore.Encoder {
	clone := *e
	clone.Encoder = e.Encoder.Clone()
	return &clone
}

// EncodeEntry implements zapcore.Encoder.
func (e *LogEncoder) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	line := e.Clone().(*LogEncoder)
	for _, field := range fields {
		field.AddTo(line)
	}
	text, err := line.Encoder.EncodeEntry(entry, nil)
	if err != nil {
		return nil, err
	}
	redacted := redactTokens(text.Bytes())
	text.Reset()
	_, err = text.Write(redacted)
	return text, err
}

// AddObject implements zapcore.ObjectEncoder.
func (e *LogEncoder) AddObject(key string, object zapcore.ObjectMarshaler) error {
	switch o := object.(type) {
	case tokenProbe:
		return nil
	case caddyhttp.LoggableHTTPRequest:
		e.request = o.Request
		o.Request = e.withoutToken(o.Request)
		object = o
	}
	return e.Encoder.AddObject(key, object)
}

// AddString implements zapcore.ObjectEncoder.
func (e *LogEncoder) AddString(key, value string) {
	switch key {
	case "uri":
		value = withoutCode(value)
	case "user_id":
		value = e.userName(value)
	}
	e.Encoder.AddString(key, value)
}

// withoutToken returns what is logged of a request.
func (e *LogEncoder) withoutToken(r *http.Request) *http.Request {
	clean := *r
	clean.RequestURI = withoutCode(r.RequestURI)
	clean.Header = r.Header.Clone()
	for i, referer := range clean.Header["Referer"] {
		clean.Header["Referer"][i] = withoutCode(referer)
	}
	clean.Header.Del("Authorization")
	clean.Header.Del(defaultToken)
	if app := e.app(); app != nil {
		for _, name := range app.tokenHeaders {
			clean.Header.Del(name)
		}
	}
	return &clean
}

// userName returns the name of a user in the log. The user of another
// authentication has no appid and keeps its name.
func (e *LogEncoder) userName(id string) string {
	if id == "" || e.OpenID == openIDClear {
		return id
	}
	app := e.app()
	if app == nil {
		return id
	}
	if e.request == nil {
		return ""
	}
	repl, _ := e.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if repl == nil {
		return ""
	}
	appID, _ := repl.GetString("http.auth.user.appid")
	if appID == "" {
		return id
	}
	return app.hashOpenID(appID, id)
}

func (e *LogEncoder) app() *App {
	app, err := e.ctx.AppIfConfigured("wxgate")
	if err != nil {
		return nil // a configuration without a gateway
	}
	return app.(*App)
}

// withoutCode removes the one-time code of a login, which does not belong into
// a URI.
func withoutCode(uri string) string {
	path, query, found := strings.Cut(uri, "?")
	if !found {
		return uri
	}
	parameters := strings.Split(query, "&")
	kept := slices.DeleteFunc(parameters, func(parameter string) bool {
		name, _, _ := strings.Cut(parameter, "=")
		name, err := url.QueryUnescape(name)
		return err == nil && strings.EqualFold(name, "code")
	})
	if len(kept) == 0 {
		return path
	}
	return path + "?" + strings.Join(kept, "&")
}

// tokenChars is the length of a session token.
const tokenChars = 43

// redactTokens replaces, in place, each word of a line that has the form of a
// session token.
func redactTokens(line []byte) []byte {
	kept := line[:0]
	for len(line) > 0 {
		n := 0
		for n < len(line) && isTokenChar(line[n]) {
			n++
		}
		if n == tokenChars {
			kept = append(kept, "REDACTED"...)
		} else {
			kept = append(kept, line[:n]...)
		}
		// What ends a word: a character, or an escape of JSON or of a URI.
		end := n + 1
		switch rest := line[n:]; {
		case bytes.HasPrefix(rest, []byte("%")):
			end = n + 3
		case bytes.HasPrefix(rest, []byte(`\u`)):
			end = n + 6
		case bytes.HasPrefix(rest, []byte(`\`)):
			end = n + 2
		}
		end = min(end, len(line))
		kept = append(kept, line[n:end]...)
		line = line[end:]
	}
	return kept
}

func isTokenChar(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// warnTokensLogged registers the headers that carry a site's tokens, and warns
// of a log that would show one: Caddy writes the request's headers into access
// logs and, for what an error route has handled, into the log of errors. All
// other errors are in answerError's hands.
func (h *Handler) warnTokensLogged(ctx caddy.Context, server *caddyhttp.Server) {
	httpLog := ctx.Logger(new(caddyhttp.App))
	for _, header := range h.tokens.Headers {
		if !slices.Contains(h.app.tokenHeaders, header) {
			h.app.tokenHeaders = append(h.app.tokenHeaders, header)
		}
		if server == nil || server.Logs == nil && server.Errors == nil || slices.Contains(h.app.shownHeaders, header) {
			continue
		}
		shown := false
		// With has every log encode the field, and none write a line.
		httpLog.With(zap.Object("request", tokenProbe{header, &shown}))
		if shown {
			h.app.shownHeaders = append(h.app.shownHeaders, header)
			h.app.logger.Warn("a log shows session tokens, and anyone who reads it can act as the user: write log { format wxgate }, also in the global options",
				zap.String("header", header))
		}
	}
}

// A tokenProbe stands for a request in a log; shown is set if the log's encoder
// asks for the header that carries the token.
type tokenProbe struct {
	header string
	shown  *bool
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (p tokenProbe) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	return enc.AddObject("headers", zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
		return enc.AddArray(p.header, zapcore.ArrayMarshalerFunc(func(zapcore.ArrayEncoder) error {
			*p.shown = true
			return nil
		}))
	}))
}

// Interface guards
var (
	_ caddy.Provisioner     = (*LogEncoder)(nil)
	_ caddy.Validator       = (*LogEncoder)(nil)
	_ caddyfile.Unmarshaler = (*LogEncoder)(nil)
	_ zapcore.Encoder       = (*LogEncoder)(nil)
)
