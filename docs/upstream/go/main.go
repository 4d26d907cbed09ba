// Command go is an upstream of wxgate with net/http alone.
package main

import (
	"cmp"
	"encoding/json"
	"log"
	"net"
	"net/http"
	"os"
)

func hello(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	openid := r.Header.Get("X-OpenID")
	if openid == "" {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":"no_openid"}`))
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"openid": openid})
}

func main() {
	// Only the gateway on this machine reaches it.
	address := net.JoinHostPort("127.0.0.1", cmp.Or(os.Getenv("PORT"), "3000"))
	log.Fatal(http.ListenAndServe(address, http.HandlerFunc(hello)))
}
