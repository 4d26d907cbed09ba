package wechat

import "time"

// WeChat's errcodes for code2Session and for access_tokens. Those not in the official table are
// known from WeChat's community.
const (
	errcodeOK            = 0
	errcodeSystemBusy    = -1
	errcodeBadCredential = 40001 // of an API: the access_token; of a request for one: the secret
	errcodeInvalidGrant  = 40002
	errcodeInvalidAppID  = 40013
	errcodeBadToken      = 40014
	errcodeInvalidCode   = 40029
	errcodeInvalidSecret = 40125
	errcodeCodeUsed      = 40163
	errcodeIPNotAllowed  = 40164
	errcodeUserBlocked   = 40226
	errcodeSecretFrozen  = 40243
	errcodeNoAppID       = 41002
	errcodeNoSecret      = 41004
	errcodeNoCode        = 41008
	errcodeTokenExpired  = 42001
	errcodeDailyQuota    = 45009
	errcodeTooOften      = 45011
	errcodeUnauthorized  = 48001
	errcodeAPIBanned     = 48004
	errcodeUserLimited   = 50002
	errcodeConfirmIP     = 89503
)

const (
	// busyRetryAfter is for trouble that passes by itself within moments.
	busyRetryAfter = time.Second

	// quotaRetryAfter is for WeChat's limits, which it counts by the minute
	// (45011) or the day (45009).
	quotaRetryAfter = time.Minute
)

// errcodeError turns an errcode other than 0 into an Error.
func errcodeError(errcode int64) *Error {
	e := &Error{Kind: RejectedGateway, Errcode: errcode, HasErrcode: true, Sent: true}
	switch errcode {
	case errcodeInvalidCode:
		e.Kind = InvalidCode
	case errcodeCodeUsed:
		e.Kind = CodeUsed
	case errcodeUserBlocked:
		e.Kind = UserBlocked
	case errcodeTooOften:
		e.Kind, e.RetryAfter = RateLimited, quotaRetryAfter
	case errcodeSystemBusy:
		e.Kind, e.RetryAfter, e.Reason, e.outage = Busy, busyRetryAfter, "WeChat's system is busy", true
	case errcodeDailyQuota:
		e.Kind, e.RetryAfter, e.Reason, e.outage = Busy, quotaRetryAfter, "the mini program's daily quota is used up", true
	case errcodeInvalidGrant:
		e.Reason = "the grant_type is invalid"
	case errcodeInvalidAppID:
		e.Reason = "the appid is invalid"
	case errcodeInvalidSecret:
		e.Reason = "the secret is invalid"
	case errcodeIPNotAllowed:
		e.Reason = "this gateway's address is not on the mini program's list"
	case errcodeSecretFrozen:
		e.Reason = "the secret is frozen"
	case errcodeConfirmIP:
		e.Reason = "this gateway's address must be confirmed by the mini program's administrator"
	case errcodeNoAppID:
		e.Reason = "the appid is missing"
	case errcodeNoSecret:
		e.Reason = "the secret is missing"
	case errcodeNoCode:
		e.Reason = "the code is missing"
	case errcodeUnauthorized:
		e.Reason = "the mini program may not use this API"
	case errcodeAPIBanned:
		e.Reason = "the mini program is banned from this API"
	case errcodeUserLimited:
		e.Reason = "the user is limited"
	default:
		e.Reason = "the errcode is unknown"
	}
	return e
}
