package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestRedactTokens(t *testing.T) {
	token := strings.Repeat("aB3-_", 9)[:tokenChars]
	for line, want := range map[string]string{
		token:                                    "REDACTED",
		`{"X-Session":["` + token + `"]}`:        `{"X-Session":["REDACTED"]}`,
		`"` + token + `, ` + token + `"`:         `"REDACTED, REDACTED"`,
		`"Bearer\t` + token + `"`:                `"Bearer\tREDACTED"`,
		`"\u0001` + token + `\n"`:                `"\u0001REDACTED\n"`,
		`"/a?token=%22` + token + `%22"`:         `"/a?token=%22REDACTED%22"`,
		`"` + token + `x"`:                       `"` + token + `x"`,
		`"` + token[1:] + `"`:                    `"` + token[1:] + `"`,
		`"用户 ` + token + `"`:                     `"用户 REDACTED"`,
		`cut \`:                                  `cut \`,
		`cut \u0`:                                `cut \u0`,
		`cut %2`:                                 `cut %2`,
		"":                                       "",
		`"00-` + strings.Repeat("a", 32) + `-b"`: `"00-` + strings.Repeat("a", 32) + `-b"`,
	} {
		require.Equal(t, want, string(redactTokens([]byte(line))))
	}
}

func TestWhatIsLoggedOfARequest(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/a?code=071aB", nil)
	r.Header = http.Header{"Authorization": {"Bearer x"}, defaultToken: {"x"}, "Referer": {"https://h/b?code=071aB"}, "Accept": {"*/*"}}
	clean := new(LogEncoder).withoutToken(r)
	require.Equal(t, http.Header{"Referer": {"https://h/b"}, "Accept": {"*/*"}}, clean.Header)
	require.Equal(t, "/a", clean.RequestURI)
	require.Len(t, r.Header, 4, "the request itself stays as it is")
	require.Equal(t, "https://h/b?code=071aB", r.Header.Get("Referer"))
}

func TestCodesInOtherLines(t *testing.T) {
	e := &LogEncoder{Encoder: zapcore.NewJSONEncoder(zapcore.EncoderConfig{})}
	line, err := e.EncodeEntry(zapcore.Entry{}, []zapcore.Field{zap.String("uri", "/login?code=071aB&a=1")})
	require.NoError(t, err)
	require.JSONEq(t, `{"uri":"/login?a=1"}`, line.String())
}

func TestWithoutCode(t *testing.T) {
	for uri, want := range map[string]string{
		"/login?code=071aB":          "/login",
		"/login?a=1&code=071aB&b=2":  "/login?a=1&b=2",
		"/login?c%6Fde=071aB&CODE=x": "/login",
		"/login?barcode=1&code":      "/login?barcode=1",
		"/login?a=1&a=code":          "/login?a=1&a=code",
		"/code=1":                    "/code=1",
		"/?%zz=1&code=2":             "/?%zz=1",
		"*":                          "*",
		"https://h/x?code=1#code=2":  "https://h/x",
	} {
		require.Equal(t, want, withoutCode(uri), uri)
	}
}
