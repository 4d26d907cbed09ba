package command

import (
	"encoding/json"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
)

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
		``:                    false,
		`{"format":"json"}`:   false,
		`{"format":"wxgate"}`: true,
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
