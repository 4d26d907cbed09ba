package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// settings are the flags of the load comparison.
type settings struct {
	binary      string
	dir         string
	rounds      int
	duration    time.Duration
	connections int
	sessions    int
	hot         int
	body        int
	rows        []string
	profile     string
	profiled    string
	client      string
}

func (s *settings) parse(args []string) error {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	flags.StringVar(&s.binary, "binary", ".build/wxgate", "the gateway, as make build leaves it")
	flags.StringVar(&s.dir, "dir", ".build/bench", "where sessions are kept between runs")
	flags.IntVar(&s.rounds, "rounds", 7, "rounds, after one to warm up")
	flags.DurationVar(&s.duration, "duration", 5*time.Second, "of each row in each round")
	flags.IntVar(&s.connections, "connections", 64, "kept alive, each with one request at a time")
	flags.IntVar(&s.sessions, "sessions", 1_000_000, "in row c")
	flags.IntVar(&s.hot, "hot", 1000, "in the other rows")
	flags.IntVar(&s.body, "body", 256, "bytes of the upstream's answer")
	rows := flags.String("rows", "", "only these, by letter, such as a,b,stock; the first one given counts as 1")
	flags.StringVar(&s.profile, "profile", "", "write a CPU profile of one row under load to this file")
	flags.StringVar(&s.profiled, "profile-row", "b", "which row")
	flags.StringVar(&s.client, "client", "", "wrk or builtin (default: wrk if it is installed)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *rows != "" {
		s.rows = strings.Split(*rows, ",")
	}
	if s.rounds < 1 || s.duration < time.Second || s.connections < 1 {
		return errors.New("-rounds and -connections are at least 1, and -duration is at least 1s")
	}
	var err error
	if s.binary, err = filepath.Abs(s.binary); err != nil {
		return err
	}
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return err
	}
	return os.MkdirAll(s.dir, 0o700)
}

// runLoad measures all rows and prints the table.
func runLoad(ctx context.Context, args []string) error {
	var s settings
	if err := s.parse(args); err != nil {
		return err
	}
	generate, err := newLoad(s)
	if err != nil {
		return err
	}
	h := &house{settings: s}
	defer h.stop()
	rows, err := h.build(ctx)
	if err != nil {
		return err
	}

	for round := range s.rounds + 1 {
		order := slices.Clone(rows)
		if round%2 == 1 {
			slices.Reverse(order) // nobody always comes after the same one
		}
		for _, r := range order {
			sample, err := measure(ctx, r, generate)
			if err != nil {
				return fmt.Errorf("row %s: %w", r.name, err)
			}
			if round == 0 {
				continue
			}
			r.samples = append(r.samples, sample)
			fmt.Fprintf(os.Stderr, "bench: round %d of %d, row %-5s %7.1f µs of CPU per request, %6.0f requests/s\n",
				round, s.rounds, r.name, sample.cpu, sample.rate)
		}
	}
	if s.profile != "" {
		if err := h.takeProfile(ctx, rows, generate); err != nil {
			return err
		}
	}
	printMachine(os.Stdout, generate.name())
	printTable(os.Stdout, rows)
	return nil
}

// A sample is what one row did in one round.
type sample struct {
	cpu      float64 // µs of the proxy side per request
	aside    float64 // µs of the row's other processes per request, such as redis-server
	rate     float64 // requests/s
	p50, p99 time.Duration
}

// measure loads one row for one round.
func measure(ctx context.Context, r *row, generate loader) (sample, error) {
	proxy, aside, err := r.cpu()
	if err != nil {
		return sample{}, err
	}
	result, err := generate.run(ctx, r.target)
	if err != nil {
		return sample{}, err
	}
	proxyAfter, asideAfter, err := r.cpu()
	if err != nil {
		return sample{}, err
	}
	if result.requests == 0 || result.unexpected > 0 {
		return sample{}, fmt.Errorf("%d requests, of which %d were not answered %d", result.requests, result.unexpected, r.target.status)
	}
	perRequest := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(result.requests) }
	return sample{
		cpu:   perRequest(proxyAfter - proxy),
		aside: perRequest(asideAfter - aside),
		rate:  float64(result.requests) / result.took.Seconds(),
		p50:   result.p50,
		p99:   result.p99,
	}, nil
}
