// Package draw draws panels of lines as an SVG, for the documents.
package draw

import (
	"bytes"
	"fmt"
	"html"
)

const style = `<style>.t{fill:#1c2420}.g{fill:#5c6a63}.l{stroke:#07a050}.m{stroke:#2f6fd0}.x{stroke:#c6d0ca}.k{stroke:#c8503c}
@media(prefers-color-scheme:dark){.t{fill:#e6ece9}.g{fill:#9aa8a1}.l{stroke:#2fc477}.m{stroke:#7fb0ff}.x{stroke:#4a554f}.k{stroke:#ff8a75}}</style>`

// Classes of lines.
const (
	First  = "l" // green
	Second = "m" // blue
	Mark   = "k" // red
)

// A Plot is a drawing of panels, two in a row.
type Plot struct {
	b      bytes.Buffer
	panels int
}

// New begins a drawing with room for some panels.
func New(label, caption string, panels int) *Plot {
	p := new(Plot)
	fmt.Fprintf(&p.b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 %d" font-family="system-ui,sans-serif" font-size="12" role="img" aria-label="%s">%s`,
		30+(panels+1)/2*150, html.EscapeString(label), style)
	fmt.Fprintf(&p.b, "<text class=\"g\" x=\"40\" y=\"20\">%s</text>\n", html.EscapeString(caption))
	return p
}

// A Panel is a diagram of 300 × 90. Its coordinates go from 0 to 1, from the left
// and from the bottom.
type Panel struct {
	plot *Plot
	x, y int
}

// Panel adds the next panel. top is the text at its upper end, and left and right
// those at the ends of its base.
func (p *Plot) Panel(title, note, top, left, right string) *Panel {
	d := &Panel{plot: p, x: 40 + p.panels%2*350, y: 75 + p.panels/2*150}
	p.panels++
	fmt.Fprintf(&p.b, `<text class="t" x="%d" y="%d">%s</text>`, d.x, d.y-20, html.EscapeString(title))
	d.text(0, -6, "start", note)
	d.text(-3, 9, "end", top)
	d.text(0, 102, "start", left)
	d.text(300, 102, "end", right)
	fmt.Fprintf(&p.b, `<path class="x" fill="none" d="M%d %dv90h300"/>`, d.x, d.y)
	return d
}

func (d *Panel) text(x, y int, anchor, text string) {
	fmt.Fprintf(&d.plot.b, `<text class="g" x="%d" y="%d" font-size="10" text-anchor="%s">%s</text>`, d.x+x, d.y+y, anchor, html.EscapeString(text))
}

// Line draws a line through points. With dots each of them is shown.
func (d *Panel) Line(class string, dots bool, points ...[2]float64) {
	b := &d.plot.b
	fmt.Fprintf(b, `<polyline class="%s" fill="none" points="`, class)
	for _, p := range points {
		fmt.Fprintf(b, "%.1f,%.1f ", float64(d.x)+300*p[0], float64(d.y)+90*(1-p[1]))
	}
	fmt.Fprintln(b, `"/>`)
	for _, p := range points {
		if dots {
			fmt.Fprintf(b, `<circle class="%s" fill="none" r="2.5" cx="%.1f" cy="%.1f"/>`, class, float64(d.x)+300*p[0], float64(d.y)+90*(1-p[1]))
		}
	}
}

// SVG ends the drawing and returns it.
func (p *Plot) SVG() []byte {
	fmt.Fprintln(&p.b, "</svg>")
	return p.b.Bytes()
}
