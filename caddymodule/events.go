package caddymodule

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// eventLogin is emitted after each login, good or not.
const eventLogin = "wxgate.login"

// loginEvents tells Caddy's events app about logins, if it is configured.
type loginEvents struct {
	ctx caddy.Context
	app *caddyevents.App // nil: nobody listens
}

func newLoginEvents(ctx caddy.Context) (*loginEvents, error) {
	app, err := ctx.AppIfConfigured("events")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return new(loginEvents), nil
	}
	if err != nil {
		return nil, err
	}
	return &loginEvents{ctx: ctx, app: app.(*caddyevents.App)}, nil
}

func (e *loginEvents) login(appID string, s *session.Session, result string, hash func(appID, openID string) string) {
	if e.app == nil {
		return
	}
	data := map[string]any{"appid": appID, "result": result}
	if s != nil {
		data["user"] = hash(s.AppID, s.OpenID)
		data["session"] = s.ID
	}
	e.app.Emit(e.ctx, eventLogin, data)
}
