package strictjson_test

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
)

func TestBlankName(t *testing.T) {
	for text, want := range map[string]string{
		`{"openData":1,"a":2}`:               `{"        ":1,"a":2}`,
		`{ "OPENDATA" : {"openData":1} }`:    `{ "        " : {"openData":1} }`,
		`{"a":"openData","\u006fpenData":1}`: `{"a":"openData","             ":1}`,
		`{"a":["openData"],"openDatas":1}`:   `{"a":["openData"],"openDatas":1}`,
		`{"a\"b":"x\\","openData":1}`:        `{"a\"b":"x\\","        ":1}`,
		`{"openDat`:                          `{"openDat`,
	} {
		got, err := io.ReadAll(strictjson.BlankName(iotest.OneByteReader(strings.NewReader(text)), "openData"))
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	require.True(t, strictjson.HasName([]byte(`{"a":{"x":1},"x":[`), "x"))
	require.False(t, strictjson.HasName([]byte(`{"a":{"x":1},"X":"x"`), "x"))
}
