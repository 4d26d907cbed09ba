package wechat

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// The errcodes of WeChat that decide what is done next.
const (
	errcodeOK            = 0
	errcodeSystemBusy    = -1
	errcodeBadCredential = 40001 // of an API: the access_token; of a request for one: the secret
	errcodeBadToken      = 40014
	errcodeInvalidSecret = 40125
	errcodeTokenExpired  = 42001
)

const (
	// busyRetryAfter is for trouble that passes by itself within moments.
	busyRetryAfter = time.Second

	// quotaRetryAfter is for WeChat's limits, which it counts by the minute
	// (45011) or the day (45009).
	quotaRetryAfter = time.Minute
)

// errcodes are what WeChat's errcodes for code2Session and for access_tokens mean. Those not in
// the official table are known from WeChat's community.
var errcodes = map[int64]Error{
	errcodeSystemBusy:    {Kind: Busy, RetryAfter: busyRetryAfter, Reason: "WeChat's system is busy", outage: true},
	40002:                {Kind: RejectedGateway, Reason: "the grant_type is invalid"},
	40013:                {Kind: RejectedGateway, Reason: "the appid is invalid"},
	40029:                {Kind: InvalidCode},
	errcodeInvalidSecret: {Kind: RejectedGateway, Reason: "the secret is invalid"},
	40163:                {Kind: CodeUsed},
	40164:                {Kind: RejectedGateway, Reason: "this gateway's address is not on the mini program's list"},
	40226:                {Kind: UserBlocked},
	40243:                {Kind: RejectedGateway, Reason: "the secret is frozen"},
	41002:                {Kind: RejectedGateway, Reason: "the appid is missing"},
	41004:                {Kind: RejectedGateway, Reason: "the secret is missing"},
	41008:                {Kind: RejectedGateway, Reason: "the code is missing"},
	45009:                {Kind: Busy, RetryAfter: quotaRetryAfter, Reason: "the mini program's daily quota is used up", outage: true},
	45011:                {Kind: RateLimited, RetryAfter: quotaRetryAfter},
	48001:                {Kind: RejectedGateway, Reason: "the mini program may not use this API"},
	48004:                {Kind: RejectedGateway, Reason: "the mini program is banned from this API"},
	50002:                {Kind: RejectedGateway, Reason: "the user is limited"},
	89503:                {Kind: RejectedGateway, Reason: "this gateway's address must be confirmed by the mini program's administrator"},
}

// errcodeError turns an errcode other than 0 into an Error.
func errcodeError(errcode int64) *Error {
	e, known := errcodes[errcode]
	if !known {
		e = Error{Kind: RejectedGateway, Reason: "the errcode is unknown"}
	}
	e.Errcode, e.HasErrcode, e.Sent = errcode, true, true
	return &e
}

// Cure returns what the operator can do about an Error, or "".
func (e *Error) Cure() string {
	switch e.Errcode {
	case 40164:
		return fmt.Sprintf("add %s to the mini program's API IP 白名单 at mp.weixin.qq.com", addressIn(e.Errmsg))
	case errcodeInvalidSecret, errcodeBadCredential:
		return "configure the current AppSecret; mp.weixin.qq.com shows it only once, so reset it there if it is lost"
	case 40243:
		return "unfreeze the AppSecret at mp.weixin.qq.com; it takes effect after 10 minutes"
	case 89503:
		return "the mini program's administrator must confirm this gateway's address; WeChat has sent him a message"
	}
	return ""
}

// addressIn returns the IP address in an errmsg such as "invalid ip 8.149.1.2
// ipv6 ::ffff:8.149.1.2, not in whitelist", or words for it.
func addressIn(errmsg string) string {
	for _, word := range strings.FieldsFunc(errmsg, func(r rune) bool { return r == ' ' || r == ',' }) {
		if addr, err := netip.ParseAddr(word); err == nil {
			return addr.String()
		}
	}
	return "this gateway's address"
}
