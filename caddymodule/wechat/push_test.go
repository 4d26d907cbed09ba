package wechat_test

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/wechat"
	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// WeChat's own examples of message push.
const (
	pushToken  = "AAAAA"
	pushKey    = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	pushAppID  = "wxba5fad812f8e6fb9"
	pushCipher = "+qdx1OKCy+5JPCBFWw70tm0fJGb2Jmeia4FCB7kao+/Q5c/ohsOzQHi8khUOb05JCpj0JB4RvQMkUyus8TPxLKJGQqcvZqzDpVzazhZv6JsXUnnR8XGT740XgXZUXQ7vJVnAG+tE8NUd4yFyjPy7GgiaviNrlCTj+l5kdfMuFUPpRSrfMZuMcp3Fn2Pede2IuQrKEYwKSqFIZoNqJ4M8EajAsjLY2km32IIjdf8YL/P50F7mStwntrA2cPDrM1kb6mOcfBgRtWygb3VIYnSeOBrebufAlr7F9mFUPAJGj04="
	pushPlain  = `{"ToUserName":"gh_97417a04a28d","FromUserName":"o9AgO5Kd5ggOC-bXrbNODIiE3bGY","CreateTime":1714112445,"MsgType":"event","Event":"debug_demo","debug_str":"hello world"}`
)

func query(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		q.Add(pairs[i], pairs[i+1])
	}
	return q
}

func TestPushOfficialVectors(t *testing.T) {
	plain, err := wechat.NewPushVerifier(pushAppID, pushToken, "")
	require.NoError(t, err)
	safe, err := wechat.NewPushVerifier(pushAppID, pushToken, pushKey)
	require.NoError(t, err)

	for _, v := range []*wechat.PushVerifier{plain, safe} {
		echo, err := v.Echo(query("signature", "f464b24fc39322e44b38aa78f5edd27bd1441696",
			"timestamp", "1714036504", "nonce", "1514711492", "echostr", "4375120948345356249"), time.Unix(1714036504, 0))
		require.NoError(t, err)
		assert.Equal(t, "4375120948345356249", echo)
	}

	body := strings.ReplaceAll(pushPlain, "1714112445", "1714037059")
	push, err := plain.Open(query("signature", "899cf89e464efb63f54ddac96b0a0a235f53aa78", "timestamp", "1714037059", "nonce", "486452656"),
		[]byte(body), time.Unix(1714037059, 0))
	require.NoError(t, err)
	assert.Equal(t, body, string(push.Message))

	safeQuery := query("signature", "6c5c811b55cc85e0e1b54100749188c20beb3f5d", "timestamp", "1714112445", "nonce", "415670741",
		"openid", "o9AgO5Kd5ggOC-bXrbNODIiE3bGY", "encrypt_type", "aes", "msg_signature", "046e02f8204d34f8ba5fa3b1db94908f3df2e9b3")
	for name, body := range map[string]string{
		"json": `{"ToUserName":"gh_97417a04a28d","Encrypt":"` + pushCipher + `"}`,
		"xml":  "<xml>\n<ToUserName><![CDATA[gh_97417a04a28d]]></ToUserName>\n<Encrypt><![CDATA[" + pushCipher + "]]></Encrypt>\n</xml>",
	} {
		t.Run(name, func(t *testing.T) {
			push, err := safe.Open(safeQuery, []byte(body), time.Unix(1714112445, 0))
			require.NoError(t, err)
			assert.Equal(t, pushPlain, string(push.Message))
			assert.False(t, push.XML, "the message is JSON, whatever carried it")
		})
	}
}

