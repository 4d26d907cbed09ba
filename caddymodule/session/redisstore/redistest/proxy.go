package redistest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
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

	gate sync.RWMutex // held for writing while frozen

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	done  bool
}

// StartProxy forwards to target.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
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

	var both sync.WaitGroup
	both.Go(func() {
		p.questions(server, client)
		_ = server.Close()
		_ = client.Close()
	})
	p.answers(client, server)
	_ = server.Close()
	_ = client.Close()
	both.Wait()

	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, client)
	delete(p.conns, server)
}

func (p *Proxy) questions(to io.Writer, from io.Reader) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !p.pass(to, buffer[:n]) {
			return
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) answers(to io.Writer, from io.Reader) {
	r := bufio.NewReader(from)
	for {
		message, err := readMessage(r, nil)
		if err != nil {
			return
		}
		messages := [][]byte{message}
		if edit := p.edit.Load(); edit != nil {
			messages = (*edit)(message)
		}
		for _, m := range messages {
			if !p.pass(to, m) {
				return
			}
		}
	}
}

// pass writes when the gate is open.
func (p *Proxy) pass(to io.Writer, b []byte) bool {
	p.gate.RLock()
	defer p.gate.RUnlock()
	_, err := to.Write(b)
	return err == nil
}

// readMessage appends one whole message in the Redis protocol to b.
func readMessage(r *bufio.Reader, b []byte) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	b = append(b, line...)
	elements := 0
	switch line[0] {
	case '+', '-', ':', '_', ',', '#', '(':
		return b, nil
	case '$', '=', '!', '*', '~', '>', '%':
		if elements, err = strconv.Atoi(string(line[1 : len(line)-2])); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("message of kind %q", line[0])
	}
	switch line[0] {
	case '$', '=', '!':
		if elements < 0 {
			return b, nil
		}
		body := make([]byte, elements+2)
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, err
		}
		return append(b, body...), nil
	case '%':
		elements *= 2
	}
	for range elements {
		if b, err = readMessage(r, b); err != nil {
			return nil, err
		}
	}
	return b, nil
}
