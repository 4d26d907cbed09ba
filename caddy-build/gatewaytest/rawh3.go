package gatewaytest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

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
func (g *Gateway) SendH3(r RawRequest) (Response, error) {
	r = g.withDefaults(r)
	ctx, cancel := context.WithTimeout(g.tb.Context(), patience)
	defer cancel()
	conn, err := quic.DialAddr(ctx, g.Addr, g.TLSConfig(http3.NextProtoH3), nil)
	if err != nil {
		return Response{}, err
	}
	defer func() { _ = conn.CloseWithError(0, "") }()
	control, err := conn.OpenUniStreamSync(ctx)
	if err != nil {
		return Response{}, err
	}
	if _, err := control.Write(appendH3(quicvarint.Append(nil, h3ControlStream), h3Settings, nil)); err != nil {
		return Response{}, err
	}
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return Response{}, err
	}
	defer stream.CancelRead(0)
	// The server may refuse before it has read everything.
	_, writeErr := stream.Write(encodeH3(r))
	if err := stream.Close(); err != nil && writeErr == nil {
		writeErr = err
	}
	resp, err := readH3(quicvarint.NewReader(stream))
	if err != nil {
		return resp, errors.Join(err, writeErr)
	}
	return resp, nil
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

func readH3(stream quicvarint.Reader) (Response, error) {
	resp := Response{Header: make(http.Header)}
	var body bytes.Buffer
	for {
		kind, err := quicvarint.Read(stream)
		if err == io.EOF && resp.Status >= http.StatusOK {
			resp.Body = body.String()
			return resp, nil
		}
		if err != nil {
			return resp, err
		}
		length, err := quicvarint.Read(stream)
		if err != nil {
			return resp, err
		}
		payload := make([]byte, length)
		if _, err := io.ReadFull(stream, payload); err != nil {
			return resp, err
		}
		switch kind {
		case h3Data:
			body.Write(payload)
		case h3Headers:
			if err := resp.addFields(payload); err != nil {
				return resp, err
			}
		}
	}
}

func (r *Response) addFields(block []byte) error {
	decode := qpack.NewDecoder().Decode(block)
	for {
		field, err := decode()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		r.addField(field.Name, field.Value)
	}
}
