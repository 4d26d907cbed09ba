package caddymodule

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
	"github.com/wxgate/wxgate/caddymodule/session"
)

func init() {
	caddy.RegisterModule(AdminAPI{})
}

// AdminAPI serves the routes under /wxgate/ of Caddy's admin endpoint. It keeps
// no state: each request asks for the App of the configuration that runs then.
// Any client of the admin endpoint may use it, as it may use /config.
//
//	GET    /wxgate/stats
//	GET    /wxgate/users?unionid=…
//	GET    /wxgate/users/{appid}/{openid}
//	DELETE /wxgate/users[?appid=]
//	DELETE /wxgate/users/{appid}/{openid}
//	DELETE /wxgate/users/{appid}/{openid}/sessions/{id}
//	GET    /wxgate/backup
//	GET    /wxgate/live
//	GET    /wxgate/ready
//
// The openid is one path segment, escaped. Answers are JSON, but for the backup;
// errors are those of Caddy's admin API, {"error":"…"}: 404 where there is no
// such user or session, 501 where the store cannot do it, 503 where no gateway
// runs or its store does not answer, 500 where the store refuses a write. Tokens, session_keys and secrets are in
// none of them.
type AdminAPI struct{}

// CaddyModule returns the Caddy module information.
func (AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.wxgate",
		New: func() caddy.Module { return new(AdminAPI) },
	}
}

// Routes implements caddy.AdminRouter. It is one prefix, which is the label of
// Caddy's admin metrics, so openids do not get into them.
func (AdminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: "/wxgate/", Handler: caddy.AdminHandlerFunc(serveAdmin)}}
}

// adminRoutes are the routes below the prefix. http.ServeMux would do, but for
// a segment that is an escaped slash.
var adminRoutes = []struct {
	method, pattern string
	handler         caddy.AdminHandlerFunc
}{
	{http.MethodGet, "/wxgate/live", serveLive},
	{http.MethodGet, "/wxgate/ready", serveReady},
	{http.MethodGet, "/wxgate/stats", withApp(serveStats)},
	{http.MethodGet, "/wxgate/backup", withApp(serveBackup)},
	{http.MethodGet, "/wxgate/users", withApp(serveUnionID)},
	{http.MethodGet, "/wxgate/users/{appid}/{openid}", withApp(serveUser)},
	{http.MethodDelete, "/wxgate/users", withApp(revokeAll)},
	{http.MethodDelete, "/wxgate/users/{appid}/{openid}", withApp(revokeUser)},
	{http.MethodDelete, "/wxgate/users/{appid}/{openid}/sessions/{session}", withApp(revokeSession)},
}

func serveAdmin(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	for _, route := range adminRoutes {
		if !matchRoute(route.pattern, r) {
			continue
		}
		if r.Method == route.method || r.Method == http.MethodHead && route.method == http.MethodGet {
			return route.handler(w, r)
		}
		allowed = append(allowed, route.method)
	}
	if len(allowed) == 0 {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("there is no such wxgate route")}
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("this wxgate route does not take this method")}
}

// matchRoute compares the path of a request with a pattern, segment by segment,
// and notes what stands for the names in braces.
func matchRoute(pattern string, r *http.Request) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(r.URL.EscapedPath(), "/")
	if len(want) != len(got) {
		return false
	}
	for i, segment := range got {
		name, named := strings.CutPrefix(want[i], "{")
		if !named {
			if segment != want[i] {
				return false
			}
			continue
		}
		value, err := url.PathUnescape(segment)
		if err != nil || value == "" {
			return false
		}
		r.SetPathValue(strings.TrimSuffix(name, "}"), value)
	}
	return true
}

// errNoGateway is returned when the running configuration has no gateway.
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

// apiError gives an error its status. An error that it does not know is trouble
// with the store.
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
	case errors.Is(err, session.ErrRefused):
		status = http.StatusInternalServerError // it does answer
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

// recordAction leaves the line of what an operator did in the log: at level
// error, and with the error, if there was trouble with the store.
func (a *App) recordAction(r *http.Request, what string, err error, fields ...zap.Field) {
	level, result := zap.InfoLevel, resultOK
	switch {
	case err == nil:
	case errors.Is(err, session.ErrNoSuchUser), errors.Is(err, session.ErrInvalid):
		result = "not_found"
	case errors.Is(err, errors.ErrUnsupported):
		result = "unsupported"
	case errors.Is(err, context.Canceled):
		result = toAnswer(err).name
	default:
		level, result = zap.ErrorLevel, toAnswer(err).name
		fields = append(fields, zap.Error(err))
	}
	a.logger.Log(level, what, append(fields, zap.String("client_ip", adminClientIP(r)), zap.String("result", result))...)
}

// adminClientIP is empty for the peer of a unix socket.
func adminClientIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}

