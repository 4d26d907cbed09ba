package wechat

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
)

const phonePath = "/wxa/business/getuserphonenumber"

// PhoneRejected is returned as a Kind when WeChat gives no phone number for a
// code, or one that is not of this user or too old.
const PhoneRejected Kind = "open_data_rejected"

// phoneInfo is a phone number as the encrypted form gives it.
type phoneInfo struct {
	PhoneNumber     string `json:"phoneNumber"`
	PurePhoneNumber string `json:"purePhoneNumber"`
	CountryCode     string `json:"countryCode"`
	Watermark       struct {
		Timestamp int64  `json:"timestamp"`
		AppID     string `json:"appid"`
	} `json:"watermark"`
}

// PhoneNumber exchanges the code of a getPhoneNumber button for the user's
// phone number, as the JSON object that decrypting the older form gives. WeChat
// is asked whether the code is of the user openID. maxAge is how old the
// watermark may be; 0 means any age. Every error is an *Error.
func (a *API) PhoneNumber(ctx context.Context, appID, openID, code string, maxAge time.Duration) (json.RawMessage, error) {
	body, err := json.Marshal(map[string]string{"code": code, "openid": openID})
	if err != nil {
		return nil, &Error{Kind: BadRequest, Reason: "the code is not text"}
	}
	for retried := false; ; retried = true {
		reply, err := a.phoneReply(ctx, appID, body)
		if err != nil {
			return nil, err
		}
		info, failure := parsePhone(reply, appID, maxAge, time.Now())
		switch {
		case failure == nil:
			return info, nil
		case failure.Errcode == errcodeSystemBusy && !retried && pauseBeforeRetry(ctx):
		default:
			failure.Errmsg, failure.RID = redact(failure.Errmsg, code), redact(failure.RID, code)
			failure.op = "asking WeChat for a phone number"
			return nil, failure
		}
	}
}

func (a *API) phoneReply(ctx context.Context, appID string, body []byte) ([]byte, error) {
	reply, err := a.Do(ctx, APICall{
		AppID:  appID,
		Method: http.MethodPost,
		Path:   phonePath,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   bytes.NewReader(body),
		Length: int64(len(body)),
	})
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	if reply.Status != http.StatusOK {
		return nil, apiError(badReply("the reply's HTTP status is " + strconv.Itoa(reply.Status)))
	}
	text, err := io.ReadAll(io.LimitReader(reply.Body, maxReply))
	if err != nil {
		return nil, apiError(networkError(err, true))
	}
	return text, nil
}

// parsePhone reads the reply of getuserphonenumber.
func parsePhone(body []byte, appID string, maxAge time.Duration, now time.Time) (json.RawMessage, *Error) {
	reply, failure := openReply(body)
	if failure != nil {
		switch failure.Kind {
		case BadReply:
		case Busy, RateLimited:
			failure.Kind = Busy
		default:
			failure.Kind = PhoneRejected
		}
		return nil, failure
	}
	object, err := strictjson.ParseStrict(reply.Get("phone_info"))
	if err != nil {
		return nil, badReply("phone_info is missing or malformed")
	}
	watermark, err := strictjson.ParseStrict(object.Get("watermark"))
	if err != nil {
		return nil, badReply("the watermark is missing or malformed")
	}
	var info phoneInfo
	info.PhoneNumber, _ = strictjson.String(object.Get("phoneNumber"))
	info.PurePhoneNumber, _ = strictjson.String(object.Get("purePhoneNumber"))
	var isText bool
	if info.CountryCode, isText = strictjson.String(object.Get("countryCode")); !isText {
		info.CountryCode = string(object.Get("countryCode")) // WeChat's samples have a number
	}
	info.Watermark.AppID, _ = strictjson.String(watermark.Get("appid"))
	info.Watermark.Timestamp, err = strconv.ParseInt(string(watermark.Get("timestamp")), 10, 64)
	age := now.Sub(time.Unix(info.Watermark.Timestamp, 0))
	switch {
	case !isDialed(info.PhoneNumber, 3, 20) || !isDialed(info.PurePhoneNumber, 3, 20) || !isDialed(info.CountryCode, 1, 6):
		return nil, badReply("the phone number is missing or malformed")
	case err != nil || info.Watermark.AppID != appID:
		return nil, &Error{Kind: PhoneRejected, Reason: "the watermark is of another mini program", Sent: true}
	case age < -time.Minute || maxAge > 0 && age > maxAge:
		return nil, &Error{Kind: PhoneRejected, Reason: "the watermark is too old or in the future", Sent: true}
	}
	text, err := json.Marshal(info)
	if err != nil {
		return nil, badReply("the phone number is malformed")
	}
	return text, nil
}

// isDialed reports whether s is of digits and +, and of a length from shortest to longest.
func isDialed(s string, shortest, longest int) bool {
	return len(s) >= shortest && len(s) <= longest && strings.Trim(s, "+0123456789") == ""
}
