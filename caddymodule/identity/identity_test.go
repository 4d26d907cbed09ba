package identity_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/identity"
)

func openIDHeaders() identity.Headers {
	return identity.NewHeaders([]identity.Inject{{Field: identity.FieldOpenID, Header: "X-OpenID"}}, []string{"3rd_session"})
}

func TestStripRemovesEverySpelling(t *testing.T) {
	for name, tc := range map[string]struct {
		in, want http.Header
	}{
		"identity": {http.Header{"X-Openid": {"v"}, "X_openid": {"v"}, "X.openid": {"v"}, "X~OPENID": {"v"}}, http.Header{}},
		"the mark": {http.Header{"X-Wx-Open-Data": {"verified"}, "X_wx_open_data": {"verified"}}, http.Header{}},
		"token":    {http.Header{"3rd_session": {"t"}, "3rd-Session": {"t"}}, http.Header{"3rd_session": {"t"}}},
		"others":   {http.Header{"X-Openidx": {"v"}, "Cookie": {"c"}}, http.Header{"X-Openidx": {"v"}, "Cookie": {"c"}}},
		"named in Connection": {
			http.Header{"Connection": {"close, x-openid", "X_OPENID"}}, http.Header{"Connection": {"close"}},
		},
		"only named in Connection":    {http.Header{"Connection": {"X-OpenID"}}, http.Header{}},
		"upgrade to another protocol": {http.Header{"Upgrade": {"h2c"}}, http.Header{}},
		"upgrade to two protocols":    {http.Header{"Upgrade": {"websocket", "h2c"}}, http.Header{}},
		"WebSocket":                   {http.Header{"Upgrade": {"WebSocket"}}, http.Header{"Upgrade": {"WebSocket"}}},
	} {
		t.Run(name, func(t *testing.T) {
			h := openIDHeaders()
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header = tc.in
			h.Strip(r)
			require.Equal(t, tc.want, r.Header)
		})
	}
}

func TestStripRemovesTheNamesOfCloudHosting(t *testing.T) {
	h := identity.NewHeaders([]identity.Inject{{Field: identity.FieldWXCloud}}, nil)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header = http.Header{"X-Wx-Env": {"v"}, "X_wx_anything": {"v"}, "X-Original-Forwarded-For": {"v"}, "X-Wxtra": {"v"}}
	h.Strip(r)
	require.Equal(t, http.Header{"X-Wxtra": {"v"}}, r.Header)
}

func TestStripTakesTrailersAtTheEndOfTheBody(t *testing.T) {
	h := openIDHeaders()
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("body"))
	incoming := http.Header{"X-Sum": nil, "X_openid": nil}
	r.Trailer = incoming
	h.Strip(r)
	// net/http fills its own map when the body ends.
	incoming["X-Sum"], incoming["X_openid"], incoming["X-Openid"] = []string{"1"}, []string{"v"}, []string{"v"}
	_, err := io.Copy(io.Discard, r.Body)
	require.NoError(t, err)
	require.Equal(t, http.Header{"X-Sum": {"1"}}, r.Trailer)
}

