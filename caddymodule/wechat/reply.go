package wechat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
)

const (
	// maxReply bounds the reply's bytes; real ones have less than 300.
	maxReply = 64 << 10

	// maxID bounds an openid or unionid; those seen have 28 characters.
	maxID = 128

	maxErrmsg = 200
	maxRID    = 64
)

// A Code2Session is what WeChat says about the user whose code it was given.
// It formats as a placeholder, so that its session_key does not get into a log.
type Code2Session struct {
	OpenID     string // the user within this mini program; opaque
	UnionID    string // the user across an Open Platform account; often empty
	SessionKey string `json:"-"` // base64 of the 16 bytes of an AES key
}

// Format implements fmt.Formatter for every verb.
func (Code2Session) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "{code2Session reply}") // a State does not fail
}

// parseReply reads WeChat's reply of status 200. It returns a session only
// from a clean reply: see strictjson.ParseStrict and the checks on each field. Members that are
// not named here are ignored, as WeChat may add some.
func parseReply(body []byte) (Code2Session, *Error) {
	var none Code2Session
	reply, failure := openReply(body)
	if failure != nil {
		return none, failure
	}
	for _, member := range reply {
		// Some readers would take OpenID for openid. So it is no clean reply.
		if folded := strictjson.Fold(member.Name); folded != member.Name && isReplyMember(folded) {
			return none, badReply("a member's name is in the wrong case")
		}
	}
	openID, ok := strictjson.String(reply.Get("openid"))
	if !ok || !isID(openID) {
		return none, badReply("openid is missing or malformed")
	}
	sessionKey, ok := strictjson.String(reply.Get("session_key"))
	if !ok || !isSessionKey(sessionKey) {
		return none, badReply("session_key is missing or malformed")
	}
	unionID := ""
	if raw := reply.Get("unionid"); raw != nil {
		// Null or empty is no unionid.
		unionID, ok = strictjson.String(raw)
		switch {
		case isNull(raw) || ok && unionID == "":
			unionID = ""
		case !ok || !isID(unionID):
			return none, badReply("unionid is malformed")
		}
	}
	return Code2Session{OpenID: openID, UnionID: unionID, SessionKey: sessionKey}, nil
}

// openReply opens the JSON object of a reply. An errcode other than 0 is an Error, whatever else
// there is: WeChat found something wrong.
func openReply(body []byte) (strictjson.Object, *Error) {
	reply, err := strictjson.ParseStrict(body)
	if err != nil {
		return nil, badReply("the reply is not a plain JSON object")
	}
	errcode, ok := parseErrcode(reply.Get("errcode"))
	switch {
	case !ok:
		return nil, badReply("errcode is not an integer")
	case errcode == errcodeOK:
		return reply, nil
	}
	e := errcodeError(errcode)
	if errmsg, ok := strictjson.String(reply.Get("errmsg")); ok {
		e.Errmsg, e.RID = splitErrmsg(errmsg)
	}
	return nil, e
}

// isReplyMember reports whether a folded name is one that parseReply looks for.
func isReplyMember(folded string) bool {
	switch folded {
	case "errcode", "errmsg", "openid", "session_key", "unionid":
		return true
	}
	return false
}

func badReply(reason string) *Error {
	return &Error{Kind: BadReply, Reason: reason, Sent: true}
}

// parseErrcode takes an absent errcode for 0, since it is absent on success
// today, and a string for its number, since both have been seen.
func parseErrcode(raw json.RawMessage) (errcode int64, ok bool) {
	if raw == nil {
		return errcodeOK, true
	}
	text := string(raw)
	if s, isString := strictjson.String(raw); isString {
		text = s
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

func isNull(raw json.RawMessage) bool {
	return bytes.Equal(raw, []byte("null"))
}

// isID reports whether s can be an openid or unionid: it must be safe as a single value of an
// HTTP header, where a comma would make it two.
func isID(s string) bool { return isWord(s, maxID) && !strings.Contains(s, ",") }

// isWord reports whether s is of at most limit printable ASCII characters, and at least one.
func isWord(s string, limit int) bool {
	return s != "" && len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// isSessionKey reports whether s is the base64 of 16 bytes, written in the one way.
func isSessionKey(s string) bool {
	key, ok := decodeBase64(s)
	return ok && len(key) == 16
}

// splitErrmsg parts an errmsg such as "invalid code, rid: 652d44d0-1d0af18b-5b069232"
// (in older answers "invalid code, hints: [ req_id: DFGGHa8ge-x4L0FA ]") into
// message and rid, and makes both safe to log.
func splitErrmsg(errmsg string) (message, rid string) {
	message = errmsg
	for _, mark := range []string{", rid:", ", hints: [ req_id:", " rid:", "req_id:"} {
		before, after, found := strings.Cut(errmsg, mark)
		if !found {
			continue
		}
		message, rid = before, strings.TrimLeft(after, " ")
		end := strings.IndexFunc(rid, func(r rune) bool { return !isRIDRune(r) })
		if end >= 0 {
			rid = rid[:end]
		}
		break
	}
	return printable(message, maxErrmsg), printable(rid, maxRID)
}

func isRIDRune(r rune) bool {
	return r == '-' || r == '_' || r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r))
}

// printable returns s in at most limit bytes, with every character that does
// not print on one line replaced.
func printable(s string, limit int) string {
	var b strings.Builder
	for _, r := range s {
		if !unicode.IsPrint(r) {
			r = '?'
		}
		if b.Len()+len(string(r)) > limit {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}
