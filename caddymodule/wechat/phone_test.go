package wechat_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

const phonePath = "/wxa/business/getuserphonenumber"

func TestAPhoneNumberForACode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, fake, _ := newMemAPI(t, nil)
		alice := fake.OpenID(appID, "alice")
		code := fake.IssuePhoneCode(appID, "alice")
		got, err := api.PhoneNumber(t.Context(), appID, alice, code, 10*time.Minute)
		require.NoError(t, err)
		number := fake.Phone("alice")
		// The same object as the encrypted form gives, countryCode a string.
		require.Equal(t, fmt.Sprintf(`{"phoneNumber":"%[1]s","purePhoneNumber":"%[1]s","countryCode":"86","watermark":{"timestamp":%d,"appid":"%s"}}`,
			number, time.Now().Unix(), appID), string(got))
		require.Equal(t, fmt.Sprintf(`{"code":"%s","openid":"%s"}`, code, alice), string(fake.CallsTo(phonePath)[0].Body))

		for name, code := range map[string]string{
			"used": code, "made up": "x", "another user's": fake.IssuePhoneCode(appID, "bob"), "another app's": fake.IssuePhoneCode(otherAppID, "alice"),
		} {
			_, err := api.PhoneNumber(t.Context(), appID, alice, code, 0)
			requireKind(t, wechat.PhoneRejected, err, code, number, name)
		}
		late := fake.IssuePhoneCode(appID, "alice")
		pass(6 * time.Minute)
		_, err = api.PhoneNumber(t.Context(), appID, alice, late, 0)
		requireKind(t, wechat.PhoneRejected, err, late)

		// A dead token is replaced; -1 is tried again once.
		fake.Revoke(appID, true)
		fake.Script(on(phonePath, fakewechat.Errcode(-1)))
		_, err = api.PhoneNumber(t.Context(), appID, alice, fake.IssuePhoneCode(appID, "alice"), 0)
		require.NoError(t, err)
		fake.Script(on(phonePath, fakewechat.Errcode(-1)), on(phonePath, fakewechat.Errcode(-1)))
		_, err = api.PhoneNumber(t.Context(), appID, alice, fake.IssuePhoneCode(appID, "alice"), 0)
		requireKind(t, wechat.Busy, err)
		for _, errcode := range []int64{45009, 45011} {
			fake.Script(on(phonePath, fakewechat.Errcode(errcode)))
			_, err = api.PhoneNumber(t.Context(), appID, alice, fake.IssuePhoneCode(appID, "alice"), 0)
			require.Positive(t, requireKind(t, wechat.Busy, err).RetryAfter)
		}
	})
}

// phoneReply is a reply of WeChat, with changes in pairs.
func phoneReply(now int64, changes ...string) string {
	reply := fmt.Sprintf(`{"errcode":0,"errmsg":"ok","phone_info":{"phoneNumber":"+8613580006666","purePhoneNumber":"13580006666","countryCode":"86","watermark":{"timestamp":%d,"appid":"%s"}}}`, now, appID)
	return strings.NewReplacer(changes...).Replace(reply)
}

func TestPhoneReplies(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for name, tt := range map[string]struct {
		reply string
		want  wechat.Kind
	}{
		"as documented":        {phoneReply(now.Unix()), ""},
		"countryCode a number": {phoneReply(now.Unix(), `"86"`, `86`), ""},
		"ten minutes old":      {phoneReply(now.Unix() - 600), ""},
		"a minute ahead":       {phoneReply(now.Unix() + 60), ""},
		"too old":              {phoneReply(now.Unix() - 601), wechat.PhoneRejected},
		"too far ahead":        {phoneReply(now.Unix() + 61), wechat.PhoneRejected},
		"another app's":        {phoneReply(now.Unix(), appID, otherAppID), wechat.PhoneRejected},
		"a mismatch":           {`{"errcode":40003,"errmsg":"openid mismatch"}`, wechat.PhoneRejected},
		"no number":            {phoneReply(now.Unix(), `"phoneNumber"`, `"x"`), wechat.BadReply},
		"an empty number":      {phoneReply(now.Unix(), "+8613580006666", ""), wechat.BadReply},
		"letters":              {phoneReply(now.Unix(), "+8613580006666", "123a"), wechat.BadReply},
		"too long":             {phoneReply(now.Unix(), "+8613580006666", strings.Repeat("1", 21)), wechat.BadReply},
		"no pure number":       {phoneReply(now.Unix(), "purePhoneNumber", "x"), wechat.BadReply},
		"countryCode null":     {phoneReply(now.Unix(), `"86"`, "null"), wechat.BadReply},
		"countryCode an array": {phoneReply(now.Unix(), `"86"`, "[86]"), wechat.BadReply},
		"no watermark":         {phoneReply(now.Unix(), "watermark", "x"), wechat.BadReply},
		"no phone_info":        {`{"errcode":0}`, wechat.BadReply},
		"number twice":         {phoneReply(now.Unix(), `"purePhoneNumber"`, `"PhoneNumber":"1","purePhoneNumber"`), wechat.BadReply},
		"timestamp a string":   {phoneReply(now.Unix(), fmt.Sprint(now.Unix()), `"1"`), wechat.PhoneRejected},
		"not JSON":             {`<html>`, wechat.BadReply},
	} {
		info, err := wechat.ParsePhone([]byte(tt.reply), appID, 10*time.Minute, now)
		if tt.want == "" {
			require.Nil(t, err, name)
			require.Contains(t, string(info), `"countryCode":"86"`, name)
			continue
		}
		require.NotNil(t, err, name)
		require.Equal(t, tt.want, err.Kind, name)
		require.Empty(t, info, name)
	}
	_, err := wechat.ParsePhone([]byte(phoneReply(1)), appID, 0, now)
	require.Nil(t, err, "0 is any age")
}