// namedUser returns the user whom the path names. A mini program that is no longer declared
// may still have sessions to revoke, so only the form is judged.
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
	return writeJSON(w, http.StatusOK, g.viewUser(user))
}

func (g gateway) viewUser(user *session.User) adminapi.User {
	view := adminapi.User{
		AppID: user.AppID, OpenID: user.OpenID, UnionID: user.UnionID,
		LogName: g.hashOpenID(user.AppID, user.OpenID), Sessions: []adminapi.Session{},
	}
	for _, s := range user.Sessions {
		view.Sessions = append(view.Sessions, adminapi.Session(s))
	}
	return view
}

// serveUnionID shows the users with a UnionID.
func serveUnionID(g gateway, w http.ResponseWriter, r *http.Request) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(query) != 1 || len(query["unionid"]) != 1 || query.Get("unionid") == "" {
		return badRequest("the only parameter is one unionid")
	}
	users, err := g.sessions.UsersByUnionID(r.Context(), query.Get("unionid"))
	var names []string
	view := adminapi.Users{Users: []adminapi.User{}}
	for _, user := range users {
		view.Users = append(view.Users, g.viewUser(user))
		names = append(names, g.hashOpenID(user.AppID, user.OpenID))
	}
	g.recordAction(r, "user viewed", err, zap.Strings("users", names))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, view)
}

// revokeUser revokes all sessions of a user.
func revokeUser(g gateway, w http.ResponseWriter, r *http.Request) error {
	appID, openID, err := namedUser(r)
	if err != nil {
		return err
	}
	revoked, err := g.sessions.RevokeUser(r.Context(), appID, openID)
	g.recordAction(r, "revocation", err, zap.String("appid", appID), zap.String("user", g.hashOpenID(appID, openID)), zap.Strings("revoked", revoked))
	if err != nil {
		return err
	}
	g.metrics.revoked(reasonAdmin, len(revoked))
	return writeJSON(w, http.StatusOK, adminapi.Revoked{Revoked: len(revoked)})
}

// revokeSession revokes one session of a user.
func revokeSession(g gateway, w http.ResponseWriter, r *http.Request) error {
	appID, openID, err := namedUser(r)
	if err != nil {
		return err
	}
	id := r.PathValue("session")
	err = g.sessions.RevokeSession(r.Context(), appID, openID, id)
	if !adminapi.IsSessionID(id) {
		id = "" // perhaps a token, which is in no log
	}
	g.recordAction(r, "revocation", err, zap.String("appid", appID), zap.String("user", g.hashOpenID(appID, openID)), zap.String("session", id))
	if err != nil {
		return err
	}
	g.metrics.revoked(reasonAdmin, 1)
	return writeJSON(w, http.StatusOK, adminapi.Revoked{Revoked: 1})
}

// revokeAll revokes every session, or those of one mini program.
func revokeAll(g gateway, w http.ResponseWriter, r *http.Request) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	appIDs := query["appid"]
	if err != nil || len(query) > 1 || len(query) == 1 && len(appIDs) != 1 {
		return badRequest("the only parameter is one appid")
	}
	all := adminapi.RevokedAll{All: true}
	if len(appIDs) == 1 {
		all.AppID = appIDs[0]
		if err := checkAppID(all.AppID); err != nil {
			return badRequest(err.Error())
		}
	}
	err = g.sessions.RevokeAll(r.Context(), all.AppID)
	g.recordAction(r, "revocation", err, zap.String("appid", all.AppID), zap.Bool("all", true))
	if err != nil {
		return err
	}
	g.metrics.revoked(reasonAll, 1)
	return writeJSON(w, http.StatusOK, all)
}

// serveBackup streams a consistent copy of the store.
func serveBackup(g gateway, w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := &countingWriter{w: w, deadline: http.NewResponseController(w).SetWriteDeadline}
	err := g.sessions.Backup(r.Context(), out)
	if out.failed {
		err = context.Canceled // the client has gone; the store is well
	}
	g.recordAction(r, "backup", err, zap.Int64("bytes", out.n))
	if err != nil && out.n > 0 {
		// The status has been sent. A connection that breaks off shows the
		// client that its copy is not complete.
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		w.Header().Del("Content-Type")
	}
	return err
}

// countingWriter counts what went through it, and notes if it could not. Its
// deadline lets a store that closes give up on a client that does not read.
type countingWriter struct {
	w        io.Writer
	n        int64
	failed   bool
	deadline func(time.Time) error
}

func (c *countingWriter) SetWriteDeadline(t time.Time) error { return c.deadline(t) }

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.failed = c.failed || err != nil
	return n, err
}

// Interface guards
var (
	_ caddy.Module      = AdminAPI{}
	_ caddy.AdminRouter = AdminAPI{}
)
