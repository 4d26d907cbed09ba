package wechat_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// The published vector V1, of WeChat's own sample code.
const (
	v1AppID      = "wx4f4bc4dec97d474b"
	v1OpenID     = "oGZUI0egBJY1zhBYw2KhdUfwVJJE"
	v1SessionKey = "tiihtNczf5v6AKRyjwEUhQ=="
	v1IV         = "r7BXXKkLb8qrSNn05n0qiA=="
	v1Data       = "CiyLU1Aw2KjvrjMdj8YKliAjtP4gsMZMQmRzooG2xrDcvSnxIMXFufNstNGTyaGS9uT5geRa0W4oTOb1WT7fJlAC+oNPdbB+3hVbJSRgv+4lGOETKUQz6OYStslQ142dNCuabNPGBzlooOmB231qMM85d2/fV6ChevvXvQP8Hkue1poOFtnEtpyxVLW1zAo6/1Xx1COxFvrc2d7UL/lmHInNlxuacJXwu0fjpXfz/YqYzBIBzD6WUfTIF9GRHpOn/Hz7saL8xz+W//FRAUid1OksQaQx4CMs8LOddcQhULW4ucetDf96JcR3g0gfRK4PC7E/r7Z6xNrXd2UIeorGj5Ef7b1pJAYB6Y5anaHqZ9J6nKEBvB4DnNLIVWSgARns/8wR2SiRS7MNACwTyrGvt9ts8p12PKFdlqYTopNHR1Vf7XjfhQlVsAJdNiKdYmYVoKlaRv85IfVunYzO0IKXsyl7JCUjCpoG20f0a04COwfneQAGGwd5oa+T8yO5hzuyDb/XcxxmK01EpqOyuxINew=="
	v1Time       = 1477314187
)

// The published vector V2, of WeChat's page on signatures.
const (
	v2SessionKey = "HyVFkGl5F5OQWJZZaNzBBg=="
	v2RawData    = `{"nickName":"Band","gender":1,"language":"zh_CN","city":"Guangzhou","province":"Guangdong","country":"CN","avatarUrl":"http://wx.qlogo.cn/mmopen/vi_32/1vZvI39NWFQ9XM4LtQpFrQJ1xlgZxx3w7bQxKARol6503Iuswjjn6nIGBiaycAjAtpujxyzYsrztuuICqIM5ibXQ/0"}`
	v2Signature  = "75e81ceda165f4ffa64f4068af58c64b8f54b88c"
)

// Whom the data of the tests must be about.
var (
	v1User = wechat.Expected{AppID: v1AppID, OpenID: v1OpenID, MaxAge: 10 * time.Minute, Now: time.Unix(v1Time, 0)}
	user1  = wechat.Expected{AppID: "wx1", OpenID: "o1", Now: time.Unix(5, 0)}
)

func TestOpenDataOpensVectorV1(t *testing.T) {
	opened, err := wechat.OpenData([]string{v1SessionKey}, v1User,
		wechat.EncryptedData{EncryptedData: v1Data, IV: v1IV})
	require.NoError(t, err)
	require.Len(t, opened.Data, 393)
	require.Nil(t, opened.UserInfo)
	var user struct{ OpenID, NickName, UnionID string }
	require.NoError(t, json.Unmarshal(opened.Data, &user))
	require.Equal(t, v1OpenID, user.OpenID)
	require.Equal(t, "Band", user.NickName)
	require.Equal(t, "ocMvos6NjeKLIBqg5Mr9QjxrP1FA", user.UnionID)
}

func TestOpenDataRefusesVectorV1WithChangedIV(t *testing.T) {
	in := wechat.EncryptedData{EncryptedData: v1Data, IV: "r7BXXKkLb8qrSNn05n2qiA=="}
	_, err := wechat.OpenData([]string{v1SessionKey}, v1User, in)
	require.ErrorIs(t, err, wechat.ErrRejected)
}

