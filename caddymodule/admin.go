package caddymodule

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/wxgate/wxgate/caddymodule/session"
)

func init() {
	caddy.RegisterModule(AdminAPI{})
}

// AdminAPI serves the routes under /wxgate/ of Caddy's admin endpoint. It keeps
// no state: each request asks for the App of the configuration that runs then.
// Whoever reaches the admin endpoint may use it, as he may /config.
//
//	GET    /wxgate/stats
//	GET    /wxgate/users/{appid}/{openid}
//	DELETE /wxgate/users/{appid}/{openid}
//	DELETE /wxgate/users/{appid}/{openid}/sessions/{id}
//	GET    /wxgate/backup
//	GET    /wxgate/live
//	GET    /wxgate/ready
//
// The openid is one path segment, escaped. Answers are JSON, but for the backup;
// errors are those of Caddy's admin API, {"error":"…"}: 404 where there is no
// such user or session, 501 where the store cannot do it, 503 where no gateway
// runs or its store does not answer. Tokens, session_keys and secrets are in
// none of them.
type AdminAPI struct{}

// CaddyModule returns the Caddy module information.
func (AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.wxgate",
		New: func() caddy.Module { return new(AdminAPI) },
	}
}

// Routes implements caddy.AdminRouter. The patterns, not the paths, are the
// label of Caddy's admin metrics, so openids do not get into them.
func (AdminAPI) Routes() []caddy.AdminRoute {
	var routes []caddy.AdminRoute
	for pattern, handler := range map[string]caddy.AdminHandlerFunc{
		"GET /wxgate/live":                                         serveLive,
		"GET /wxgate/ready":                                        serveReady,
		"GET /wxgate/stats":                                        withApp(serveStats),
		"GET /wxgate/backup":                                       withApp(serveBackup),
		"GET /wxgate/users/{appid}/{openid}":                       withApp(serveUser),
		"DELETE /wxgate/users/{appid}/{openid}":                    withApp(revokeUser),
		"DELETE /wxgate/users/{appid}/{openid}/sessions/{session}": withApp(revokeSession),
		"/wxgate/": serveNoRoute,
	} {
		routes = append(routes, caddy.AdminRoute{Pattern: pattern, Handler: handler})
	}
	return routes
}

// errNoGateway says that the running configuration has no gateway.
var errNoGateway = errors.New("no wxgate runs: it is not in the configuration, or the configuration has not started yet")

// runningApp returns the App of the configuration that runs now.
func runningApp() (*App, error) {
	app, err := caddy.ActiveContext().AppIfConfigured("wxgate")
	if err != nil {
		return nil, errNoGateway
	}
	return app.(*App), nil
}

// gateway is the running App and its sessions, for the time of one request.
type gateway struct {
	*App
	sessions *session.Manager
}

// withApp gives a handler the running gateway, and turns its errors into Caddy's.
func withApp(handler func(gateway, http.ResponseWriter, *http.Request) error) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		app, err := runningApp()
		if err != nil {
			return apiError(err)
		}
		sessions, err := app.sessions()
		if err != nil {
			return apiError(err)
		}
		return apiError(handler(gateway{app, sessions}, w, r))
	}
}

// apiError gives an error its status. What it does not know is trouble with the
// store.
func apiError(err error) error {
	if err == nil {
		return nil
	}
	status, message := http.StatusServiceUnavailable, ""
	var bad badRequest
	switch {
	case errors.As(err, &bad):
		status = http.StatusBadRequest
	case errors.Is(err, session.ErrNoSuchUser):
		status, message = http.StatusNotFound, "the gateway knows no such user of this mini program"
	case errors.Is(err, session.ErrInvalid):
		status, message = http.StatusNotFound, "the user has no such live session"
	case errors.Is(err, errors.ErrUnsupported):
		status = http.StatusNotImplemented
	}
	return caddy.APIError{HTTPStatus: status, Err: err, Message: message}
}

// serveLive answers as long as the process does.
func serveLive(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, map[string]string{"status": "live"})
}

// readyTime bounds how long the store may take to say that it is there.
const readyTime = 2 * time.Second

// serveReady answers 200 when the gateway has started and its store answers.
func serveReady(w http.ResponseWriter, r *http.Request) error {
	app, err := runningApp()
	if err != nil {
		return apiError(err)
	}
	ctx, cancel := context.WithTimeout(r.Context(), readyTime)
	defer cancel()
	if err := app.ready(ctx); err != nil {
		return apiError(err)
	}
	return writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
}

