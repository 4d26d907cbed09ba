package strictjson_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
)

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		text           string
		parsed, strict error
	}{
		"empty":                      {`{}`, nil, nil},
		"white space":                {" { \"a\" : 1 }\n", nil, nil},
		"nested":                     {`{"a":{"b":[{"c":1},{"c":2}]}}`, nil, nil},
		"sixteen levels":             {nested(16), nil, nil},
		"seventeen levels":           {nested(17), nil, strictjson.ErrAmbiguous},
		"a name twice":               {`{"a":1,"a":2}`, nil, strictjson.ErrAmbiguous},
		"in another case":            {`{"a":1,"A":2}`, nil, strictjson.ErrAmbiguous},
		"with the long s":            {`{"s":1,"ſ":2}`, nil, strictjson.ErrAmbiguous},
		"with an escape":             {`{"a":1,"\u0061":2}`, nil, strictjson.ErrAmbiguous},
		"twice in an inner object":   {`{"x":{"a":1,"a":2}}`, nil, strictjson.ErrAmbiguous},
		"twice in an array's object": {`{"x":[[{"a":1,"a":2}]]}`, nil, strictjson.ErrAmbiguous},
		"nothing":                    {``, strictjson.ErrNotObject, strictjson.ErrNotObject},
		"an array":                   {`[{}]`, strictjson.ErrNotObject, strictjson.ErrNotObject},
		"a string":                   {`"{}"`, strictjson.ErrNotObject, strictjson.ErrNotObject},
		"null":                       {`null`, strictjson.ErrNotObject, strictjson.ErrNotObject},
		"cut":                        {`{"a":1`, strictjson.ErrNotObject, strictjson.ErrNotObject},
		"a second object":            {`{}{}`, strictjson.ErrNotObject, strictjson.ErrNotObject},
		"bytes after":                {`{}x`, strictjson.ErrNotObject, strictjson.ErrNotObject},
		"a byte order mark":          {"\ufeff{}", strictjson.ErrNotObject, strictjson.ErrNotObject},
		"not UTF-8":                  {"{\"a\":\"\xff\"}", strictjson.ErrNotObject, strictjson.ErrNotObject},
		"a comma too many":           {`{"a":1,}`, strictjson.ErrNotObject, strictjson.ErrNotObject},
		"a number as a name":         {`{1:2}`, strictjson.ErrNotObject, strictjson.ErrNotObject},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := strictjson.Parse([]byte(tc.text))
			require.Equal(t, tc.parsed, err)
			_, err = strictjson.ParseStrict([]byte(tc.text))
			require.Equal(t, tc.strict, err)
		})
	}
}

func nested(levels int) string {
	return `{"a":` + strings.Repeat("[", levels-1) + strings.Repeat("]", levels-1) + `}`
}

func TestObject(t *testing.T) {
	object, err := strictjson.Parse([]byte(`{ "b" : [1, 2] , "a":"x\u0041", "A":1, "n":null, "two":"1", "two":"2" }`))
	require.NoError(t, err)
	require.Equal(t, `[1, 2]`, string(object.Get("b")))
	require.Nil(t, object.Get("B"))
	require.True(t, object.Has("B"))
	require.False(t, object.Has("c"))

	text, found, err := object.Text("a")
	require.Equal(t, []any{"xA", true, nil}, []any{text, found, err})
	_, found, err = object.Text("absent")
	require.Equal(t, []any{false, nil}, []any{found, err})
	for name, want := range map[string]error{"A": strictjson.ErrNotString, "n": strictjson.ErrNotString, "two": strictjson.ErrRepeated} {
		_, _, err = object.Text(name)
		require.Equal(t, want, err, name)
	}
	require.Equal(t, `{"b":[1, 2],"n":null}`, string(object.Without("a", "TWO").Bytes()))
	require.Len(t, object, 6, "the object itself is as it was")
	require.Equal(t, `{}`, string(strictjson.Object(nil).Bytes()))
}

// FuzzParse checks what is read against encoding/json, and that Bytes is read as the same object.
func FuzzParse(f *testing.F) {
	for _, text := range []string{`{}`, `{"a":[{"b":1}],"A":"\u006f"}`, `{"a":1}{`, "{\"\xff\":1}", `{"\ud800":1}`, `[1]`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		object, err := strictjson.Parse(text)
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(text, &want))
		got := make(map[string]json.RawMessage)
		for _, member := range object {
			got[member.Name] = member.Value
		}
		require.Equal(t, len(want), len(got))
		for name, value := range want {
			require.JSONEq(t, string(value), string(got[name]))
		}
		again, err := strictjson.Parse(object.Bytes())
		require.NoError(t, err)
		require.Equal(t, object, again)
		if strict, err := strictjson.ParseStrict(text); err == nil {
			require.Equal(t, object, strict)
		}
	})
}
