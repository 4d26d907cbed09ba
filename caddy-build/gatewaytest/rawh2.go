package gatewaytest

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// SendH2 is the Sender of HTTP/2.
func (g *Gateway) SendH2(r RawRequest) (Response, error) { return response(g.OpenH2(r)) }

// OpenH2 is the Opener of HTTP/2.
func (g *Gateway) OpenH2(r RawRequest) (*Stream, error) {
	conn, err := g.DialH2()
	if err != nil {
		return nil, err
	}
	s, err := conn.Open(g.withDefaults(r))
	if err != nil {
		_ = conn.conn.Close()
	}
	return s, err
}

// An H2Conn is a connection for several requests at once. While one answer is
// read, what comes for another is dropped.
type H2Conn struct {
	conn   net.Conn
	framer *http2.Framer
	next   uint32
}

// DialH2 opens a connection that speaks HTTP/2.
func (g *Gateway) DialH2() (*H2Conn, error) {
	conn, err := tls.Dial("tcp", g.Addr, g.TLSConfig("h2"))
	if err != nil {
		return nil, err
	}
	c := &H2Conn{conn: conn, framer: http2.NewFramer(conn, conn), next: 1}
	c.framer.AllowIllegalWrites = true
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return nil, err
	}
	return c, c.framer.WriteSettings()
}

// pseudoHeaders are what HTTP/2 and HTTP/3 have instead of a request line.
func (r RawRequest) pseudoHeaders() [][2]string {
	fields := [][2]string{{":method", r.Method}}
	if r.Method != http.MethodConnect || r.Protocol != "" {
		fields = append(fields, [2]string{":scheme", "https"}, [2]string{":path", r.Path})
	}
	fields = append(fields, [2]string{":authority", r.Authority})
	if r.Protocol != "" {
		fields = append(fields, [2]string{":protocol", r.Protocol})
	}
	return fields
}

func writeH2(framer *http2.Framer, id uint32, r RawRequest) error {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	write := func(name, value string) error {
		return encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
	}
	for _, field := range r.pseudoHeaders() {
		if err := write(field[0], field[1]); err != nil {
			return err
		}
	}
	for _, line := range r.Header {
		name, value := splitLine(line)
		if err := write(strings.ToLower(name), value); err != nil {
			return err
		}
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true,
		EndStream: r.Body == "" && r.Trailer == nil && r.Protocol == "",
	}); err != nil {
		return err
	}
	if r.Body != "" {
		if err := framer.WriteData(id, r.Trailer == nil, []byte(r.Body)); err != nil {
			return err
		}
	}
	if r.Trailer == nil {
		return nil
	}
	block.Reset()
	for _, line := range r.Trailer {
		name, value := splitLine(line)
		if err := write(strings.ToLower(name), value); err != nil {
			return err
		}
	}
	return framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true,
	})
}

// Open sends a request and waits for the head of its answer.
func (c *H2Conn) Open(r RawRequest) (*Stream, error) {
	id := c.next
	c.next += 2
	if err := writeH2(c.framer, id, r); err != nil {
		return nil, err
	}
	body := &h2Body{conn: c, id: id}
	s := &Stream{Header: make(http.Header), Reader: body, close: func() { _ = c.conn.Close() }}
	for s.Status < http.StatusOK {
		frame, err := c.read(id)
		if err != nil {
			return nil, err
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, field := range frame.Fields {
				s.addField(field.Name, field.Value)
			}
			body.ended = frame.StreamEnded()
		case *http2.RSTStreamFrame:
			return nil, resetError(frame)
		}
	}
	return s, nil
}

// read returns the next frame of a stream and answers those that want it.
func (c *H2Conn) read(id uint32) (http2.Frame, error) {
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return nil, err
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = c.framer.WriteSettingsAck()
			}
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo {
				err = fmt.Errorf("the server ended the connection: %v", frame.ErrCode)
			}
		}
		if err != nil {
			return nil, err
		}
		if frame.Header().StreamID == id {
			return frame, nil
		}
	}
}

// h2Body is the body of an answer.
type h2Body struct {
	conn  *H2Conn
	id    uint32
	rest  []byte
	ended bool
}

// Read implements io.Reader.
func (b *h2Body) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.ended {
			return 0, io.EOF
		}
		frame, err := b.conn.read(b.id)
		if err != nil {
			return 0, err
		}
		switch frame := frame.(type) {
		case *http2.DataFrame:
			b.rest, b.ended = bytes.Clone(frame.Data()), frame.StreamEnded()
			if len(b.rest) > 0 {
				for _, id := range []uint32{0, b.id} {
					// If this fails, so does the next read.
					_ = b.conn.framer.WriteWindowUpdate(id, frame.Length)
				}
			}
		case *http2.MetaHeadersFrame:
			b.ended = frame.StreamEnded()
		case *http2.RSTStreamFrame:
			return 0, resetError(frame)
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func resetError(frame *http2.RSTStreamFrame) error {
	return fmt.Errorf("the server reset the stream: %v", frame.ErrCode)
}

func (s *Stream) addField(name, value string) {
	if name == ":status" {
		s.Status, _ = strconv.Atoi(value)
		return
	}
	s.Header.Add(name, value)
}
