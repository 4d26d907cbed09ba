package caddymodule_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
)

const ownPhone = "13580006666"

// FuzzOpenDataRequest sends bodies under any headers to a path with open data. In the body
// $DATA stands for the members encryptedData and iv of Alice's phone number, over which
// change is laid. The oracle: what is marked as verified is JSON to every reader and holds
// that number and no other openData; and no JSON without the mark holds openData.
func FuzzOpenDataRequest(f *testing.F) {
	for _, headers := range []string{
		"Content-Type: application/json", "Content-Type: application/json; charset=utf-8", "Content-Type: text/plain", "",
		"Content-Type: application/json\nContent-Encoding: gzip", "Content-Type: application/json, application/json",
		"Content-Type: application/x-www-form-urlencoded", "Content-Type: application/json\nContent-Type: text/plain",
		"Content-Type: multipart/form-data; boundary=x", "Content-Type: a/b+json\nX-WX-Open-Data: verified",
	} {
		for _, body := range []string{
			`{$DATA}`, `{$DATA,"openData":{"phoneNumber":"1"},"userInfo":1}`, `{"x":"&openData=1&",$DATA}`, `{"openData":1}`, `[{$DATA}]`,
			"\ufeff{$DATA}", ` {"OPENDATA":1,"\u006fpenData":2}`, `openData=1`, `{"pad":"$PAD","openData":1}`, `{$DATA,$DATA}`, `{"a":1,"A":2}`,
		} {
			f.Add(headers, body, []byte{})
			f.Add(headers, body, []byte{0, 1})
		}
	}
	g := newFuzzedGateway(f)
	token := g.login(f, "alice")
	pad := strings.Repeat("x", 64<<10)
	f.Fuzz(func(t *testing.T, headers, body string, change []byte) {
		if strings.ContainsAny(headers, "\r\x00") || strings.Contains(headers, "\n\n") {
			t.Skip("the head would end early, which FuzzGateway tries")
		}
		lower := strings.ToLower(headers)
		for _, framing := range []string{"content-length", "transfer-encoding", "expect", "upgrade", "connection", "3rd"} {
			if strings.Contains(lower, framing) {
				t.Skip("framing is FuzzGateway's")
			}
		}
		data, err := g.wechat.OpenData(fuzzedAppID, "alice", map[string]any{
			"phoneNumber": ownPhone, "purePhoneNumber": ownPhone, "countryCode": "86",
		})
		require.NoError(t, err)
		iv, _ := base64.StdEncoding.DecodeString(data.IV)
		encrypted, _ := base64.StdEncoding.DecodeString(data.EncryptedData)
		both := slices.Concat(iv, encrypted)
		for i := range min(len(change), len(both)) {
			both[i] ^= change[i]
		}
		members := `"encryptedData":"` + base64.StdEncoding.EncodeToString(both[16:]) + `","iv":"` + base64.StdEncoding.EncodeToString(both[:16]) + `"`
		body = strings.NewReplacer("$DATA", members, "$PAD", pad).Replace(body)

		head := "POST /open/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n3rd_session: " + token + "\r\n"
		if headers != "" {
			head += strings.ReplaceAll(headers, "\n", "\r\n") + "\r\n"
		}
		answer := g.send(t, []byte(head+"Content-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body))
		if bytes.Contains(answer, []byte(" 429 ")) {
			token = g.login(t, "alice") // that session had its refusals
		}
		for _, got := range g.upstream.take() {
			requireMarkIsTrue(t, got.raw)
		}
	})
}

func requireMarkIsTrue(t *testing.T, raw []byte) {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
	require.NoError(t, err)
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	head, _, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
	marks := readings(strings.Split(string(head), "\r\n"), "X_WX_OPEN_DATA")
	types := r.Header["Content-Type"]
	if len(marks) == 0 {
		mediaType, _, err := mime.ParseMediaType(strings.Join(types, ", "))
		var members map[string]json.RawMessage
		if err != nil || mediaType != "application/json" || json.Unmarshal(body, &members) != nil {
			return
		}
		for name := range members {
			require.NotEqual(t, "opendata", strictjson.Fold(name), "%q", raw)
		}
		return
	}
	require.Equal(t, []string{"verified"}, marks)
	require.Equal(t, []string{"application/json"}, types)
	require.NotContains(t, r.Header, "Content-Encoding")
	object, err := strictjson.Parse(body)
	require.NoError(t, err)
	var found int
	for _, member := range object {
		if strictjson.Fold(member.Name) != "opendata" {
			continue
		}
		found++
		var data struct {
			PhoneNumber, PurePhoneNumber, CountryCode string
			Watermark                                 struct {
				AppID     string
				Timestamp int64
			}
		}
		require.NoError(t, json.Unmarshal(member.Value, &data))
		require.Equal(t, ownPhone, data.PhoneNumber)
		require.Equal(t, ownPhone, data.PurePhoneNumber)
		require.Equal(t, fuzzedAppID, data.Watermark.AppID)
		require.WithinDuration(t, time.Now(), time.Unix(data.Watermark.Timestamp, 0), 10*time.Minute)
	}
	require.Equal(t, 1, found)
}
