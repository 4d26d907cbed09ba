package caddymodule

import (
	"encoding/json"
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
