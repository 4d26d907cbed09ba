package caddymodule

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// checkExpected makes sure that Caddy lets every header in that the site needs:
// it deletes headers with `_` or `.` in their name before any handler runs,
// unless the server expects them.
func checkExpected(server *caddyhttp.Server, headers []string) error {
	if server == nil {
		return nil // not below a server: Caddy deletes nothing
	}
	for _, sign := range []struct {
		in       string
		option   string
		expected []string
	}{
		{"_", "expected_underscore_headers", server.ExpectedUnderscoreHeaders},
		{".", "expected_dot_headers", server.ExpectedDotHeaders},
	} {
		var dropped []string
		for _, name := range headers {
			if strings.Contains(name, sign.in) && !expects(sign.expected, name) {
				dropped = append(dropped, strings.ToLower(name))
			}
		}
		if len(dropped) > 0 {
			return fmt.Errorf("the header %s is dropped by Caddy before this site sees it, because its name has %q in it; "+
				"the global options must say:\n\tservers {\n\t\t%s %s\n\t}",
				strings.Join(dropped, ", "), sign.in, sign.option, strings.Join(slices.Concat(sign.expected, dropped), " "))
		}
	}
	return nil
}

// expects mirrors how Caddy reads its option: any case, a trailing star is a
// prefix.
func expects(expected []string, name string) bool {
	return slices.ContainsFunc(expected, func(rule string) bool {
		if prefix, glob := strings.CutSuffix(rule, "*"); glob {
			return len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
		}
		return strings.EqualFold(rule, name)
	})
}
