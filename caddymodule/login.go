package caddymodule

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

const (
	maxLoginBody = 4 << 10
	maxCode      = 128

	// loginBodyTime is how long a client may take to send these 4 KiB.
	loginBodyTime = 10 * time.Second
)

const (
	errNotLoginJSON = badRequest(`the body is not JSON like {"code":"…"}`)
	errLoginTwice   = badRequest("code or appid stands twice")
)

// loginRequest is what a client sends to log in.
type loginRequest struct {
	Code  string
	AppID string // empty if the client did not say
}

// serveLogin answers the login path: a code goes in, a 3rd_session comes out.
func (h *Handler) serveLogin(w http.ResponseWriter, r *http.Request) error {
	appID, created, err := h.login(w, r)
	h.app.recordLogin(r, appID, created, err)
	if err != nil {
		return h.fail(w, r, err)
	}
	setUser(r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer), created.Session)
	return writeJSON(w, http.StatusOK, struct {
		Token     string `json:"3rd_session"`
		ExpiresIn int64  `json:"expires_in"`
	}{created.Token, int64(created.Session.Expires.Sub(created.Session.Created).Seconds())})
}

func (h *Handler) login(w http.ResponseWriter, r *http.Request) (appID string, created session.Created, err error) {
	if r.Method != http.MethodPost {
		return "", created, errMethod
	}
	if err := h.app.limit.take(r); err != nil {
		return "", created, err
	}
	req, err := readLogin(w, r)
	if err != nil {
		return "", created, err
	}
	if appID, err = h.chooseApp(req.AppID, r.Header["Referer"]); err != nil {
		return "", created, err
	}
	created, err = h.app.logins.login(r.Context(), appID, req.Code)
	return appID, created, err
}

// readLogin reads the body, in bounded memory and time.
func readLogin(w http.ResponseWriter, r *http.Request) (loginRequest, error) {
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !isUTF8(params["charset"]) {
		return loginRequest{}, errMediaType
	}
	parse := parseLoginJSON
	switch mediaType {
	case "application/json":
	case "application/x-www-form-urlencoded":
		parse = parseLoginForm
	default:
		return loginRequest{}, errMediaType
	}
	body, err := readBody(w, r, maxLoginBody, loginBodyTime)
	if err != nil {
		return loginRequest{}, err
	}
	return parse(body)
}

// readBody reads a whole body of at most limit bytes, and gives a slow client
// up after a time.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, within time.Duration) ([]byte, error) {
	control := http.NewResponseController(w)
	// Not every connection has deadlines; then the server's own hold.
	_ = control.SetReadDeadline(time.Now().Add(within))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			return nil, errBodyTooLarge
		}
		return nil, badRequest("the body could not be read")
	}
	_ = control.SetReadDeadline(time.Time{})
	return body, nil
}

// isUTF8 also takes the name without the hyphen, which is wrong and common.
func isUTF8(charset string) bool {
	return charset == "" || strings.EqualFold(charset, "utf-8") || strings.EqualFold(charset, "utf8")
}

// parseLoginJSON reads {"code":"…","appid":"…"}; other members are the client's
// business. A member is taken under its exact name and once, so that nobody in front
// of the gateway reads another code than it does.
func parseLoginJSON(body []byte) (loginRequest, error) {
	object, err := strictjson.Parse(body)
	if err != nil {
		return loginRequest{}, errNotLoginJSON
	}
	member := func(name string) (*string, error) {
		text, found, err := object.Text(name)
		switch {
		case errors.Is(err, strictjson.ErrRepeated):
			return nil, errLoginTwice
		case err != nil && string(object.Get(name)) != "null":
			return nil, errNotLoginJSON
		case err != nil || !found:
			return nil, nil
		}
		return &text, nil
	}
	code, err := member("code")
	if err != nil {
		return loginRequest{}, err
	}
	appID, err := member("appid")
	if err != nil {
		return loginRequest{}, err
	}
	return checkLogin(code, appID)
}

func parseLoginForm(body []byte) (loginRequest, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return loginRequest{}, badRequest("the body is not a form")
	}
	one := func(name string) *string {
		if len(form[name]) == 0 {
			return nil
		}
		return &form[name][0]
	}
	if len(form["code"]) > 1 || len(form["appid"]) > 1 {
		return loginRequest{}, errLoginTwice
	}
	return checkLogin(one("code"), one("appid"))
}

