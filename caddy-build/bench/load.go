package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// load sends requests over n connections for a while, as many as it can, and
// returns how long each took.
func load(r *row, n int, d time.Duration) []time.Duration {
	end := time.Now().Add(d)
	each := make([][]time.Duration, n)
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() { each[i] = client(r, end) })
	}
	clients.Wait()
	return slices.Concat(each...)
}

// client is one connection, with one request at a time.
func client(r *row, end time.Time) (latencies []time.Duration) {
	conn, err := net.Dial("tcp", r.address)
	check(err)
	defer conn.Close()
	replies := bufio.NewReader(conn)
	var request []byte
	for time.Now().Before(end) {
		request = r.request(request[:0], r.address)
		began := time.Now()
		_, err := conn.Write(request)
		check(err)
		resp, err := http.ReadResponse(replies, nil)
		check(err)
		_, err = io.Copy(io.Discard, resp.Body)
		check(err)
		latencies = append(latencies, time.Since(began))
		// Caddy answers 200 without a body where no site takes the request.
		if resp.StatusCode != r.status || resp.ContentLength == 0 {
			check(fmt.Errorf("row %s: a request was answered %s, not %d", r.name, resp.Status, r.status))
		}
	}
	return latencies
}

// fields are the header of a mini program's request, as WeChat 8 sends them on
// a telephone, beside the host and the token.
const fields = "User-Agent: Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 MicroMessenger/8.0.54(0x18003637) NetType/WIFI Language/zh_CN\r\n" +
	"Referer: https://servicewechat.com/" + appID + "/42/page-frame.html\r\n" +
	"Content-Type: application/json\r\nAccept-Encoding: gzip,compress,br,deflate\r\n"

// withToken makes requests that carry one of the tokens each, at random.
func withToken(tokens []byte) func(b []byte, host string) []byte {
	return func(b []byte, host string) []byte {
		b = fmt.Appendf(b, "GET /api/orders?page=1 HTTP/1.1\r\nHost: %s\r\n%s3rd_session: ", host, fields)
		return append(appendToken(b, tokens), "\r\n\r\n"...)
	}
}

// withCode makes logins, each of a new user.
func withCode(issue func() string) func(b []byte, host string) []byte {
	return func(b []byte, host string) []byte {
		body := `{"code":"` + issue() + `"}`
		return fmt.Appendf(b, "POST /login HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\n\r\n%s", host, fields, len(body), body)
	}
}

const tokenChars = 43

// appendToken appends one of the lines of tokens, or, if there are none, a
// token that opens no session.
func appendToken(b, tokens []byte) []byte {
	if n := len(tokens) / (tokenChars + 1); n > 0 {
		at := rand.IntN(n) * (tokenChars + 1)
		return append(b, tokens[at:at+tokenChars]...)
	}
	for range tokenChars {
		b = append(b, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[rand.IntN(64)])
	}
	return b
}

// unknownTokens writes n tokens that open no session to a file in dir.
func unknownTokens(dir string, n int) (tokens []byte) {
	for range n {
		tokens = append(appendToken(tokens, nil), '\n')
	}
	check(os.WriteFile(dir+"/tokens", tokens, 0o600))
	return tokens
}

// servers are the parts of the set-up that this program plays itself, by the
// name under which it is started.
var servers = map[string]func(listen, argument string) error{"bench-upstream": serveUpstream, "bench-auth": serveAuth}

// serveUpstream is the application behind every proxy: it gives the same answer
// to everything.
func serveUpstream(listen, body string) error {
	return http.ListenAndServe(listen, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, body)
	}))
}

// serveAuth is the simplest service that forward_auth and auth_request can ask:
// a map in memory, without expiry, storage or revocation.
func serveAuth(listen, file string) error {
	tokens, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	users := make(map[string]string)
	for i, token := range bytes.Fields(tokens) {
		users[string(token)] = openID(i)
	}
	return http.ListenAndServe(listen, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, ok := users[r.Header.Get("3rd_session")]
		if !ok {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("X-OpenID", user)
		w.WriteHeader(http.StatusOK)
	}))
}
