package fakewechat

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// The moments at which a Script can hang up.
const (
	HangUpBefore = "before" // nothing is answered
	HangUpAfter  = "after"  // the headers and half of the body are answered
)

// A Script says how the next calls are answered. Its zero value answers as
// WeChat does.
//
// A script with an Errcode other than 0, a Body or Raw bytes takes the place
// of the answer, and the code stays unspent. Every other script spoils a
// genuine answer on its way: the code is spent before anything else happens.
type Script struct {
	// Calls is how many calls the script is for; 0 means 1, and a negative number all until Reset.
	Calls int `json:"calls,omitempty"`

	// Path is the API that the script is for, such as /wxa/msg_sec_check. The
	// default is /sns/jscode2session.
	Path string `json:"path,omitempty"`

	// AppID and Code, if set, restrict it to calls with them.
	AppID string `json:"appid,omitempty"`
	Code  string `json:"code,omitempty"`

	// Errcode is answered, with Errmsg or a stock one. 0 is the
	// genuine answer in the older form, with errcode 0 and expires_in.
	Errcode *int64 `json:"errcode,omitempty"`
	Errmsg  string `json:"errmsg,omitempty"`

	// ErrcodeText sends the errcode as a string, as has been seen.
	ErrcodeText bool `json:"errcode_text,omitempty"`

	// DelayMS waits for so many milliseconds before answering; Hold waits for
	// Release. Both end when the client goes.
	DelayMS int  `json:"delay_ms,omitempty"`
	Hold    bool `json:"hold,omitempty"`

	// Status and Redirect change the HTTP status and add a Location.
	Status   int    `json:"status,omitempty"`
	Redirect string `json:"redirect,omitempty"`

	// Body is the body instead of JSON from WeChat; Raw is everything that
	// goes over the connection, the status line included.
	Body *string `json:"body,omitempty"`
	Raw  *string `json:"raw,omitempty"`

	// Truncate sends so many bytes less than the Content-Length says.
	Truncate int `json:"truncate,omitempty"`

	// ContentLength is said to be the length of the body, which it is not.
	ContentLength *int `json:"content_length,omitempty"`

	// HangUp is HangUpBefore or HangUpAfter.
	HangUp string `json:"hang_up,omitempty"`

	// DripMS sends one byte of the body each so many milliseconds.
	DripMS int `json:"drip_ms,omitempty"`

	// Endless sends a body that does not end.
	Endless bool `json:"endless,omitempty"`

	// Stall sends what Raw, Truncate or ContentLength leave, and then neither
	// goes on nor hangs up.
	Stall bool `json:"stall,omitempty"`
}

// Errcode returns a Script that answers one call with an errcode.
func Errcode(errcode int64) Script { return Script{Errcode: &errcode} }

// Body returns a Script that answers one call with a body of status 200.
func Body(body string) Script { return Script{Body: &body} }

// Script adds scripts for the calls to come. Each call takes the oldest that fits.
func (s *Server) Script(scripts ...Script) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, script := range scripts {
		if script.Calls == 0 {
			script.Calls = 1
		}
		s.scripts = append(s.scripts, &script)
	}
}

// Release lets the calls that are held now go on.
func (s *Server) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.release)
	s.release = make(chan struct{})
}

func (script *Script) isFor(call Call) bool {
	return cmp.Or(script.Path, loginPath) == call.Path &&
		(script.AppID == "" || script.AppID == call.AppID) &&
		(script.Code == "" || script.Code == call.Code)
}

// spoils reports whether the script needs the bare connection.
func (script *Script) spoils() bool {
	return script.Raw != nil || script.Truncate != 0 || script.ContentLength != nil ||
		script.HangUp != "" || script.DripMS != 0 || script.Endless || script.Stall
}

// play answers one call by its script. genuine returns the answer that WeChat
// would give, and what kind of content it is.
func (s *Server) play(w http.ResponseWriter, r *http.Request, script *Script, genuine func() (contentType string, body []byte)) {
	contentType, body := s.body(script, genuine)
	if !s.wait(r, script) {
		panic(http.ErrAbortHandler) // the caller has gone away
	}
	if script.spoils() {
		s.spoil(w, script, body)
		return
	}
	if script.Redirect != "" {
		w.Header().Set("Location", script.Redirect)
	}
	writeReply(w, script.status(), contentType, body)
}

