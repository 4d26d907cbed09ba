package caddymodule

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

const (
	maxLoginBody = 4 << 10

	// loginBodyTimeout is how long a client may take to send these 4 KiB.
	loginBodyTimeout = 10 * time.Second
)

const (
	errNotLoginJSON = badRequest(`the body is not JSON like {"code":"…"}`)
	errLoginTwice   = badRequest("code or appid is given twice")
	mockCodeMessage = "this code is the developer tools' mock: open the project with a real appid"
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
	source := sourceOf(r)
	defer func() {
		if refusedByGateway(err) {
			if _, over := h.app.limit.take(source, refusals); over != nil {
				err = over
			}
		}
	}()
	if isEarlyData(r) {
		return "", created, errTooEarly
	}
	req, err := readLogin(w, r)
	if err != nil {
		return "", created, err
	}
	if appID, err = h.chooseApp(req.AppID, r.Header["Referer"]); err != nil {
		return "", created, err
	}
	created, err = h.app.logins.login(r.Context(), source, appID, req.Code)
	return appID, created, err
}

// refusedByGateway reports whether a login was refused because of what the client sent, and
// WeChat was not asked.
func refusedByGateway(err error) bool {
	return errors.As(err, new(badRequest)) || errors.As(err, new(mediaTypeError)) ||
		errors.Is(err, errBodyTooLarge) || errors.Is(err, errCodeSeen) || errors.Is(err, errTooEarly)
}

// isEarlyData reports whether the request may be a replay: it was sent before the end of the
// TLS handshake, to this server or to a proxy in front (RFC 8470).
func isEarlyData(r *http.Request) bool {
	return slices.Contains(r.Header["Early-Data"], "1") || r.TLS != nil && !r.TLS.HandshakeComplete
}

// readLogin reads the body, in bounded memory and time.
func readLogin(w http.ResponseWriter, r *http.Request) (loginRequest, error) {
	mediaType, err := plainMediaType(r.Header)
	if err != nil {
		return loginRequest{}, err
	}
	isForm := mediaType == "application/x-www-form-urlencoded"
	if !isForm && mediaType != "application/json" {
		return loginRequest{}, contentTypeError(r.Header, "send application/json or application/x-www-form-urlencoded")
	}
	body, err := readBody(w, r, maxLoginBody, loginBodyTimeout)
	switch {
	case err != nil:
		return loginRequest{}, err
	case !isForm:
		return parseLoginJSON(body)
	case bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")):
		return loginRequest{}, contentTypeError(r.Header, "but the body is JSON: send application/json")
	}
	return parseLoginForm(body)
}

// mediaTypeError is returned for a Content-Type or Content-Encoding that is not taken. Its
// text is the message to the client.
type mediaTypeError string

func (e mediaTypeError) Error() string { return string(e) }

// maxShownHeader bounds what a message quotes of a header.
const maxShownHeader = 100

func headerError(header http.Header, name, cure string) error {
	value := strings.Join(header[name], ", ")
	if len(value) > maxShownHeader {
		value = value[:maxShownHeader] + "…"
	}
	return mediaTypeError(fmt.Sprintf("%s is %q; %s", name, value, cure))
}

func contentTypeError(header http.Header, cure string) error {
	return headerError(header, "Content-Type", cure)
}

// plainMediaType returns the media type of a body that is not encoded and in UTF-8.
func plainMediaType(header http.Header) (string, error) {
	if encoding := header["Content-Encoding"]; len(encoding) > 0 && !slices.Equal(encoding, []string{"identity"}) {
		return "", headerError(header, "Content-Encoding", "send the body without one")
	}
	if len(header["Content-Type"]) != 1 {
		return "", contentTypeError(header, "send one")
	}
	mediaType, params, err := mime.ParseMediaType(header["Content-Type"][0])
	if err != nil {
		return "", contentTypeError(header, "send one media type")
	}
	if !isUTF8(params["charset"]) {
		return "", contentTypeError(header, "send UTF-8")
	}
	return mediaType, nil
}

// readBody reads a whole body of at most limit bytes, in a bounded time.
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
// business. A member is taken under its exact name and once, so that a proxy in front
// of the gateway cannot read another code than it does.
func parseLoginJSON(body []byte) (loginRequest, error) {
	object, err := strictjson.Parse(body)
	if err != nil {
		return loginRequest{}, errNotLoginJSON
	}
	var given [2]*string
	for i, name := range []string{"code", "appid"} {
		text, found, err := object.Text(name)
		switch {
		case errors.Is(err, strictjson.ErrNotString) && string(object.Get(name)) == "null":
		case errors.Is(err, strictjson.ErrRepeated):
			return loginRequest{}, errLoginTwice
		case err != nil:
			return loginRequest{}, errNotLoginJSON
		case found:
			given[i] = &text
		}
	}
	return checkLogin(given[0], given[1])
}

func parseLoginForm(body []byte) (loginRequest, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return loginRequest{}, badRequest("the body is not a form")
	}
	var given [2]*string
	for i, name := range []string{"code", "appid"} {
		switch values := form[name]; {
		case len(values) > 1:
			return loginRequest{}, errLoginTwice
		case len(values) == 1:
			given[i] = &values[0]
		}
	}
	return checkLogin(given[0], given[1])
}

// codePattern is the form of a code. WeChat's have 32 letters and digits; the other characters
// are those of tokens and base64.
var codePattern = regexp.MustCompile(`^[A-Za-z0-9._~+/=-]{1,128}$`)

// checkLogin refuses what no code of WeChat looks like, so that a client cannot make a
// firewall on the way to WeChat answer. What passes is sent as that very text.
func checkLogin(code, appID *string) (loginRequest, error) {
	switch {
	case code == nil || *code == "":
		return loginRequest{}, badRequest("the code of wx.login is missing")
	case *code == wechat.MockCodeText:
		return loginRequest{}, badRequest(mockCodeMessage)
	case !codePattern.MatchString(*code):
		return loginRequest{}, badRequest("a code is 1 to 128 of letters, digits and -._~+/=")
	}
	req := loginRequest{Code: *code}
	if appID != nil {
		req.AppID = *appID
		if checkAppID(req.AppID) != nil {
			return loginRequest{}, badRequest("appid is not an appid: an appid is wx and 16 hex digits")
		}
	}
	return req, nil
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
		h.app.recordLogout(r, s, err)
	}
	if err != nil {
		return h.fail(w, r, err)
	}
	h.metrics.revoked(reasonLogout, 1)
	closeIfWaiting(w, r)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *Handler) logout(r *http.Request) (*session.Session, error) {
	if isEarlyData(r) {
		return nil, errTooEarly
	}
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
