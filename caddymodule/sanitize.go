package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// foldName gives the name under which an upstream may read a header. CGI, WSGI
// and PHP turn `-`, `.` and other signs into `_` and ignore case, so names that
// fold alike are one and the same to them.
func foldName(name string) string {
	folded := []byte(name)
	for i, c := range folded {
		folded[i] = foldTable[c]
	}
	return string(folded)
}

// foldTable lowers letters, keeps digits and makes a dash of all the rest.
var foldTable = func() (t [256]byte) {
	for c := range t {
		switch {
		case c >= 'A' && c <= 'Z':
			t[c] = byte(c) + 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			t[c] = byte(c)
		default:
			t[c] = '-'
		}
	}
	return t
}()

// foldedNames is a set of names that no spelling gets around.
type foldedNames struct {
	names   []string
	lengths uint64 // a bit for each length: most headers are told apart by it
}

func newFoldedNames(names []string) foldedNames {
	var f foldedNames
	for _, name := range names {
		f.names = append(f.names, foldName(name))
		f.lengths |= 1 << (len(name) & 63)
	}
	return f
}

func (f *foldedNames) match(name string) bool {
	if f.lengths&(1<<(len(name)&63)) == 0 {
		return false
	}
	for _, folded := range f.names {
		if equalFolded(name, folded) {
			return true
		}
	}
	return false
}

func equalFolded(name, folded string) bool {
	if len(name) != len(folded) {
		return false
	}
	for i := range len(name) {
		if foldTable[name[i]] != folded[i] {
			return false
		}
	}
	return true
}

// strip removes everything by which a client could forge, double or hide an
// identity header: the header itself in any spelling, a Connection token that
// would make the proxy remove it after it was set, and a trailer of its name.
// The token's header may come in under its own name only: an upstream that
// folds names could take another spelling for the token.
func (h *identityHeaders) strip(r *http.Request) { h.stripBut(r, h.tokens) }

// stripBut spares the headers of the names in keep, which are canonical.
func (h *identityHeaders) stripBut(r *http.Request, keep []string) {
	for name := range r.Header {
		if h.protected.match(name) && !slices.Contains(keep, name) {
			delete(r.Header, name)
		}
	}
	if values, present := r.Header["Connection"]; present {
		h.stripConnection(r.Header, values)
	}
	if values, present := r.Header["Upgrade"]; present {
		stripUpgrade(r.Header, values)
	}
	if len(r.Trailer) > 0 {
		h.stripTrailer(r)
	}
}

// stripConnection takes the protected names out of the Connection header, which
// names the headers that reverse_proxy removes.
func (h *identityHeaders) stripConnection(header http.Header, values []string) {
	var kept []string
	for _, value := range values {
		for token := range strings.SplitSeq(value, ",") {
			if token = strings.TrimSpace(token); token != "" && !h.protected.match(token) {
				kept = append(kept, token)
			}
		}
	}
	if len(kept) == 0 {
		delete(header, "Connection")
		return
	}
	header["Connection"] = []string{strings.Join(kept, ", ")}
}

// stripUpgrade lets a client ask for a WebSocket and for nothing else. Once an
// upstream has switched to another protocol, the proxy copies bytes; if that
// protocol is HTTP again (h2c), the client writes its own headers behind the
// gate.
func stripUpgrade(header http.Header, values []string) {
	if len(values) != 1 || !strings.EqualFold(values[0], "websocket") {
		delete(header, "Upgrade")
	}
}

// stripTrailer lets only harmless trailers through. net/http fills r.Trailer
// when the body ends, under whatever names the client announced, so the map is
// replaced by one that the client cannot write to.
func (h *identityHeaders) stripTrailer(r *http.Request) {
	incoming := r.Trailer
	r.Trailer = make(http.Header)
	for name := range incoming {
		if !h.protected.match(name) {
			r.Trailer[name] = nil
		}
	}
	if len(r.Trailer) == 0 {
		r.Trailer = nil
		return
	}
	r.Body = &trailerFilter{ReadCloser: r.Body, incoming: incoming, kept: r.Trailer}
}

// trailerFilter copies the announced and harmless trailers when the body ends.
type trailerFilter struct {
	io.ReadCloser
	incoming, kept http.Header
}

// Read implements io.Reader.
func (f *trailerFilter) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if err == io.EOF {
		for name := range f.kept {
			f.kept[name] = f.incoming[name]
		}
	}
	return n, err
}

// allowedMethod refuses TRACE, which would echo the token, and CONNECT, which
// asks for a tunnel; an extended CONNECT (RFC 8441, RFC 9220) is how HTTP/2 and
// HTTP/3 open a WebSocket. Methods have case, but an upstream may not care.
func allowedMethod(r *http.Request) bool {
	switch {
	case strings.EqualFold(r.Method, http.MethodTrace):
		return false
	case r.Method == http.MethodConnect:
		return r.ProtoMajor >= 2 && isExtendedWebSocket(r)
	default:
		return !strings.EqualFold(r.Method, http.MethodConnect)
	}
}

func isExtendedWebSocket(r *http.Request) bool {
	return r.Header.Get(":protocol") == "websocket" || r.ProtoMajor == 3 && r.Proto == "websocket"
}

// checkExpected makes sure that Caddy lets every header in that the site needs:
// it deletes headers with `_` or `.` in their name before any handler runs,
// unless the server expects them.
func checkExpected(server *caddyhttp.Server, headers []string) error {
	if server == nil {
		return nil // not below a server: nothing deletes
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
