package caddymodule

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/wxgate/wxgate/caddymodule/identity"
	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// OpenData lists the paths on which the body may hold WeChat's encrypted open data,
// such as a phone number. The gateway decrypts it with the user's session_key,
// verifies it and hands the upstream the plain object instead, as the member
// `openData`, and the header X-WX-Open-Data: verified.
type OpenData struct {
	// Path patterns, case-sensitive, as in `public`.
	Paths []string `json:"paths,omitempty"`

	// How old the data's watermark may be; 0 means any age, so that data
	// that was once seen can be sent again. Default: 10m
	MaxAge *caddy.Duration `json:"max_age,omitempty"`

	// The member that holds the code of a getPhoneNumber button, which the
	// gateway exchanges for the phone number; phoneCode, if the Caddyfile
	// names none. It needs an access_token, so each exchange is a call of
	// WeChat's server API. Default: none
	Phone string `json:"phone,omitempty"`
}

const (
	defaultMaxAge = 10 * time.Minute

	maxOpenDataBody     = 64 << 10
	openDataBodyTimeout = 30 * time.Second

	// maxOpenDataRefusals is how many refusals a session may have: AES-CBC without a MAC
	// lets a client that may try without end make data of its own.
	maxOpenDataRefusals = 20

	// maxRefusedSessions bounds the memory of refusals; the oldest are forgotten.
	maxRefusedSessions = 100_000
)

var (
	errOpenDataRejected = errors.New("open data rejected")
	errOpenDataRefusals = errors.New("too many refusals of open data")
)

func (o *OpenData) setDefaults() {
	o.MaxAge = cmp.Or(o.MaxAge, new(caddy.Duration(defaultMaxAge)))
}

func (o *OpenData) check() error {
	if len(o.Paths) == 0 {
		return errors.New("open_data: no path is given")
	}
	if err := checkEach("open_data", o.Paths, identity.CheckPattern); err != nil {
		return err
	}
	if o.Phone != "" {
		if err := checkPhoneMember(o.Phone); err != nil {
			return fmt.Errorf("open_data: phone: %w", err)
		}
	}
	if *o.MaxAge == 0 {
		return nil // any age
	}
	return named("open_data: max_age", checkDuration(*o.MaxAge))
}

// covers also holds for a path that an upstream may clean into a covered one:
// here, unlike for public paths, to be covered is the safe side.
func (o *OpenData) covers(p string) bool {
	return identity.MatchAny(o.Paths, p) || identity.MatchAny(o.Paths, path.Clean(p))
}

// openData replaces the encrypted data in the body by the verified. What the client calls
// verified itself is removed, also without a session. What cannot be JSON is not read.
func (h *Handler) openData(w http.ResponseWriter, r *http.Request, s *session.Session) error {
	if !h.OpenData.covers(r.URL.Path) || r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	claim, err := claimsJSON(r.Header)
	if err != nil || claim == claimsOther {
		return err
	}
	body, whole, err := peekObject(w, r)
	if err != nil || body == nil {
		return err
	}
	if !whole {
		if strictjson.HasName(body, "encryptedData") {
			return badRequest("a body with open data is at most 64 KiB")
		}
		r.Body = readCloser{strictjson.BlankName(r.Body, memberOpenData), r.Body}
		return nil
	}
	object, err := strictjson.Parse(body)
	if err != nil {
		if claim == claimsPlainJSON {
			return badRequest("the body is not JSON in UTF-8")
		}
		return nil
	}
	forged := object.Has(memberOpenData)
	object = object.Without(memberOpenData)
	encrypted, found, err := findEncrypted(object)
	if err != nil {
		return err
	}
	code, tapped, err := h.OpenData.phoneCode(object, found)
	if err != nil {
		return err
	}
	if s == nil || !found && !tapped {
		if forged {
			setBody(r, object.Bytes())
		}
		return nil
	}
	// What an upstream would read as something else is not judged as JSON.
	mediaType, err := plainMediaType(r.Header)
	if err == nil && mediaType != "application/json" {
		err = contentTypeError(r.Header, "send open data as application/json")
	}
	if err != nil {
		return err
	}
	refused, err := h.app.countRefusal(s.ID)
	if err != nil {
		return err
	}
	var opened wechat.Opened
	if tapped {
		opened.Data, err = h.phoneNumber(r, s, code)
		object = object.Without(h.OpenData.Phone)
	} else {
		opened, err = h.decrypt(r, s, encrypted)
	}
	if !errors.Is(err, errOpenDataRejected) && !errors.Is(err, wechat.PhoneRejected) {
		refused.Add(-1)
	}
	if err != nil {
		return err
	}
	setBody(r, replaceEncrypted(object, opened).Bytes())
	r.Header["Content-Type"] = []string{"application/json"}
	r.Header[identity.HeaderOpenData] = []string{"verified"}
	return nil
}

