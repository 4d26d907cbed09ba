// Package serverapi is the directive wxgate_api: WeChat's server API for the
// applications behind the gateway, without AppSecret, access_token or
// session_key. An application asks in WeChat's own language and gets WeChat's
// own answer.
package serverapi

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/wxgate/wxgate/caddymodule"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Handler answers every request that reaches it: it is for applications and
// never for clients. It does not load where clients could reach it, unless its
// callers show a key or come from known addresses.
type Handler struct {
	// Which of the declared mini programs may be spoken for. Default: all
	MiniPrograms []string `json:"miniprograms,omitempty"`

	// Which APIs may be called: exact paths, or those below one, such as
	// /wxa/sec/order/*. The word `default` stands for the default list: what an
	// application needs while it runs, and nothing that changes the mini
	// program. APIs that take the AppSecret or answer a session_key are never
	// allowed.
	Allow []string `json:"allow,omitempty"`

	// The addresses, as CIDR, from which calls are accepted beside loopback. It
	// is the connection's address that counts, never a header. `private_ranges`
	// stands for all private ones. Default: loopback; with a key or TLS client
	// authentication, every address
	Clients []string `json:"clients,omitempty"`

	// Keys of which callers must show one. Default: none
	Keys []Key `json:"key,omitempty"`

	// How long a request's body may be. Default: 16MiB
	MaxBody string `json:"max_body,omitempty"`

	app     *caddymodule.App
	logger  *zap.Logger
	apps    []string // the appids that may be spoken for
	allow   []string
	keys    []namedKey
	clients clients
	maxBody int64
	holders rate.Sometimes // paces the warning of a superfluous AppSecret
	trouble rate.Sometimes
}

const (
	defaultMaxBody  = 16 << 20
	troubleInterval = 10 * time.Second
)

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.wxgate_api",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision checks the options, and that clients cannot reach the site.
func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := ctx.App("wxgate")
	if err != nil {
		return err
	}
	h.app = app.(*caddymodule.App)
	h.logger = h.app.Logger()
	h.holders = rate.Sometimes{Interval: time.Hour}
	h.trouble = rate.Sometimes{Interval: troubleInterval}
	if err := h.provisionOptions(); err != nil {
		return fmt.Errorf("wxgate_api: %w", err)
	}
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if err := h.checkReach(server); err != nil {
		return err
	}
	return h.app.PlaceRelay(server, len(h.keys) == 0)
}

func (h *Handler) provisionOptions() (err error) {
	if h.apps, err = h.app.Served(h.MiniPrograms); err != nil {
		return fmt.Errorf("miniprograms: %w", err)
	}
	if h.allow, err = allowList(h.Allow); err != nil {
		return fmt.Errorf("allow: %w", err)
	}
	if h.clients, err = newClients(h.Clients); err != nil {
		return fmt.Errorf("clients: %w", err)
	}
	if h.keys, err = resolveKeys(h.app, h.Keys); err != nil {
		return fmt.Errorf("key: %w", err)
	}
	h.maxBody = defaultMaxBody
	if h.MaxBody != "" {
		if h.maxBody, err = parseSize(h.MaxBody); err != nil {
			return fmt.Errorf("max_body: %w", err)
		}
	}
	return nil
}

func parseSize(text string) (int64, error) {
	size, err := humanize.ParseBytes(text)
	if err != nil || size < 1 || size > 1<<40 {
		return 0, fmt.Errorf("%q is not a size such as 16MiB", text)
	}
	return int64(size), nil
}

// A call is one request and what is known of it.
type call struct {
	http.ResponseWriter
	*http.Request
	seqID   string // names the call in the answer and in the log
	key     string // the name of the key that was shown
	appID   string
	api     string // the pattern that allows it: a label
	result  string // a label
	errcode *int64
	rid     string
	sends   int
}

const otherAPI = "other"

