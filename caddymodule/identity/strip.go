package identity

import (
	"io"
	"net/http"
	"slices"
	"strings"
)

// Strip removes everything by which a client could forge, double or hide an
// identity header: the header itself in any spelling, a Connection token that
// would make a proxy remove it after it was set, and a trailer of its name. The
// token's header may come in under its own name only: an upstream that folds
// names could take another spelling for the token.
func (h *Headers) Strip(r *http.Request) {
	for name := range r.Header {
		if h.protected.match(name) && !slices.Contains(h.tokens, name) {
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
func (h *Headers) stripConnection(header http.Header, values []string) {
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

// stripUpgrade lets a client ask for a WebSocket only. Once an upstream has
// switched to another protocol, the proxy copies bytes; if that protocol is
// HTTP again (h2c), the client writes its own headers behind the gate.
func stripUpgrade(header http.Header, values []string) {
	if len(values) != 1 || !strings.EqualFold(values[0], "websocket") {
		delete(header, "Upgrade")
	}
}

// stripTrailer keeps harmless trailers only. net/http fills r.Trailer when the
// body ends, under whatever names the client announced, so the map is replaced
// by one that the client cannot write to.
func (h *Headers) stripTrailer(r *http.Request) {
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

// AllowedMethod reports whether the method of a request may go on. TRACE would
// echo the token, and CONNECT asks for a tunnel; an extended CONNECT (RFC 8441,
// RFC 9220) is how HTTP/2 and HTTP/3 open a WebSocket. Methods have case, but an
// upstream may ignore it.
func AllowedMethod(r *http.Request) bool {
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
