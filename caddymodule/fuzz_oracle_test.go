package caddymodule_test

import (
	"bytes"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
)

// An oracle knows who may be whom, and reads what the upstream received as
// several kinds of applications would.
type oracle struct {
	users map[string]string // token: openid
}

// foldCGI names a header as a CGI environment or WSGI does (RFC 3875, 4.1.18).
func foldCGI(name string) string {
	return strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// foldPHP names a header as PHP registers it in $_SERVER: dots and spaces are
// underscores, too, and an unmatched bracket is.
func foldPHP(name string) string {
	return strings.NewReplacer(".", "_", " ", "_", "[", "_").Replace(foldCGI(name))
}

// foldAll takes every sign for an underscore.
func foldAll(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(name))
}

// readings are the header and trailer lines that some application takes for
// the header called name.
func readings(lines []string, name string) []string {
	var values []string
	for _, line := range lines {
		header, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		for _, fold := range []func(string) string{foldCGI, foldPHP, foldAll} {
			if fold(strings.TrimSpace(header)) == name {
				values = append(values, strings.TrimSpace(value))
				break
			}
		}
	}
	return values
}

// check returns what is wrong with a request that the upstream received after
// the client had sent text, or "".
func (o *oracle) check(sent []byte, got recorded) string {
	head, _, complete := bytes.Cut(got.raw, []byte("\r\n\r\n"))
	if !complete && len(got.raw) == 0 {
		return ""
	}
	// An application may take a bare CR or LF for the end of a line.
	lines := strings.FieldsFunc(string(head), func(r rune) bool { return r == '\r' || r == '\n' })
	if len(lines) == 0 {
		return ""
	}
	target := lines[0]
	lines = lines[1:]
	for name, values := range got.trailers {
		for _, value := range values {
			lines = append(lines, name+": "+value)
		}
	}
	if values := readings(lines, "X_WX_OPEN_DATA"); len(values) > 0 {
		return fmt.Sprintf("the mark of open data came in: %q", values)
	}
	if got.tunnel != "" && got.tunnel != "websocket" {
		return fmt.Sprintf("a tunnel for %q was opened", got.tunnel)
	}
	switch identity := readings(lines, "X_OPENID"); {
	case len(identity) > 1:
		return fmt.Sprintf("the identity is doubled: %q", identity)
	case len(identity) == 1:
		if !slices.Contains(o.allowed(sent), identity[0]) {
			return fmt.Sprintf("the identity is %q, and the client is not", identity[0])
		}
	case !isBelow(target, "/public/"):
		return fmt.Sprintf("%q passed without identity", target)
	}
	return ""
}

// allowed are the openids of the live tokens that the client sent.
func (o *oracle) allowed(sent []byte) []string {
	var openIDs []string
	for token, openID := range o.users {
		if bytes.Contains(sent, []byte(token)) {
			openIDs = append(openIDs, openID)
		}
	}
	return openIDs
}

// isBelow reports whether a request line's target is below a prefix however it
// is read: as it is, decoded again and again, with backslashes for slashes,
// with path parameters and everything behind ? or # cut off, and cleaned.
func isBelow(requestLine, prefix string) bool {
	_, target, _ := strings.Cut(requestLine, " ")
	target, _, _ = strings.Cut(target, " HTTP/")
	target, _, _ = strings.Cut(target, "?")
	for {
		if !strings.HasPrefix(cleaned(target), prefix) {
			return false
		}
		decoded, err := url.PathUnescape(target)
		if err != nil || decoded == target {
			return true
		}
		target = decoded
	}
}

func cleaned(target string) string {
	target = strings.ReplaceAll(target, `\`, "/")
	if i := strings.IndexAny(target, "?#\x00"); i >= 0 {
		target = target[:i]
	}
	segments := strings.Split(target, "/")
	for i, segment := range segments {
		segments[i], _, _ = strings.Cut(segment, ";")
	}
	below := path.Clean(strings.Join(segments, "/"))
	if strings.HasSuffix(target, "/") && below != "/" {
		below += "/"
	}
	return below
}