func (script *Script) status() int {
	switch {
	case script.Status != 0:
		return script.Status
	case script.Redirect != "":
		return http.StatusFound
	}
	return http.StatusOK
}

// body returns what is answered if nothing spoils it.
func (s *Server) body(script *Script, genuine func() (string, []byte)) (contentType string, body []byte) {
	switch {
	case script.Raw != nil:
		return "", nil
	case script.Body != nil:
		return jsonAsText, []byte(*script.Body)
	case script.Errcode == nil || *script.Errcode == 0:
		return genuine()
	}
	rep := &reply{Errcode: *script.Errcode, Errmsg: script.Errmsg}
	if script.Errmsg == "" {
		rep = s.fault(*script.Errcode, "scripted error")
	}
	if script.ErrcodeText {
		rep.Errcode = fmt.Sprint(rep.Errcode)
	}
	return jsonAsText, encode(rep)
}

// wait delays or holds a call and reports whether its client is still there.
func (s *Server) wait(r *http.Request, script *Script) bool {
	if script.Hold {
		s.mu.Lock()
		release := s.release
		s.mu.Unlock()
		if !waitFor(s, r, release) {
			return false
		}
	}
	return script.DelayMS == 0 || waitFor(s, r, time.After(time.Duration(script.DelayMS)*time.Millisecond))
}

func waitFor[T any](s *Server, r *http.Request, event <-chan T) bool {
	select {
	case <-event:
		return true
	case <-r.Context().Done():
	case <-s.closed:
	}
	return false
}

// spoil answers on the bare connection, which an http.Server would not let do wrong.
func (s *Server) spoil(w http.ResponseWriter, script *Script, body []byte) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // hanging up is the best that is left
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-s.closed:
		case <-done:
		}
		_ = conn.Close() // which ends a read or write that hangs
	}()
	// A write to a client that is gone fails, and there is nothing to be done about it.
	if s.send(buffered.Writer, script, body) == nil && script.Stall {
		_, _ = io.Copy(io.Discard, buffered.Reader)
	}
}

func (s *Server) send(w *bufio.Writer, script *Script, body []byte) error {
	if script.HangUp == HangUpBefore {
		return nil
	}
	if script.Raw != nil {
		if _, err := w.WriteString(*script.Raw); err != nil {
			return err
		}
		return w.Flush()
	}
	length := len(body)
	if script.ContentLength != nil {
		length = *script.ContentLength
	}
	fmt.Fprintf(w, "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\n", script.status(), http.StatusText(script.status()))
	if script.Redirect != "" {
		fmt.Fprintf(w, "Location: %s\r\n", script.Redirect)
	}
	if script.Endless {
		// Without a length the body ends when the connection does.
		_, _ = w.WriteString("Connection: close\r\n\r\n")
		return sendEndless(w)
	}
	_, _ = w.WriteString("Content-Length: " + strconv.Itoa(length) + "\r\n\r\n")
	switch {
	case script.HangUp == HangUpAfter:
		body = body[:len(body)/2]
	case script.Truncate > 0:
		body = body[:max(0, len(body)-script.Truncate)]
	}
	if script.DripMS > 0 {
		return s.drip(w, body, time.Duration(script.DripMS)*time.Millisecond)
	}
	if _, err := w.Write(body); err != nil {
		return err
	}
	return w.Flush()
}

func (s *Server) drip(w *bufio.Writer, body []byte, interval time.Duration) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for _, b := range body {
		if err := w.WriteByte(b); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-s.closed:
			return net.ErrClosed
		}
	}
	return nil
}

// sendEndless writes as fast as the client reads, until the connection is gone.
func sendEndless(w *bufio.Writer) error {
	if _, err := w.WriteString(`{"openid":"`); err != nil {
		return err
	}
	chunk := bytes.Repeat([]byte("o"), 4096)
	for {
		if _, err := w.Write(chunk); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
}
