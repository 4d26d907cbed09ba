package identity

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Bearer is the token source that is not a header's name.
const Bearer = "bearer"

// CheckTokenSource reports what is wrong with a token source.
func CheckTokenSource(source string) error {
	if source == Bearer {
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

// Tokens finds the token of a request.
type Tokens struct {
	Headers []string // the headers that may carry it, canonical
	Vary    []string // the request headers that a cache must look at

	bearer  bool
	forward bool
}

// NewTokens makes the Tokens of a site from its token sources: names of headers
// and Bearer. With forward, the token stays on the request.
func NewTokens(from []string, forward bool) Tokens {
	t := Tokens{forward: forward}
	for _, source := range from {
		if source == Bearer {
			t.bearer = true
			t.Vary = append(t.Vary, "Authorization")
		} else {
			t.Headers = append(t.Headers, http.CanonicalHeaderKey(source))
			t.Vary = append(t.Vary, source)
		}
	}
	return t
}

// Take returns the token of a request and, unless it is to be forwarded, removes
// it from the header. An empty header counts as absent: that is how a client
// without a session sends it. If two values differ, ok is false: an upstream
// behind another proxy might pick the other one.
func (t *Tokens) Take(header http.Header) (token string, ok bool) {
	ok = true
	for _, name := range t.Headers {
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

func (t *Tokens) takeBearer(header http.Header, values []string, token string, ok bool) (string, bool) {
	found := false
	for _, value := range values {
		credentials, bearer := cutBearer(value)
		if !bearer {
			continue // another scheme is the upstream's and stays
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
	if len(value) < len(Bearer) || !strings.EqualFold(value[:len(Bearer)], Bearer) {
		return "", false
	}
	rest := value[len(Bearer):]
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
