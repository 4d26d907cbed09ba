package gatewaytest

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// SendH2 is the Sender of HTTP/2.
func (g *Gateway) SendH2(r RawRequest) (Response, error) {
	r = g.withDefaults(r)
	conn, err := tls.Dial("tcp", g.Addr, g.TLSConfig("h2"))
	if err != nil {
		return Response{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return Response{}, err
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return Response{}, err
	}
	framer := http2.NewFramer(conn, conn)
	framer.AllowIllegalWrites = true
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := framer.WriteSettings(); err != nil {
		return Response{}, err
	}
	if err := writeH2(framer, r); err != nil {
		return Response{}, err
	}
	return readH2(framer)
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

func writeH2(framer *http2.Framer, r RawRequest) error {
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
		StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true,
		EndStream: r.Body == "" && r.Trailer == nil,
	}); err != nil {
		return err
	}
	if r.Body != "" {
		if err := framer.WriteData(1, r.Trailer == nil, []byte(r.Body)); err != nil {
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
		StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true,
	})
}

func readH2(framer *http2.Framer) (Response, error) {
	resp := Response{Header: make(http.Header)}
	var body bytes.Buffer
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return resp, err
		}
		ended := false
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				if err := framer.WriteSettingsAck(); err != nil {
					return resp, err
				}
			}
		case *http2.MetaHeadersFrame:
			for _, field := range frame.Fields {
				resp.addField(field.Name, field.Value)
			}
			ended = frame.StreamEnded()
		case *http2.DataFrame:
			body.Write(frame.Data())
			ended = frame.StreamEnded()
		case *http2.RSTStreamFrame:
			return resp, fmt.Errorf("the server reset the stream: %v", frame.ErrCode)
		case *http2.GoAwayFrame:
			return resp, fmt.Errorf("the server ended the connection: %v", frame.ErrCode)
		}
		if ended {
			resp.Body = body.String()
			return resp, nil
		}
	}
}

func (r *Response) addField(name, value string) {
	if name == ":status" {
		r.Status, _ = strconv.Atoi(value)
		return
	}
	r.Header.Add(name, value)
}