// countRefusal counts a refusal of open data of a session before the data is
// judged, so that parallel ones do not slip by.
func (a *App) countRefusal(session string) (*atomic.Int32, error) {
	refused, ok := a.refusal.GetIfPresent(session)
	if !ok {
		refused, _ = a.refusal.SetIfAbsent(session, new(atomic.Int32))
	}
	if refused.Add(1) > maxOpenDataRefusals {
		refused.Add(-1)
		return nil, errOpenDataRefusals
	}
	return refused, nil
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
	opened, err := wechat.OpenData(keys, wechat.Expected{
		AppID: s.AppID, OpenID: s.OpenID, UnionID: s.UnionID, MaxAge: time.Duration(*h.OpenData.MaxAge), Now: time.Now(),
	}, in)
	if reason, rejected := errors.AsType[wechat.Rejection](err); rejected {
		h.logRejection(r, s, zap.String("reason", string(reason)))
		return opened, errOpenDataRejected
	}
	if err != nil {
		return opened, badRequest("encryptedData or iv is not base64 of whole blocks")
	}
	return opened, nil
}

// logRejection logs why open data does not verify, which the client is not told.
func (h *Handler) logRejection(r *http.Request, s *session.Session, why ...zap.Field) {
	h.app.logger.Info("open data rejected", append(h.app.sessionFields(r, s), why...)...)
}

// The members that the gateway writes.
const (
	memberOpenData = "openData"
	memberUserInfo = "userInfo"
)

// findEncrypted finds the members of WeChat's encrypted data; found is false if there
// are none. Members that only share a name with them, without encryptedData, are the
// application's.
func findEncrypted(object strictjson.Object) (in wechat.EncryptedData, found bool, err error) {
	if object.Get("encryptedData") == nil {
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
	if object.Get("iv") == nil {
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

// defaultPhoneMember is not `code`, so that the code of wx.login is not sent for it.
const defaultPhoneMember = "phoneCode"

const maxPhoneCode = 128

var (
	memberName = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)

	// openDataMembers have a meaning of their own.
	openDataMembers = []string{"encryptedData", "iv", "rawData", "signature", memberOpenData, memberUserInfo}
)

func checkPhoneMember(name string) error {
	reserved := slices.ContainsFunc(openDataMembers, func(member string) bool { return strings.EqualFold(member, name) })
	if reserved || !memberName.MatchString(name) {
		return fmt.Errorf("%q cannot be the member that holds the code of a phone number; use letters, digits and _, such as phoneCode", name)
	}
	return nil
}

// phoneCode returns the code of a getPhoneNumber button, if a body has one.
func (o *OpenData) phoneCode(object strictjson.Object, encrypted bool) (code string, found bool, err error) {
	if o.Phone == "" {
		return "", false, nil
	}
	code, found, err = object.Text(o.Phone)
	switch {
	case errors.Is(err, strictjson.ErrRepeated):
		err = badRequest(o.Phone + " is in the body twice")
	case err != nil:
		err = badRequest(o.Phone + " is not a string")
	case !found:
	case encrypted:
		err = badRequest(o.Phone + " and encryptedData are two ways to the same: send one")
	case code == "" || len(code) > maxPhoneCode || strings.ContainsFunc(code, func(r rune) bool { return r <= ' ' || r > '~' }):
		err = badRequest(o.Phone + " is not a code of getPhoneNumber")
	}
	return code, found, err
}

// phoneNumber exchanges a code for the phone number of a session's user. The code is sent to
// WeChat once; requests of the user that carry it at the same time, such as those of a double
// tap, share the answer, and the exchange goes on when the client is gone: the tap is paid for.
func (h *Handler) phoneNumber(r *http.Request, s *session.Session, code string) (json.RawMessage, error) {
	flight := h.app.phones.DoChan(s.AppID+" "+s.OpenID+" "+code, func() (any, error) {
		return h.app.exchangePhone(s, code, time.Duration(*h.OpenData.MaxAge))
	})
	var number json.RawMessage
	var err error
	select {
	case result := <-flight:
		number, _ = result.Val.(json.RawMessage)
		err = result.Err
	case <-r.Context().Done():
		err = r.Context().Err()
	}
	if wx, _ := errors.AsType[*wechat.Error](err); wx != nil && wx.Kind == wechat.PhoneRejected {
		h.logRejection(r, s, wechatFields(wx)...)
	}
	return number, err
}

func (a *App) exchangePhone(s *session.Session, code string, maxAge time.Duration) (number json.RawMessage, err error) {
	a.metrics.apiInFlight.Inc()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("exchanging the code of a phone number panicked: %v", p)
		}
		a.metrics.apiInFlight.Dec()
		result := resultOK
		if err != nil {
			result = toAnswer(err).name
		}
		a.metrics.openData.WithLabelValues(s.AppID, "phone", result).Inc()
	}()
	hash := codeHash(sha256.Sum256([]byte("phone\x00" + s.AppID + "\x00" + code)))
	if !a.logins.codes.claim(hash) {
		return nil, &wechat.Error{Kind: wechat.PhoneRejected, Reason: "this gateway has seen the code"}
	}
	number, err = a.api.PhoneNumber(context.Background(), s.AppID, s.OpenID, code, maxAge)
	if wx, ok := errors.AsType[*wechat.Error](err); ok {
		if !wx.Sent {
			a.logins.codes.release(hash)
		}
		if wx.Kind != wechat.PhoneRejected {
			a.logger.Error("exchanging the code of a phone number failed", append(wechatFields(wx), zap.String("appid", s.AppID))...)
		}
	}
	return number, err
}