func TestSignatureOfVectorV2(t *testing.T) {
	require.Equal(t, v2Signature, fakewechat.Sign(v2SessionKey, v2RawData))

	in := sealed(t, v2SessionKey, `{"openGId":"g1","watermark":{"appid":"wx1","timestamp":5}}`)
	in.RawData, in.Signature = v2RawData, v2Signature
	opened, err := wechat.OpenData([]string{v2SessionKey}, user1, in)
	require.NoError(t, err)
	require.JSONEq(t, v2RawData, string(opened.UserInfo))
}

// The gateway has no use for the HMAC, which the older server APIs want. The
// vector shows which of the key's two forms is meant.
func TestHMACOfVectorV3UsesTheKeysText(t *testing.T) {
	mac := hmac.New(sha256.New, []byte("o0q0otL8aEzpcZL/FT9WsQ=="))
	mac.Write([]byte(`{"foo":"bar"}`))
	require.Equal(t, "654571f79995b2ce1e149e53c0a33dc39c0a74090db514261454e8dbe432aa0b", hex.EncodeToString(mac.Sum(nil)))
}

// sealed encrypts plain with a fixed iv.
func sealed(t testing.TB, sessionKey, plain string) wechat.EncryptedData {
	t.Helper()
	iv := []byte("0123456789abcdef")
	encrypted, err := fakewechat.Encrypt(sessionKey, iv, []byte(plain))
	require.NoError(t, err)
	return wechat.EncryptedData{
		EncryptedData: base64.StdEncoding.EncodeToString(encrypted),
		IV:            base64.StdEncoding.EncodeToString(iv),
	}
}

// wholeBlocks adds spaces, so that the last block is padding alone.
func wholeBlocks(plain string) string {
	return plain + strings.Repeat(" ", (16-len(plain)%16)%16)
}

