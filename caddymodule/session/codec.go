package session

import (
	"encoding/binary"
	"fmt"
)

// errMalformed is returned for a record that opens and is not one that this
// version writes.
var errMalformed = fmt.Errorf("%w: its form is unknown", ErrDamaged)

// Records are written as fixed-width big-endian numbers and names behind a
// two-byte length. There is one way to write a record, so a reader can be
// strict: whatever it accepts, encoding gives back byte for byte.

func appendBytes[T string | []byte](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func appendTime(b []byte, t int64) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(t))
}

// A fieldReader reads fields from the front of a record. After the first field
// that is missing it returns zero values only, so that callers check once.
type fieldReader struct {
	rest []byte
	bad  bool
}

func (r *fieldReader) next(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return nil
	}
	field := r.rest[:n]
	r.rest = r.rest[n:]
	return field
}

func (r *fieldReader) uint16() uint16 {
	if b := r.next(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *fieldReader) uint64() uint64 {
	if b := r.next(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *fieldReader) time() int64 { return int64(r.uint64()) }

func (r *fieldReader) hash() (h hash) {
	copy(h[:], r.next(len(h)))
	return h
}

func (r *fieldReader) bytes() []byte { return r.next(int(r.uint16())) }

// end returns errMalformed unless every field was there and nothing is left.
func (r *fieldReader) end() error {
	if r.bad || len(r.rest) > 0 {
		return errMalformed
	}
	return nil
}
