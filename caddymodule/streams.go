package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/sync/errgroup"

	"github.com/wxgate/wxgate/caddymodule/session"
)

// openRequests are the requests of users that are under way. Most are over in
// no time; those that stay, WebSockets and streams, end when their session
// does. One timer looks at all of them, so a short request costs two turns of
// a list under a lock, and no timer or context of its own.
type openRequests struct {
	app   *App
	every time.Duration // half of recheck, or of idle_timeout if that is shorter

	mu    sync.Mutex
	first *userResponse
	armed bool
}

func newOpenRequests(recheck time.Duration, app *App) *openRequests {
	return &openRequests{app: app, every: min(recheck, time.Duration(app.Session.IdleTimeout)) / 2}
}

// serve runs the handlers behind the gate for one request of a user.
func (o *openRequests) serve(u *userResponse, r *http.Request, next caddyhttp.Handler) error {
	if r.ProtoMajor == 3 {
		// HTTP/3 alone does not cancel a request whose deadlines pass.
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		u.cancel = cancel
		r = r.WithContext(ctx)
	}
	if r.Body != nil && r.Body != http.NoBody {
		u.body = liveBody{liveReader{r.Body, u}, r.Body}
		r.Body = &u.body
	}
	o.add(u)
	defer o.leave(u)
	err := next.ServeHTTP(u, r)
	if err != nil && !u.wrote {
		// Caddy answers errors itself, on the writer below this one, with the
		// headers that the handlers have left there.
		u.makePrivate(u.Header())
	}
	return err
}

func (o *openRequests) add(u *userResponse) {
	o.mu.Lock()
	defer o.mu.Unlock()
	u.next = o.first
	if o.first != nil {
		o.first.prev = u
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
	if u.prev != nil {
		u.prev.next = u.next
	} else {
		o.first = u.next
	}
	if u.next != nil {
		u.next.prev = u.prev
	}
	u.next, u.prev = nil, nil
}

// leave is the end of a request, after which nothing may touch its connection:
// it may be another request's, and behind a proxy another user's. If ending it
// has begun, the connection is spoilt, so the server must not use it again.
func (o *openRequests) leave(u *userResponse) {
	o.remove(u)
	u.mu.Lock()
	u.left = true
	hijacked := u.conn != nil
	u.mu.Unlock()
	if u.over.Load() && !hijacked {
		panic(http.ErrAbortHandler)
	}
}

// lookers is how many sessions are asked for at a time, so that a store that
// answers slowly is not waited for once for each stream.
const lookers = 16

// look ends the requests whose session has ended. The timer is armed again
// only while something is open, so a configuration that has gone leaves
// nothing behind.
func (o *openRequests) look() {
	var open []*userResponse
	o.mu.Lock()
	for u := o.first; u != nil; u = u.next {
		open = append(open, u)
	}
	o.mu.Unlock()

	var looking errgroup.Group
	looking.SetLimit(lookers)
	for _, u := range open {
		looking.Go(func() error {
			if o.ended(u) {
				u.end()
			}
			return nil
		})
	}
	_ = looking.Wait()

	o.mu.Lock()
	defer o.mu.Unlock()
	o.armed = o.first != nil
	if o.armed {
		time.AfterFunc(o.every, o.look)
	}
}

// ended reports whether a session is known to have ended. The configuration
// that runs now decides: a reload may have shortened sessions. While the store
// cannot say, a stream that was let in goes on; when the last configuration
// has closed the store, there is no answer to come, and it ends. Each session has a
// time of its own to be found: of one for all, a slow store would leave nothing
// to the oldest, look after look.
func (o *openRequests) ended(u *userResponse) bool {
	ctx, cancel := context.WithTimeout(context.Background(), o.every)
	defer cancel()
	app, err := runningApp()
	if err != nil {
		app = o.app
	}
	sessions, err := app.sessions()
	if err != nil {
		return errors.Is(err, errNotOpen)
	}
	if u.moved.Swap(false) {
		err = sessions.Use(ctx, u.session)
	} else {
		err = sessions.Alive(ctx, u.session)
	}
	return errors.Is(err, session.ErrInvalid) || errors.Is(err, session.ErrClosed)
}

// end breaks a request off, if it is still under way. What is written later
// fails by the mark; a waiting read or write is woken: deadlines that have passed end
// reads and writes, and for HTTP/1.1 and HTTP/2 they cancel the request. Each
// look ends it again, in case a deadline was moved at that very moment.
//
// It never waits for a client. Closing a TLS connection would, for seconds, if
// the client does not read.
func (u *userResponse) end() {
	u.over.Store(true)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.left {
		return
	}
	past := time.Unix(1, 0)
	if u.conn != nil {
		_ = u.conn.SetDeadline(past)
		return
	}
	if u.cancel != nil {
		u.cancel()
	}
	_ = http.NewResponseController(u.ResponseWriter).SetReadDeadline(past)
	// Caddy's own writer above it keeps write deadlines in an unguarded field.
	_ = http.NewResponseController(innermost(u.ResponseWriter)).SetWriteDeadline(past)
}

// innermost returns the server's own writer below those that wrap it.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapper.Unwrap()
	}
}
