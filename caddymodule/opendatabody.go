package caddymodule

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What the Content-Type makes of a body.
type jsonClaim int

const (
	claimsOther     jsonClaim = iota // such as an upload
	claimsPlainJSON                  // one media type of JSON
	claimsUnclear                    // a text, a form, none, or several: some upstreams look for JSON in it
)

// claimsJSON judges by the headers whether a body is to be looked at. JSON that cannot be read
// is refused, because the openData that a client put into it could not be removed.
func claimsJSON(header http.Header) (jsonClaim, error) {
	claim := claimsUnclear
	if types := header["Content-Type"]; len(types) == 1 {
		if mediaType, _, err := mime.ParseMediaType(types[0]); err == nil {
			switch {
			case mediaType == "application/json", mediaType == "text/json", strings.HasSuffix(mediaType, "+json"):
				_, err := plainMediaType(header)
				return claimsPlainJSON, err
			case strings.HasPrefix(mediaType, "text/"), mediaType == "application/x-www-form-urlencoded":
			default:
				claim = claimsOther
			}
		}
	}
	if encoding := header["Content-Encoding"]; claim == claimsUnclear && len(encoding) > 0 && !slices.Equal(encoding, []string{"identity"}) {
		claim = claimsOther
	}
	return claim, nil
}

// peekObject reads a body that begins like a JSON object, up to maxOpenDataBody and one byte,
// and leaves the request with the whole body. It returns nil for any other body.
func peekObject(w http.ResponseWriter, r *http.Request) (body []byte, whole bool, err error) {
	control := http.NewResponseController(w)
	// Not every connection has deadlines; then the server's own hold.
	_ = control.SetReadDeadline(time.Now().Add(openDataBodyTimeout))
	buffered := bufio.NewReaderSize(r.Body, 512)
	start, err := buffered.Peek(1)
	for n := 2; err == nil && n <= buffered.Size() && isBeforeJSON(start[len(start)-1]); n++ {
		start, err = buffered.Peek(n)
	}
	rest := io.Reader(buffered)
	if len(start) > 0 && (start[len(start)-1] == '{' || err == nil && isBeforeJSON(start[len(start)-1])) {
		body, err = io.ReadAll(io.LimitReader(buffered, maxOpenDataBody+1))
		rest = io.MultiReader(bytes.NewReader(body), buffered)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, badRequest("the body could not be read")
	}
	_ = control.SetReadDeadline(time.Time{})
	r.Body = readCloser{rest, r.Body}
	return body, len(body) <= maxOpenDataBody, nil
}

// isBeforeJSON reports whether a byte is white space or of a byte order mark.
func isBeforeJSON(c byte) bool { return strings.IndexByte(" \t\r\n\xef\xbb\xbf", c) >= 0 }

type readCloser struct {
	io.Reader
	io.Closer
}

// setBody gives the request a body that has been read.
func setBody(r *http.Request, body []byte) {
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.TransferEncoding = nil
	r.Trailer = nil // they came with the body that was read
	r.Header.Set("Content-Length", strconv.Itoa(len(body)))
}
