package wechat_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

func TestOpenDataHasADocumentedShape(t *testing.T) {
	for name, tc := range map[string]struct {
		members string
		ok      bool
	}{
		"phone":                          {`"phoneNumber":"13580006666","purePhoneNumber":"13580006666","countryCode":"86"`, true},
		"phone, country as a number":     {`"phoneNumber":"13580006666","purePhoneNumber":"13580006666","countryCode":86`, true},
		"foreign phone":                  {`"phoneNumber":"85261234567","purePhoneNumber":"61234567","countryCode":"852"`, true},
		"foreign phone with a plus":      {`"phoneNumber":"+85261234567","purePhoneNumber":"61234567","countryCode":"852"`, true},
		"phone alone":                    {`"phoneNumber":"13580006666"`, false},
		"phone without a country":        {`"phoneNumber":"13580006666","purePhoneNumber":"13580006666"`, false},
		"two phones":                     {`"phoneNumber":"13800138000","purePhoneNumber":"13580006666","countryCode":"86"`, false},
		"another country":                {`"phoneNumber":"85261234567","purePhoneNumber":"61234567","countryCode":"853"`, false},
		"phone with letters":             {`"phoneNumber":"1358000666a","purePhoneNumber":"1358000666a","countryCode":"86"`, false},
		"phone with a random block":      {`"phoneNumber":"13580006666","purePhoneNumber":"13580006666","countryCode":"86","kq)V~2pX":"z"`, false},
		"spliced, with a random block":   {`"phoneNumber":"kq)V~2pX;+r'C9mZ13800138000","xyrePhoneNumber":"13580006666","countryCode":"86"`, false},
		"spliced, by an oracle":          {`"phoneNumber":"13800138000","xyrePhoneNumber":"13580006666","countryCode":"86"`, false},
		"spliced twice, by an oracle":    {`"phoneNumber":"13800138000","purePhoneNumber":"13580006666","countryCode":"86"`, false},
		"phone as a number":              {`"phoneNumber":13580006666,"purePhoneNumber":13580006666,"countryCode":86`, false},
		"phone in another case":          {`"PhoneNumber":"13580006666","purePhoneNumber":"13580006666","countryCode":"86"`, false},
		"phone and name":                 {`"phoneNumber":"13580006666","purePhoneNumber":"13580006666","countryCode":"86","nickName":"Band"`, false},
		"user info":                      {`"openId":"o1","nickName":"小明😀","gender":1,"language":"zh_CN","city":"","province":"","country":"中国","avatarUrl":"https://thirdwx.qlogo.cn/a/132","unionId":"u1"`, true},
		"profile of today":               {`"nickName":"微信用户","gender":0,"language":"","city":"","province":"","country":"","avatarUrl":"https://thirdwx.qlogo.cn/a/132","is_demote":true`, true},
		"gender of another kind":         {`"nickName":"a","gender":3`, false},
		"avatar that is no address":      {`"nickName":"a","avatarUrl":"javascript:alert(1)"`, false},
		"name with a control character":  {`"nickName":"a\u0000b"`, false},
		"user info without a name":       {`"gender":1`, false},
		"unknown member":                 {`"nickName":"a","admin":true`, false},
		"group of a share":               {`"openGId":"tGFDZ5LbXyz_-0"`, true},
		"group":                          {`"opengid":"OPENGID"`, true},
		"chat tool":                      {`"opengid":"","open_single_roomid":"r1","group_openid":"g1","chat_type":1`, true},
		"chat type alone":                {`"chat_type":3`, false},
		"group that is text":             {`"openGId":"a b"`, false},
		"steps":                          {`"stepInfoList":[{"timestamp":1445866601,"step":100},{"timestamp":1445876601,"step":120}]`, true},
		"no steps":                       {`"stepInfoList":[]`, true},
		"steps with text":                {`"stepInfoList":[{"timestamp":1445866601,"step":"100"}]`, false},
		"steps with more":                {`"stepInfoList":[{"timestamp":1445866601,"step":100,"x":1}]`, false},
		"steps with less":                {`"stepInfoList":[{"timestamp":1445866601}]`, false},
		"steps that are a number":        {`"stepInfoList":1`, false},
		"steps that are null":            {`"stepInfoList":[null]`, false},
		"activity":                       {`"activityId":"966_NGiqxcg1vuJ4UI5H0bxvSg0mSdOMWHoSHbKw5kqYgmE="`, true},
		"game club":                      {`"dataList":[{"dataType":1,"value":1701398400},{"dataType":{"type":10,"subKey":"t1"},"value":0}]`, true},
		"game club with another subject": {`"dataList":[{"dataType":{"kind":1},"value":1}]`, false},
		"nothing":                        {``, false},
		"something":                      {`"n":1`, false},
		"watermark with more":            {`"openGId":"g1","watermark":{"appid":"wx1","timestamp":5,"x":1}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			plain := `{` + tc.members
			if !strings.Contains(plain, "watermark") {
				plain = strings.TrimSuffix(plain+",", "{,") + `"watermark":{"appid":"wx1","timestamp":5}`
			}
			if tc.members == "" {
				plain = "{" + plain
			}
			_, err := wechat.OpenData([]string{v1SessionKey}, user1, sealed(t, v1SessionKey, plain+"}"))
			if tc.ok {
				require.NoError(t, err, plain)
			} else {
				require.Equal(t, wechat.RejectedShape, err, plain)
			}
		})
	}
}

func TestOpenDataComparesAKnownUnionID(t *testing.T) {
	in := sealed(t, v1SessionKey, `{"nickName":"a","unionId":"u1","watermark":{"appid":"wx1","timestamp":5}}`)
	for unionID, want := range map[string]error{"": nil, "u1": nil, "u2": wechat.RejectedUser} {
		user := user1
		user.UnionID = unionID
		_, err := wechat.OpenData([]string{v1SessionKey}, user, in)
		require.Equal(t, want, err, unionID)
	}
}

// The reason is that of the key which got furthest, and a wrong signature comes before the shape.
func TestOpenDataTellsTheReason(t *testing.T) {
	stale := sealed(t, v2SessionKey, `{"openGId":"g1","watermark":{"appid":"wx1","timestamp":1}}`)
	user := user1
	user.MaxAge = 1e9
	_, err := wechat.OpenData([]string{v1SessionKey, v2SessionKey}, user, stale)
	require.Equal(t, wechat.RejectedStale, err)
	_, err = wechat.OpenData([]string{v1SessionKey}, user, stale)
	require.Equal(t, wechat.RejectedKey, err)
	_, err = wechat.OpenData(nil, user, stale)
	require.Equal(t, wechat.RejectedKey, err)

	in := sealed(t, v1SessionKey, `{"n":1,"watermark":{"appid":"wx1","timestamp":5}}`)
	in.RawData, in.Signature = "{}", fakewechat.Sign(v2SessionKey, "{}")
	_, err = wechat.OpenData([]string{v1SessionKey}, user1, in)
	require.Equal(t, wechat.RejectedSignature, err)
}
