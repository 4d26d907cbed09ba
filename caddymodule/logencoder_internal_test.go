package caddymodule

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