func serveNoRoute(http.ResponseWriter, *http.Request) error {
	return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("there is no such wxgate route, or not for this method")}
}

// userView is a user as the admin API shows it.
type userView struct {
	AppID    string        `json:"appid"`
	OpenID   string        `json:"openid"`
	UnionID  string        `json:"unionid,omitempty"`
	LogName  string        `json:"log_name"` // what stands for the openid in logs
	Sessions []sessionView `json:"sessions"`
}

// sessionView is a live session as the admin API shows it.
type sessionView struct {
	ID       string    `json:"id"`
	Created  time.Time `json:"created"`
	LastSeen time.Time `json:"last_seen"` // up to a tenth of idle_timeout ago
	Expires  time.Time `json:"expires"`   // if it is not used again
}

// endedView says how many sessions a request ended.
type endedView struct {
	Ended int `json:"ended"`
}

// namedUser reads whom the path names. A mini program that is no longer declared
// may still have sessions to end, so only the form is judged.
func namedUser(r *http.Request) (appID, openID string, err error) {
	appID, openID = r.PathValue("appid"), r.PathValue("openid")
	if err := checkAppID(appID); err != nil {
		return "", "", badRequest(err.Error())
	}
	return appID, openID, nil
}

func serveUser(g gateway, w http.ResponseWriter, r *http.Request) error {
	appID, openID, err := namedUser(r)
	if err != nil {
		return err
	}
	user, err := g.sessions.User(r.Context(), appID, openID)
	logName := g.hashOpenID(appID, openID)
	g.recordAction(r, "user viewed", err, zap.String("appid", appID), zap.String("user", logName))
	if err != nil {
		return err
	}
	view := userView{AppID: user.AppID, OpenID: user.OpenID, UnionID: user.UnionID, LogName: logName, Sessions: []sessionView{}}
	for _, s := range user.Sessions {
		view.Sessions = append(view.Sessions, sessionView(s))
	}
	return writeJSON(w, http.StatusOK, view)
}

// revokeUser ends all sessions of a user.
func revokeUser(g gateway, w http.ResponseWriter, r *http.Request) error {
	appID, openID, err := namedUser(r)
	if err != nil {
		return err
	}
	ended, err := g.sessions.EndUser(r.Context(), appID, openID)
	g.recordAction(r, "revocation", err, zap.String("appid", appID), zap.String("user", g.hashOpenID(appID, openID)), zap.Int("ended", ended))
	if err != nil {
		return err
	}
	g.metrics.revoked(reasonAdmin, ended)
	return writeJSON(w, http.StatusOK, endedView{ended})
}

// revokeSession ends one session of a user.
func revokeSession(g gateway, w http.ResponseWriter, r *http.Request) error {
	appID, openID, err := namedUser(r)
	if err != nil {
		return err
	}
	id := r.PathValue("session")
	err = g.sessions.EndSession(r.Context(), appID, openID, id)
	g.recordAction(r, "revocation", err, zap.String("appid", appID), zap.String("user", g.hashOpenID(appID, openID)), zap.String("session", id))
	if err != nil {
		return err
	}
	g.metrics.revoked(reasonAdmin, 1)
	return writeJSON(w, http.StatusOK, endedView{1})
}

// serveBackup streams a consistent copy of the store.
func serveBackup(g gateway, w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := &countingWriter{w: w}
	err := g.sessions.Backup(r.Context(), out)
	g.recordAction(r, "backup", err, zap.Int64("bytes", out.n))
	if err != nil && out.n > 0 {
		// The status is on its way. A connection that breaks off tells the
		// client that what it has is not the whole.
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		w.Header().Del("Content-Type")
	}
	return err
}

// countingWriter counts what went through it.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// recordAction leaves the line of what an operator did in the log.
func (a *App) recordAction(r *http.Request, what string, err error, fields ...zap.Field) {
	result := "ok"
	switch {
	case errors.Is(err, session.ErrNoSuchUser), errors.Is(err, session.ErrInvalid):
		result = "not_found"
	case errors.Is(err, errors.ErrUnsupported):
		result = "unsupported"
	case err != nil:
		result = toAnswer(err).name
	}
	a.logger.Info(what, append(fields, zap.String("client_ip", adminClientIP(r)), zap.String("result", result))...)
}

// adminClientIP is empty for the peer of a unix socket.
func adminClientIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}

// Interface guards
var (
	_ caddy.Module      = AdminAPI{}
	_ caddy.AdminRouter = AdminAPI{}
)
