// Package strictjson reads JSON objects that two readers must not read in two ways: WeChat's replies and open data,
// and the bodies of clients in which the gateway looks for members of its own.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxDepth is more than any of WeChat's objects needs: they have two levels, WeRun's steps three.
const maxDepth = 16

var (
	// ErrNotObject is returned when a text is not exactly one JSON object in UTF-8.
	ErrNotObject = errors.New("not one JSON object in UTF-8")

	// ErrAmbiguous is returned when an object holds a name twice, or is nested too deep.
	ErrAmbiguous = errors.New("not an unambiguous JSON object")

	// ErrRepeated is returned when the member that was asked for is there twice.
	ErrRepeated = errors.New("the member is repeated")

	// ErrNotString is returned when the member that was asked for is not a string.
	ErrNotString = errors.New("the member is not a string")
)

// A Member is one member of an object.
type Member struct {
	Name  string          // decoded
	Value json.RawMessage // as it was written, without the white space around it
}

// An Object is the members of a JSON object in their order.
type Object []Member

// Parse reads data as exactly one JSON object in UTF-8. Names may be repeated, as
// they may in the parts of a client's body that are the application's business.
func Parse(data []byte) (Object, error) {
	if !utf8.Valid(data) {
		return nil, ErrNotObject
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, ErrNotObject
	}
	object := Object{}
	for dec.More() {
		tok, err := dec.Token()
		name, ok := tok.(string)
		if err != nil || !ok {
			return nil, ErrNotObject
		}
		member := Member{Name: name}
		if err := dec.Decode(&member.Value); err != nil {
			return nil, ErrNotObject
		}
		object = append(object, member)
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, ErrNotObject
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, ErrNotObject
	}
	return object, nil
}

// ParseStrict is Parse for an object that every reader must read alike. It also refuses,
// at every level, a name that is repeated, in whatever case, and more than 16 levels.
func ParseStrict(data []byte) (Object, error) { return parseStrict(data, 1) }

func parseStrict(data []byte, depth int) (Object, error) {
	object, err := Parse(data)
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool, len(object))
	for _, member := range object {
		folded := Fold(member.Name)
		if seen[folded] {
			return nil, ErrAmbiguous
		}
		seen[folded] = true
		if err := checkStrict(member.Value, depth+1); err != nil {
			return nil, err
		}
	}
	return object, nil
}

// checkStrict checks the objects in a value. A value that is an object or array is level depth.
func checkStrict(value json.RawMessage, depth int) error {
	if value[0] != '{' && value[0] != '[' {
		return nil
	}
	if depth > maxDepth {
		return ErrAmbiguous
	}
	if value[0] == '{' {
		_, err := parseStrict(value, depth)
		return err
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(value, &elements); err != nil {
		return ErrNotObject
	}
	for _, element := range elements {
		if err := checkStrict(element, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// Get returns the value of the first member of that exact name, or nil.
func (o Object) Get(name string) json.RawMessage {
	for _, member := range o {
		if member.Name == name {
			return member.Value
		}
	}
	return nil
}

// Text returns the string that is the value of the only member of that exact name. found
// is false if there is none. The error is ErrRepeated or ErrNotString.
func (o Object) Text(name string) (text string, found bool, err error) {
	for _, member := range o {
		if member.Name != name {
			continue
		}
		if found {
			return "", true, ErrRepeated
		}
		found = true
		var ok bool
		if text, ok = String(member.Value); !ok {
			err = ErrNotString
		}
	}
	return text, found, err
}

// Has reports whether there is a member of that name in any case.
func (o Object) Has(name string) bool {
	return slices.ContainsFunc(o, func(m Member) bool { return Fold(m.Name) == Fold(name) })
}

// Without returns the object without the members of these names in any case, because
// some readers do not distinguish cases.
func (o Object) Without(names ...string) Object {
	return slices.DeleteFunc(slices.Clone(o), func(m Member) bool {
		return slices.ContainsFunc(names, func(name string) bool { return Fold(m.Name) == Fold(name) })
	})
}

// Bytes returns the object as JSON, the values as they were written.
func (o Object) Bytes() []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, member := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, _ := json.Marshal(member.Name) // a string always encodes
		b.Write(name)
		b.WriteByte(':')
		b.Write(member.Value)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// String decodes a value if it is a string.
func String(value json.RawMessage) (string, bool) {
	if len(value) == 0 || value[0] != '"' {
		return "", false
	}
	var s string
	err := json.Unmarshal(value, &s)
	return s, err == nil
}

// Fold returns the same text for names that differ in upper and lower case only. Going
// through upper case catches letters such as the long s, which has no lower case but s
// as its upper one, and which encoding/json takes for an s.
func Fold(name string) string {
	return strings.ToLower(strings.ToUpper(name))
}
