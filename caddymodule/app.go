package caddymodule

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/maypok86/otter/v2"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/wxgate/wxgate/caddymodule/internal/assertion"
	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App holds what all sites of one Caddy share: the mini programs and their
// secrets, how WeChat is called, how long sessions last and where they are
// kept. It is the global option `wxgate` of the Caddyfile.
type App struct {
	// The mini programs that users may log in to; at least one.
	MiniPrograms []MiniProgram `json:"miniprogram,omitempty"`

	// The base URL of WeChat's API. It must be https unless it is on loopback,
	// because the app secret travels in the query. Default: https://api.weixin.qq.com
	WeChatAPI string `json:"wechat_api,omitempty"`

	// The URL of a proxy on the way to WeChat. The proxy of the environment
	// is not used. The whole URL, or the password in it, may be written as
	// {env.NAME} or {file./path}. Default: none
	WeChatProxy string `json:"wechat_proxy,omitempty"`

	// How long one exchange with WeChat may take as a whole: waiting for a
	// free slot (at most half of it), the call, and the one retry that WeChat
	// asks for. Default: 5s
	ExchangeTimeout caddy.Duration `json:"exchange_timeout,omitempty"`

	// How many calls to WeChat may be in flight. More logins wait, for at most
	// half of exchange_timeout, and are then answered 503. Default: 64
	ExchangeConcurrency int `json:"exchange_concurrency,omitempty"`

	// How often one client address may log in. Carriers put many users behind
	// one address, so be generous. Default: 600 in 1m
	LoginRate *LoginRate `json:"login_rate,omitempty"`

	// How many calls of WeChat's server API may be in flight: those of
	// wxgate_api and those for phone numbers, apart from logins. More wait, for
	// at most half of api_timeout, and are then answered 503. Default: 64
	APIConcurrency int `json:"api_concurrency,omitempty"`

	// How long one call of WeChat's server API may take as a whole, the
	// transfer of both bodies included. Default: 30s
	APITimeout caddy.Duration `json:"api_timeout,omitempty"`

	// The AppKeys of virtual payment, for pay_sig. Default: none
	VirtualPay []VirtualPay `json:"virtual_pay,omitempty"`

	// Keys of 32 bytes, in base64, that seal every record of the store. The
	// first seals, all of them open; so `new old` rotates. Default: a key file
	// in Caddy's data directory, made on the first start (badger only; with
	// redis all nodes share the key, so it must be given). A lost key
	// is the loss of all sessions.
	EncryptionKeys []string `json:"encryption_key,omitempty"`

	// How long sessions last.
	Session *SessionPolicy `json:"session,omitempty"`

	// Where sessions are kept: a module of the namespace `wxgate.stores`.
	// Default: badger in Caddy's data directory.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=wxgate.stores inline_key=module"`

	logger  *zap.Logger
	metrics *metrics
	wechat  *wechat.Client
	api     *wechat.API
	payKeys map[string]payKeys // by appid
	usesAPI atomic.Bool        // a site needs access_tokens
	phones  singleflight.Group // exchanges for phone numbers
	logins  *exchange
	pushes  usedCodes                        // the proofs of pushes that were delivered
	signing atomic.Pointer[[]*assertion.Key] // of assertions, the first signs; nil until the keys are known
	limit   *loginRate
	refused *refusalLog
	refusal *otter.Cache[string, *atomic.Int32] // refusals of open data by session
	module  StoreModule
	keys    [][]byte
	keyFile string           // where the key is made on first start; empty if it is configured
	events  *caddyevents.App // nil: it is not configured
	outage  outage

	tokenHeaders []string // of all sites, canonical
	shownHeaders []string // those of them that a log shows
	// routesChecked is checkRoutes, run once.
	routesChecked func() error

	// The store is opened by the first that needs it; see sessions.
	ctx     caddy.Context // ends with the configuration
	opening singleflight.Group
	manager atomic.Pointer[session.Manager]
	logSalt []byte       // of the users' names in logs; set before manager
	keyID   string       // of the key that seals; set before manager
	mu      sync.Mutex   // guards what follows
	shared  *sharedStore // what to give back; nil if nothing was taken
	closed  bool
	placed  map[*caddyhttp.Server]placement
}

// MiniProgram is one mini program and its secret.
type MiniProgram struct {
	// The AppID: wx and 16 hex digits.
	AppID string `json:"appid"`

	// The AppSecret. Write it as {env.NAME} or {file./path}; a secret that is
	// written out is visible in Caddy's /config and autosave.json.
	Secret string `json:"secret"`

	// The secret before the last change. It is tried only when WeChat answers
	// that the first one is wrong (40125). Default: none
	OldSecret string `json:"old_secret,omitempty"`
}

