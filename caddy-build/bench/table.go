package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// printMachine says what the figures were measured on.
func printMachine(w io.Writer, load string) {
	fmt.Fprintf(w, "%s; %d × %s; %s; %s; load: %s; %s; %s\n\n",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), firstValue("/proc/cpuinfo", "model name"),
		version("uname", "-sr"), runtime.Version(), load, version(findNginx(), "-v"), version("redis-server", "--version"))
}

// firstValue returns what stands behind a name in a file of `name: value`.
func firstValue(file, name string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// version is the first line of what a program says of itself.
func version(program string, args ...string) string {
	output, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return "no " + program
	}
	line, _, _ := strings.Cut(string(output), "\n")
	return line
}

// printTable prints the medians, and the ratios that the project is measured
// by.
func printTable(w io.Writer, rows []*row) {
	first := rows[0]
	fmt.Fprintf(w, "| row | | CPU µs/request | ÷ %s | requests/s | p50 | p99 |\n|---|---|--:|--:|--:|--:|--:|\n", first.name)
	for _, r := range rows {
		fmt.Fprintf(w, "| %s | %s | %.1f | %.3f | %.0f | %s | %s |\n", r.name, r.text,
			r.median(func(s sample) float64 { return s.cpu }), ratio(r, first),
			r.median(func(s sample) float64 { return s.rate }),
			r.latency(func(s sample) time.Duration { return s.p50 }), r.latency(func(s sample) time.Duration { return s.p99 }))
	}
	fmt.Fprintln(w)
	for _, r := range rows {
		if len(r.aside) > 0 {
			fmt.Fprintf(w, "Beside row %s: %s %.1f µs/request.\n", r.name, r.aside[0].name, r.median(func(s sample) float64 { return s.aside }))
		}
	}
	for _, pair := range [][2]string{{"b", "a"}, {"b", "stock"}, {"c", "a"}, {"d", "a"}, {"b", "e"}, {"b", "f"}} {
		over, under := find(rows, pair[0]), find(rows, pair[1])
		if over != nil && under != nil {
			fmt.Fprintf(w, "%s ÷ %s = %.3f\n", pair[0], pair[1], ratio(over, under))
		}
	}
}

func find(rows []*row, name string) *row {
	if at := slices.IndexFunc(rows, func(r *row) bool { return r.name == name }); at >= 0 {
		return rows[at]
	}
	return nil
}

// ratio is the median of the ratios within each round.
func ratio(over, under *row) float64 {
	ratios := make([]float64, len(over.samples))
	for i := range ratios {
		ratios[i] = over.samples[i].cpu / under.samples[i].cpu
	}
	return median(ratios)
}

func (r *row) median(of func(sample) float64) float64 {
	values := make([]float64, len(r.samples))
	for i, s := range r.samples {
		values[i] = of(s)
	}
	return median(values)
}

func (r *row) latency(of func(sample) time.Duration) time.Duration {
	d := time.Duration(r.median(func(s sample) float64 { return float64(of(s)) }))
	return d.Round(10 * time.Microsecond)
}

// median sorts the values.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
