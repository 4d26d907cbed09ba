package wechat_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// goodKey is the base64 of 16 bytes.
const goodKey = "MDEyMzQ1Njc4OWFiY2RlZg=="

// replies are bodies of status 200 and what becomes of them. An empty kind is a session.
var replies = []struct {
	name, body string
	kind       wechat.Kind
	unionID    string
}{
	{name: "plain", body: `{"session_key":"` + goodKey + `","openid":"o1"}`},
	{name: "with a unionid", body: `{"session_key":"` + goodKey + `","openid":"o1","unionid":"u1"}`, unionID: "u1"},
	{name: "with an empty unionid", body: `{"session_key":"` + goodKey + `","openid":"o1","unionid":""}`},
	{name: "with a null unionid", body: `{"session_key":"` + goodKey + `","openid":"o1","unionid":null}`},
	{name: "with errcode 0 and more", body: `{"session_key":"` + goodKey + `","expires_in":7200,"openid":"o1","errcode":0,"errmsg":"ok"}`},
	{name: "with errcode 0 as text", body: `{"session_key":"` + goodKey + `","openid":"o1","errcode":"0"}`},
	{name: "with unknown members", body: `{"session_key":"` + goodKey + `","openid":"o1","x":{"y":[1,{"z":null}]}}`},
	{name: "with spaces", body: "\n\t{ \"session_key\" : \"" + goodKey + "\" , \"openid\" : \"o1\" }\r\n"},
	{name: "with an escape", body: `{"session_key":"` + goodKey + `","openid":"o\u0031"}`},

	{name: "empty", body: ``, kind: wechat.BadReply},
	{name: "not JSON", body: `<html>`, kind: wechat.BadReply},
	{name: "null", body: `null`, kind: wechat.BadReply},
	{name: "array", body: `[{"session_key":"` + goodKey + `","openid":"o1"}]`, kind: wechat.BadReply},
	{name: "text", body: `"openid"`, kind: wechat.BadReply},
	{name: "empty object", body: `{}`, kind: wechat.BadReply},
	{name: "cut short", body: `{"session_key":"` + goodKey + `","openid":"o1"`, kind: wechat.BadReply},
	{name: "trailing bytes", body: `{"session_key":"` + goodKey + `","openid":"o1"}x`, kind: wechat.BadReply},
	{name: "trailing object", body: `{"session_key":"` + goodKey + `","openid":"o1"}{"openid":"o2"}`, kind: wechat.BadReply},
	{name: "byte order mark", body: "\ufeff" + `{"session_key":"` + goodKey + `","openid":"o1"}`, kind: wechat.BadReply},
	{name: "not UTF-8", body: `{"session_key":"` + goodKey + `","openid":"o1","x":"` + "\xff" + `"}`, kind: wechat.BadReply},
	{name: "openid twice", body: `{"session_key":"` + goodKey + `","openid":"o1","openid":"o2"}`, kind: wechat.BadReply},
	{name: "openid twice, once escaped", body: `{"session_key":"` + goodKey + `","openid":"o1","open\u0069d":"o2"}`, kind: wechat.BadReply},
	{name: "openid twice but for case", body: `{"session_key":"` + goodKey + `","openid":"o1","OpenID":"o2"}`, kind: wechat.BadReply},
	{name: "session_key twice but for a long s", body: `{"session_key":"` + goodKey + `","openid":"o1","ſession_key":""}`, kind: wechat.BadReply},
	{name: "member twice, deep down", body: `{"session_key":"` + goodKey + `","openid":"o1","x":[{"a":1,"a":2}]}`, kind: wechat.BadReply},
	{name: "errcode in another case", body: `{"session_key":"` + goodKey + `","openid":"o1","ErrCode":40029}`, kind: wechat.BadReply},
	{name: "deep arrays", body: `{"session_key":"` + goodKey + `","openid":"o1","x":` + strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000) + `}`, kind: wechat.BadReply},
	{name: "deep objects", body: `{"session_key":"` + goodKey + `","openid":"o1","x":` + strings.Repeat(`{"a":`, 9_000) + "1" + strings.Repeat("}", 9_000) + `}`, kind: wechat.BadReply},
	{name: "errcode together with an openid", body: `{"session_key":"` + goodKey + `","openid":"o1","errcode":40029}`, kind: wechat.InvalidCode},
	{name: "errcode of a fraction", body: `{"session_key":"` + goodKey + `","openid":"o1","errcode":0.0}`, kind: wechat.BadReply},
	{name: "errcode with an exponent", body: `{"session_key":"` + goodKey + `","openid":"o1","errcode":0e1}`, kind: wechat.BadReply},
	{name: "errcode null", body: `{"session_key":"` + goodKey + `","openid":"o1","errcode":null}`, kind: wechat.BadReply},
	{name: "errcode false", body: `{"session_key":"` + goodKey + `","openid":"o1","errcode":false}`, kind: wechat.BadReply},
	{name: "errcode of an object", body: `{"session_key":"` + goodKey + `","openid":"o1","errcode":{}}`, kind: wechat.BadReply},
	{name: "errcode of no text", body: `{"session_key":"` + goodKey + `","openid":"o1","errcode":""}`, kind: wechat.BadReply},
	{name: "errcode of words", body: `{"session_key":"` + goodKey + `","openid":"o1","errcode":"ok"}`, kind: wechat.BadReply},
	{name: "errcode too large", body: `{"errcode":99999999999999999999}`, kind: wechat.BadReply},
	{name: "errmsg of another type", body: `{"errcode":40029,"errmsg":{"a":1}}`, kind: wechat.InvalidCode},

	{name: "no openid", body: `{"session_key":"` + goodKey + `"}`, kind: wechat.BadReply},
	{name: "openid empty", body: `{"session_key":"` + goodKey + `","openid":""}`, kind: wechat.BadReply},
	{name: "openid null", body: `{"session_key":"` + goodKey + `","openid":null}`, kind: wechat.BadReply},
	{name: "openid a number", body: `{"session_key":"` + goodKey + `","openid":1}`, kind: wechat.BadReply},
	{name: "openid a list", body: `{"session_key":"` + goodKey + `","openid":["o1"]}`, kind: wechat.BadReply},
	{name: "openid with a comma", body: `{"session_key":"` + goodKey + `","openid":"o1,o2"}`, kind: wechat.BadReply},
	{name: "openid with a space", body: `{"session_key":"` + goodKey + `","openid":"o1 "}`, kind: wechat.BadReply},
	{name: "openid with a line break", body: `{"session_key":"` + goodKey + `","openid":"o1\r\nX-OpenID: o2"}`, kind: wechat.BadReply},
	{name: "openid with a NUL", body: `{"session_key":"` + goodKey + `","openid":"o1\u0000"}`, kind: wechat.BadReply},
	{name: "openid with DEL", body: `{"session_key":"` + goodKey + `","openid":"o1\u007f"}`, kind: wechat.BadReply},
	{name: "openid not ASCII", body: `{"session_key":"` + goodKey + `","openid":"微"}`, kind: wechat.BadReply},
	{name: "openid too long", body: `{"session_key":"` + goodKey + `","openid":"` + strings.Repeat("o", 129) + `"}`, kind: wechat.BadReply},
	{name: "no session_key", body: `{"openid":"o1"}`, kind: wechat.BadReply},
	{name: "session_key empty", body: `{"session_key":"","openid":"o1"}`, kind: wechat.BadReply},
	{name: "session_key not base64", body: `{"session_key":"!!!!!!!!!!!!!!!!!!!!!!==","openid":"o1"}`, kind: wechat.BadReply},
	{name: "session_key of 15 bytes", body: `{"session_key":"MDEyMzQ1Njc4OWFiY2Rl","openid":"o1"}`, kind: wechat.BadReply},
	{name: "session_key of 32 bytes", body: `{"session_key":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=","openid":"o1"}`, kind: wechat.BadReply},
	{name: "session_key without padding", body: `{"session_key":"MDEyMzQ1Njc4OWFiY2RlZg","openid":"o1"}`, kind: wechat.BadReply},
	{name: "session_key with spare bits", body: `{"session_key":"MDEyMzQ1Njc4OWFiY2RlZh==","openid":"o1"}`, kind: wechat.BadReply},
	{name: "session_key with a line break", body: `{"session_key":"MDEyMzQ1Njc4OWFi\nY2RlZg==","openid":"o1"}`, kind: wechat.BadReply},
	{name: "unionid with a comma", body: `{"session_key":"` + goodKey + `","openid":"o1","unionid":"u1,u2"}`, kind: wechat.BadReply},
	{name: "unionid a number", body: `{"session_key":"` + goodKey + `","openid":"o1","unionid":1}`, kind: wechat.BadReply},
	{name: "unionid too long", body: `{"session_key":"` + goodKey + `","openid":"o1","unionid":"` + strings.Repeat("u", 129) + `"}`, kind: wechat.BadReply},

	{name: "over 64 KiB", body: fmt.Sprintf(`{"session_key":"%s","openid":"o1","x":"%s"}`, goodKey, strings.Repeat("x", 64<<10)), kind: wechat.BadReply},
	{name: "over 64 KiB by spaces", body: `{"session_key":"` + goodKey + `","openid":"o1"}` + strings.Repeat(" ", 64<<10), kind: wechat.BadReply},
	{name: "nearly 64 KiB", body: fmt.Sprintf(`{"session_key":"%s","openid":"o1","x":"%s"}`, goodKey, strings.Repeat("x", 65_000))},
}

func TestReplies(t *testing.T) {
	for _, tt := range replies {
		t.Run(tt.name, func(t *testing.T) {
			fake := newFake()
			client := newClient(t, fake, nil)
			fake.Script(fakewechat.Body(tt.body))
			session, err := client.Code2Session(t.Context(), appID, "canary-code")
			require.Equal(t, 1, fake.CallsWith("canary-code"))
			if tt.kind == "" {
				require.NoError(t, err)
				require.Equal(t, wechat.Code2Session{OpenID: "o1", UnionID: tt.unionID, SessionKey: goodKey}, session)
			} else {
				e := requireKind(t, tt.kind, err, "canary-code", goodKey)
				require.True(t, e.Sent)
				require.Equal(t, wechat.Code2Session{}, session)
			}
			requireLogin(t, client, fake)
		})
	}
}
