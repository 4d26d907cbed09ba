package wechat_test

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// FuzzReplyHead holds the reader of an API's reply against a full decoding of
// it: not a byte is lost, and an errcode is one that the reply has.
func FuzzReplyHead(f *testing.F) {
	for _, seed := range []string{
		"", "{}", `{"errcode":40001,"errmsg":"invalid credential, rid: 1-2-3"}`, `{"errcode":"42001"}`, `{"errcode":0,"errcode":40001}`,
		`{"Errcode":1}`, `{"errcode":1e3}`, `{"errcode":null}`, `[{"errcode":1}]`, "\x89PNG\r\n", strings.Repeat("x", 1024), "{" + strings.Repeat(" ", 2000),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := bytes.NewReader(body)
		head, ended, err := wechat.ReadHead(r)
		require.NoError(t, err)
		rest, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, string(body), string(head)+string(rest))
		if ended {
			require.Empty(t, rest)
		}
		errcode, ok, rid := wechat.ParseHead(head)
		require.LessOrEqual(t, len(rid), 64)
		require.True(t, utf8.ValidString(rid))
		if !ok {
			require.Zero(t, errcode)
			return
		}
		require.True(t, json.Valid(head))
		require.Contains(t, strings.ToLower(string(head)), "\"")
	})
}

// FuzzPhoneReply requires of every phone number that its reply says it as it is.
func FuzzPhoneReply(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	f.Add([]byte(phoneReply(now.Unix())))
	f.Add([]byte(phoneReply(now.Unix(), `"86"`, "86")))
	f.Add([]byte(phoneReply(now.Unix(), appID, otherAppID)))
	f.Add([]byte(`{"errcode":40029,"errmsg":"invalid code, rid: 1-2-3"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := wechat.ParsePhone(body, appID, 10*time.Minute, now)
		if err != nil {
			require.Nil(t, got)
			require.NotContains(t, err.Error(), "\n")
			return
		}
		var reply, info struct {
			PhoneInfo       map[string]any `json:"phone_info"`
			PhoneNumber     string
			PurePhoneNumber string
			CountryCode     string
			Watermark       struct {
				Timestamp int64
				AppID     string
			}
		}
		require.NoError(t, json.Unmarshal(body, &reply))
		require.NoError(t, json.Unmarshal(got, &info))
		require.Equal(t, reply.PhoneInfo["phoneNumber"], info.PhoneNumber)
		require.Equal(t, reply.PhoneInfo["purePhoneNumber"], info.PurePhoneNumber)
		require.Equal(t, appID, info.Watermark.AppID)
		require.InDelta(t, now.Unix(), info.Watermark.Timestamp, 600)
		require.Regexp(t, `^[+0-9]{3,20}$`, info.PhoneNumber)
		require.Regexp(t, `^[+0-9]{1,6}$`, info.CountryCode)
	})
}