// SessionPolicy says how long sessions last.
type SessionPolicy struct {
	// A session that is not used for so long ends. Default: 72h
	IdleTimeout caddy.Duration `json:"idle_timeout,omitempty"`

	// A session ends this long after its login, however much it is used.
	// Default: 30d
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// How many sessions one user may have; one more login ends the oldest.
	// 0 means no limit: a user's record then grows with every login until the
	// sessions expire. Default: 10
	MaxPerUser *int `json:"max_per_user,omitempty"`
}

const (
	defaultAPITimeout = 30 * time.Second
	defaultMaxPerUser = 10
)

var appIDPattern = regexp.MustCompile(`^wx[0-9a-f]{16}$`)

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "wxgate",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision checks the whole configuration and prepares everything but the
// store: `caddy validate` runs beside a gateway that has the store open.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.logger = ctx.Logger()
	a.routesChecked = sync.OnceValue(a.checkRoutes)
	a.outage.log = rate.Sometimes{First: 1, Interval: troubleInterval}
	var err error
	if a.metrics, err = registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	a.setDefaults()
	if err := a.check(); err != nil {
		return err
	}
	for _, mp := range a.MiniPrograms {
		a.metrics.declare(mp.AppID)
	}
	secrets, err := a.resolveSecrets()
	if err != nil {
		return err
	}
	if err := a.loadStoreModule(ctx); err != nil {
		return err
	}
	if err := a.resolveKeys(); err != nil {
		return err
	}
	proxy, written, err := resolveProxy(a.WeChatProxy)
	if err != nil {
		return err
	}
	if written {
		a.warnWritten("the password of wechat_proxy")
	}
	cfg := wechat.Config{
		BaseURL:      a.WeChatAPI,
		ProxyURL:     proxy,
		Timeout:      time.Duration(a.ExchangeTimeout),
		Concurrency:  a.ExchangeConcurrency,
		MiniPrograms: secrets,
	}
	if a.wechat, err = wechat.NewClient(cfg); err != nil {
		return err
	}
	if err := a.provisionAPI(cfg); err != nil {
		return err
	}
	a.logins = newExchange(a)
	a.pushes = takeUsedCodes(pushesName, 2*wechat.MaxPushAge)
	a.limit = newLoginRate(a.LoginRate)
	a.refused = newRefusalLog()
	a.refusal = otter.Must(&otter.Options[string, *atomic.Int32]{MaximumSize: maxRefusedSessions})
	return a.provisionEvents()
}

func (a *App) setDefaults() {
	a.WeChatAPI = cmp.Or(a.WeChatAPI, wechat.DefaultBaseURL)
	a.ExchangeTimeout = cmp.Or(a.ExchangeTimeout, caddy.Duration(wechat.DefaultTimeout))
	a.ExchangeConcurrency = cmp.Or(a.ExchangeConcurrency, wechat.DefaultConcurrency)
	a.APIConcurrency = cmp.Or(a.APIConcurrency, wechat.DefaultConcurrency)
	a.APITimeout = cmp.Or(a.APITimeout, caddy.Duration(defaultAPITimeout))
	a.LoginRate = cmp.Or(a.LoginRate, new(LoginRate))
	a.LoginRate.setDefaults()
	a.Session = cmp.Or(a.Session, new(SessionPolicy))
	a.Session.IdleTimeout = cmp.Or(a.Session.IdleTimeout, caddy.Duration(session.DefaultIdleTimeout))
	a.Session.Lifetime = cmp.Or(a.Session.Lifetime, caddy.Duration(session.DefaultLifetime))
	a.Session.MaxPerUser = cmp.Or(a.Session.MaxPerUser, new(defaultMaxPerUser))
}

