package caddymodule

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
)

const (
	oneApp     = "wx0000000000000001"
	anotherApp = "wx0000000000000002"
	refererOf  = "https://servicewechat.com/"
)

func TestALoginHasOneCodeOfThisForm(t *testing.T) {
	for name, tc := range map[string]struct {
		body, wrong string
	}{
		"128 characters":        {`{"code":"` + strings.Repeat("c", 128) + `"}`, ""},
		"129 characters":        {`{"code":"` + strings.Repeat("c", 129) + `"}`, "1 to 128"},
		"every character":       {`{"code":"azAZ09._~+/=-"}`, ""},
		"a line end":            {`{"code":"abc\n"}`, "1 to 128"},
		"a space":               {`{"code":"a bc"}`, "1 to 128"},
		"empty":                 {`{"code":""}`, "missing"},
		"null":                  {`{"code":null}`, "missing"},
		"of the tools":          {`{"code":"` + wechat.MockCodeText + `"}`, mockCodeMessage},
		"an appid":              {`{"code":"abc","appid":"` + oneApp + `"}`, ""},
		"an appid that is none": {`{"code":"abc","appid":"wx1"}`, "16 hex digits"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseLoginJSON([]byte(tc.body))
			if tc.wrong == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tc.wrong)
		})
	}
	for name, body := range map[string]string{
		"two codes":  "code=a&code=b",
		"two appids": "code=a&appid=" + oneApp + "&appid=" + oneApp,
	} {
		t.Run("a form with "+name, func(t *testing.T) {
			_, err := parseLoginForm([]byte(body))
			require.ErrorIs(t, err, errLoginTwice)
		})
	}
}

func TestTheMiniProgramOfALogin(t *testing.T) {
	two := []string{oneApp, anotherApp}
	for name, tc := range map[string]struct {
		serves  []string
		said    string
		referer []string
		want    string // empty: refused
	}{
		"the only one":                {two[:1], "", nil, oneApp},
		"the only one, another said":  {two[:1], anotherApp, nil, ""},
		"the only one's other site":   {two[:1], "", []string{refererOf + anotherApp + "/1/page-frame.html"}, oneApp},
		"said":                        {two, anotherApp, []string{refererOf + oneApp + "/1/page-frame.html"}, anotherApp},
		"of the Referer":              {two, "", []string{refererOf + anotherApp + "/1/page-frame.html"}, anotherApp},
		"a Referer without its slash": {two, "", []string{refererOf + anotherApp}, ""},
		"a longer appid":              {two, "", []string{refererOf + anotherApp + "0/1/"}, ""},
		"another host":                {two, "", []string{"https://servicewechatXcom/" + oneApp + "/1/"}, ""},
		"two Referers":                {two, "", []string{refererOf + oneApp + "/1/", refererOf + anotherApp + "/1/"}, ""},
		"neither":                     {two, "", nil, ""},
		"one that another site has":   {two, "wx0000000000000003", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := (&Handler{apps: tc.serves}).chooseApp(tc.said, tc.referer)
			require.Equal(t, tc.want, got)
			require.Equal(t, tc.want == "", err != nil)
		})
	}
}
