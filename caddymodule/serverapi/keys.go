package serverapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/wxgate/wxgate/caddymodule"
)

// Key is what an application shows to be let in.
type Key struct {
	// Its name, for the log: letters, digits, - and _.
	Name string `json:"name"`

	// The secrets; several while one replaces another. At least 16 characters,
	// written as {env.NAME} or {file./path}.
	Secrets []string `json:"secret"`
}

const minKeyLength = 16

var keyName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// namedKey is one secret that has been resolved.
type namedKey struct {
	name string
	hash [sha256.Size]byte
}

func checkKeyName(name string) error {
	if !keyName.MatchString(name) {
		return fmt.Errorf("%q is not a key's name: a name has letters, digits, - and _ only", name)
	}
	return nil
}

func resolveKeys(app *caddymodule.App, keys []Key) ([]namedKey, error) {
	var resolved []namedKey
	names := make(map[string]bool)
	for _, key := range keys {
		if err := checkKeyName(key.Name); err != nil {
			return nil, err
		}
		if names[key.Name] {
			return nil, fmt.Errorf("%s is given twice", key.Name)
		}
		names[key.Name] = true
		if len(key.Secrets) == 0 {
			return nil, fmt.Errorf("%s has no secret", key.Name)
		}
		for _, raw := range key.Secrets {
			secret, err := app.ResolveSecret("the key "+key.Name+" of wxgate_api", raw)
			if err == nil && len(secret) < minKeyLength {
				err = errors.New("it is shorter than 16 characters; make one with `openssl rand -hex 32`")
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key.Name, err)
			}
			resolved = append(resolved, namedKey{key.Name, sha256.Sum256([]byte(secret))})
		}
	}
	return resolved, nil
}

// keyOf returns the name of a key whose secret is shown, or "".
func (h *Handler) keyOf(shown string) string {
	hash, name := sha256.Sum256([]byte(shown)), ""
	for _, key := range h.keys {
		if subtle.ConstantTimeCompare(hash[:], key.hash[:]) == 1 {
			name = key.name
		}
	}
	return name
}

// authenticate lets a caller in that shows a key, or a token that it was given
// for one; without keys everyone. It returns the mini program of the token, if any.
func (h *Handler) authenticate(c *call, q query) (tokenApp string, err error) {
	if bearer, ok := strings.CutPrefix(c.Request.Header.Get("Authorization"), "Bearer "); ok && len(h.keys) > 0 {
		if c.key = h.keyOf(bearer); c.key != "" {
			return "", nil
		}
	}
	switch {
	case strings.HasPrefix(q.accessToken, tokenPrefix):
		return h.openToken(c, q.accessToken)
	case len(h.keys) == 0:
		return "", nil
	case q.accessToken == "":
		return "", &refusal{status: http.StatusUnauthorized, errcode: codeNoToken, name: "unauthorized", text: "show a key of wxgate_api: Authorization: Bearer <key>"}
	}
	if c.key = h.keyOf(q.accessToken); c.key == "" {
		return "", refuse(codeTokenExpired, "token_expired", "the access_token is none of wxgate_api's")
	}
	return "", nil
}
