package caddymodule

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// progressEvery is how often a progress line is drawn at most.
const progressEvery = 200 * time.Millisecond

// barWidth is the width of a progress bar in characters.
const barWidth = 30

// progress draws one line on a terminal while something takes long. Elsewhere,
// such as in a log, it draws nothing.
type progress struct {
	out   io.Writer // nil: not a terminal
	what  string
	total int64 // 0: not known
	unit  func(int64) string
	drawn time.Time
	done  int64
}

// newProgress begins a line on the command's stderr. total may be 0; unit
// writes an amount for people.
func newProgress(cmd *cobra.Command, what string, total int64, unit func(int64) string) *progress {
	p := &progress{what: what, total: total, unit: unit}
	if f, ok := cmd.ErrOrStderr().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.out = f
	}
	return p
}

// set says how much is done.
func (p *progress) set(done int64) {
	p.done = done
	if p.out == nil || time.Since(p.drawn) < progressEvery {
		return
	}
	p.drawn = time.Now()
	fmt.Fprintf(p.out, "\r%s\x1b[K", p.line())
}

func (p *progress) line() string {
	if p.total <= 0 {
		return fmt.Sprintf("%s %s", p.what, p.unit(p.done))
	}
	share := min(1, float64(p.done)/float64(p.total))
	filled := int(share * barWidth)
	return fmt.Sprintf("%s [%s%s] %3.0f%% of %s", p.what,
		strings.Repeat("#", filled), strings.Repeat(".", barWidth-filled), share*100, p.unit(p.total))
}

// end removes the line, so that what comes next stands alone.
func (p *progress) end() {
	if p.out != nil && !p.drawn.IsZero() {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// reader returns r, watched by the progress.
func (p *progress) reader(r io.Reader) io.Reader { return &watchedReader{r, p} }

type watchedReader struct {
	r io.Reader
	p *progress
}

func (w *watchedReader) Read(b []byte) (int, error) {
	n, err := w.r.Read(b)
	w.p.set(w.p.done + int64(n))
	return n, err
}
