// Package respguard ends a connection to a Redis server whose bytes would end
// the process.
//
// rueidis trusts the server. A length below zero, a reply without a command, a
// redirection without an address or an unexpected confirmation of a
// subscription is a panic in one of its own goroutines, which no caller can
// recover. A proxy that loses or repeats a reply is enough. This package can go
// when rueidis returns an error there:
//   - https://github.com/redis/rueidis/issues/718 and
//     https://github.com/redis/rueidis/issues/690: "protocol bug, message
//     handled out of order" is a panic of the goroutine that reads;
//   - lengths are used as they come: make([]byte, n) and slices in its resp.go
//     panic for a negative n, and redirections are split without looking.
package respguard

import (
	"bytes"
	"errors"
	"net"
	"strconv"
	"sync/atomic"
)

// ErrProtocol is returned when the server sent bytes that no Redis sends.
var ErrProtocol = errors.New("server broke the protocol")

// A Conn passes on only what rueidis can take.
type Conn struct {
	net.Conn
	commands scanner
	replies  scanner
	sent     atomic.Int64 // commands written
	received int64        // replies read
}

// New guards conn. Confirmations of subscriptions are let through if subscribes
// is set: rueidis subscribes to Sentinels only.
func New(conn net.Conn, subscribes bool) *Conn {
	return &Conn{Conn: conn, replies: scanner{subscribes: subscribes}}
}

// Write counts the commands before they are sent, so that no reply can be
// faster.
func (c *Conn) Write(p []byte) (int, error) {
	commands, err := c.commands.scan(p)
	if err != nil {
		return 0, err
	}
	c.sent.Add(commands)
	return c.Conn.Write(p)
}

// Read returns ErrProtocol instead of bytes that rueidis cannot take.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	replies, broken := c.replies.scan(p[:n])
	if broken != nil {
		return 0, broken
	}
	if c.received += replies; c.received > c.sent.Load() {
		return 0, ErrProtocol
	}
	return n, err
}

// Limits of what may come. Values have at most 1 MiB, and the longest reply
// is the one about a cluster, with at most 16384 ranges of slots.
const (
	maxLine     = 64 << 10
	maxBulk     = 64 << 20
	maxElements = 1 << 16
	maxDepth    = 8
)

// A scanner follows a stream in the Redis protocol, version 2 or 3, in
// whatever pieces it comes. It is stricter than rueidis wherever rueidis would
// see the end of a message elsewhere, and refuses what servers have no reason
// to send: streamed strings, blob errors, attributes and nested pushes.
//
// https://redis.io/docs/latest/develop/reference/protocol-spec/
type scanner struct {
	// subscribes allows confirmations of subscriptions, which rueidis takes
	// from Sentinels and panics about otherwise.
	subscribes bool

	line []byte      // the line that has begun
	body int         // bytes left of a bulk string, with its CR LF
	text []byte      // the beginning of the last string
	open []aggregate // that have begun, the outermost first
}

// An aggregate is an array, a set, a map or a push.
type aggregate struct {
	left  int // elements
	push  bool
	first bool // no element has come yet
}

// maxText is how much of a string is kept.
const maxText = 16

// scan reads p and returns how many messages ended in it, pushes not counted.
func (s *scanner) scan(p []byte) (messages int64, err error) {
	for len(p) > 0 {
		var ended bool
		if s.body > 0 {
			p, ended, err = s.scanBody(p)
		} else {
			p, ended, err = s.scanLine(p)
		}
		if err != nil {
			return messages, err
		}
		if !ended {
			continue
		}
		counts, err := s.endElement()
		if err != nil {
			return messages, err
		}
		if counts {
			messages++
		}
	}
	return messages, nil
}

// scanLine collects a line and takes it apart when it is whole.
func (s *scanner) scanLine(p []byte) (rest []byte, ended bool, err error) {
	line, rest, whole := bytes.Cut(p, []byte("\n"))
	s.line = append(s.line, line...)
	if len(s.line) > maxLine {
		return nil, false, ErrProtocol
	}
	if !whole {
		return nil, false, nil
	}
	content, terminated := bytes.CutSuffix(s.line, []byte("\r"))
	s.line = s.line[:0]
	if !terminated || len(content) == 0 {
		return nil, false, ErrProtocol
	}
	ended, err = s.takeLine(content[0], content[1:])
	return rest, ended, err
}

// takeLine begins an element, and reports whether that was all of it.
func (s *scanner) takeLine(kind byte, rest []byte) (ended bool, err error) {
	switch kind {
	case '+', ':', ',', '(':
		s.text = append(s.text[:0], rest[:min(len(rest), maxText)]...)
		return true, nil
	case '-':
		return true, checkRedirection(rest)
	case '_':
		return true, refuseIf(len(rest) > 0)
	case '#':
		return true, refuseIf(len(rest) != 1)
	}
	length, err := strconv.Atoi(string(rest))
	if err != nil {
		return false, ErrProtocol
	}
	switch kind {
	case '$', '=':
		if kind == '$' && length == -1 {
			return true, nil
		}
		s.text = s.text[:0]
		s.body = length + len("\r\n")
		return false, refuseIf(length < 0 || length > maxBulk)
	case '%':
		length *= 2
	case '*':
		if length == -1 {
			return true, nil
		}
	case '~', '>':
	default:
		return false, ErrProtocol
	}
	push := kind == '>'
	if length < 0 || length > maxElements || len(s.open) == maxDepth || push && (length == 0 || len(s.open) > 0) {
		return false, ErrProtocol
	}
	if length == 0 {
		return true, nil
	}
	s.open = append(s.open, aggregate{left: length, push: push, first: true})
	return false, nil
}

// scanBody passes over a bulk string, of which it keeps the beginning.
func (s *scanner) scanBody(p []byte) (rest []byte, ended bool, err error) {
	for len(p) > 0 && s.body > 0 {
		switch s.body {
		case 2, 1:
			if p[0] != "\n\r"[s.body-1] {
				return nil, false, ErrProtocol
			}
			p = p[1:]
			s.body--
		default:
			n := min(len(p), s.body-len("\r\n"))
			s.text = append(s.text, p[:min(n, maxText-len(s.text))]...)
			p = p[n:]
			s.body -= n
		}
	}
	return p, s.body == 0, nil
}

// endElement closes the aggregates that end with the element that has just
// ended, and reports whether that was a message.
func (s *scanner) endElement() (message bool, err error) {
	for len(s.open) > 0 {
		innermost := &s.open[len(s.open)-1]
		if innermost.push && innermost.first && !s.mayPush() {
			return false, ErrProtocol
		}
		innermost.first = false
		if innermost.left--; innermost.left > 0 {
			return false, nil
		}
		push := innermost.push
		s.open = s.open[:len(s.open)-1]
		if push {
			return false, nil
		}
	}
	return true, nil
}

// mayPush decides from the first element of a push.
func (s *scanner) mayPush() bool {
	switch string(s.text) {
	case "subscribe", "psubscribe", "ssubscribe":
		return s.subscribes
	default:
		return true
	}
}

// checkRedirection makes sure that what rueidis takes for a redirection has an
// address: MOVED <slot> <address>.
func checkRedirection(text []byte) error {
	text = bytes.TrimPrefix(text, []byte("ERR "))
	for _, word := range []string{"MOVED", "ASK", "REDIRECT"} {
		if bytes.HasPrefix(text, []byte(word)) {
			return refuseIf(bytes.Count(text, []byte(" ")) < 2)
		}
	}
	return nil
}

func refuseIf(broken bool) error {
	if broken {
		return ErrProtocol
	}
	return nil
}
