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
	"time"
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

	delay atomic.Int64 // of each piece, in each direction

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
	later := p.newLine(to)
	defer later.end()
	for {
		buffer := make([]byte, 32<<10)
		n, err := from.Read(buffer)
		if n > 0 && !later.pass(buffer[:n]) {
			return
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) answers(to io.Writer, from io.Reader) {
	r := bufio.NewReader(from)
	later := p.newLine(to)
	defer later.end()
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
			if !later.pass(m) {
				return
			}
		}
	}
}

// A line is one direction of a connection: pieces leave it in their order, each
// after the proxy's delay, however many are under way.
type line struct {
	proxy  *Proxy
	pieces chan piece
	failed chan struct{} // closed when a write failed
	done   chan struct{}
}

type piece struct {
	due   time.Time
	bytes []byte
}

func (p *Proxy) newLine(to io.Writer) *line {
	l := &line{proxy: p, pieces: make(chan piece, 1024), failed: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		broken := false
		for piece := range l.pieces {
			if broken {
				continue
			}
			if wait := time.Until(piece.due); wait > 0 {
				<-time.After(wait)
			}
			p.gate.RLock()
			_, err := to.Write(piece.bytes)
			p.gate.RUnlock()
			if err != nil {
				broken = true
				close(l.failed)
			}
		}
	}()
	return l
}

// pass takes bytes, which the caller does not change any more.
func (l *line) pass(b []byte) bool {
	select {
	case l.pieces <- piece{time.Now().Add(time.Duration(l.proxy.delay.Load())), b}:
		return true
	case <-l.failed:
		return false
	}
}

// end waits until everything has left.
func (l *line) end() {
	close(l.pieces)
	<-l.done
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
