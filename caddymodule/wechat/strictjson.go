package wechat

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode/utf8"
)

// maxJSONDepth is more than any of WeChat's objects needs: they have two levels,
// WeRun's steps three.
const maxJSONDepth = 16

var errNotStrict = errors.New("not one plain JSON object")

// strictObject reads data as exactly one JSON object and returns its members.
// Unlike encoding/json it takes nothing that two readers could read in two
// ways, at any level: no invalid UTF-8, no member twice (nor twice but for
// upper and lower case, which some readers do not tell apart), nothing after
// the object, and no nesting beyond maxJSONDepth. The members are slices of
// data.
func strictObject(data []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(data) {
		return nil, errNotStrict
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	members := make(map[string]json.RawMessage)
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, errNotStrict
	}
	if err := strictMembers(dec, 1, data, members); err != nil {
		return nil, errNotStrict
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errNotStrict
	}
	return members, nil
}

// strictMembers reads the rest of an object whose brace was read. If members
// is not nil it gets the members' text, cut out of data.
func strictMembers(dec *json.Decoder, depth int, data []byte, members map[string]json.RawMessage) error {
	if depth > maxJSONDepth {
		return errNotStrict
	}
	seen := make(map[string]struct{})
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return err
		}
		name, ok := tok.(string)
		if !ok {
			return errNotStrict
		}
		if _, twice := seen[fold(name)]; twice {
			return errNotStrict
		}
		seen[fold(name)] = struct{}{}

		start := dec.InputOffset()
		if err := strictValue(dec, depth); err != nil {
			return err
		}
		if members != nil {
			// Between the name and the value are a colon and perhaps spaces.
			text := data[start:dec.InputOffset()]
			members[name] = json.RawMessage(bytes.TrimLeft(text, ": \t\r\n"))
		}
	}
	_, err := dec.Token() // the closing brace
	return err
}

// strictValue reads one value of an object or array at depth.
func strictValue(dec *json.Decoder, depth int) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	switch tok {
	case json.Delim('{'):
		return strictMembers(dec, depth+1, nil, nil)
	case json.Delim('['):
		if depth+1 > maxJSONDepth {
			return errNotStrict
		}
		for dec.More() {
			if err := strictValue(dec, depth+1); err != nil {
				return err
			}
		}
		_, err := dec.Token() // the closing bracket
		return err
	}
	return nil
}

// fold returns the same for names that differ in upper and lower case only.
// Going through upper case catches letters such as the long s, which has no
// lower case but s as its upper one, and which encoding/json takes for an s.
func fold(name string) string {
	return strings.ToLower(strings.ToUpper(name))
}
