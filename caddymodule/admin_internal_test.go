package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

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