// ServeHTTP answers a call.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if r.URL.Path == caddymodule.DefaultJWKS && r.Method == http.MethodGet {
		if err := h.app.ServeJWKS(w, r); err != nil {
			return toRefusal(err).write(w)
		}
		return nil
	}
	c := &call{ResponseWriter: w, Request: r, seqID: newSeqID(), api: otherAPI, result: caddymodule.APIResultOK}
	w.Header().Set("X-Openapi-Seqid", c.seqID)
	done, start := h.app.MeasureAPICall(), time.Now()
	// Deferred, because a reply that breaks off ends in a panic.
	defer func() {
		done(c.appID, c.api, c.result)
		h.logCall(c, time.Since(start))
	}()
	err := h.serve(c)
	if err == nil {
		return nil
	}
	refusal := toRefusal(err)
	c.result = refusal.result()
	if refusal.status >= http.StatusInternalServerError {
		h.trouble.Do(func() {
			h.logger.Error("a call of WeChat's server API failed", zap.Error(err), zap.String("appid", c.appID),
				zap.String("api", c.api), zap.String("seqid", c.seqID))
		})
	}
	return refusal.write(w)
}

func (h *Handler) serve(c *call) error {
	proven := len(h.keys) > 0 || h.certified(c.Request)
	if err := h.clients.check(c.Request, proven); err != nil {
		return err
	}
	if !proven {
		if err := checkHost(c.Request); err != nil {
			return err
		}
	}
	if err := checkMethod(c); err != nil {
		return err
	}
	if c.URL.Path == tokenPath || c.URL.Path == stableTokenPath {
		return h.serveToken(c)
	}
	query, err := splitQuery(c.URL.RawQuery)
	if err != nil {
		return err
	}
	tokenApp, err := h.authenticate(c, query)
	if err != nil {
		return err
	}
	if c.URL.Path == signPath {
		return h.serveSign(c, query, tokenApp)
	}
	if c.appID, err = h.chooseApp(c.Request, query, tokenApp); err != nil {
		return err
	}
	if c.api, err = h.allowed(c.URL); err != nil {
		c.api = otherAPI
		return err
	}
	return h.relay(c, query)
}

// chooseApp returns the mini program that a call is for.
func (h *Handler) chooseApp(r *http.Request, query query, tokenApp string) (string, error) {
	appID := query.fromAppID
	if appID == "" {
		appID = r.Header.Get("X-Wx-Appid")
	}
	if appID == "" {
		appID = tokenApp
	}
	switch {
	case appID == "" && len(h.apps) == 1:
		return h.apps[0], nil
	case appID == "":
		return "", refuse(codeInvalidAppID, "unknown_miniprogram", "this site speaks for several mini programs: name one with from_appid in the query or the header X-WX-APPID")
	case !slices.Contains(h.apps, appID):
		return "", refuse(codeInvalidAppID, "unknown_miniprogram", "this site does not speak for the mini program that the call names")
	}
	return appID, nil
}

// checkMethod refuses what WeChat's API does not have.
func checkMethod(c *call) error {
	switch c.Method {
	case http.MethodGet, http.MethodPost:
		return nil
	case http.MethodConnect:
		// A client that was given the relay as its proxy asks for https.
		return &refusal{status: http.StatusMethodNotAllowed, errcode: codeBadRequest, name: "method_not_allowed", text: "use http://api.weixin.qq.com, not https://"}
	}
	c.Header().Set("Allow", "GET, POST")
	return &refusal{status: http.StatusMethodNotAllowed, errcode: codeBadRequest, name: "method_not_allowed", text: "WeChat's API takes GET and POST"}
}

// Header is the answer's; the request's is Request.Header.
func (c *call) Header() http.Header { return c.ResponseWriter.Header() }

func (c *call) Write(p []byte) (int, error) { return c.ResponseWriter.Write(p) }

// logCall logs a call without its query, body, token or key.
func (h *Handler) logCall(c *call, took time.Duration) {
	entry := h.logger.Check(zap.DebugLevel, "server API call")
	if entry == nil {
		return
	}
	fields := []zap.Field{
		zap.String("appid", c.appID), zap.String("api", c.api), zap.String("result", c.result), zap.String("seqid", c.seqID),
		zap.Duration("took", took), zap.Int("sends", c.sends),
	}
	if c.errcode != nil {
		fields = append(fields, zap.Int64("errcode", *c.errcode), zap.String("rid", c.rid))
	}
	if c.key != "" {
		fields = append(fields, zap.String("key", c.key))
	}
	entry.Write(fields...)
}

func newSeqID() string {
	b := make([]byte, 8)
	rand.Read(b)
	return hex.EncodeToString(b)
}

var errNoServer = errors.New("wxgate_api stands outside an HTTP server, where its reach is unknown: give the callers a key: key <name> {env.WXGATE_API_KEY}")

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
