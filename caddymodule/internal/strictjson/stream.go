package strictjson

import (
	"bytes"
	"encoding/json"
	"io"
)

// HasName reports whether the beginning of an object has a member of that exact
// name.
func HasName(beginning []byte, name string) bool {
	found := false
	f := nameFilter{blank: func(other string) bool {
		found = found || other == name
		return false
	}}
	for _, c := range beginning {
		f.step(c)
	}
	return found
}

// BlankName passes a JSON object of any size on, in which the names that read as
// name in any case are blanked: spaces of the same length stand in their stead.
// It looks at the names of the object itself, not at those of objects in it.
func BlankName(r io.Reader, name string) io.Reader {
	folded := Fold(name)
	return &nameFilter{r: r, blank: func(other string) bool { return Fold(other) == folded }}
}

type nameFilter struct {
	r     io.Reader
	blank func(name string) bool
	in    [4 << 10]byte
	out   bytes.Buffer
	err   error

	depth             int
	inString, escaped bool
	nameNext          bool   // the next string is a name
	name              []byte // the name that is being read, from its quote on; else nil
}

// maxFilteredName is more than openData has when every letter is written as an escape.
const maxFilteredName = 64

// Read implements io.Reader.
func (f *nameFilter) Read(p []byte) (int, error) {
	for f.out.Len() == 0 {
		if f.err != nil {
			return 0, f.err
		}
		var n int
		n, f.err = f.r.Read(f.in[:])
		for _, c := range f.in[:n] {
			f.step(c)
		}
		if f.err != nil {
			f.out.Write(f.name)
		}
	}
	return f.out.Read(p)
}

func (f *nameFilter) step(c byte) {
	switch {
	case f.inString:
		f.stepString(c)
		return
	case c == '"':
		f.inString = true
		if f.nameNext {
			f.name = []byte{c}
			return
		}
	case c == '{' || c == '[':
		f.depth++
	case c == '}' || c == ']':
		f.depth--
	}
	switch c {
	case ' ', '\t', '\r', '\n':
	default:
		f.nameNext = f.depth == 1 && (c == '{' || c == ',')
	}
	f.out.WriteByte(c)
}

func (f *nameFilter) stepString(c byte) {
	ends := c == '"' && !f.escaped
	f.escaped = c == '\\' && !f.escaped
	f.inString = !ends
	if f.name == nil {
		f.out.WriteByte(c)
		return
	}
	f.name = append(f.name, c)
	if !ends && len(f.name) <= maxFilteredName {
		return
	}
	if name, ok := String(json.RawMessage(f.name)); ok && f.blank(name) {
		for i := 1; i < len(f.name)-1; i++ {
			f.name[i] = ' '
		}
	}
	f.out.Write(f.name)
	f.name, f.nameNext = nil, false
}
