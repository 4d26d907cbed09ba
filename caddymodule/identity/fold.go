package identity

// foldName returns the name under which an upstream may read a header. CGI,
// WSGI and PHP turn `-`, `.` and other signs into `_` and ignore case, so names
// that fold alike are the same header to them.
func foldName(name string) string {
	folded := []byte(name)
	for i, c := range folded {
		folded[i] = foldTable[c]
	}
	return string(folded)
}

// foldTable lowers letters, keeps digits and replaces all the rest by a dash.
var foldTable = func() (t [256]byte) {
	for c := range t {
		switch {
		case c >= 'A' && c <= 'Z':
			t[c] = byte(c) + 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			t[c] = byte(c)
		default:
			t[c] = '-'
		}
	}
	return t
}()

func isLetterOrDigit(c byte) bool { return foldTable[c] != '-' }

// foldedNames is a set of header names. A name is in it whatever its spelling.
type foldedNames struct {
	names   []string
	lengths uint64 // a bit for each length: it tells most headers apart
	cloud   bool   // also each name that begins with cloudPrefix
}

func (f *foldedNames) addCloud() {
	if !f.cloud {
		f.cloud = true
		f.add(HeaderClientAddress)
	}
}

func (f *foldedNames) add(names ...string) {
	for _, name := range names {
		f.names = append(f.names, foldName(name))
		f.lengths |= 1 << (len(name) & 63)
	}
}

func (f *foldedNames) match(name string) bool {
	if f.cloud && len(name) >= len(cloudPrefix) && equalFolded(name[:len(cloudPrefix)], cloudPrefix) {
		return true
	}
	if f.lengths&(1<<(len(name)&63)) == 0 {
		return false
	}
	for _, folded := range f.names {
		if equalFolded(name, folded) {
			return true
		}
	}
	return false
}

func equalFolded(name, folded string) bool {
	if len(name) != len(folded) {
		return false
	}
	for i := range len(name) {
		if foldTable[name[i]] != folded[i] {
			return false
		}
	}
	return true
}