func TestWriteSetsOneValueOfEachField(t *testing.T) {
	h := identity.NewHeaders([]identity.Inject{
		{Field: identity.FieldOpenID, Header: "x-openid"}, {Field: identity.FieldUnionID, Header: "X-Union"}, {Field: identity.FieldWXCloud},
	}, nil)
	for name, tc := range map[string]struct {
		user identity.User
		room []string
		want http.Header
	}{
		"all": {identity.User{OpenID: "o", UnionID: "u", AppID: "a"}, make([]string, 6), http.Header{
			"X-Openid": {"o"}, "X-Union": {"u"}, "X-Wx-Openid": {"o"}, "X-Wx-Unionid": {"u"}, "X-Wx-Appid": {"a"}, "X-Wx-Source": {"wx_client"},
		}},
		"no unionid, no room": {identity.User{OpenID: "o", AppID: "a"}, nil, http.Header{
			"X-Openid": {"o"}, "X-Wx-Openid": {"o"}, "X-Wx-Appid": {"a"}, "X-Wx-Source": {"wx_client"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			header := http.Header{}
			h.Write(header, tc.user, tc.room)
			require.Equal(t, tc.want, header)
			for _, values := range header {
				require.Equal(t, 1, cap(values), "appending to one header must not write into another")
			}
		})
	}
}

func TestCheckInject(t *testing.T) {
	for name, tc := range map[string]struct {
		inject []identity.Inject
		tokens []string
		wrong  string
	}{
		"usual":             {[]identity.Inject{{"openid", "X-OpenID"}, {"unionid", "X-UnionID"}}, []string{"3rd_session"}, ""},
		"unknown field":     {[]identity.Inject{{"name", "X-Name"}}, nil, `"name" is not a field`},
		"no header name":    {[]identity.Inject{{"openid", "a b"}}, nil, "is not a header name"},
		"of HTTP itself":    {[]identity.Inject{{"openid", "connection"}}, nil, "belongs to HTTP itself"},
		"twice":             {[]identity.Inject{{"openid", "X-A"}, {"appid", "x_a"}}, nil, "is also inject openid"},
		"the token's":       {[]identity.Inject{{"openid", "3rd-session"}}, []string{"3rd_session"}, "is also token_from"},
		"bearer's":          {[]identity.Inject{{"openid", "authorization"}}, []string{"bearer"}, "is also token_from"},
		"the mark":          {[]identity.Inject{{"openid", "X-WX-Open-Data"}}, nil, "the mark of open data"},
		"wx_cloud and name": {[]identity.Inject{{"wx_cloud", "X-A"}}, nil, "takes no header"},
	} {
		t.Run(name, func(t *testing.T) {
			err := identity.CheckInject(tc.inject, tc.tokens)
			if tc.wrong == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tc.wrong)
		})
	}
}

func TestIsPublic(t *testing.T) {
	patterns := []string{"/pub/*", "/about", "*.css", "*-open-*", "/[ab]/x"}
	for target, want := range map[string]bool{
		"/pub/a": true, "/pub/": true, "/about": true, "/x/a.css": true, "/x-open-y": true, "/a/x": true, "/pub/%E4%BD%A0": true,
		"/pub": false, "/Pub/a": false, "/about/": false, "/c/x": false, "/": false,
		"/pub//a": false, "/pub/../a": false, "/pub/.../a": false, "/pub/.%20/a": false, "/pub/a;x=1": false, `/pub/a\b`: false,
		"/pub/%2e%2e/a": false, "/pub/a%2fb": false, "/pub/a%5cb": false, "/pub/a%00": false, "/pub/%252e": false, "/pub/%61": false, "/pub/a%0ab": false,
	} {
		u, err := url.ParseRequestURI(target)
		require.NoError(t, err)
		require.Equal(t, want, identity.IsPublic(patterns, u), target)
	}
}

func TestCheckPathAndPattern(t *testing.T) {
	for p, want := range map[string]bool{"/login": true, "/a/b": true, "login": false, "/a*": false, "/a//b": false, "/a;b": false, "/a%2f": false, "/a?b": false, "": false} {
		require.Equal(t, want, identity.CheckPath(p) == nil, p)
	}
	for p, want := range map[string]bool{"/a/*": true, "*.css": true, "*": true, "a": false, "": false, "/a?": false, "/[": false, "/%61": false} {
		require.Equal(t, want, identity.CheckPattern(p) == nil, p)
	}
}

func TestAllowedMethod(t *testing.T) {
	for method, want := range map[string]bool{"GET": true, "OPTIONS": true, "TRACE": false, "trace": false, "CONNECT": false, "Connect": false} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Method = method
		require.Equal(t, want, identity.AllowedMethod(r), method)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Method, r.ProtoMajor, r.Header[":protocol"] = http.MethodConnect, 2, []string{"websocket"}
	require.True(t, identity.AllowedMethod(r))
	r.Header[":protocol"] = []string{"connect-udp"}
	require.False(t, identity.AllowedMethod(r))
}
