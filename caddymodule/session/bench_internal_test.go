package session

import (
	"bytes"
	"testing"
	"time"
)

// What a look-up that is not in memory does. The rest of the session
// benchmarks is in sessiontest.Bench, for each store.
func BenchmarkSealer(b *testing.B) {
	s, err := newSealer([][]byte{bytes.Repeat([]byte{1}, KeySize)})
	if err != nil {
		b.Fatal(err)
	}
	h := hashUser("wx0000000000000001", "oBench0000000000000000000000")
	now := time.Now().UnixNano()
	record := userRecord{
		appID: []byte("wx0000000000000001"), openID: []byte("oBench0000000000000000000000"), key: []byte("dGhpcyBpcyAxNiBieXRlcw=="),
		sessions: encodeListed([]listedSession{{generation: 1, created: now, seen: now, expires: now + int64(DefaultLifetime)}}),
	}
	key := userKey(h)
	sealed := s.seal(key, record.encode())

	b.Run("seal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.seal(key, record.encode())
		}
	})
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			plain, _, err := s.open(nil, key, sealed)
			if err == nil {
				_, err = decodeUser(plain)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkHashToken(b *testing.B) {
	token, _ := newToken(userHash{})
	b.ReportAllocs()
	for b.Loop() {
		hashToken(token)
	}
}
