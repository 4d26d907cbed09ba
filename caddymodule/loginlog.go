package caddymodule

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/time/rate"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// refusalLines and refusalBurst bound the log lines about logins that fail, per second and at
// once: with a line of 250 bytes a flood adds less than 1 KiB a second.
const (
	refusalLines = 1
	refusalBurst = 10
)

// refusalLog decides which failed logins have a line at Info, so that a flood of them does not
// fill the disk. The others are counted in one warning per troubleInterval.
type refusalLog struct {
	lines  *rate.Limiter
	silent atomic.Int64
	warn   rate.Sometimes
}

func newRefusalLog() *refusalLog {
	return &refusalLog{
		lines: rate.NewLimiter(refusalLines, refusalBurst),
		warn:  rate.Sometimes{First: 1, Interval: troubleInterval},
	}
}

// level returns the level of the line of a failed login.
func (l *refusalLog) level(err error, logger *zap.Logger) zapcore.Level {
	if !isNoLogin(err) && l.lines.Allow() {
		return zapcore.InfoLevel
	}
	l.silent.Add(1)
	l.warn.Do(func() {
		logger.Warn("logins were refused that have no line of their own; see wxgate_logins_total, or log at DEBUG", zap.Int64("count", l.silent.Swap(0)))
	})
	return zapcore.DebugLevel
}

// isNoLogin reports whether a request of the login path was not judged as a login.
func isNoLogin(err error) bool {
	return errors.Is(err, errMethod) || errors.As(err, new(tooManyLogins))
}

// recordLogin counts a login and writes its line to the log.
func (a *App) recordLogin(r *http.Request, appID string, created session.Created, err error) {
	result, level := resultOK, zapcore.InfoLevel
	if err != nil {
		result, level = toAnswer(err).name, a.refused.level(err, a.logger)
	}
	a.metrics.logins.WithLabelValues(appID, result).Inc()
	if !isNoLogin(err) {
		a.emitLogin(appID, created.Session, result)
	}
	line := a.logger.Check(level, "login")
	if line == nil {
		return
	}
	fields := []zap.Field{zap.String("appid", appID), zap.String("client_ip", clientIP(r)), zap.String("result", result)}
	if wx, ok := errors.AsType[*wechat.Error](err); ok {
		fields = append(fields, wechatFields(wx)...)
	}
	if s := created.Session; s != nil {
		fields = append(fields, zap.String("user", a.hashOpenID(s.AppID, s.OpenID)), zap.String("session", s.ID))
		if len(created.Evicted) > 0 {
			fields = append(fields, zap.Strings("evicted", created.Evicted))
		}
	}
	line.Write(fields...)
}

// recordLogout writes the line of a logout to the log.
func (a *App) recordLogout(r *http.Request, s *session.Session, err error) {
	result := resultOK
	if err != nil {
		result = toAnswer(err).name
	}
	a.logger.Info("logout", append(a.sessionFields(r, s), zap.String("result", result))...)
}

// sessionFields are what the log says of a request with a session.
func (a *App) sessionFields(r *http.Request, s *session.Session) []zap.Field {
	return []zap.Field{
		zap.String("appid", s.AppID), zap.String("user", a.hashOpenID(s.AppID, s.OpenID)),
		zap.String("session", s.ID), zap.String("client_ip", clientIP(r)),
	}
}

// hashOpenID returns the name of a user in logs and events, from which the openid cannot be told.
func (a *App) hashOpenID(appID, openID string) string {
	h := sha256.New()
	h.Write(a.logSalt)
	h.Write([]byte(appID + "\x00" + openID))
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// provisionEvents finds Caddy's events app, if it is configured.
func (a *App) provisionEvents() error {
	app, err := a.ctx.AppIfConfigured("events")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil
	}
	if err == nil {
		a.events = app.(*caddyevents.App)
	}
	return err
}

// emitLogin emits the event of a login, good or not.
func (a *App) emitLogin(appID string, s *session.Session, result string) {
	if a.events == nil {
		return
	}
	data := map[string]any{"appid": appID, "result": result}
	if s != nil {
		data["user"], data["session"] = a.hashOpenID(s.AppID, s.OpenID), s.ID
	}
	a.events.Emit(a.ctx, "wxgate.login", data)
}
