// Command assertion is an upstream of wxgate that verifies the signed identity
// with go-jose.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// keySet holds the gateway's keys, and fetches them again for an unknown kid,
// at most once in 10 s.
type keySet struct {
	url string

	mu      sync.Mutex
	keys    jose.JSONWebKeySet
	fetched time.Time
}

func (s *keySet) find(kid string) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys.Key(kid)) == 0 && time.Since(s.fetched) > 10*time.Second {
		s.fetched = time.Now()
		resp, err := http.Get(s.url)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&s.keys); err != nil {
			return nil, err
		}
	}
	if found := s.keys.Key(kid); len(found) == 1 {
		return found[0].Key, nil
	}
	return nil, errors.New("unknown key")
}

func (s *keySet) openID(assertion, audience string) (string, error) {
	token, err := jwt.ParseSigned(assertion, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return "", err
	}
	key, err := s.find(token.Headers[0].KeyID)
	if err != nil {
		return "", err
	}
	var claims jwt.Claims
	if err := token.Claims(key, &claims); err != nil {
		return "", err
	}
	expected := jwt.Expected{Issuer: "wxgate", AnyAudience: jwt.Audience{audience}, Time: time.Now()}
	return claims.Subject, claims.ValidateWithLeeway(expected, 5*time.Second)
}

func main() {
	keys := &keySet{url: os.Getenv("JWKS_URL")}
	handler := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		openID, err := keys.openID(r.Header.Get("X-Wxgate-Assertion"), os.Getenv("AUDIENCE"))
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":"no_assertion"}`))
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"openid": openID})
	}
	address := net.JoinHostPort("127.0.0.1", cmp.Or(os.Getenv("PORT"), "3000"))
	log.Fatal(http.ListenAndServe(address, http.HandlerFunc(handler)))
}
