package serverapi

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/wxgate/wxgate/caddymodule"
	"github.com/wxgate/wxgate/caddymodule/wechat"
)

// relay makes the call and passes WeChat's answer on.
func (h *Handler) relay(c *call, q query) error {
	if c.ContentLength > h.maxBody {
		return &wechat.BodyError{Err: &http.MaxBytesError{Limit: h.maxBody}}
	}
	// A caller that is slow to send or to read must not keep its place for longer than a call may take.
	control := http.NewResponseController(c.ResponseWriter)
	end := time.Now().Add(time.Duration(h.app.APITimeout))
	_, _ = control.SetReadDeadline(end), control.SetWriteDeadline(end)
	defer func() {
		_, _ = control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Time{})
	}()

	ask := wechat.APICall{AppID: c.appID, Method: c.Method, Path: c.URL.Path, Query: q.rest, Header: passed(c.Request.Header)}
	if c.Method == http.MethodPost && c.Body != nil && c.Body != http.NoBody {
		ask.Body, ask.Length = http.MaxBytesReader(c.ResponseWriter, c.Body, h.maxBody), c.ContentLength
	}
	if err := h.addSignatures(c, &ask, &q); err != nil {
		return err
	}
	reply, err := h.app.API().Do(c.Context(), ask)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	c.sends, c.rid = reply.Sends, reply.RID
	if reply.HasErrcode {
		c.errcode = &reply.Errcode
		switch {
		case reply.RefusesToken():
			c.result = caddymodule.APIResultToken
		case reply.Errcode != 0:
			c.result = caddymodule.APIResultErrcode
		}
	}
	for name, values := range reply.Header {
		c.Header()[name] = values
	}
	if reply.Length >= 0 {
		c.Header().Set("Content-Length", strconv.FormatInt(reply.Length, 10))
	}
	c.WriteHeader(reply.Status)
	if _, err := io.Copy(c.ResponseWriter, reply.Body); err != nil {
		c.result = caddymodule.APIResultBadReply
		if c.Context().Err() != nil {
			c.result = caddymodule.APIResultCanceled
		}
		panic(http.ErrAbortHandler) // a reply that breaks off must not look whole
	}
	return nil
}

// passed returns the headers that go to WeChat: the form of the body, and what
// an application that encrypts its calls itself adds. Above all no
// Idempotency-Key, with which the transport would send a POST again.
func passed(header http.Header) http.Header {
	out := make(http.Header)
	for name, values := range header {
		if name == "Content-Type" || strings.HasPrefix(name, "Wechatmp-") {
			out[name] = values[:1]
		}
	}
	return out
}
