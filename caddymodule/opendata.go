package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/wxgate/wxgate/caddymodule/identity"
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
	object, isObject, err := parseObject(body)
	if err != nil {
		return err
	}
	if !isObject {
		setBody(r, body)
		return nil
	}
	forged := object.remove(memberOpenData)
	encrypted, found, err := object.encrypted()
	if err != nil {
		return err
	}
	if s == nil || !found {
		if forged {
			body = object.bytes()
		}
		setBody(r, body)
		return nil
	}
	opened, err := h.decrypt(r, s, encrypted)
	if err != nil {
		return err
	}
	object.replace(opened)
	setBody(r, object.bytes())
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

// A jsonObject keeps its members as they stand, in their order.
type jsonObject struct{ members []jsonMember }

type jsonMember struct {
	name  string
	value json.RawMessage
}

var errNotJSON = badRequest("the body is not JSON")

// parseObject reads a whole JSON text. Other values than objects have no
// members that anybody could take for ours.
func parseObject(body []byte) (object jsonObject, isObject bool, err error) {
	if !json.Valid(body) {
		return object, false, errNotJSON
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	start, err := dec.Token()
	if err != nil {
		return object, false, errNotJSON
	}
	if start != json.Delim('{') {
		return object, false, nil
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return object, false, errNotJSON
		}
		member := jsonMember{name: name.(string)} // valid JSON has nothing else here
		if err := dec.Decode(&member.value); err != nil {
			return object, false, errNotJSON
		}
		object.members = append(object.members, member)
	}
	return object, true, nil
}

// remove drops all members of a name, in any case: some readers take the case
// lightly. It reports whether there was one.
func (o *jsonObject) remove(name string) bool {
	before := len(o.members)
	o.members = slices.DeleteFunc(o.members, func(m jsonMember) bool {
		return strings.EqualFold(m.name, name)
	})
	return len(o.members) < before
}

// encrypted finds the members of WeChat's encrypted data; found is false if
// there are none. Members that only share a name with them, beside neither
// encryptedData nor iv, are the client's business.
func (o *jsonObject) encrypted() (in wechat.EncryptedData, found bool, err error) {
	if !slices.ContainsFunc(o.members, func(m jsonMember) bool { return m.name == "encryptedData" || m.name == "iv" }) {
		return in, false, nil
	}
	seen := make(map[string]bool)
	for _, member := range o.members {
		var field *string
		switch member.name {
		case "encryptedData":
			field = &in.EncryptedData
		case "iv":
			field = &in.IV
		case "rawData":
			field = &in.RawData
		case "signature":
			field = &in.Signature
		default:
			continue
		}
		if seen[member.name] {
			return in, false, badRequest(member.name + " is in the body twice")
		}
		seen[member.name] = true
		// null would leave the field as it is.
		if member.value[0] != '"' || json.Unmarshal(member.value, field) != nil {
			return in, false, badRequest(member.name + " is not a string")
		}
	}
	if seen["encryptedData"] != seen["iv"] {
		return in, false, badRequest("encryptedData and iv belong together")
	}
	return in, seen["encryptedData"], nil
}

// replace puts the verified data in the place of the encrypted. A userInfo that
// no signature covers would look verified beside it, so it goes away.
func (o *jsonObject) replace(opened wechat.Opened) {
	for _, name := range []string{"encryptedData", "iv", "rawData", "signature", memberUserInfo} {
		o.remove(name)
	}
	o.members = append(o.members, jsonMember{memberOpenData, opened.Data})
	if opened.UserInfo != nil {
		o.members = append(o.members, jsonMember{memberUserInfo, opened.UserInfo})
	}
}

func (o *jsonObject) bytes() []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, member := range o.members {
		if i > 0 {
			b.WriteByte(',')
		}
		name, _ := json.Marshal(member.name) // a string always encodes
		b.Write(name)
		b.WriteByte(':')
		b.Write(member.value)
	}
	b.WriteByte('}')
	return b.Bytes()
}
