package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// A target is what is loaded, and with what.
type target struct {
	url    string
	tokens string // the file of tokens, of which each request carries a random one; empty: made-up ones
	status int    // what every request must be answered
}

// A result is what a loader saw.
type result struct {
	requests   int64
	unexpected int64 // with another status, or without an answer
	took       time.Duration
	p50, p99   time.Duration
}

// A loader sends requests for a while, as many as it can.
type loader interface {
	name() string
	run(ctx context.Context, t target) (result, error)
}

// newLoad prefers wrk, which needs less of the machine than we do.
func newLoad(s settings) (loader, error) {
	path, _ := exec.LookPath("wrk") // empty: not installed
	switch s.client {
	case "":
		if path == "" {
			return &builtin{connections: s.connections, duration: s.duration}, nil
		}
		return newWrk(path, s)
	case "wrk":
		if path == "" {
			return nil, errors.New("-client wrk: wrk is not installed")
		}
		return newWrk(path, s)
	case "builtin":
		return &builtin{connections: s.connections, duration: s.duration}, nil
	default:
		return nil, errors.New("-client is wrk or builtin")
	}
}

// The header fields of a mini program's request, as WeChat 8 sends them on a
// telephone, beside the host and the token.
var requestHeaders = [][2]string{
	{"User-Agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 MicroMessenger/8.0.54(0x18003637) NetType/WIFI Language/zh_CN"},
	{"Referer", "https://servicewechat.com/" + appID + "/42/page-frame.html"},
	{"Content-Type", "application/json"},
	{"Accept-Encoding", "gzip,compress,br,deflate"},
}

const requestPath = "/api/orders?page=1"

// requestHead is a request up to the token.
func requestHead(host string) string {
	var head strings.Builder
	fmt.Fprintf(&head, "GET %s HTTP/1.1\r\nHost: %s\r\n", requestPath, host)
	for _, field := range requestHeaders {
		fmt.Fprintf(&head, "%s: %s\r\n", field[0], field[1])
	}
	head.WriteString(tokenHeader + ": ")
	return head.String()
}
