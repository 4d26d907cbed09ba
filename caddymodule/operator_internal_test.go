package caddymodule

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/internal/adminapi"
)

// FuzzUserPath proves that every openid that the gateway takes from WeChat names
// its user, and nothing else, on the way from the command to the admin route.
func FuzzUserPath(f *testing.F) {
	for _, openID := range []string{"oABC", ".", "..", "a/../b", "//", "%2e%2E", "?x#y", "a/sessions/b", "/", `\`, "{}", "*"} {
		f.Add(openID)
	}
	const appID = "wx0123456789abcdef"
	mux := http.NewServeMux() // as Caddy's admin endpoint has one
	var arrived string
	for _, route := range (AdminAPI{}).Routes() {
		mux.HandleFunc(route.Pattern, func(_ http.ResponseWriter, r *http.Request) {
			for _, route := range adminRoutes {
				if matchRoute(route.pattern, r) && route.pattern == "/wxgate/users/{appid}/{openid}" && r.PathValue("appid") == appID {
					arrived = r.PathValue("openid")
				}
			}
		})
	}
	f.Fuzz(func(t *testing.T, openID string) {
		if openID == "" || len(openID) > 128 {
			return
		}
		for _, c := range []byte(openID) {
			if c <= ' ' || c > '~' {
				return // WeChat's reply is refused
			}
		}
		arrived = ""
		u, err := url.Parse("http://admin" + adminapi.UserPath(appID, openID))
		require.NoError(t, err)
		// As it goes over the wire.
		mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, u.RequestURI(), nil))
		require.Equal(t, openID, arrived)
	})
}

func TestWhichLogTakesRequests(t *testing.T) {
	access := []string{"http.log.access.log0"}
	for name, tc := range map[string]struct {
		include, exclude []string
		want             bool
	}{
		"all":                 {nil, nil, true},
		"its own":             {[]string{"http.log.access.log0"}, nil, true},
		"a part of all":       {[]string{"http"}, nil, true},
		"another":             {[]string{"http.log.access.log1"}, nil, false},
		"half a name":         {[]string{"http.log.access.log"}, nil, false},
		"all but it":          {nil, []string{"http.log.access.log0"}, false},
		"all but another":     {nil, []string{"http.log.access.log1"}, true},
		"all but requests":    {nil, []string{"http.log"}, false},
		"it out of the rest":  {[]string{"http"}, []string{"http.log.access"}, false},
		"it back in":          {[]string{"http.log.access.log0"}, []string{"http.log"}, true},
		"nothing of a module": {nil, []string{"*"}, false},
	} {
		log := new(caddy.CustomLog)
		log.Include, log.Exclude = tc.include, tc.exclude
		require.Equal(t, tc.want, accepts(log, access), name)
	}
}

func TestWhichFormatHidesAHeader(t *testing.T) {
	for encoder, want := range map[string]bool{
		``:                  false,
		`{"format":"json"}`: false,
		`{"format":"filter","fields":{"request>headers>3rd_session":{"filter":"delete"}}}`:   true,
		`{"format":"filter","fields":{"request>headers>3RD_Session":{"filter":"hash"}}}`:     true,
		`{"format":"filter","fields":{"request>headers":{"filter":"delete"}}}`:               true,
		`{"format":"filter","fields":{"request>headers>3rd_session":{"filter":"rename"}}}`:   false,
		`{"format":"filter","fields":{"request>headers>Authorization":{"filter":"delete"}}}`: false,
		`{"format":"console","fields":{"request>headers>3rd_session":{"filter":"delete"}}}`:  false,
	} {
		require.Equal(t, want, hides(json.RawMessage(encoder), "3rd_session"), encoder)
	}
}
