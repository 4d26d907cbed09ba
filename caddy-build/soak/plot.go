package main

import (
	"bufio"
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

	"github.com/wxgate/wxgate/caddy-build/draw"
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

// plot draws the samples, a panel for each value.
func plot(samples []sample, s *soak) []byte {
	p := draw.New("soak", fmt.Sprintf("%v, %d requests, %d logins, %d WebSockets, 20 reloads; red: kill -9",
		s.length, s.requests.Load(), s.logins.Load(), streams), len(panels))
	killed := s.killed.Seconds() / s.length.Seconds()
	for i, title := range panels {
		values := make([]float64, len(samples))
		for j, sample := range samples {
			values[j] = sample[i]
		}
		top := max(slices.Max(values), 1)
		quarter := len(values) / 4
		summary := fmt.Sprintf("%.0f in the second quarter, %.0f in the last", median(values[quarter:2*quarter]), median(values[3*quarter:]))
		panel := p.Panel(title, summary, fmt.Sprintf("%.0f", top), "0", s.length.String())
		panel.Line(draw.Mark, false, [2]float64{killed, 0}, [2]float64{killed, 1})
		points := make([][2]float64, len(values))
		for j, v := range values {
			points[j] = [2]float64{float64(j) / float64(len(values)), v / top}
		}
		panel.Line(draw.First, false, points...)
		fmt.Printf("%s: %s\n", title, summary)
	}
	return p.SVG()
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
