package respguard

import (
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestScanner(t *testing.T) {
	tests := []struct {
		name     string
		stream   string
		messages int64
	}{
		{"simple ones", "+OK\r\n-ERR no\r\n:1\r\n_\r\n#t\r\n,1.5\r\n(123\r\n", 7},
		{"strings", "$3\r\nabc\r\n$0\r\n\r\n$-1\r\n=7\r\ntxt:abc\r\n", 4},
		{"string that looks like a message", "$7\r\n+OK\r\n+O\r\n", 1},
		{"arrays", "*2\r\n$1\r\na\r\n*1\r\n:1\r\n*0\r\n*-1\r\n~1\r\n+a\r\n", 4},
		{"map", "%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n+c\r\n%0\r\n", 2},
		{"push between answers", "+a\r\n>2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n+b\r\n", 2},
		{"push that everything has changed", ">2\r\n$10\r\ninvalidate\r\n_\r\n", 0},
		{"redirections", "-MOVED 1 127.0.0.1:1\r\n-ASK 1 127.0.0.1:1\r\n", 2},
		{"unfinished", "+a\r\n*2\r\n+b\r\n", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var whole scanner
			n, err := whole.scan([]byte(tt.stream))
			require.NoError(t, err)
			require.Equal(t, tt.messages, n)
		})
	}
}

func TestScannerRefuses(t *testing.T) {
	tests := []struct{ name, stream string }{
		{"unknown kind", "?1\r\n"},
		{"blob error", "!3\r\nERR\r\n"},
		{"attribute", "|1\r\n+a\r\n+b\r\n+c\r\n"},
		{"streamed string", "$?\r\n;1\r\na\r\n;0\r\n"},
		{"negative length", "$-2\r\n"},
		{"negative elements", "*-2\r\n"},
		{"negative map", "%-1\r\n"},
		{"push of nothing", ">0\r\n"},
		{"push that is null", ">-1\r\n"},
		{"push within an array", "*1\r\n>1\r\n+a\r\n"},
		{"length that is no number", "$1a\r\n"},
		{"length beyond int", "$99999999999999999999\r\n"},
		{"huge string", "$999999999\r\n"},
		{"huge array", "*999999999\r\n"},
		{"deep array", strings.Repeat("*1\r\n", maxDepth+1)},
		{"endless line", "+" + strings.Repeat("a", maxLine+1)},
		{"no CR", "+OK\n"},
		{"empty line", "\r\n"},
		{"string that is longer than it says", "$1\r\nab\r\n"},
		{"null with text", "_a\r\n"},
		{"long boolean", "#true\r\n"},
		{"confirmation of a subscription", ">3\r\n$9\r\nsubscribe\r\n+a\r\n:1\r\n"},
		{"redirection to nowhere", "-MOVED\r\n"},
		{"redirection without an address", "-ASK 1\r\n"},
		{"redirection in disguise", "-ERR MOVED\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s scanner
			_, err := s.scan([]byte(tt.stream))
			require.ErrorIs(t, err, ErrProtocol)
		})
	}
}

// The pieces in which a stream comes make no difference, and what is kept of
// it is bounded.
func FuzzScanner(f *testing.F) {
	for _, seed := range []string{
		"+OK\r\n$3\r\nabc\r\n*2\r\n:1\r\n_\r\n", "%1\r\n+a\r\n=5\r\nabcde\r\n", ">2\r\n+invalidate\r\n_\r\n",
		"-MOVED 1 a:1\r\n", "*-1\r\n~2\r\n#t\r\n,1\r\n", "$5\r\nab",
	} {
		f.Add([]byte(seed), uint8(1), true)
		f.Add([]byte(seed), uint8(3), false)
	}
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8, subscribes bool) {
		whole := scanner{subscribes: subscribes}
		messages, err := whole.scan(stream)
		pieces := scanner{subscribes: subscribes}
		var sum int64
		var broken error
		for rest := stream; len(rest) > 0 && broken == nil; {
			n := min(len(rest), int(piece)+1)
			var some int64
			some, broken = pieces.scan(rest[:n])
			sum += some
			rest = rest[n:]
		}
		require.Equal(t, messages, sum)
		require.Equal(t, err, broken)
		require.LessOrEqual(t, len(pieces.line), maxLine)
		require.LessOrEqual(t, len(pieces.text), maxText)
		require.LessOrEqual(t, len(pieces.open), maxDepth)
	})
}

func TestReplyWithoutACommand(t *testing.T) {
	server, client := net.Pipe()
	defer server.Close()
	defer client.Close()
	go func() { _, _ = server.Write([]byte("+OK\r\n")) }()
	_, err := New(client, false).Read(make([]byte, 16))
	require.ErrorIs(t, err, ErrProtocol)
}