func TestOpenDataJudgesTheContent(t *testing.T) {
	const now = 1_700_000_000
	mark := fmt.Sprintf(`"watermark":{"timestamp":%d,"appid":"%s"}`, now, v1AppID)
	markAt := func(timestamp string) string {
		return `{"openGId":"g1","watermark":{"timestamp":` + timestamp + `,"appid":"` + v1AppID + `"}}`
	}
	tests := []struct {
		name   string
		plain  string
		maxAge time.Duration
		want   wechat.Rejection
	}{
		{name: "phone number", plain: `{"phoneNumber":"13580006666","purePhoneNumber":"13580006666","countryCode":"86",` + mark + `}`},
		{name: "own openId", plain: `{"openId":"` + v1OpenID + `","nickName":"Band",` + mark + `}`},
		{name: "unionId that is not known", plain: `{"nickName":"Band","unionId":"uOther",` + mark + `}`},
		{name: "padding of a whole block", plain: wholeBlocks(`{"openGId":"g1",` + mark + `}`)},
		{name: "spaces around", plain: " {\"openGId\":\"g1\"," + mark + "}\n"},
		{name: "foreign openId", plain: `{"openId":"oOther",` + mark + `}`, want: wechat.RejectedUser},
		{name: "openId of another type", plain: `{"openId":null,` + mark + `}`, want: wechat.RejectedUser},
		{name: "openId in another case", plain: `{"OPENID":"oOther",` + mark + `}`, want: wechat.RejectedUser},
		{name: "openId with an escape", plain: `{"\u006fpenId":"oOther",` + mark + `}`, want: wechat.RejectedUser},
		{name: "openId twice", plain: `{"openId":"` + v1OpenID + `","openId":"oOther",` + mark + `}`, want: wechat.RejectedKey},
		{name: "openId twice but for case", plain: `{"openId":"` + v1OpenID + `","openid":"oOther",` + mark + `}`, want: wechat.RejectedKey},
		{name: "member twice, deep down", plain: `{"a":[{"b":1,"b":2}],` + mark + `}`, want: wechat.RejectedKey},
		{name: "watermark twice", plain: `{` + mark + `,` + mark + `}`, want: wechat.RejectedKey},
		{name: "no watermark", plain: `{"phoneNumber":"13580006666"}`, want: wechat.RejectedShape},
		{name: "watermark in another case", plain: `{"Watermark":{"timestamp":1700000000,"appid":"` + v1AppID + `"}}`, want: wechat.RejectedShape},
		{name: "watermark of another type", plain: `{"watermark":"` + v1AppID + `"}`, want: wechat.RejectedShape},
		{name: "foreign appid", plain: `{"watermark":{"timestamp":1700000000,"appid":"wxother"}}`, want: wechat.RejectedApp},
		{name: "no appid", plain: `{"watermark":{"timestamp":1700000000}}`, want: wechat.RejectedShape},
		{name: "appid twice", plain: `{"watermark":{"timestamp":1700000000,"appid":"wxother","appid":"` + v1AppID + `"}}`, want: wechat.RejectedKey},
		{name: "no timestamp", plain: `{"watermark":{"appid":"` + v1AppID + `"}}`, want: wechat.RejectedShape},
		{name: "bytes after", plain: `{` + mark + `}x`, want: wechat.RejectedKey},
		{name: "object after", plain: `{` + mark + `}{}`, want: wechat.RejectedKey},
		{name: "array", plain: `[{` + mark + `}]`, want: wechat.RejectedKey},
		{name: "null", plain: `null`, want: wechat.RejectedKey},
		{name: "empty", plain: ``, want: wechat.RejectedKey},
		{name: "not UTF-8", plain: "{\"nickName\":\"\xff\"," + mark + `}`, want: wechat.RejectedKey},
		{name: "too deep", plain: `{"a":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `,` + mark + `}`, want: wechat.RejectedKey},
		{name: "oldest allowed", plain: markAt("1699999400"), maxAge: 10 * time.Minute},
		{name: "too old", plain: markAt("1699999399"), maxAge: 10 * time.Minute, want: wechat.RejectedStale},
		{name: "any age", plain: markAt("0")},
		{name: "furthest ahead", plain: markAt("1700000060"), maxAge: 10 * time.Minute},
		{name: "too far ahead", plain: markAt("1700000061"), want: wechat.RejectedFuture},
		{name: "end of time", plain: markAt("9223372036854775807"), want: wechat.RejectedFuture},
		{name: "beyond the end of time", plain: markAt("9223372036854775808"), want: wechat.RejectedShape},
		{name: "before time", plain: markAt("-9223372036854775808"), want: wechat.RejectedShape},
		{name: "timestamp as text", plain: markAt(`"1700000000"`), want: wechat.RejectedShape},
		{name: "timestamp with a fraction", plain: markAt("1700000000.5"), want: wechat.RejectedShape},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opened, err := wechat.OpenData([]string{v1SessionKey},
				wechat.Expected{AppID: v1AppID, OpenID: v1OpenID, MaxAge: tt.maxAge, Now: time.Unix(now, 0)}, sealed(t, v1SessionKey, tt.plain))
			if tt.want != "" {
				require.Equal(t, tt.want, err)
				require.ErrorIs(t, err, wechat.ErrRejected)
				require.Zero(t, opened)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.plain, string(opened.Data))
		})
	}
}

func TestOpenDataJudgesTheForm(t *testing.T) {
	good := sealed(t, v1SessionKey, `{"openGId":"g1","watermark":{"appid":"wx1","timestamp":5}}`)
	tests := []struct {
		name   string
		change func(*wechat.EncryptedData)
	}{
		{"no data", func(in *wechat.EncryptedData) { in.EncryptedData = "" }},
		{"no iv", func(in *wechat.EncryptedData) { in.IV = "" }},
		{"data not base64", func(in *wechat.EncryptedData) { in.EncryptedData = "%" + in.EncryptedData[1:] }},
		{"data with a line break", func(in *wechat.EncryptedData) { in.EncryptedData = in.EncryptedData[:4] + "\n" + in.EncryptedData[4:] }},
		{"iv without padding", func(in *wechat.EncryptedData) { in.IV = strings.TrimRight(in.IV, "=") }},
		{"plus that became a space", func(in *wechat.EncryptedData) { in.IV = " " + in.IV[1:] }},
		{"half a block", func(in *wechat.EncryptedData) {
			in.EncryptedData = base64.StdEncoding.EncodeToString(make([]byte, 24))
		}},
		{"short iv", func(in *wechat.EncryptedData) { in.IV = base64.StdEncoding.EncodeToString(make([]byte, 15)) }},
		{"long iv", func(in *wechat.EncryptedData) { in.IV = base64.StdEncoding.EncodeToString(make([]byte, 17)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := good
			tt.change(&in)
			_, err := wechat.OpenData([]string{v1SessionKey}, user1, in)
			require.ErrorIs(t, err, wechat.ErrMalformed)
		})
	}
}

func TestOpenDataJudgesTheSignature(t *testing.T) {
	plain := `{"openGId":"g1","watermark":{"appid":"wx1","timestamp":5}}`
	raw := `{"nickName":"Band"}`
	tests := []struct {
		name, rawData, signature string
		ok                       bool
		userInfo                 string
	}{
		{name: "right", rawData: raw, signature: fakewechat.Sign(v1SessionKey, raw), ok: true, userInfo: raw},
		{name: "none", rawData: raw, ok: true},
		{name: "of another key", rawData: raw, signature: fakewechat.Sign(v2SessionKey, raw)},
		{name: "of other data", rawData: raw, signature: fakewechat.Sign(v1SessionKey, raw+" ")},
		{name: "of nothing", signature: fakewechat.Sign("", "")},
		{name: "in upper case", rawData: raw, signature: strings.ToUpper(fakewechat.Sign(v1SessionKey, raw))},
		{name: "cut short", rawData: raw, signature: fakewechat.Sign(v1SessionKey, raw)[:8]},
		{name: "right but not an object", rawData: "[]", signature: fakewechat.Sign(v1SessionKey, "[]")},
		{name: "right but with a member twice", rawData: `{"a":1,"A":2}`, signature: fakewechat.Sign(v1SessionKey, `{"a":1,"A":2}`)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := sealed(t, v1SessionKey, plain)
			in.RawData, in.Signature = tt.rawData, tt.signature
			opened, err := wechat.OpenData([]string{v1SessionKey}, user1, in)
			if !tt.ok {
				require.ErrorIs(t, err, wechat.ErrRejected)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.userInfo, string(opened.UserInfo))
		})
	}
}

func TestOpenDataTriesEachKey(t *testing.T) {
	tests := []struct {
		name string
		keys []string
		ok   bool
	}{
		{"first", []string{v1SessionKey, v2SessionKey}, true},
		{"the one before", []string{v2SessionKey, v1SessionKey}, true},
		{"beside a broken one", []string{"", "AAAA", "!", v1SessionKey}, true},
		{"another", []string{v2SessionKey}, false},
		{"broken", []string{"AAAA"}, false},
		{"none", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := sealed(t, v1SessionKey, `{"openGId":"g1","watermark":{"appid":"wx1","timestamp":5}}`)
			_, err := wechat.OpenData(tt.keys, user1, in)
			if tt.ok {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, wechat.ErrRejected)
			}
		})
	}
}

// The signature must fit the key that decrypts: one right half of each key is no proof.
func TestOpenDataDoesNotMixKeys(t *testing.T) {
	in := sealed(t, v1SessionKey, `{"openGId":"g1","watermark":{"appid":"wx1","timestamp":5}}`)
	in.RawData, in.Signature = "{}", fakewechat.Sign(v2SessionKey, "{}")
	_, err := wechat.OpenData([]string{v1SessionKey, v2SessionKey}, user1, in)
	require.ErrorIs(t, err, wechat.ErrRejected)
}

// PKCS#7 is read strictly, also where a reader of JSON would not mind what the padding is.
func TestOpenDataJudgesThePadding(t *testing.T) {
	object := wholeBlocks(`{"openGId":"g1","watermark":{"appid":"wx1","timestamp":5}}`)
	tests := []struct {
		name, lastBlock string
		ok              bool
	}{
		{"sixteen", strings.Repeat("\x10", 16), true},
		{"nine", "       " + strings.Repeat("\t", 9), true},
		{"one", strings.Repeat(" ", 15) + "\x01", true},
		{"none", strings.Repeat(" ", 16), false},
		{"zero", strings.Repeat(" ", 15) + "\x00", false},
		{"seventeen", strings.Repeat("\x11", 16), false},
		{"255", strings.Repeat("\xff", 16), false},
		{"nine of which one is wrong", "       \n" + strings.Repeat("\t", 8), false},
		{"nine of which another is wrong", "       " + strings.Repeat("\t", 7) + "\n\t", false},
		{"sixteen of which the first is wrong", " " + strings.Repeat("\x10", 15), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := sealed(t, v1SessionKey, object+tt.lastBlock)
			raw, err := base64.StdEncoding.DecodeString(in.EncryptedData)
			require.NoError(t, err)
			// What Encrypt added is a block of its own.
			in.EncryptedData = base64.StdEncoding.EncodeToString(raw[:len(raw)-16])
			_, err = wechat.OpenData([]string{v1SessionKey}, user1, in)
			if tt.ok {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, wechat.ErrRejected)
			}
		})
	}
}

// Every last byte that the padding can have is tried, as an attacker would by
// changing the block before the last.
func TestOpenDataHasNoPaddingOracle(t *testing.T) {
	in := sealed(t, v1SessionKey, wholeBlocks(`{"openGId":"g1","watermark":{"appid":"wx1","timestamp":5}}`))
	raw, err := base64.StdEncoding.DecodeString(in.EncryptedData)
	require.NoError(t, err)
	accepted := 0
	for change := range 256 {
		changed := append([]byte(nil), raw...)
		changed[len(changed)-17] ^= byte(change)
		in.EncryptedData = base64.StdEncoding.EncodeToString(changed)
		_, err := wechat.OpenData([]string{v1SessionKey}, user1, in)
		if err == nil {
			accepted++
			require.Zero(t, change, "only the genuine data is accepted")
			continue
		}
		require.ErrorIs(t, err, wechat.ErrRejected)
	}
	require.Equal(t, 1, accepted)
}

func TestOpenDataOfTheSandbox(t *testing.T) {
	fake := fakewechat.New(fakewechat.Config{MiniPrograms: map[string]string{appID: secret}, OpenPlatform: true})
	client := newClient(t, fake, nil)
	_, err := fake.OpenData(appID, "alice", nil)
	require.ErrorIs(t, err, fakewechat.ErrNoSession)

	session, err := client.Code2Session(t.Context(), appID, fake.IssueCode(appID, "alice"))
	require.NoError(t, err)
	in, err := fake.OpenData(appID, "alice", nil)
	require.NoError(t, err)
	opened, err := wechat.OpenData([]string{session.SessionKey}, wechat.Expected{AppID: appID, OpenID: session.OpenID, UnionID: session.UnionID, MaxAge: time.Minute, Now: time.Now()}, wechat.EncryptedData(in))
	require.NoError(t, err)
	require.Contains(t, string(opened.Data), session.UnionID)
	require.Contains(t, string(opened.UserInfo), `"nickName":"alice"`)
	require.NotContains(t, string(opened.UserInfo), session.OpenID)

	_, err = wechat.OpenData([]string{session.SessionKey}, wechat.Expected{AppID: appID, OpenID: fake.OpenID(appID, "bob"), MaxAge: time.Minute, Now: time.Now()}, wechat.EncryptedData(in))
	require.ErrorIs(t, err, wechat.ErrRejected, "another user's data")
}
