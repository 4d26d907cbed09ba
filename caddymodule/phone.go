package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

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
		return fmt.Errorf("%q cannot be the member that holds the code of a phone number; it is of letters, digits and _, such as phoneCode", name)
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
	refused := h.app.refusal.of(s.ID)
	if refused.Add(1) > maxOpenDataRefusals {
		refused.Add(-1)
		return nil, errOpenDataRefusals
	}
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
	wx, _ := errors.AsType[*wechat.Error](err)
	if wx == nil || wx.Kind != wechat.PhoneRejected {
		refused.Add(-1)
		return number, err
	}
	h.logRejection(r, s, wechatFields(wx)...)
	return nil, err
}

func (a *App) exchangePhone(s *session.Session, code string, maxAge time.Duration) (number json.RawMessage, err error) {
	a.metrics.api.inFlight.Inc()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("exchanging the code of a phone number panicked: %v", p)
		}
		a.metrics.api.inFlight.Dec()
		result := resultOK
		if err != nil {
			result = toAnswer(err).name
		}
		a.metrics.api.openData.WithLabelValues(s.AppID, "phone", result).Inc()
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
