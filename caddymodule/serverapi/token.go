package serverapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// The paths on which SDKs fetch an access_token.
const (
	tokenPath       = "/cgi-bin/token"
	stableTokenPath = "/cgi-bin/stable_token"
)

const (
	tokenPrefix   = "wxgate."
	tokenLifetime = 2 * time.Hour
	maxTokenBody  = 4 << 10
)

// serveToken gives an SDK a token of wxgate_api's own, which is worth nothing
// elsewhere. Its secret is a key of wxgate_api, if there are any.
func (h *Handler) serveToken(c *call) error {
	c.api = c.URL.Path
	grantType, appID, secret, err := tokenRequest(c)
	if err != nil {
		return err
	}
	switch {
	case grantType != "client_credential":
		return refuse(40002, "bad_request", "grant_type is client_credential")
	case appID == "":
		return refuse(41002, "unknown_miniprogram", "the appid is missing")
	case !slices.Contains(h.apps, appID):
		return refuse(codeInvalidAppID, "unknown_miniprogram", "this site does not speak for the mini program that the call names")
	}
	c.appID = appID
	if len(h.keys) > 0 {
		if c.key = h.keyOf(secret); c.key == "" {
			return refuse(codeInvalidSecret, "wrong_key", "the secret must be a key of wxgate_api; the AppSecret has no place in the application")
		}
	} else if h.app.IsAppSecret(appID, secret) {
		h.holders.Do(func() {
			h.logger.Warn("an application still holds the AppSecret: with wxgate_api any text will do as its secret", zap.String("appid", appID))
		})
	}
	token, err := h.newToken(appID, c.key, time.Now().Add(tokenLifetime))
	if err != nil {
		return err
	}
	return writeJSON(c, http.StatusOK, struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}{token, int64(tokenLifetime / time.Second)})
}

// tokenRequest reads what an SDK asks with: a query, or JSON.
func tokenRequest(c *call) (grantType, appID, secret string, err error) {
	if c.URL.Path == tokenPath {
		values := c.URL.Query()
		return values.Get("grant_type"), values.Get("appid"), values.Get("secret"), nil
	}
	var ask struct {
		GrantType string `json:"grant_type"`
		AppID     string `json:"appid"`
		Secret    string `json:"secret"`
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.ResponseWriter, c.Body, maxTokenBody))
	if err != nil {
		return "", "", "", &wechat.BodyError{Err: err}
	}
	if json.Unmarshal(body, &ask) != nil {
		return "", "", "", refuse(47001, "bad_request", "the body is not JSON")
	}
	return ask.GrantType, ask.AppID, ask.Secret, nil
}

// newToken returns a token of wxgate_api for a mini program and the key that was shown.
func (h *Handler) newToken(appID, keyName string, end time.Time) (string, error) {
	keys, err := h.app.APITokenKeys()
	if err != nil {
		return "", err
	}
	bound := h.tokenHolders()
	i := slices.IndexFunc(bound, func(k namedKey) bool { return k.name == keyName })
	return signToken(keys[0], bound[i], appID, end), nil
}

// openToken checks a token and returns its mini program.
func (h *Handler) openToken(c *call, token string) (appID string, err error) {
	keys, err := h.app.APITokenKeys()
	if err != nil {
		return "", err
	}
	appID, holder, ok := verifyToken(keys, h.tokenHolders(), token, time.Now())
	if !ok {
		return "", refuse(codeTokenExpired, "token_expired", "the access_token of wxgate_api is expired or unknown: fetch another")
	}
	c.key = holder
	return appID, nil
}

// tokenHolders are the keys for which tokens are given: without keys, one for everyone.
func (h *Handler) tokenHolders() []namedKey {
	if len(h.keys) == 0 {
		return []namedKey{{}}
	}
	return h.keys
}

// signToken returns wxgate.<appid>.<end>.<mac>. It is of no use without its
// holder's key, so it dies with that.
func signToken(key []byte, holder namedKey, appID string, end time.Time) string {
	text := tokenPrefix + appID + "." + strconv.FormatInt(end.Unix(), 10)
	return text + "." + tokenMAC(key, holder, text)
}

// verifyToken returns whose a token is, and who holds it.
func verifyToken(keys [][]byte, holders []namedKey, token string, now time.Time) (appID, holder string, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 4 {
		return "", "", false
	}
	end, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil || now.Unix() >= end {
		return "", "", false
	}
	text := strings.Join(parts[:3], ".")
	for _, key := range keys {
		for _, holder := range holders {
			if hmac.Equal([]byte(parts[3]), []byte(tokenMAC(key, holder, text))) {
				return parts[1], holder.name, true
			}
		}
	}
	return "", "", false
}

func tokenMAC(key []byte, holder namedKey, text string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write(holder.hash[:])
	mac.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
