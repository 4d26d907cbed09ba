package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"

	"github.com/wxgate/wxgate/caddymodule/identity"
	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// OpenData says on which paths the body may hold WeChat's encrypted open data,
// such as a phone number. The gateway decrypts it with the user's session_key,
// verifies it and hands the upstream the plain object instead, as the member
// `openData`, and the header X-WX-Open-Data: verified.
type OpenData struct {
	// Path patterns, case-sensitive, as in `public`.
	Paths []string `json:"paths,omitempty"`

	// How old the data's watermark may be; 0 means any age, so that whoever
	// once had the data can send it again. Default: 10m
	MaxAge *caddy.Duration `json:"max_age,omitempty"`
}

const (
	defaultMaxAge = 10 * time.Minute

	maxOpenDataBody  = 64 << 10
	openDataBodyTime = 30 * time.Second
)

// errOpenDataRejected says that open data does not verify, for whatever reason.
var errOpenDataRejected = errors.New("open data rejected")

func (o *OpenData) setDefaults() {
	if o.MaxAge == nil {
		o.MaxAge = new(caddy.Duration)
		*o.MaxAge = caddy.Duration(defaultMaxAge)
	}
}

func (o *OpenData) check() error {
	if len(o.Paths) == 0 {
		return errors.New("no path is given")
	}
	for _, pattern := range o.Paths {
		if err := identity.CheckPattern(pattern); err != nil {
			return err
		}
	}
	if *o.MaxAge == 0 {
		return nil // any age
	}
	if err := checkDuration(*o.MaxAge); err != nil {
		return fmt.Errorf("max_age: %w", err)
	}
	return nil
}

// covers also holds for a path that an upstream may clean into a covered one:
// here, unlike for public paths, to be covered is the safe side.
func (o *OpenData) covers(p string) bool {
	return identity.MatchAny(o.Paths, p) || identity.MatchAny(o.Paths, path.Clean(p))
}

// openData replaces the encrypted data in the body by the verified. What the
// client calls verified itself goes away, also without a session.
func (h *Handler) openData(w http.ResponseWriter, r *http.Request, s *session.Session) error {
	if !h.OpenData.covers(r.URL.Path) || r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	body, err := readBody(w, r, maxOpenDataBody, openDataBodyTime)
	if errors.Is(err, errBodyTooLarge) {
		return badRequest("a body with open data is at most 64 KiB")
	}
	if err != nil {
		return err
	}
	if len(body) == 0 {
		setBody(r, body)
		return nil
	}
	object, err := strictjson.Parse(body)
	if err != nil {
		if !json.Valid(body) || !utf8.Valid(body) {
			return errNotJSON
		}
		// Other values than objects have no members that could be read as ours.
		setBody(r, body)
		return nil
	}
	forged := object.Has(memberOpenData)
	object = object.Without(memberOpenData)
	encrypted, found, err := findEncrypted(object)
	if err != nil {
		return err
	}
	if s == nil || !found {
		if forged {
			body = object.Bytes()
		}
		setBody(r, body)
		return nil
	}
	opened, err := h.decrypt(r, s, encrypted)
	if err != nil {
		return err
	}
	setBody(r, replaceEncrypted(object, opened).Bytes())
	r.Header[identity.HeaderOpenData] = []string{"verified"}
	return nil
}

func (h *Handler) decrypt(r *http.Request, s *session.Session, in wechat.EncryptedData) (wechat.Opened, error) {
	sessions, err := h.app.sessions()
	if err != nil {
		return wechat.Opened{}, err
	}
	keys, err := sessions.SessionKeys(r.Context(), s)
	if err != nil {
		return wechat.Opened{}, err
	}
	opened, err := wechat.OpenData(keys, s.AppID, s.OpenID, in, time.Duration(*h.OpenData.MaxAge), time.Now())
	switch {
	case errors.Is(err, wechat.ErrMalformed):
		return opened, badRequest("encryptedData or iv is not base64 of whole blocks")
	case err != nil:
		return opened, errOpenDataRejected
	}
	return opened, nil
}

// setBody gives the request a body that has been read.
func setBody(r *http.Request, body []byte) {
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.TransferEncoding = nil
	r.Trailer = nil // they came with the body that was read
	r.Header.Set("Content-Length", strconv.Itoa(len(body)))
}

// The members that the gateway writes.
const (
	memberOpenData = "openData"
	memberUserInfo = "userInfo"
)

const errNotJSON = badRequest("the body is not JSON")

// findEncrypted finds the members of WeChat's encrypted data; found is false if there
// are none. Members that only share a name with them, beside neither encryptedData
// nor iv, are the application's.
func findEncrypted(object strictjson.Object) (in wechat.EncryptedData, found bool, err error) {
	if object.Get("encryptedData") == nil && object.Get("iv") == nil {
		return in, false, nil
	}
	for name, field := range map[string]*string{
		"encryptedData": &in.EncryptedData, "iv": &in.IV, "rawData": &in.RawData, "signature": &in.Signature,
	} {
		switch text, _, err := object.Text(name); {
		case errors.Is(err, strictjson.ErrRepeated):
			return in, false, badRequest(name + " is in the body twice")
		case err != nil:
			return in, false, badRequest(name + " is not a string")
		default:
			*field = text
		}
	}
	if object.Get("encryptedData") == nil || object.Get("iv") == nil {
		return in, false, badRequest("encryptedData and iv belong together")
	}
	return in, true, nil
}

// replaceEncrypted puts the verified data in the place of the encrypted. A userInfo that
// no signature covers would look verified beside it, so it is removed.
func replaceEncrypted(object strictjson.Object, opened wechat.Opened) strictjson.Object {
	object = object.Without("encryptedData", "iv", "rawData", "signature", memberUserInfo)
	object = append(object, strictjson.Member{Name: memberOpenData, Value: opened.Data})
	if opened.UserInfo != nil {
		object = append(object, strictjson.Member{Name: memberUserInfo, Value: opened.UserInfo})
	}
	return object
}
