package caddymodule_test

import (
	"bufio"
	"bytes"
	"strings"
)

func newReader(text []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(text)) }

// identityNames are spellings of the headers that no client may send.
var identityNames = []string{"X-OpenID", "x_openid", "X.OpenID", "x~openid", "X_Openid", "X-WX-Open-Data", "x_wx.open-data"}

// oddTargets are public to some reader and not to another.
var oddTargets = []string{
	"/public/../a", "/public/./a", "/public//a", "//public/a", "/public/%2e%2e/a", "/public/%2f", "/public/%252e", `/public\..\a`, "/public/a;b",
	"/public/%3f", "/public/%23", "/public/a?b", "/orders?/public/a", "/PUBLIC/a", "/%70ublic/a", "/public/%00", "/public/%c0%ae", "/public/..%20/a",
}

// requestParts are the parts of a request that FuzzRequest puts together.
type requestParts struct {
	method, target, line, connection, body, trailer string
}

func requestSeeds() []requestParts {
	seeds := []requestParts{
		{"GET", "/", "Upgrade: websocket", "Upgrade", "", ""},
		{"GET", "/public/a", "Upgrade: h2c", "Upgrade, HTTP2-Settings", "", ""},
		{"POST", "/login", "Content-Type: application/json", "close", `{"code":"c"}`, ""},
		{"TRACE", "/", "X: y", "keep-alive", "", ""},
		{"CONNECT", "/public/a", "X: y", "keep-alive", "body", ""},
		{"OPTIONS", "*", "Expect: 100-continue", "keep-alive", "body", ""},
		{"GET", "/error", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-For", "", ""},
		{strings.Repeat("M", 33), "/public/error", "X: y", "close", "", ""},
	}
	for _, name := range identityNames {
		seeds = append(seeds,
			requestParts{"GET", "/", name + ": oB", "close", "", ""},
			requestParts{"GET", "/public/a", name + ": oB", name, "", ""},
			requestParts{"POST", "/orders", "X: y", "close, " + name, "body", name + ": oB"})
	}
	for _, target := range oddTargets {
		seeds = append(seeds, requestParts{"GET", target, "X: y", "close", "", ""})
	}
	return seeds
}

// gatewaySeeds are requests of the adversarial suite, with \n for CRLF.
func gatewaySeeds() []string {
	const host = " HTTP/1.1\nHost: a\n"
	alice := "GET /" + host + "3rd_session: $ALICE\n"
	stranger := "GET /public/a" + host
	seeds := []string{
		alice + "\n",
		alice + "Authorization: Bearer $BOB\n\n",
		"GET /" + host + "Authorization: Bearer $BOB\nAuthorization: Basic eDp5\n\n",
		"GET /" + host + "3rd_session: $GONE\n\n",
		"GET /" + host + "\n" + alice + "\n" + stranger + "\n",
		"POST /login" + host + "Content-Type: application/json\nContent-Length: 12\n\n{\"code\":\"c\"}",
		"POST /login" + host + "Content-Type: application/x-www-form-urlencoded\nContent-Length: 6\n\ncode=c",
		alice + "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 13\n\n\x81\x85",
		alice + "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAAP__\n\n",
		alice + "Connection: Upgrade\nUpgrade: websocket, h2c\n\n",
		"TRACE /" + host + "3rd_session: $ALICE\n\n",
		"CONNECT a:80 HTTP/1.1\nHost: a\n3rd_session: $ALICE\n\n",
		"OPTIONS *" + host + "3rd_session: $ALICE\n\n",
		strings.Repeat("M", 33) + " /" + host + "X-OpenID: oB\n\n",
		strings.Repeat("M", 33) + " /" + host + "X-OpenID: oB\n3rd_session: $ALICE\n\n",
		"GET /error" + host + "X-OpenID: oB\n3rd_session: $ALICE\n\n",
		"GET /public/error" + host + "X-OpenID: oB\n\n",
		"GET /public/a HTTP/1.1\nHost: ..\nX-OpenID: oB\n\n",
		"GET http://b/public/a HTTP/1.1\nHost: a\nX-OpenID: oB\n\n",
		"GET http:public/a HTTP/1.1\nHost: a\nX-OpenID: oB\n\n",
		"GET /public/a HTTP/1.0\nX-OpenID: oB\n\n",
		"GET /public/a\n",
		"PRI * HTTP/2.0\n\nSM\n\n",
		"POST /public/a" + host + "Content-Length: 5\nTransfer-Encoding: chunked\n\n0\n\nGET / HTTP/1.1\n\n",
		"POST /public/a" + host + "Expect: 100-continue\nContent-Length: 2\n\nok",
		stranger + "X: a\r X-OpenID: oB\n\n",
		stranger + "X-OpenID:\n oB\n\n",
		stranger + "X-OpenID : oB\n\n",
		alice + "X: {env.WX_SECRET}\n\n",
	}
	for _, name := range identityNames {
		seeds = append(seeds,
			alice+name+": oB\n\n",
			stranger+name+": oB\n"+name+": oB\n\n",
			alice+"Connection: close, "+name+"\n\n",
			"POST /"+host+"3rd_session: $ALICE\nTrailer: "+name+", X-Sum\nTransfer-Encoding: chunked\n\n2\nok\n0\n"+name+": oB\nX-Sum: 1\n\n",
			"POST /public/a"+host+"Trailer: X-Sum\nTransfer-Encoding: chunked\n\n0\n"+name+": oB\nX-Sum: 1\n\n")
	}
	for _, target := range oddTargets {
		seeds = append(seeds, "GET "+target+host+"X-OpenID: oB\n\n")
	}
	return seeds
}
