package caddymodule

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// openRequests are the requests of users that are under way. Most are over in
// no time; those that stay, WebSockets and streams, end when their session
// does. One timer looks at all of them, so a short request costs two turns of
// a list under a lock, and no timer or context of its own.
type openRequests struct {
	app   *App
	every time.Duration // half of recheck: nobody waits longer than the whole

	mu    sync.Mutex
	first *userResponse
	armed bool
}

// openRequest is a request's place in the list, guarded by the list's lock.
type openRequest struct {
	next, prev *userResponse
	listed     bool
	conn       net.Conn // once it is taken over
}

func newOpenRequests(recheck time.Duration, app *App) *openRequests {
	return &openRequests{app: app, every: recheck / 2}
}

func (o *openRequests) add(u *userResponse) {
	o.mu.Lock()
	defer o.mu.Unlock()
	u.stream.listed = true
	u.stream.next = o.first
	if o.first != nil {
		o.first.stream.prev = u
	}
	o.first = u
	if !o.armed {
		o.armed = true
		time.AfterFunc(o.every, o.look)
	}
}

func (o *openRequests) remove(u *userResponse) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if u.stream.prev != nil {
		u.stream.prev.stream.next = u.stream.next
	} else {
		o.first = u.stream.next
	}
	if u.stream.next != nil {
		u.stream.next.stream.prev = u.stream.prev
	}
	u.stream = openRequest{}
}

func (o *openRequests) hijacked(u *userResponse, conn net.Conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	u.stream.conn = conn
}

// look ends the requests whose session has ended. The timer is armed again
// only while something is open, so a configuration that has gone leaves
// nothing behind.
func (o *openRequests) look() {
	o.mu.Lock()
	var open []*userResponse
	for u := o.first; u != nil; u = u.stream.next {
		open = append(open, u)
	}
	o.armed = len(open) > 0
	if o.armed {
		time.AfterFunc(o.every, o.look)
	}
	o.mu.Unlock()

	for _, u := range open {
		if o.ended(u.session) {
			o.end(u)
		}
	}
}

// ended reports whether a session is known to have ended. While the store
// cannot say, a stream that was let in goes on.
func (o *openRequests) ended(s *session.Session) bool {
	sessions, err := o.app.sessions()
	if err != nil {
		return errors.Is(err, errNotOpen)
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.every)
	defer cancel()
	err = sessions.Alive(ctx, s)
	return errors.Is(err, session.ErrInvalid) || errors.Is(err, session.ErrClosed)
}

// end breaks a request off, if it is still under way: afterwards its connection
// may be another request's. A connection that was taken over is closed. On
// others the deadlines pass: HTTP/1.1 and HTTP/2 then cancel the request, and
// HTTP/3 fails at the next write.
func (o *openRequests) end(u *userResponse) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !u.stream.listed {
		return
	}
	if u.stream.conn != nil {
		_ = u.stream.conn.Close()
		return
	}
	past := time.Unix(1, 0)
	control := http.NewResponseController(u.ResponseWriter)
	_ = control.SetReadDeadline(past)
	_ = control.SetWriteDeadline(past)
}
