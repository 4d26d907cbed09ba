package redisstore

import (
	"bytes"
	"errors"
	"net"
	"strconv"
	"sync/atomic"
)

// errProtocol says that bytes came which no server sends. The connection is
// given up.
var errProtocol = errors.New("server broke the protocol")

// A guardedConn passes on only what rueidis can take. rueidis trusts the
// server: a length below zero, an answer that nobody asked for or a
// redirection without an address is a panic in one of its goroutines, which
// ends the whole process. Here it ends the connection.
type guardedConn struct {
	net.Conn
	questions scanner
	answers   scanner
	asked     atomic.Int64 // commands written
	answered  int64        // replies read
}

// Write counts the commands before they are sent, so that no answer can be
// faster.
func (g *guardedConn) Write(p []byte) (int, error) {
	commands, err := g.questions.scan(p)
	if err != nil {
		return 0, err
	}
	g.asked.Add(commands)
	return g.Conn.Write(p)
}

func (g *guardedConn) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	replies, broken := g.answers.scan(p[:n])
	if broken != nil {
		return 0, broken
	}
	if g.answered += replies; g.answered > g.asked.Load() {
		return 0, errProtocol
	}
	return n, err
}

// Limits of what may come. Values have at most 1 MiB, and the longest answer
// is that about a cluster, with at most 16384 ranges of slots.
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
		return nil, false, errProtocol
	}
	if !whole {
		return nil, false, nil
	}
	content, terminated := bytes.CutSuffix(s.line, []byte("\r"))
	s.line = s.line[:0]
	if !terminated || len(content) == 0 {
		return nil, false, errProtocol
	}
	ended, err = s.takeLine(content[0], content[1:])
	return rest, ended, err
}

// takeLine begins an element, and says whether that was all of it.
func (s *scanner) takeLine(kind byte, rest []byte) (ended bool, err error) {
	switch kind {
	case '+', ':', ',', '(':
		s.text = append(s.text[:0], rest[:min(len(rest), maxText)]...)
		return true, nil
	case '-':
		return true, checkRedirection(rest)
	case '_':
		return true, refuseIf(len(rest) != 0)
	case '#':
		return true, refuseIf(len(rest) != 1)
	}
	length, err := strconv.Atoi(string(rest))
	if err != nil {
		return false, errProtocol
	}
	switch kind {
	case '$', '=':
		if kind == '$' && length == -1 {
			return true, nil
		}
		s.text = s.text[:0]
		s.body = length + len("\r\n")
		return false, refuseIf(length < 0 || length > maxBulk)
	case '*':
		if length == -1 {
			return true, nil
		}
		return s.begin(length, false)
	case '~':
		return s.begin(length, false)
	case '>':
		if len(s.open) > 0 {
			return false, errProtocol
		}
		return s.begin(length, true)
	case '%':
		return s.begin(2*length, false)
	default:
		return false, errProtocol
	}
}

// begin opens an aggregate, unless it is empty. An empty push is nothing.
func (s *scanner) begin(elements int, push bool) (ended bool, err error) {
	if elements < 0 || elements > maxElements || len(s.open) == maxDepth || (push && elements == 0) {
		return false, errProtocol
	}
	if elements == 0 {
		return true, nil
	}
	s.open = append(s.open, aggregate{left: elements, push: push, first: true})
	return false, nil
}

// scanBody passes over a bulk string, of which it keeps the beginning.
func (s *scanner) scanBody(p []byte) (rest []byte, ended bool, err error) {
	for len(p) > 0 && s.body > 0 {
		switch s.body {
		case 2, 1:
			if p[0] != "\n\r"[s.body-1] {
				return nil, false, errProtocol
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
// ended. It says whether that was a message.
func (s *scanner) endElement() (message bool, err error) {
	for len(s.open) > 0 {
		innermost := &s.open[len(s.open)-1]
		if innermost.push && innermost.first && !s.mayPush() {
			return false, errProtocol
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
		return errProtocol
	}
	return nil
}
