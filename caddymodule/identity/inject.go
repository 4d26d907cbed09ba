package identity

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// A User is who sent a request: the fields that Inject can name.
type User struct {
	OpenID  string
	UnionID string // may be empty
	AppID   string

	Assertion string // signed, if a line of Inject asks for it
}

// Inject names one field of the user and the header in which the upstream
// receives it.
type Inject struct {
	// openid, unionid, appid or assertion (a signed JWT); or wx_cloud, which stands for the headers of
	// WeChat Cloud Hosting: X-WX-OPENID, X-WX-APPID, X-WX-UNIONID and
	// X-WX-SOURCE.
	Field string `json:"field"`

	// The header; not with wx_cloud. Any case: upstream it is one value under
	// one name.
	Header string `json:"header,omitempty"`
}

// The fields of Inject.
const (
	FieldOpenID  = "openid"
	FieldUnionID = "unionid"
	FieldAppID   = "appid"
	FieldWXCloud = "wx_cloud"

	FieldAssertion = "assertion"
)

// HeaderOpenData marks a body whose open data the gateway has verified. It is
// protected everywhere, whether or not a site uses open data.
const HeaderOpenData = "X-Wx-Open-Data"

// The marks of a message that WeChat pushed: that it is verified, and its mini
// program. They are protected everywhere, too.
const (
	HeaderPush      = "X-Wx-Push"
	HeaderPushAppID = "X-Wx-Appid"
)

// WeChat Cloud Hosting writes more headers than those that are injected, and
// applications that were written for it trust them: where an environment is
// shared with another mini program, X-WX-FROM-OPENID is the user. Behind this
// gateway only a client that forges could have written them, so each name that
// begins like that is protected.
const cloudPrefix = "x-wx-"

// HeaderClientAddress is where Cloud Hosting puts the client's address.
const HeaderClientAddress = "X-Original-Forwarded-For"

// Check reports what is wrong with one inject line.
func (in Inject) Check() error {
	switch in.Field {
	case FieldOpenID, FieldUnionID, FieldAppID, FieldAssertion:
	case FieldWXCloud:
		if in.Header != "" {
			return errors.New("inject wx_cloud takes no header: its names are those of WeChat Cloud Hosting")
		}
		return nil
	default:
		return fmt.Errorf("inject: %q is not a field: use openid, unionid, appid, assertion or wx_cloud", in.Field)
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

// CheckInject reports what is wrong with the inject lines of a site, one by one
// and together: a header has one meaning, and the token's header is not among
// them.
func CheckInject(inject []Inject, tokenFrom []string) error {
	owner := map[string]string{foldName(HeaderOpenData): "the mark of open data", foldName(HeaderPush): "the mark of pushes"}
	for _, source := range tokenFrom {
		if source == Bearer {
			source = "Authorization"
		}
		owner[foldName(source)] = "token_from"
	}
	for _, in := range inject {
		if err := in.Check(); err != nil {
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
	if in.Field != FieldWXCloud {
		return []identityHeader{{field: in.Field, name: http.CanonicalHeaderKey(in.Header)}}
	}
	return []identityHeader{
		{field: FieldOpenID, name: "X-Wx-Openid"},
		{field: FieldAppID, name: "X-Wx-Appid"},
		{field: FieldUnionID, name: "X-Wx-Unionid"},
		{field: FieldWXCloud, name: "X-Wx-Source", fixed: "wx_client"},
	}
}

// Headers are the headers that a site injects, and thereby protects.
type Headers struct {
	Cloud bool // the headers of WeChat Cloud Hosting are among them

	set       []identityHeader
	tokens    []string // the headers that carry the token, canonical
	protected foldedNames
}

// NewHeaders makes the Headers of a site whose token comes in the headers
// called tokens.
func NewHeaders(inject []Inject, tokens []string) Headers {
	h := Headers{tokens: tokens}
	h.protected.add(HeaderOpenData, HeaderPush, HeaderPushAppID)
	h.protected.add(tokens...)
	for _, in := range inject {
		h.set = append(h.set, in.headers()...)
		if in.Field == FieldWXCloud {
			h.Cloud = true
			h.protected.addCloud()
		}
	}
	h.protected.add(h.Names()...)
	return h
}

// Names returns the canonical names of the headers that the upstream receives.
func (h *Headers) Names() []string {
	names := make([]string, 0, len(h.set))
	for _, header := range h.set {
		names = append(names, header.name)
	}
	return names
}

// Protect adds the headers that another gate of the same application injects:
// clients must not write them here either.
func (h *Headers) Protect(other *Headers) {
	for _, name := range other.Names() {
		if !h.protected.match(name) {
			h.protected.add(name)
		}
	}
	if other.Cloud {
		h.protected.addCloud()
	}
}

// Write sets exactly one value for each header whose field the user has, on a
// request that was stripped before. Later handlers change header values in
// place, so each request has slices of its own: in room, if it is large enough.
func (h *Headers) Write(header http.Header, u User, room []string) {
	values := room
	if len(values) < len(h.set) {
		values = make([]string, len(h.set))
	}
	for i := range h.set {
		value := h.set[i].value(&u)
		if value == "" {
			continue
		}
		values[i] = value
		header[h.set[i].name] = values[i : i+1 : i+1]
	}
}

func (h *identityHeader) value(u *User) string {
	if h.fixed != "" {
		return h.fixed
	}
	switch h.field {
	case FieldOpenID:
		return u.OpenID
	case FieldUnionID:
		return u.UnionID
	case FieldAssertion:
		return u.Assertion
	default:
		return u.AppID
	}
}
