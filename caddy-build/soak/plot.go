package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// panels are what is drawn of a sample.
var panels = []string{"resident memory, MiB", "live heap and garbage, MiB", "goroutines", "file descriptors", "disk, MiB", "requests/s"}

// A sample has a value for each panel.
type sample [6]float64

// watch takes 240 samples, prints one in ten, and returns them when ctx has ended.
func (s *soak) watch(ctx context.Context) (samples []sample) {
	admin := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.dir+"/admin.sock")
	}}}
	tick := time.NewTicker(s.length / 240)
	defer tick.Stop()
	before := s.requests.Load()
	for {
		select {
		case <-ctx.Done():
			return samples
		case <-tick.C:
		}
		resp, err := admin.Get("http://admin/metrics")
		if err != nil { // it was killed
			samples = append(samples, samples[max(0, len(samples)-1):]...)
			continue
		}
		now := s.requests.Load()
		var p sample
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			var value float64
			name, text, _ := strings.Cut(lines.Text(), " ")
			_, _ = fmt.Sscan(text, &value)
			switch name {
			case "process_resident_memory_bytes":
				p[0] = value / (1 << 20)
			case "go_memstats_heap_alloc_bytes":
				p[1] = value / (1 << 20)
			case "go_goroutines":
				p[2] = value
			case "process_open_fds":
				p[3] = value
			}
		}
		_ = resp.Body.Close()
		p[4] = diskUsage(s.dir+"/sessions") / (1 << 20)
		p[5] = float64(now-before) / (s.length / 240).Seconds()
		before = now
		samples = append(samples, p)
		if len(samples)%10 == 0 {
			fmt.Fprintf(os.Stderr, "soak: %3d of 240: %.0f\n", len(samples), p)
		}
	}
}

// diskUsage returns the bytes that a directory occupies. A file that is gone counts nothing.
func diskUsage(dir string) (sum float64) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil {
			if info, err := entry.Info(); err == nil {
				sum += float64(info.Sys().(*syscall.Stat_t).Blocks) * 512
			}
		}
		return nil
	})
	return sum
}

const style = `<style>.t{fill:#1c2420}.g{fill:#5c6a63}.l{stroke:#07a050}.x{stroke:#c6d0ca}.k{stroke:#c8503c}
@media(prefers-color-scheme:dark){.t{fill:#e6ece9}.g{fill:#9aa8a1}.l{stroke:#2fc477}.x{stroke:#4a554f}.k{stroke:#ff8a75}}</style>`

// plot draws the samples: a panel of 300 × 90 for each value, in three rows.
func plot(samples []sample, s *soak) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 480" font-family="system-ui,sans-serif" font-size="12" role="img" aria-label="soak">%s`, style)
	fmt.Fprintf(&b, "<text class=\"g\" x=\"40\" y=\"20\">%v, %d requests, %d logins, %d WebSockets, 20 reloads; red: kill -9</text>\n",
		s.length, s.requests.Load(), s.logins.Load(), streams)
	for i, title := range panels {
		values := make([]float64, len(samples))
		for j, p := range samples {
			values[j] = p[i]
		}
		top := max(slices.Max(values), 1)
		x, y := 40+i%2*350, 75+i/2*150
		quarter := len(values) / 4
		summary := fmt.Sprintf("%.0f in the second quarter, %.0f in the last", median(values[quarter:2*quarter]), median(values[3*quarter:]))
		fmt.Fprintf(&b, `<text class="t" x="%d" y="%d">%s</text><text class="g" x="%d" y="%d" font-size="10">%s</text>`, x, y-20, title, x, y-6, summary)
		fmt.Fprintf(&b, `<path class="x" fill="none" d="M%d %dv90h300"/><text class="g" x="%d" y="%d" font-size="10" text-anchor="end">%.0f</text>`, x, y, x-3, y+9, top)
		at := float64(x) + 300*s.killed.Seconds()/s.length.Seconds()
		fmt.Fprintf(&b, `<path class="k" stroke-dasharray="3" d="M%.1f %dv90"/><polyline class="l" fill="none" points="`, at, y)
		for j, v := range values {
			fmt.Fprintf(&b, "%.1f,%.1f ", float64(x)+300*float64(j)/float64(len(values)), float64(y)+90*(1-v/top))
		}
		fmt.Fprintln(&b, `"/>`)
		fmt.Printf("%s: %s\n", title, summary)
	}
	fmt.Fprintln(&b, "</svg>")
	return b.Bytes()
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
