package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// sourceBearer is the token source that is not a header's name.
const sourceBearer = "bearer"

func checkTokenSource(source string) error {
	if source == sourceBearer {
		return nil
	}
	if err := checkHeaderName(source); err != nil {
		return err
	}
	if http.CanonicalHeaderKey(source) == "Authorization" {
		return errors.New("write `bearer` for a token in the Authorization header")
	}
	return nil
}

func checkHeaderName(name string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return fmt.Errorf("%q is not a header name", name)
	}
	return nil
}

// tokenSources says where a token may stand in a request.
type tokenSources struct {
	headers []string // canonical
	bearer  bool
	forward bool

	vary      []string // what a cache must look at
	varyValue string   // the same in one line
}

func newTokenSources(from []string, forward bool) tokenSources {
	t := tokenSources{forward: forward}
	for _, source := range from {
		if source == sourceBearer {
			t.bearer = true
			t.vary = append(t.vary, "Authorization")
		} else {
			t.headers = append(t.headers, http.CanonicalHeaderKey(source))
			t.vary = append(t.vary, source)
		}
	}
	t.varyValue = strings.Join(t.vary, ", ")
	return t
}

// take finds the token of a request and, unless it is to be forwarded, removes
// it. An empty header counts as absent: that is how a client that has no
// session yet sends it. Two values that differ are no token at all, and ok is
// false: an upstream behind another proxy might pick the other one.
func (t *tokenSources) take(header http.Header) (token string, ok bool) {
	ok = true
	for _, name := range t.headers {
		values, present := header[name]
		if !present {
			continue
		}
		for _, value := range values {
			token, ok = oneToken(token, value, ok)
		}
		if !t.forward {
			delete(header, name)
		}
	}
	if t.bearer {
		if values, present := header["Authorization"]; present {
			token, ok = t.takeBearer(header, values, token, ok)
		}
	}
	return token, ok
}

func (t *tokenSources) takeBearer(header http.Header, values []string, token string, ok bool) (string, bool) {
	found := false
	for _, value := range values {
		credentials, bearer := cutBearer(value)
		if !bearer {
			continue // another scheme is the upstream's business and stays
		}
		found = true
		token, ok = oneToken(token, credentials, ok)
	}
	if found && !t.forward {
		delete(header, "Authorization")
	}
	return token, ok
}

// cutBearer takes the scheme off, in any case and before any white space, so
// that no spelling of it reaches the upstream with a token behind it.
func cutBearer(value string) (credentials string, bearer bool) {
	if len(value) < len(sourceBearer) || !strings.EqualFold(value[:len(sourceBearer)], sourceBearer) {
		return "", false
	}
	rest := value[len(sourceBearer):]
	credentials = strings.TrimLeft(rest, " \t")
	return strings.TrimRight(credentials, " \t"), rest == "" || len(credentials) < len(rest)
}

func oneToken(token, value string, ok bool) (string, bool) {
	switch {
	case value == "" || value == token:
		return token, ok
	case token == "":
		return value, ok
	default:
		return token, false
	}
}
