package caddymodule

import (
	"context"
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"
)

// serveBackup streams a consistent copy of the store.
func serveBackup(g gateway, w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := &countingWriter{w: w, deadline: http.NewResponseController(w).SetWriteDeadline}
	err := g.sessions.Backup(r.Context(), out)
	if out.failed {
		err = context.Canceled // nobody takes it any more; the store is well
	}
	g.recordAction(r, "backup", err, zap.Int64("bytes", out.n))
	if err != nil && out.n > 0 {
		// The status is on its way. A connection that breaks off tells the
		// client that what it has is not the whole.
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		w.Header().Del("Content-Type")
	}
	return err
}

// countingWriter counts what went through it, and notes if it could not. Its
// deadline lets a store that closes give up on a client that does not read.
type countingWriter struct {
	w        io.Writer
	n        int64
	failed   bool
	deadline func(time.Time) error
}

func (c *countingWriter) SetWriteDeadline(t time.Time) error { return c.deadline(t) }

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.failed = c.failed || err != nil
	return n, err
}