func TestPushRefusals(t *testing.T) {
	const key = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"
	const appID = "wx0123456789abcdef"
	now := time.Unix(1_800_000_000, 0)
	stamp := strconv.FormatInt(now.Unix(), 10)
	// signed returns the query of an honest push of encrypted, then changed.
	signed := func(encrypted, stamp string, change ...string) url.Values {
		q := query("timestamp", stamp, "nonce", "77", "encrypt_type", "aes",
			"signature", fakewechat.PushSignature("t0ken", stamp, "77"), "msg_signature", fakewechat.PushSignature("t0ken", stamp, "77", encrypted))
		for i := 0; i < len(change); i += 2 {
			if change[i+1] == "" {
				q.Del(change[i])
			} else {
				q.Set(change[i], change[i+1])
			}
		}
		return q
	}
	seal := func(key, appID, message string) string {
		return fakewechat.PushConfig{AppID: appID, EncodingAESKey: key}.Encrypt(message)
	}
	good := seal(key, appID, `{"Event":"x"}`)
	object := func(encrypted string) string { return fmt.Sprintf(`{"Encrypt":%q}`, encrypted) }
	// blocks encrypts what is padded already.
	blocks := func(padded string) string {
		secret, err := base64.StdEncoding.DecodeString(key + "=")
		require.NoError(t, err)
		block, err := aes.NewCipher(secret)
		require.NoError(t, err)
		encrypted := make([]byte, len(padded))
		cipher.NewCBCEncrypter(block, secret[:aes.BlockSize]).CryptBlocks(encrypted, []byte(padded))
		return base64.StdEncoding.EncodeToString(encrypted)
	}
	// 16 random bytes, the length and the message, the appid, and 4 bytes of padding.
	const unpadded = "0123456789abcdef\x00\x00\x00\x16" + `{"Event":"x","n":1234}` + appID
	uneven := blocks(unpadded + "\x04\x03\x04\x04")
	even := blocks(unpadded + "\x04\x04\x04\x04")
	v, err := wechat.NewPushVerifier(appID, "t0ken", key)
	require.NoError(t, err)
	_, err = v.Open(signed(even, stamp), []byte(object(even)), now)
	require.NoError(t, err)
	foreign, unreadable := seal(key, "wxfedcba9876543210", "{}"), seal(pushKey, appID, "{}")
	twice := signed(good, stamp)
	twice.Add("timestamp", stamp)

	for _, c := range []struct {
		name  string
		query url.Values
		body  string
		want  error
	}{
		{"honest", signed(good, stamp), object(good), nil},
		{"nine minutes old", signed(good, "1799999460"), object(good), nil},
		{"eleven minutes old", signed(good, "1799999340"), object(good), wechat.PushStale},
		{"eleven minutes ahead", signed(good, "1800000660"), object(good), wechat.PushStale},
		{"timestamp changed", signed(good, stamp, "timestamp", "1800000001"), object(good), wechat.PushSignature},
		{"nonce changed", signed(good, stamp, "nonce", "78"), object(good), wechat.PushSignature},
		{"no msg_signature", signed(good, stamp, "msg_signature", ""), object(good), wechat.PushPlain},
		{"plain message with an honest signature", signed(good, stamp), `{"Event":"x"}`, wechat.PushPlain},
		{"plain XML with an honest signature", signed(good, stamp), `<xml><Event>x</Event></xml>`, wechat.PushPlain},
		{"other ciphertext", signed(good, stamp), object(seal(key, appID, `{"Event":"y"}`)), wechat.PushSignature},
		{"other app", signed(foreign, stamp), object(foreign), wechat.PushOtherApp},
		{"other key", signed(unreadable, stamp), object(unreadable), wechat.PushWrongKey},
		{"padding of unequal bytes", signed(uneven, stamp), object(uneven), wechat.PushWrongKey},
		{"not base64", signed("?", stamp), object("?"), wechat.PushWrongKey},
		{"parameter twice", twice, object(good), wechat.PushMalformed},
		{"no timestamp", signed(good, stamp, "timestamp", ""), object(good), wechat.PushMalformed},
		{"timestamp not a number", signed(good, "soon"), object(good), wechat.PushMalformed},
		{"Encrypt twice", signed(good, stamp), `{"Encrypt":"a","Encrypt":"b"}`, wechat.PushMalformed},
		{"Encrypt twice in XML", signed(good, stamp), `<xml><Encrypt>a</Encrypt><Encrypt>b</Encrypt></xml>`, wechat.PushMalformed},
		{"Encrypt in another element", signed(good, stamp), `<xml><a><Encrypt>` + good + `</Encrypt></a></xml>`, wechat.PushPlain},
		{"element in Encrypt", signed(good, stamp), `<xml><Encrypt>a<b/></Encrypt></xml>`, wechat.PushMalformed},
		{"document type", signed(good, stamp), `<!DOCTYPE xml><xml><Encrypt>` + good + `</Encrypt></xml>`, wechat.PushMalformed},
		{"document type in small letters", signed(good, stamp), `<!doctype xml><xml><Encrypt>` + good + `</Encrypt></xml>`, wechat.PushMalformed},
		{"two documents", signed(good, stamp), `<xml><Encrypt>` + good + `</Encrypt></xml><xml/>`, wechat.PushMalformed},
		{"text behind the document", signed(good, stamp), `<xml><Encrypt>` + good + `</Encrypt></xml> x`, wechat.PushMalformed},
		{"not closed", signed(good, stamp), `<xml><Encrypt>` + good, wechat.PushMalformed},
		{"empty body", signed(good, stamp), ``, wechat.PushMalformed},
		{"a number", signed(good, stamp), `{"Encrypt":1}`, wechat.PushMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			push, err := v.Open(c.query, []byte(c.body), now)
			if c.want == nil {
				require.NoError(t, err)
				assert.Equal(t, `{"Event":"x"}`, string(push.Message))
				return
			}
			assert.ErrorIs(t, err, c.want)
			assert.Empty(t, push)
		})
	}
}

