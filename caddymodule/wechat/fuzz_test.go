package wechat_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// FuzzParseReply holds the parser against what encoding/json, which is
// lenient, reads in the same bytes: a session comes only from a clean reply.
func FuzzParseReply(f *testing.F) {
	for _, tt := range replies {
		if len(tt.body) < 1<<10 { // the long ones would only slow the fuzzer down
			f.Add([]byte(tt.body))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		session, err := wechat.ParseReply(body)
		if err != nil {
			require.Equal(t, wechat.Code2Session{}, session)
			require.True(t, utf8.ValidString(err.Errmsg+err.RID))
			require.LessOrEqual(t, len(err.Errmsg), 200)
			require.LessOrEqual(t, len(err.RID), 64)
			require.False(t, strings.ContainsFunc(err.Errmsg+err.RID, func(r rune) bool { return r < ' ' || r == 0x7f }))
			require.NotContains(t, err.Error(), "\n")
			return
		}
		require.True(t, utf8.Valid(body))
		var members map[string]any
		require.NoError(t, json.Unmarshal(body, &members), "exactly one object")
		require.Equal(t, members["openid"], any(session.OpenID))
		require.Equal(t, members["session_key"], any(session.SessionKey))
		if session.UnionID != "" {
			require.Equal(t, members["unionid"], any(session.UnionID))
		}
		for _, id := range []string{session.OpenID, session.UnionID} {
			require.LessOrEqual(t, len(id), 128)
			require.False(t, strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ',' }))
		}
		require.NotEmpty(t, session.OpenID)
		key, decodeErr := base64.StdEncoding.DecodeString(session.SessionKey)
		require.NoError(t, decodeErr)
		require.Len(t, key, 16)
		switch errcode := members["errcode"].(type) {
		case nil:
			require.NotContains(t, members, "errcode")
		case float64:
			require.Zero(t, errcode)
		case string:
			require.Zero(t, strings.Trim(errcode, "+-0"))
		default:
			t.Fatalf("an errcode of type %T was passed over", errcode)
		}
		// A reader that does not tell cases apart must read the same user.
		var lenient struct {
			OpenID string `json:"openid"`
		}
		require.NoError(t, json.Unmarshal(body, &lenient))
		require.Equal(t, session.OpenID, lenient.OpenID)
	})
}

// FuzzOpenData decrypts what was sealed with any iv, then changed: nothing but an object for
// this mini program and user comes out, whatever the bytes.
func FuzzOpenData(f *testing.F) {
	const mark = `"nickName":"a","watermark":{"appid":"wx1","timestamp":5}}`
	f.Add([]byte(`{"openId":"o1",`+mark), []byte{}, "", false)
	f.Add([]byte(`{"openId":"o2",`+mark), []byte{}, "", false)
	f.Add([]byte(`{`+mark), []byte{1}, `{"a":1}`, true)
	f.Add([]byte(`{"openid":"o1","openId":"o1",`+mark), bytes.Repeat([]byte{7}, 40), `{`, true)
	f.Fuzz(func(t *testing.T, plain, change []byte, rawData string, sign bool) {
		in := sealed(t, v1SessionKey, string(plain))
		in.RawData = rawData
		if sign {
			in.Signature = fakewechat.Sign(v1SessionKey, rawData)
		}
		// The change is laid over iv and data, as a client can do.
		iv, _ := base64.StdEncoding.DecodeString(in.IV)
		data, _ := base64.StdEncoding.DecodeString(in.EncryptedData)
		both := slices.Concat(iv, data)
		for i := range min(len(change), len(both)) {
			both[i] ^= change[i]
		}
		in.IV = base64.StdEncoding.EncodeToString(both[:16])
		in.EncryptedData = base64.StdEncoding.EncodeToString(both[16:])

		opened, err := wechat.OpenData([]string{v2SessionKey, v1SessionKey}, wechat.Expected{AppID: "wx1", OpenID: "o1", MaxAge: time.Minute, Now: time.Unix(30, 0)}, in)
		if err != nil {
			require.ErrorIs(t, err, wechat.ErrRejected)
			require.Zero(t, opened)
			return
		}
		requireOurs(t, opened.Data)
		require.Equal(t, sign, opened.UserInfo != nil)
		if sign {
			require.True(t, json.Valid(opened.UserInfo))
			require.Equal(t, rawData, string(opened.UserInfo))
		}
		if len(bytes.Trim(change, "\x00")) == 0 {
			require.Equal(t, plain, []byte(opened.Data))
		}
	})
}

// FuzzOpenDataText gives OpenData any text, as a request's body does.
func FuzzOpenDataText(f *testing.F) {
	f.Add(v1Data, v1IV, v2RawData, v2Signature)
	f.Add("", "", "", "")
	f.Add("AAAA", "====", "{}", "00")
	f.Fuzz(func(t *testing.T, data, iv, rawData, signature string) {
		in := wechat.EncryptedData{EncryptedData: data, IV: iv, RawData: rawData, Signature: signature}
		_, err := wechat.OpenData([]string{v1SessionKey}, v1User, in)
		if err != nil && !errors.Is(err, wechat.ErrMalformed) && !errors.Is(err, wechat.ErrRejected) {
			t.Fatalf("unexpected error %v", err)
		}
	})
}

// requireOurs reads data as a lenient upstream would.
func requireOurs(t *testing.T, data []byte) {
	t.Helper()
	require.True(t, utf8.Valid(data))
	var lenient struct {
		OpenID    *string `json:"openId"`
		Watermark struct {
			AppID     string `json:"appid"`
			Timestamp int64  `json:"timestamp"`
		} `json:"watermark"`
	}
	require.NoError(t, json.Unmarshal(data, &lenient))
	if lenient.OpenID != nil {
		require.Equal(t, "o1", *lenient.OpenID)
	}
	require.Equal(t, "wx1", lenient.Watermark.AppID)
	require.GreaterOrEqual(t, lenient.Watermark.Timestamp, int64(0))
	require.LessOrEqual(t, lenient.Watermark.Timestamp, int64(90))
}
