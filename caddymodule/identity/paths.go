package identity

import (
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckPath reports what is wrong with a path that is compared as it stands.
func CheckPath(p string) error {
	if !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "*?#%") || !plainPath(&url.URL{Path: p}) {
		return fmt.Errorf("%q is not a plain path such as /login", p)
	}
	return nil
}

// CheckPattern reports what is wrong with a pattern of MatchPath.
func CheckPattern(pattern string) error {
	if pattern == "" || pattern[0] != '/' && pattern[0] != '*' {
		return fmt.Errorf("%q is not a path pattern: a path pattern begins with / or *", pattern)
	}
	if strings.ContainsAny(pattern, "?#%") {
		return fmt.Errorf("%q is not a path pattern: it must not contain ?, # or %%", pattern)
	}
	if _, err := path.Match(pattern, "/"); err != nil {
		return fmt.Errorf("%q is not a path pattern: %w", pattern, err)
	}
	return nil
}

// MatchPath reports whether p matches a pattern, as Caddy's path matcher does
// except that case counts: a path that an upstream tells apart from a public
// one is not public.
func MatchPath(pattern, p string) bool {
	switch {
	case pattern == "*" || pattern == "/*":
		return true
	case len(pattern) > 2 && pattern[0] == '*' && pattern[len(pattern)-1] == '*' && !strings.Contains(pattern[1:len(pattern)-1], "*"):
		return strings.Contains(p, pattern[1:len(pattern)-1])
	case strings.Count(pattern, "*") == 1 && pattern[0] == '*':
		return strings.HasSuffix(p, pattern[1:])
	case strings.Count(pattern, "*") == 1 && strings.HasSuffix(pattern, "*"):
		return strings.HasPrefix(p, pattern[:len(pattern)-1])
	case strings.Contains(pattern, "*") || strings.Contains(pattern, "["):
		matched, err := path.Match(pattern, p)
		return err == nil && matched
	default:
		return p == pattern
	}
}

// MatchAny reports whether p matches one of the patterns.
func MatchAny(patterns []string, p string) bool {
	for _, pattern := range patterns {
		if MatchPath(pattern, p) {
			return true
		}
	}
	return false
}

// IsPublic reports whether a request may pass without a session: its path
// matches one of the patterns and is written plainly.
func IsPublic(patterns []string, u *url.URL) bool {
	return len(patterns) > 0 && MatchAny(patterns, u.Path) && plainPath(u)
}

// plainPath reports whether every server reads a path in the same way: what one
// takes for a public path another may clean, decode, decode again or cut off,
// and serve something else.
func plainPath(u *url.URL) bool {
	if !strings.HasPrefix(u.Path, "/") || !utf8.ValidString(u.Path) || strings.ContainsFunc(u.Path, unicode.IsControl) {
		return false
	}
	if strings.Contains(u.Path, "//") || strings.ContainsAny(u.Path, `;\`) {
		return false
	}
	for segment := range strings.SplitSeq(u.Path, "/") {
		// Windows takes `.. ` and `...` for dot segments too.
		if segment != "" && strings.Trim(segment, ". ") == "" {
			return false
		}
	}
	return plainEscapes(u.EscapedPath())
}

// plainEscapes reports whether only those signs are escaped that must be. One
// that means something in a path or ends it is read in two ways, escaped and
// not; and only an attacker escapes a letter.
func plainEscapes(escaped string) bool {
	for {
		_, rest, found := strings.Cut(escaped, "%")
		if !found {
			return true
		}
		if len(rest) < 2 {
			return false
		}
		c, err := strconv.ParseUint(rest[:2], 16, 8)
		if err != nil || c < ' ' || c == 0x7f || strings.ContainsRune(`/\;?#%-._~`, rune(c)) || isLetterOrDigit(byte(c)) {
			return false
		}
		escaped = rest[2:]
	}
}
