package caddymodule

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// VirtualPay is the AppKey of a mini program's virtual payment (虚拟支付).
type VirtualPay struct {
	// The AppID of a declared mini program.
	AppID string `json:"appid"`

	// The AppKey. Write it as {env.NAME} or {file./path}.
	AppKey string `json:"app_key"`

	// The AppKey of the sandbox, env 1. Default: none
	SandboxKey string `json:"sandbox_key,omitempty"`
}

// payKeys are a mini program's resolved AppKeys, live and sandbox.
type payKeys [2]string

// provisionAPI prepares WeChat's server API; cfg is that of code2Session.
func (a *App) provisionAPI(cfg wechat.Config) (err error) {
	a.payKeys = make(map[string]payKeys)
	for _, pay := range a.VirtualPay {
		var keys payKeys
		for env, raw := range []string{pay.AppKey, pay.SandboxKey} {
			if keys[env], err = a.ResolveSecret("the app key of "+pay.AppID, raw); err != nil {
				return fmt.Errorf("virtual_pay %s: %w", pay.AppID, err)
			}
		}
		a.payKeys[pay.AppID] = keys
	}
	cfg.Timeout, cfg.Concurrency = time.Duration(a.APITimeout), a.APIConcurrency
	a.api, err = wechat.NewAPI(wechat.APIConfig{Config: cfg, Report: a.tokenFetched})
	if err != nil {
		return err
	}
	if running, err := runningApp(); err == nil && running.api != nil {
		a.api.ShareTokens(running.api)
	}
	return nil
}

// tokenFetched counts and logs what became of a request for an access_token.
func (a *App) tokenFetched(f wechat.TokenFetch) {
	result := resultOK
	if f.Err != nil {
		result = string(f.Err.Kind)
	}
	a.metrics.tokenFetches.WithLabelValues(f.AppID, string(f.Mode), result).Inc()
	appID := zap.String("appid", f.AppID)
	switch {
	case f.Err != nil && !f.Repeated:
		a.logger.Error("fetching an access_token failed", append(wechatFields(f.Err), appID, zap.String("cure", f.Err.Cure()))...)
	case f.Err == nil && f.Recovered:
		a.logger.Info("access_tokens are fetched again", appID)
	}
	if f.Mode == wechat.TokenForced {
		a.logger.Error("WeChat refused an access_token and gave it again, so a refresh was forced", appID)
	}
	if f.RefusedAfter > 0 {
		a.logger.Error("WeChat refused an access_token before its end: another holder of the AppSecret forces refreshes", appID,
			zap.Duration("given_before", f.RefusedAfter.Round(time.Second)))
	}
}

// API is WeChat's server API with the access_tokens of all mini programs.
func (a *App) API() *wechat.API { return a.api }

// Logger is the log `wxgate`.
func (a *App) Logger() *zap.Logger { return a.logger }

// IsAppSecret reports whether secret is the AppSecret of a mini program.
func (a *App) IsAppSecret(appID, secret string) bool {
	for _, mp := range a.MiniPrograms {
		if mp.AppID == appID {
			resolved, _, err := resolveSecret(mp.Secret)
			return err == nil && resolved == secret
		}
	}
	return false
}

// PayKey returns the AppKey of virtual payment of env 0 (live) or 1 (sandbox), or "".
func (a *App) PayKey(appID string, env int) string { return a.payKeys[appID][env] }

// UserKeys returns WeChat's session_keys of a user with a live session, newest
// first; the one before it only for five minutes after it was replaced. The
// error is session.ErrNoSessionKey if there is none.
func (a *App) UserKeys(ctx context.Context, appID, openID string) ([]string, error) {
	sessions, err := a.sessions()
	if err != nil {
		return nil, err
	}
	return sessions.UserKeys(ctx, appID, openID)
}

// APITokenKeys returns the keys under which the tokens are made that
// applications show to wxgate_api. The first makes them, all are accepted.
func (a *App) APITokenKeys() ([][]byte, error) {
	if len(a.EncryptionKeys) == 0 {
		// The key is in a file that is read or made when the store opens.
		if _, err := a.sessions(); err != nil {
			return nil, err
		}
	}
	var derived [][]byte
	for _, key := range a.keys {
		d, err := hkdf.Key(sha256.New, key, nil, "wxgate api token", sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("deriving the key of API tokens: %w", err)
		}
		derived = append(derived, d)
	}
	return derived, nil
}

// A placement is what stands in one server.
type placement struct{ gate, openRelay bool }

// PlaceRelay notes that a wxgate_api stands in a server. open is true if it
// asks its callers for no key. The error tells the operator that a gate is
// there too: a public site must not get a relay by copying lines.
func (a *App) PlaceRelay(server *caddyhttp.Server, open bool) error {
	a.usesAPI.Store(true)
	return a.place(server, placement{openRelay: open})
}

func (a *App) place(server *caddyhttp.Server, p placement) error {
	if server == nil {
		return nil // not below a server
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.placed == nil {
		a.placed = make(map[*caddyhttp.Server]placement)
	}
	there := a.placed[server]
	there.gate, there.openRelay = there.gate || p.gate, there.openRelay || p.openRelay
	a.placed[server] = there
	if there.gate && there.openRelay {
		return fmt.Errorf("a wxgate site and a wxgate_api without a key both listen on %s, so clients would reach WeChat's API in your name: "+
			"give the wxgate_api an address of its own, such as http://127.0.0.1:9001 with `bind 127.0.0.1`, or a key", strings.Join(server.Listen, " "))
	}
	return nil
}
