package caddymodule

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/maypok86/otter/v2"
	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// FuzzOpenDataBody sends any body through what the upstream will receive. The
// oracle: never a panic; what comes out is JSON; and a member that anybody
// could take for ours is ours.
func FuzzOpenDataBody(f *testing.F) {
	for _, body := range []string{
		`{}`, `{"encryptedData":"YQ==","iv":"YQ==","x":1}`, `{"openData":1,"OPENDATA":2}`, `{"encryptedData":1}`,
		`{"iv":"a","iv":"b"}`, `[1]`, `"x"`, `{"\u006fpenData":1}`, `{"a":{"openData":1}}`, "{\"\xff\":1}", `{"userInfo":{}}`,
	} {
		f.Add([]byte(body))
	}
	const verified = `{"openId":"o"}`
	f.Fuzz(func(t *testing.T, body []byte) {
		object, err := strictjson.Parse(body)
		if err != nil {
			return
		}
		object = object.Without(memberOpenData)
		if _, found, err := findEncrypted(object); err != nil || !found {
			requireOnly(t, object.Bytes(), "")
			return
		}
		requireOnly(t, replaceEncrypted(object, wechat.Opened{Data: json.RawMessage(verified)}).Bytes(), verified)
	})
}

// requireOnly asserts that text is an object whose one member that reads as
// openData in any case is want, and none if want is empty.
func requireOnly(t *testing.T, text []byte, want string) {
	t.Helper()
	var members map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(text, &members))
	found := ""
	for name, value := range members {
		if strings.EqualFold(name, memberOpenData) {
			require.Empty(t, found)
			found = string(value)
		}
		if want != "" {
			require.False(t, strings.EqualFold(name, memberUserInfo))
		}
	}
	require.Equal(t, want, found)
}

func TestOpenDataIsWhole(t *testing.T) {
	for name, tc := range map[string]struct {
		body, wrong string
		want        wechat.EncryptedData
	}{
		"all":          {`{"encryptedData":"e","iv":"i","rawData":"r","signature":"s","x":1}`, "", wechat.EncryptedData{EncryptedData: "e", IV: "i", RawData: "r", Signature: "s"}},
		"unsigned":     {`{"encryptedData":"e","iv":"i"}`, "", wechat.EncryptedData{EncryptedData: "e", IV: "i"}},
		"none":         {`{"iv":"i","rawData":"r"}`, "", wechat.EncryptedData{}},
		"without iv":   {`{"encryptedData":"e"}`, "belong together", wechat.EncryptedData{}},
		"two ivs":      {`{"encryptedData":"e","iv":"i","iv":"i"}`, "iv is in the body twice", wechat.EncryptedData{}},
		"two rawDatas": {`{"encryptedData":"e","iv":"i","rawData":"r","rawData":"r"}`, "rawData is in the body twice", wechat.EncryptedData{}},
		"two of all":   {`{"encryptedData":"e","encryptedData":"e","iv":"i"}`, "encryptedData is in the body twice", wechat.EncryptedData{}},
		"a number":     {`{"encryptedData":"e","iv":1}`, "iv is not a string", wechat.EncryptedData{}},
	} {
		t.Run(name, func(t *testing.T) {
			object, err := strictjson.Parse([]byte(tc.body))
			require.NoError(t, err)
			got, found, err := findEncrypted(object)
			if tc.wrong != "" {
				require.ErrorContains(t, err, tc.wrong)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
			require.Equal(t, tc.want.IV != "", found)
		})
	}
}

func TestWhatClaimsToBeJSON(t *testing.T) {
	const refused jsonClaim = -1
	for name, tc := range map[string]struct {
		header http.Header
		want   jsonClaim
	}{
		"JSON":              {http.Header{"Content-Type": {"application/json; charset=utf-8"}}, claimsPlainJSON},
		"JSON as a text":    {http.Header{"Content-Type": {"text/json"}}, claimsPlainJSON},
		"JSON of a kind":    {http.Header{"Content-Type": {"application/problem+json"}}, claimsPlainJSON},
		"JSON, compressed":  {http.Header{"Content-Type": {"text/json"}, "Content-Encoding": {"gzip"}}, refused},
		"JSON in GBK":       {http.Header{"Content-Type": {"application/json; charset=gbk"}}, refused},
		"a text":            {http.Header{"Content-Type": {"text/plain"}}, claimsUnclear},
		"a form":            {http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, claimsUnclear},
		"none":              {http.Header{}, claimsUnclear},
		"two":               {http.Header{"Content-Type": {"image/png", "application/json"}}, claimsUnclear},
		"an encoded text":   {http.Header{"Content-Type": {"text/plain"}, "Content-Encoding": {"gzip"}}, claimsOther},
		"an identical text": {http.Header{"Content-Type": {"text/plain"}, "Content-Encoding": {"identity"}}, claimsUnclear},
		"an image":          {http.Header{"Content-Type": {"image/png"}}, claimsOther},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := claimsJSON(tc.header)
			require.Equal(t, tc.want == refused, err != nil, "%v", err)
			if err == nil {
				require.Equal(t, tc.want, got)
			}
		})
	}
}

// The length and the trailers of a body that was replaced are not those of the new one.
func TestAReplacedBodyComesAlone(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("the former body"))
	r.TransferEncoding, r.Trailer, r.ContentLength = []string{"chunked"}, http.Header{"X-Sum": nil}, -1
	setBody(r, []byte("new"))
	require.EqualValues(t, 3, r.ContentLength)
	require.Equal(t, "3", r.Header.Get("Content-Length"))
	require.Empty(t, r.TransferEncoding)
	require.Empty(t, r.Trailer)
}

// What is refused for too many is not counted, so that good data that was under way meanwhile
// gives its place back.
func TestRefusalsOfParallelOpenData(t *testing.T) {
	a := &App{refusal: otter.Must(&otter.Options[string, *atomic.Int32]{})}
	var counted *atomic.Int32
	for range maxOpenDataRefusals {
		var err error
		counted, err = a.countRefusal("s")
		require.NoError(t, err)
	}
	for range 3 {
		_, err := a.countRefusal("s")
		require.ErrorIs(t, err, errOpenDataRefusals)
	}
	counted.Add(-1)
	_, err := a.countRefusal("s")
	require.NoError(t, err)
}
