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
//
// Bearer counts where no other header has a token, and only if the credential
// has a token's form. Any other Authorization is the upstream's and stays.
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
	fromHeader := token
	var kept []string
	for _, value := range values {
		credential := bearerToken(value)
		if credential == "" || fromHeader != "" && credential != fromHeader {
			kept = append(kept, value)
			continue
		}
		token, ok = oneToken(token, credential, ok)
	}
	switch {
	case t.forward || len(kept) == len(values):
	case len(kept) == 0:
		delete(header, "Authorization")
	default:
		header["Authorization"] = kept
	}
	return token, ok
}

// tokenLength is that of 32 bytes in base64url.
const tokenLength = 43

// bearerToken returns the credential of a value of Authorization, or "" if it
// has not the form of a token. The scheme is taken in any case and before any
// white space, so that no spelling of it reaches the upstream with a token.
func bearerToken(value string) string {
	if len(value) <= len(Bearer)+tokenLength || !strings.EqualFold(value[:len(Bearer)], Bearer) {
		return ""
	}
	rest := value[len(Bearer):]
	credential := strings.Trim(rest, " \t")
	if len(credential) != tokenLength || rest[0] != ' ' && rest[0] != '\t' {
		return ""
	}
	for i := range len(credential) {
		if c := credential[i]; !isLetterOrDigit(c) && c != '-' && c != '_' {
			return ""
		}
	}
	return credential
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
