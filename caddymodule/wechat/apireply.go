package wechat

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
)

const (
	// maxAPIReply bounds the reply of an API, which may be an image or a file.
	maxAPIReply = 64 << 20

	// replyHead is how much of a reply is read before it is passed on.
	replyHead = 1 << 10
)

// An APIReply is WeChat's answer. Its Body must be closed, which frees the
// call's place. A read fails if the reply breaks off.
type APIReply struct {
	Status int
	Header http.Header // Content-Type, Content-Disposition and Wechatmp-*
	Length int64       // of Body; -1 if unknown
	Body   *ReplyBody

	// Errcode and RID are known of a small JSON object only.
	Errcode    int64
	HasErrcode bool
	RID        string

	// Sends is how often the call was sent; see API.Do.
	Sends int
}

// RefusesToken reports whether WeChat refused the access_token.
func (r *APIReply) RefusesToken() bool {
	return r.HasErrcode && (r.Errcode == errcodeBadCredential || r.Errcode == errcodeBadToken || r.Errcode == errcodeTokenExpired)
}

// newAPIReply reads the beginning of a reply to the call with token.
func newAPIReply(resp *http.Response, token string) (*APIReply, *Error) {
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return nil, badReply("the reply is a redirect")
	case resp.Header.Get("Content-Encoding") != "":
		return nil, badReply("the reply has a Content-Encoding that was not asked for")
	case resp.ContentLength > maxAPIReply:
		return nil, badReply("the reply is over 64 MiB")
	}
	r := &APIReply{Status: resp.StatusCode, Header: make(http.Header), Length: resp.ContentLength}
	for name, values := range resp.Header {
		if name == "Content-Type" || name == "Content-Disposition" || strings.HasPrefix(name, "Wechatmp-") {
			r.Header.Set(name, redact(values[0], token))
		}
	}
	head, ended, err := readHead(resp.Body)
	if err != nil {
		return nil, networkError(err, true)
	}
	body := &ReplyBody{done: []func(){func() { _ = resp.Body.Close() }}}
	r.Body = body
	if !ended {
		body.r = io.MultiReader(bytes.NewReader(head), resp.Body)
		body.left = maxAPIReply
		return r, nil
	}
	if isJSONText(head) {
		head = []byte(redact(string(head), token))
		if r.Status == http.StatusOK {
			r.Errcode, r.HasErrcode, r.RID = parseHead(head)
		}
	}
	body.r, body.left, r.Length = bytes.NewReader(head), int64(len(head)), int64(len(head))
	return r, nil
}

// readHead reads the first 1 KiB of a reply, and of JSON up to 64 KiB.
func readHead(body io.Reader) (head []byte, ended bool, err error) {
	head, err = io.ReadAll(io.LimitReader(body, replyHead))
	if err != nil || len(head) < replyHead {
		return head, true, err
	}
	if !isJSONText(head) {
		return head, false, nil
	}
	more, err := io.ReadAll(io.LimitReader(body, maxReply-replyHead))
	return append(head, more...), len(more) < maxReply-replyHead, err
}

// isJSONText reports whether a reply begins as a JSON object or array does.
func isJSONText(head []byte) bool {
	head = bytes.TrimLeft(head, " \t\r\n")
	return len(head) > 0 && (head[0] == '{' || head[0] == '[')
}

// parseHead returns the errcode and rid of a reply that is a JSON object.
func parseHead(head []byte) (errcode int64, ok bool, rid string) {
	var members struct{ Errcode, Errmsg json.RawMessage }
	if json.Unmarshal(head, &members) != nil || members.Errcode == nil {
		return 0, false, ""
	}
	errcode, ok = parseErrcode(members.Errcode)
	if errmsg, isText := strictjson.String(members.Errmsg); isText {
		_, rid = splitErrmsg(errmsg)
	}
	return errcode, ok, rid
}

var errReplyTooLong = errors.New("the reply is over 64 MiB")

// A ReplyBody is the body of a reply on its way to the caller.
type ReplyBody struct {
	r    io.Reader
	left int64
	done []func() // called by the first Close
}

// Read implements io.Reader.
func (b *ReplyBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errReplyTooLong
	}
	return n, err
}

// Close frees the call's place.
func (b *ReplyBody) Close() error {
	for _, done := range b.done {
		done()
	}
	b.done = nil
	return nil
}
