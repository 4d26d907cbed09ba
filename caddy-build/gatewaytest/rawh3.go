package gatewaytest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
)

// Types of frames and streams (RFC 9114, section 7.2 and 6.2).
const (
	h3Data          = 0x0
	h3Headers       = 0x1
	h3Settings      = 0x4
	h3ControlStream = 0x0
)

// SendH3 is the Sender of HTTP/3.
func (g *Gateway) SendH3(r RawRequest) (Response, error) { return response(g.OpenH3(r)) }

// OpenH3 is the Opener of HTTP/3.
func (g *Gateway) OpenH3(r RawRequest) (*Stream, error) {
	ctx, cancel := context.WithTimeout(g.tb.Context(), patience)
	conn, err := quic.DialAddr(ctx, g.Addr, g.TLSConfig(http3.NextProtoH3), &quic.Config{KeepAlivePeriod: time.Second})
	if err != nil {
		cancel()
		return nil, err
	}
	hangUp := func() {
		_ = conn.CloseWithError(0, "")
		cancel()
	}
	s, err := openH3(ctx, conn, g.withDefaults(r))
	if err != nil {
		hangUp()
		return nil, err
	}
	s.close = hangUp
	return s, nil
}

func openH3(ctx context.Context, conn *quic.Conn, r RawRequest) (*Stream, error) {
	control, err := conn.OpenUniStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := control.Write(appendH3(quicvarint.Append(nil, h3ControlStream), h3Settings, nil)); err != nil {
		return nil, err
	}
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	// The server may refuse before it has read everything.
	_, writeErr := stream.Write(encodeH3(r))
	if r.Protocol == "" {
		writeErr = errors.Join(writeErr, stream.Close())
	}
	body := &h3Body{stream: quicvarint.NewReader(stream)}
	s := &Stream{Header: make(http.Header), Reader: body}
	for s.Status < http.StatusOK {
		kind, payload, err := body.frame()
		if err != nil {
			return nil, errors.Join(err, writeErr)
		}
		if kind == h3Headers {
			if err := s.addFields(payload); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

func appendH3(b []byte, kind uint64, payload []byte) []byte {
	b = quicvarint.Append(b, kind)
	b = quicvarint.Append(b, uint64(len(payload)))
	return append(b, payload...)
}

func encodeH3(r RawRequest) []byte {
	frames := appendH3(nil, h3Headers, encodeFields(r.pseudoHeaders(), r.Header))
	if r.Body != "" {
		frames = appendH3(frames, h3Data, []byte(r.Body))
	}
	if r.Trailer != nil {
		frames = appendH3(frames, h3Headers, encodeFields(nil, r.Trailer))
	}
	return frames
}

func encodeFields(pseudo [][2]string, lines []string) []byte {
	var block bytes.Buffer
	encoder := qpack.NewEncoder(&block)
	// Writing to a buffer does not fail.
	for _, field := range pseudo {
		_ = encoder.WriteField(qpack.HeaderField{Name: field[0], Value: field[1]})
	}
	for _, line := range lines {
		name, value := splitLine(line)
		_ = encoder.WriteField(qpack.HeaderField{Name: strings.ToLower(name), Value: value})
	}
	return block.Bytes()
}

// h3Body is the body of an answer.
type h3Body struct {
	stream quicvarint.Reader
	rest   []byte
}

func (b *h3Body) frame() (kind uint64, payload []byte, err error) {
	if kind, err = quicvarint.Read(b.stream); err != nil {
		return 0, nil, err
	}
	length, err := quicvarint.Read(b.stream)
	if err != nil {
		return 0, nil, err
	}
	payload = make([]byte, length)
	_, err = io.ReadFull(b.stream, payload)
	return kind, payload, err
}

// Read implements io.Reader.
func (b *h3Body) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		kind, payload, err := b.frame()
		if err != nil {
			return 0, err
		}
		if kind == h3Data {
			b.rest = payload
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (s *Stream) addFields(block []byte) error {
	decode := qpack.NewDecoder().Decode(block)
	for {
		field, err := decode()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s.addField(field.Name, field.Value)
	}
}