// checkLogin refuses what no code of WeChat looks like. What passes is sent to
// WeChat as that very text.
func checkLogin(code, appID *string) (loginRequest, error) {
	switch {
	case code == nil || *code == "":
		return loginRequest{}, badRequest("the code of wx.login is missing")
	case len(*code) > maxCode:
		return loginRequest{}, badRequest("the code is longer than 128 bytes")
	case *code == wechat.MockCodeText:
		return loginRequest{}, badRequest("this code is the developer tools' mock: open the project with a real appid")
	case !utf8.ValidString(*code) || strings.ContainsFunc(*code, notInCode):
		return loginRequest{}, badRequest("the code holds spaces or control characters")
	}
	req := loginRequest{Code: *code}
	if appID != nil {
		req.AppID = *appID
		if checkAppID(req.AppID) != nil {
			return loginRequest{}, badRequest("the appid is not one")
		}
	}
	return req, nil
}

// notInCode also refuses the replacement character: it is what JSON makes of
// half a surrogate, which is not the text that the client sent.
func notInCode(c rune) bool {
	return unicode.IsSpace(c) || unicode.IsControl(c) || c == utf8.RuneError
}

// refererPattern is what WeChat sends as Referer of every request of a mini
// program: https://servicewechat.com/<appid>/<version>/page-frame.html
var refererPattern = regexp.MustCompile(`^https://servicewechat\.com/(wx[0-9a-f]{16})/`)

// chooseApp decides which mini program a login is for. The Referer is only a
// hint: a wrong one makes WeChat refuse the code, and nothing else.
func (h *Handler) chooseApp(said string, referer []string) (string, error) {
	if said == "" && len(h.apps) == 1 {
		return h.apps[0], nil
	}
	if said == "" && len(referer) == 1 {
		if m := refererPattern.FindStringSubmatch(referer[0]); m != nil {
			said = m[1]
		}
	}
	if said == "" {
		return "", badRequest("this site serves several mini programs: send appid too")
	}
	if !slices.Contains(h.apps, said) {
		return "", badRequest("this site does not serve that appid")
	}
	return said, nil
}

// serveLogout ends the session that the request carries.
func (h *Handler) serveLogout(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		return h.fail(w, r, errMethod)
	}
	s, err := h.logout(r)
	if s != nil {
		h.app.recordEnd("logout", s, clientIP(r), err)
	}
	if err != nil {
		return h.fail(w, r, err)
	}
	h.metrics.revoked(reasonLogout, 1)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *Handler) logout(r *http.Request) (*session.Session, error) {
	s, token, err := h.authenticate(r)
	if err != nil {
		return nil, err
	}
	sessions, err := h.app.sessions()
	if err != nil {
		return s, err
	}
	_, err = sessions.Revoke(r.Context(), token)
	return s, err
}

// recordLogin counts a login and leaves its line in the log.
func (a *App) recordLogin(r *http.Request, appID string, created session.Created, err error) {
	result := resultOK
	fields := []zap.Field{zap.String("appid", appID), zap.String("client_ip", clientIP(r))}
	if err != nil {
		result = toAnswer(err).name
		if wx, ok := errors.AsType[*wechat.Error](err); ok {
			fields = append(fields, wechatFields(wx)...)
		}
	} else {
		fields = append(fields, zap.String("user", a.hashOpenID(created.Session.AppID, created.Session.OpenID)), zap.String("session", created.Session.ID))
		if len(created.Evicted) > 0 {
			fields = append(fields, zap.Strings("evicted", created.Evicted))
		}
	}
	a.metrics.logins.WithLabelValues(appID, result).Inc()
	a.logger.Info("login", append(fields, zap.String("result", result))...)
	a.events.login(appID, created.Session, result, a.hashOpenID)
}

// recordEnd leaves the line of a logout or revocation in the log.
func (a *App) recordEnd(what string, s *session.Session, clientIP string, err error) {
	result := resultOK
	if err != nil {
		result = toAnswer(err).name
	}
	a.logger.Info(what,
		zap.String("appid", s.AppID),
		zap.String("user", a.hashOpenID(s.AppID, s.OpenID)),
		zap.String("session", s.ID),
		zap.String("client_ip", clientIP),
		zap.String("result", result))
}

// hashOpenID names a user in logs and events without telling who it is.
func (a *App) hashOpenID(appID, openID string) string {
	h := sha256.New()
	h.Write(a.logSalt)
	h.Write([]byte(appID + "\x00" + openID))
	return hex.EncodeToString(h.Sum(nil)[:8])
}
