package session

import (
	"bytes"
	"testing"
	"time"
)

// What a look-up that is not in memory does twice. The rest of the session
// benchmarks is in sessiontest.Bench, for each store.
func BenchmarkSealer(b *testing.B) {
	s, err := newSealer([][]byte{bytes.Repeat([]byte{1}, KeySize)})
	if err != nil {
		b.Fatal(err)
	}
	_, h := newToken()
	now := time.Now().UnixNano()
	record := sessionRecord{
		user: h, storeGeneration: 1, generation: 2, created: now, seen: now, expires: now + int64(DefaultLifetime),
		appID: []byte("wx0000000000000001"), openID: []byte("oBench0000000000000000000000"),
	}
	key := sessionKey(h)
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
				_, err = decodeSession(plain)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkHashToken(b *testing.B) {
	token, _ := newToken()
	b.ReportAllocs()
	for b.Loop() {
		hashToken(token)
	}
}
