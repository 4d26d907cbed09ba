package caddymodule

import (
	"net/http"
	"net/url"

	"go.uber.org/zap"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
	"github.com/wxgate/wxgate/caddymodule/session"
)

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
