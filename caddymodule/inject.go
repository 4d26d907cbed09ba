package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// Inject names one field of the user and the header that tells it to the
// upstream.
type Inject struct {
	// openid, unionid or appid; or wx_cloud, which stands for the headers of
	// WeChat Cloud Hosting: X-WX-OPENID, X-WX-APPID, X-WX-UNIONID and
	// X-WX-SOURCE.
	Field string `json:"field"`

	// The header; not with wx_cloud. Any case: upstream it is one value under
	// one name.
	Header string `json:"header,omitempty"`
}

// The fields of Inject.
const (
	fieldOpenID  = "openid"
	fieldUnionID = "unionid"
	fieldAppID   = "appid"
	fieldWXCloud = "wx_cloud"
)

// headerOpenData marks a body whose open data the gateway has verified. It is
// protected everywhere, whether or not a site uses open data.
const headerOpenData = "X-Wx-Open-Data"

// cloudHeaders are those that WeChat Cloud Hosting writes besides the injected
// ones. Applications are told to trust them: where an environment is shared
// with another mini program, X-WX-FROM-OPENID is the user. Behind this gateway
// nobody writes them, so whoever does is a client that forges.
var cloudHeaders = []string{
	"X-Wx-From-Openid", "X-Wx-From-Appid", "X-Wx-From-Unionid",
	"X-Wx-Cloudbase-Access-Token", "X-Wx-From-Cloudbase-Access-Token", "X-Wx-Env",
}

func (in Inject) check() error {
	switch in.Field {
	case fieldOpenID, fieldUnionID, fieldAppID:
	case fieldWXCloud:
		if in.Header != "" {
			return errors.New("inject wx_cloud takes no header: its names are those of WeChat Cloud Hosting")
		}
		return nil
	default:
		return fmt.Errorf("inject: %q is not a field: use openid, unionid, appid or wx_cloud", in.Field)
	}
	if err := checkHeaderName(in.Header); err != nil {
		return fmt.Errorf("inject %s: %w", in.Field, err)
	}
	if slices.Contains(reservedHeaders, http.CanonicalHeaderKey(in.Header)) {
		return fmt.Errorf("inject %s: the header %s belongs to HTTP itself and would not arrive", in.Field, in.Header)
	}
	return nil
}

// reservedHeaders are rewritten or removed between here and the upstream.
var reservedHeaders = []string{
	"Alt-Svc", "Connection", "Content-Length", "Content-Type", "Early-Data", "Expect", "Host",
	"Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
}

// checkInject judges how the inject lines go together: one header must not say
// two things, nor be the one that carries the token.
func checkInject(inject []Inject, tokenFrom []string) error {
	owner := map[string]string{foldName(headerOpenData): "the mark of open data"}
	for _, source := range tokenFrom {
		if source == sourceBearer {
			source = "Authorization"
		}
		owner[foldName(source)] = "token_from"
	}
	for _, in := range inject {
		if err := in.check(); err != nil {
			return err
		}
		for _, header := range in.headers() {
			folded := foldName(header.name)
			if other, taken := owner[folded]; taken {
				return fmt.Errorf("inject %s: the header %s is also %s", in.Field, header.name, other)
			}
			owner[folded] = "inject " + header.field
		}
	}
	return nil
}

// identityHeader is one header that names the user.
type identityHeader struct {
	field string
	name  string // canonical
	fixed string // a constant value instead of a field's
}

func (in Inject) headers() []identityHeader {
	if in.Field != fieldWXCloud {
		return []identityHeader{{field: in.Field, name: http.CanonicalHeaderKey(in.Header)}}
	}
	return []identityHeader{
		{field: fieldOpenID, name: "X-Wx-Openid"},
		{field: fieldAppID, name: "X-Wx-Appid"},
		{field: fieldUnionID, name: "X-Wx-Unionid"},
		{field: fieldWXCloud, name: "X-Wx-Source", fixed: "wx_client"},
	}
}

// identityHeaders are the headers that a site injects, and thereby protects.
type identityHeaders struct {
	set       []identityHeader
	tokens    []string // the headers that carry the token, canonical
	protected foldedNames
}

func newIdentityHeaders(inject []Inject, tokens []string) identityHeaders {
	h := identityHeaders{tokens: tokens}
	foreign := []string{headerOpenData}
	for _, in := range inject {
		h.set = append(h.set, in.headers()...)
		if in.Field == fieldWXCloud {
			foreign = append(foreign, cloudHeaders...)
		}
	}
	h.protected = newFoldedNames(slices.Concat(h.names(), tokens, foreign))
	return h
}

func (h *identityHeaders) names() []string {
	names := make([]string, 0, len(h.set))
	for _, header := range h.set {
		names = append(names, header.name)
	}
	return names
}

// write sets exactly one value for each header whose field the session has.
// The headers were stripped before. The slices are made for this request, in
// room if it is large enough: later handlers change header values in place.
func (h *identityHeaders) write(header http.Header, s *session.Session, room []string) {
	values := room
	if len(values) < len(h.set) {
		values = make([]string, len(h.set))
	}
	for i := range h.set {
		value := h.set[i].value(s)
		if value == "" {
			continue
		}
		values[i] = value
		header[h.set[i].name] = values[i : i+1 : i+1]
	}
}

func (h *identityHeader) value(s *session.Session) string {
	if h.fixed != "" {
		return h.fixed
	}
	switch h.field {
	case fieldOpenID:
		return s.OpenID
	case fieldUnionID:
		return s.UnionID
	default:
		return s.AppID
	}
}

// userPlaceholders are a session's fields as Caddy's replacer takes them, made
// once for each session that is opened.
type userPlaceholders struct {
	id, unionID, appID any
}

func newUserPlaceholders(s *session.Session) any {
	return &userPlaceholders{id: s.OpenID, unionID: s.UnionID, appID: s.AppID}
}

// setUser lets logs and other handlers see who it is: {http.auth.user.id} is
// also the user_id of the access log.
func setUser(repl *caddy.Replacer, s *session.Session) {
	user := s.Attach(newUserPlaceholders).(*userPlaceholders)
	repl.Set("http.auth.user.id", user.id)
	repl.Set("http.auth.user.unionid", user.unionID)
	repl.Set("http.auth.user.appid", user.appID)
}