// check judges every option that can be judged without looking elsewhere. The
// Caddyfile parser uses the same functions, so that its errors name the line.
func (a *App) check() error {
	if len(a.MiniPrograms) == 0 {
		return errors.New("no mini program is configured: add `wxgate { miniprogram <appid> {env.WX_SECRET} }` to the global options")
	}
	seen := make(map[string]bool)
	for _, mp := range a.MiniPrograms {
		if err := checkMiniProgram(mp); err != nil {
			return fmt.Errorf("miniprogram: %w", err)
		}
		if seen[mp.AppID] {
			return fmt.Errorf("miniprogram %s is declared twice", mp.AppID)
		}
		seen[mp.AppID] = true
	}
	for i, pay := range a.VirtualPay {
		switch {
		case !a.declares(pay.AppID):
			return fmt.Errorf("virtual_pay: %s is not declared by a `miniprogram` line", pay.AppID)
		case slices.ContainsFunc(a.VirtualPay[:i], func(other VirtualPay) bool { return other.AppID == pay.AppID }):
			return fmt.Errorf("virtual_pay: %s is named twice", pay.AppID)
		case pay.AppKey == "":
			return fmt.Errorf("virtual_pay: the app key of %s is empty", pay.AppID)
		}
	}
	switch {
	case a.ExchangeConcurrency < 0:
		return errors.New("exchange_concurrency must be at least 1")
	case a.APIConcurrency < 0:
		return errors.New("api_concurrency must be at least 1")
	case *a.Session.MaxPerUser < 0, *a.Session.MaxPerUser > session.MaxPerUser:
		return fmt.Errorf("session: max_per_user must be 1 to %d, or 0 for that", session.MaxPerUser)
	}
	return cmp.Or(
		named("wechat_api", wechat.ValidateBaseURL(a.WeChatAPI)),
		named("wechat_proxy", checkProxy(a.WeChatProxy)),
		named("exchange_timeout", checkDuration(a.ExchangeTimeout)),
		named("api_timeout", checkDuration(a.APITimeout)),
		named("login_rate", a.LoginRate.check()),
		named("session: idle_timeout", checkDuration(a.Session.IdleTimeout)),
		named("session: lifetime", checkDuration(a.Session.Lifetime)),
	)
}

// named puts the name of an option before its error, if there is one.
func named(option string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", option, err)
}

// minDuration is the least that a duration may be. In JSON a number is
// nanoseconds, and a bare 60 is meant to be a minute.
const minDuration = time.Millisecond

func checkDuration(d caddy.Duration) error {
	if time.Duration(d) < minDuration {
		return fmt.Errorf("%v is less than %v; a number in JSON is nanoseconds, so write a text such as \"5s\"", time.Duration(d), minDuration)
	}
	return nil
}

// Start checks that nothing goes around a gate and opens the store. A store that
// cannot be opened keeps the whole configuration from starting, unless it is an
// outage, which keeps nothing: the other sites run, and the store is opened when
// it can be.
func (a *App) Start() error {
	if err := a.routesChecked(); err != nil {
		return err
	}
	a.logger.Info("starting", zap.String("version", Build().Version), zap.Strings("miniprograms", a.appIDs()),
		zap.String("store", StoreTitle(a.module)), zap.String("encryption_key", cmp.Or(a.keyFile, "configured")))
	sessions, err := a.sessions()
	if err == nil {
		err = sessions.Room()
	} else if !errors.Is(err, session.ErrUnavailable) {
		return err
	}
	if err != nil {
		a.storeTrouble(err)
	}
	return nil
}

func (a *App) appIDs() []string {
	var appIDs []string
	for _, mp := range a.MiniPrograms {
		appIDs = append(appIDs, mp.AppID)
	}
	return appIDs
}

// Stop does nothing: requests of this configuration may still run, and Cleanup
// gives back what they use.
func (*App) Stop() error { return nil }

// Cleanup gives the store back, if it was taken. Caddy calls it after a failed
// Provision too.
func (a *App) Cleanup() error {
	a.warnValidator()
	if a.limit != nil {
		a.limit.close()
	}
	if a.logins != nil {
		a.logins.close()
	}
	if a.pushes.Cache != nil {
		_, _ = stores.Delete(pushesName)
	}
	if a.wechat != nil {
		a.wechat.Close()
	}
	a.outage.close()
	if a.api != nil {
		a.api.Close()
	}
	return a.closeStore()
}

// declares reports whether a mini program is one of the App's.
func (a *App) declares(appID string) bool {
	return slices.ContainsFunc(a.MiniPrograms, func(mp MiniProgram) bool { return mp.AppID == appID })
}

// Served returns the mini programs of a site: those that its option names, which must be the
// App's, or all of them if it names none.
func (a *App) Served(named []string) ([]string, error) {
	if len(named) == 0 {
		return a.appIDs(), nil
	}
	for i, appID := range named {
		switch err := checkAppID(appID); {
		case err != nil:
			return nil, err
		case slices.Contains(named[:i], appID):
			return nil, fmt.Errorf("%s is named twice", appID)
		case !a.declares(appID):
			return nil, fmt.Errorf("%s is not declared by a `miniprogram` line of the global options", appID)
		}
	}
	return named, nil
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