func TestPushPlainMode(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	v, err := wechat.NewPushVerifier("wx0123456789abcdef", "t0ken", "")
	require.NoError(t, err)
	q := query("timestamp", "1800000000", "nonce", "7", "signature", fakewechat.PushSignature("t0ken", "1800000000", "7"))

	push, err := v.Open(q, []byte("<xml><Event>x</Event></xml>"), now)
	require.NoError(t, err)
	assert.True(t, push.XML)

	_, err = v.Open(q, []byte("not an object"), now)
	assert.ErrorIs(t, err, wechat.PushMalformed)
	q.Set("signature", strings.Repeat("0", 40))
	_, err = v.Open(q, []byte("{}"), now)
	assert.ErrorIs(t, err, wechat.PushSignature)
	_, err = v.Echo(q, now)
	assert.ErrorIs(t, err, wechat.PushMalformed, "no echostr")
	q.Set("encrypt_type", "aes")
	_, err = v.Open(q, []byte("{}"), now)
	assert.ErrorIs(t, err, wechat.PushEncrypted)
}

func TestPushVerifierArguments(t *testing.T) {
	for name, c := range map[string]struct{ token, key string }{
		"no token":      {"", pushKey},
		"key too short": {"t", pushKey[1:]},
		"key too long":  {"t", pushKey + "A"},
		"not base64":    {"t", strings.Repeat("?", 43)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := wechat.NewPushVerifier("wx0123456789abcdef", c.token, c.key)
			require.Error(t, err)
			if c.key != "" {
				assert.NotContains(t, err.Error(), c.key)
			}
		})
	}
}

// FuzzPush holds that nothing opens without the token, whatever the body is.
func FuzzPush(f *testing.F) {
	f.Add("1800000000", "7", "aa", `{"Encrypt":"`+pushCipher+`"}`)
	f.Add("1800000000", "7", "aa", "<xml><Encrypt><![CDATA["+pushCipher+"]]></Encrypt></xml>")
	f.Add("1800000000", "", "", "<xml><a><Encrypt/></a>")
	f.Fuzz(func(t *testing.T, stamp, nonce, signature, body string) {
		v, err := wechat.NewPushVerifier(pushAppID, "a token that is not guessed", pushKey)
		require.NoError(t, err)
		q := query("timestamp", stamp, "nonce", nonce, "signature", signature, "msg_signature", signature)
		_, err = v.Open(q, []byte(body), time.Unix(1_800_000_000, 0))
		require.Error(t, err)

		// With the right signature the body alone decides; it must not panic,
		// and what opens is no longer than what came.
		q.Set("msg_signature", fakewechat.PushSignature("a token that is not guessed", stamp, nonce, body))
		push, err := v.Open(q, []byte(fmt.Sprintf(`{"Encrypt":%q}`, body)), time.Unix(1_800_000_000, 0))
		if err == nil {
			require.LessOrEqual(t, len(push.Message), len(body))
		}
	})
}
