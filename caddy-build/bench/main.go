// Command bench compares what a request costs behind wxgate with what it costs
// without it and with what people use today. Everything runs on loopback, each
// part in a process of its own:
//
//	load ─▶ proxy under test ─▶ upstream
//	             └─▶ auth service (rows e and f) or Redis (rows d and dm)
//
// The figure that counts is the CPU time of the proxy side, as the operating
// system accounts it to the processes, divided by the requests. Unlike requests
// per second it hardly depends on what else the machine does. The rows take
// turns in short rounds, and each ratio is taken within a round. Every Caddy
// has the same heap (GOGC=off, GOMEMLIMIT=200MiB): otherwise a row with more
// live data collects garbage less often, and seems cheaper than it is.
//
// Everything else is measured by `go test -bench`. docs/performance.md has the
// figures.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// settings are the flags.
type settings struct {
	binary, dir           string
	rounds, connections   int
	sessions, hot, body   int
	duration, wechatDelay time.Duration
	rows                  []string
}

func parse() settings {
	var s settings
	flag.StringVar(&s.binary, "binary", ".build/wxgate", "the gateway, as make build leaves it")
	flag.StringVar(&s.dir, "dir", ".build/bench", "where sessions are kept between runs, and the sockets of the admin endpoints are")
	flag.IntVar(&s.rounds, "rounds", 7, "rounds, after one to warm up")
	flag.DurationVar(&s.duration, "duration", 5*time.Second, "of each row in each round")
	flag.IntVar(&s.connections, "connections", 64, "kept alive, each with one request at a time")
	flag.IntVar(&s.sessions, "sessions", 1_000_000, "in rows c and dm")
	flag.IntVar(&s.hot, "hot", 1000, "in the other rows")
	flag.IntVar(&s.body, "body", 256, "bytes of the upstream's answer")
	flag.DurationVar(&s.wechatDelay, "wechat-delay", 0, "of WeChat's answers, in row l")
	rows := flag.String("rows", "a,stock,b,c,d,dm,e,f,g", "which; the first counts as 1; l is logins; b@FILE is row b with another binary")
	flag.Parse()
	s.rows = strings.Split(*rows, ",")
	var err error
	s.binary, err = filepath.Abs(s.binary)
	check(err)
	s.dir, err = filepath.Abs(s.dir)
	check(err)
	check(os.MkdirAll(s.dir, 0o700))
	return s
}

// check ends the program, and with it all that it has started, if there is an
// error.
func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A sample is what one row did in one round.
type sample struct {
	cpu, redis float64 // µs per request, of the proxy side and of redis-server
	rate       float64 // requests/s
	p50, p99   float64 // ms
}

func main() {
	if serve := servers[filepath.Base(os.Args[0])]; serve != nil {
		check(serve(os.Args[1], os.Args[2])) // a part of the set-up
		return
	}
	h := &house{settings: parse()}
	rows := h.build()
	for round := range h.rounds + 1 {
		order := slices.Clone(rows)
		if round%2 == 1 {
			slices.Reverse(order) // so that no row always comes after the same one
		}
		for _, r := range order {
			s := h.measure(r)
			fmt.Fprintf(os.Stderr, "bench: round %d of %d, row %-5s %7.1f µs of CPU per request, %6.0f requests/s\n", round, h.rounds, r.name, s.cpu, s.rate)
			if round > 0 {
				r.samples = append(r.samples, s)
			}
		}
	}
	h.print(rows)
	for _, p := range slices.Backward(h.running) {
		p.stop()
	}
}

// measure loads one row for one round.
func (h *house) measure(r *row) sample {
	proxies, redis := cpu(r.proxies), cpu(r.redis)
	began := time.Now()
	latencies := load(r, h.connections, h.duration)
	took := time.Since(began)
	n := float64(len(latencies))
	slices.Sort(latencies)
	return sample{
		cpu:   (cpu(r.proxies) - proxies) / n,
		redis: (cpu(r.redis) - redis) / n,
		rate:  n / took.Seconds(),
		p50:   1000 * latencies[len(latencies)/2].Seconds(),
		p99:   1000 * latencies[len(latencies)*99/100].Seconds(),
	}
}

// print writes the medians, and the ratios that the project is measured by.
func (h *house) print(rows []*row) {
	machine, _ := exec.Command("sh", "-c", `sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1; uname -sr
		redis-server --version | cut -d ' ' -f 1-3; PATH=$PATH:/usr/sbin nginx -v 2>&1`).Output()
	fmt.Printf("%s; %d × %s; %s; %d connections, %d rounds of %v\n\n", time.Now().Format(time.DateOnly), runtime.NumCPU(),
		strings.ReplaceAll(strings.TrimSpace(string(machine)), "\n", "; "), runtime.Version(), h.connections, h.rounds, h.duration)
	fmt.Printf("| row | | CPU µs/request | ÷ %s | b ÷ it | requests/s | p50 ms | p99 ms | anonymous MiB | redis-server µs |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n", rows[0].name)
	b := rows[max(0, slices.IndexFunc(rows, func(r *row) bool { return r.name == "b" }))]
	for _, r := range rows {
		of := func(f func(s sample) float64) float64 { return median(r.samples, f) }
		fmt.Printf("| %s | %s | %.1f | %.3f | %.3f | %.0f | %.2f | %.2f | %d | %.1f |\n", r.name, r.text,
			of(func(s sample) float64 { return s.cpu }), ratio(r, rows[0]), ratio(b, r), of(func(s sample) float64 { return s.rate }),
			of(func(s sample) float64 { return s.p50 }), of(func(s sample) float64 { return s.p99 }), anonymousMemory(r.proxies)>>20,
			of(func(s sample) float64 { return s.redis }))
	}
}

// ratio is the median of the ratios within each round.
func ratio(over, under *row) float64 {
	i := -1
	return median(over.samples, func(s sample) float64 {
		i++
		return s.cpu / under.samples[i].cpu
	})
}

func median(samples []sample, of func(sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
