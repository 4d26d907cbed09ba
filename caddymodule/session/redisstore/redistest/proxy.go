package redistest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A Proxy stands between a client and a server and makes the faults of a
// network, and worse ones.
type Proxy struct {
	// Addr is where clients connect.
	Addr string

	target   string
	accepted atomic.Int64
	refuse   atomic.Bool
	edit     atomic.Pointer[func(message []byte) [][]byte]
	delay    atomic.Int64 // of each piece, in each direction
	gate     sync.RWMutex // held for writing while frozen

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	done  bool
}

// StartProxy forwards to target.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &Proxy{Addr: l.Addr().String(), target: target, conns: make(map[net.Conn]struct{})}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.accepted.Add(1)
			running.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		p.done = true
		p.mu.Unlock()
		p.Cut()
		running.Wait()
	})
	return p
}

// Accepted returns how many connections clients have made.
func (p *Proxy) Accepted() int64 { return p.accepted.Load() }

// Refuse makes the proxy close new connections at once, or no longer.
func (p *Proxy) Refuse(refuse bool) { p.refuse.Store(refuse) }

// Cut closes all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// Delay makes everything come so much later, in each direction.
func (p *Proxy) Delay(each time.Duration) { p.delay.Store(int64(each)) }

// Freeze lets nothing pass, while connections stay open, until thaw is called.
func (p *Proxy) Freeze() (thaw func()) {
	p.gate.Lock()
	return sync.OnceFunc(p.gate.Unlock)
}

// Edit sees every message of the server from now on, one at a time for each
// connection, and returns what the client gets instead. nil ends it.
func (p *Proxy) Edit(edit func(message []byte) [][]byte) {
	if edit == nil {
		p.edit.Store(nil)
		return
	}
	p.edit.Store(&edit)
}

func (p *Proxy) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	if p.refuse.Load() {
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	p.mu.Lock()
	if p.done {
		p.mu.Unlock()
		return
	}
	p.conns[client], p.conns[server] = struct{}{}, struct{}{}
	p.mu.Unlock()

	var questions sync.WaitGroup
	questions.Go(func() {
		p.forward(server, client, func() ([][]byte, error) {
			b := make([]byte, 32<<10)
			n, err := client.Read(b)
			return [][]byte{b[:n]}, err
		})
	})
	answers := bufio.NewReader(server)
	p.forward(client, server, func() ([][]byte, error) {
		message, err := readMessage(answers, nil)
		if err != nil {
			return nil, err
		}
		if edit := p.edit.Load(); edit != nil {
			return (*edit)(message), nil
		}
		return [][]byte{message}, nil
	})
	questions.Wait()

	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, client)
	delete(p.conns, server)
}

type piece struct {
	due   time.Time
	bytes []byte
}

// forward is one direction of a connection: the pieces that read returns leave
// it in their order, each after the proxy's delay, however many are under way.
// In the end it closes both connections.
func (p *Proxy) forward(to, from net.Conn, read func() ([][]byte, error)) {
	pieces := make(chan piece, 1024)
	var writer sync.WaitGroup
	writer.Go(func() {
		for piece := range pieces {
			if wait := time.Until(piece.due); wait > 0 {
				<-time.After(wait)
			}
			p.gate.RLock()
			if _, err := to.Write(piece.bytes); err != nil {
				_ = from.Close() // so that read ends
			}
			p.gate.RUnlock()
		}
	})
	for {
		read, err := read()
		for _, b := range read {
			pieces <- piece{time.Now().Add(time.Duration(p.delay.Load())), b}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	writer.Wait()
	_ = to.Close()
	_ = from.Close()
}

// readMessage appends one whole message in the Redis protocol to b.
func readMessage(r *bufio.Reader, b []byte) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	b = append(b, line...)
	kind := line[0]
	if strings.IndexByte("+-:_,#(", kind) >= 0 {
		return b, nil
	}
	n, err := strconv.Atoi(string(line[1 : len(line)-2]))
	if err != nil {
		return nil, err
	}
	switch kind {
	case '$', '=', '!':
		if n < 0 {
			return b, nil
		}
		body := make([]byte, n+2)
		_, err := io.ReadFull(r, body)
		return append(b, body...), err
	case '*', '~', '>':
	case '%':
		n *= 2
	default:
		return nil, fmt.Errorf("message of kind %q", kind)
	}
	for range n {
		if b, err = readMessage(r, b); err != nil {
			return nil, err
		}
	}
	return b, nil
}
