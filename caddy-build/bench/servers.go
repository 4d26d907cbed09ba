package main

import (
	"context"
	"errors"
	"flag"
	"net"
	"net/http"
	"strings"
)

// serveUpstream is the application behind every proxy: it gives the same
// answer to everything.
func serveUpstream(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve-upstream", flag.ExitOnError)
	listen := flags.String("listen", "", "address")
	size := flags.Int("body", 0, "bytes of the answer's body")
	_ = flags.Parse(args)

	body := []byte(`{"data":"` + strings.Repeat("x", max(0, *size-len(`{"data":""}`))) + `"}`)
	return serve(ctx, *listen, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}))
}

// serveAuth is the simplest service that forward_auth and auth_request can ask:
// a map in memory, without expiry, storage or revocation.
func serveAuth(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve-auth", flag.ExitOnError)
	listen := flags.String("listen", "", "address")
	file := flags.String("tokens", "", "file of tokens")
	_ = flags.Parse(args)

	tokens, err := readTokens(*file)
	if err != nil {
		return err
	}
	users := make(map[string]string, len(tokens))
	for i, token := range tokens {
		users[token] = openID(i)
	}
	return serve(ctx, *listen, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, ok := users[r.Header.Get(tokenHeader)]
		if !ok {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("X-OpenID", user)
		w.WriteHeader(http.StatusOK)
	}))
}

func serve(ctx context.Context, listen string, handler http.Handler) error {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
