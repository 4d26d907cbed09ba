package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// runScale shows what a store of many sessions needs. At ten million it takes
// a while and some gigabytes of disk:
//
//	go run ./caddy-build/bench scale -sessions 10000000
//
// The sessions stay in -dir, so that the next run measures them at once.
func runScale(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("scale", flag.ExitOnError)
	binary := flags.String("binary", ".build/wxgate", "the gateway, as make build leaves it")
	dir := flags.String("dir", ".build/bench", "where the sessions are kept between runs")
	store := flags.String("store", "badger", "badger or redis")
	n := flags.Int("sessions", 1_000_000, "one for each user")
	reads := flags.Int("reads", 1_000_000, "random reads, in the store and through the gateway")
	_ = flags.Parse(args)

	program, err := filepath.Abs(*binary)
	if err != nil {
		return err
	}
	h := &house{program: program, home: filepath.Join(*dir, "scale"), settings: settings{body: 256}}
	if h.home, err = filepath.Abs(h.home); err != nil {
		return err
	}
	defer h.stop()
	printMachine(os.Stdout, "in this process")
	fmt.Printf("%d sessions on %s\n\n| what | figure |\n|---|--:|\n", *n, *store)
	switch *store {
	case "badger":
		return h.scaleBadger(ctx, *n, *reads)
	case "redis":
		return h.scaleRedis(ctx, *n, *reads)
	default:
		return fmt.Errorf("-store is badger or redis, not %q", *store)
	}
}

func (h *house) scaleBadger(ctx context.Context, n, reads int) error {
	users, err := populateBadger(ctx, h.home, n)
	if err != nil {
		return err
	}
	printPopulation(users, n)
	used, err := diskUse(users.dir)
	if err != nil {
		return fmt.Errorf("measuring the disk: %w", err)
	}
	printFigure("disk", megabytes(used))
	if err := h.lookups(ctx, reads, users.tokens, "-badger", users.dir); err != nil {
		return err
	}
	if err := h.throughGateway(ctx, reads, users.tokens, "store badger "+users.dir); err != nil {
		return err
	}
	return h.lookups(ctx, 0, users.tokens, "-badger", users.dir, "-logins", "3s")
}

func (h *house) scaleRedis(ctx context.Context, n, reads int) error {
	if err := os.MkdirAll(h.home, 0o700); err != nil {
		return fmt.Errorf("making a directory for redis-server: %w", err)
	}
	redis, address, err := h.redis(ctx, "--dir", h.home)
	if err != nil || redis == nil {
		return err
	}
	users, err := populateRedis(ctx, address, h.home, n)
	if err != nil {
		return err
	}
	printPopulation(users, n)
	if err := h.lookups(ctx, reads, users.tokens, "-redis", address); err != nil {
		return err
	}
	if err := h.throughGateway(ctx, reads, users.tokens, "store redis "+address); err != nil {
		return err
	}
	m, err := memoryOf(redis.cmd.Process.Pid)
	if err != nil {
		return err
	}
	printFigure("redis-server: anonymous memory", megabytes(m.anonymous))
	return h.lookups(ctx, 0, users.tokens, "-redis", address, "-logins", "3s")
}

func printPopulation(users population, n int) {
	if users.took > 0 {
		printFigure("making them", fmt.Sprintf("%v, %.0f/s", users.took.Round(time.Second), float64(n)/users.took.Seconds()))
	}
}

func printFigure(what, figure string) { fmt.Printf("| %s | %s |\n", what, figure) }

func megabytes(bytes int64) string { return fmt.Sprintf("%d MiB", bytes>>20) }

// throughGateway starts the gateway on the store, and reads sessions at random
// through it.
func (h *house) throughGateway(ctx context.Context, reads int, tokens, store string) error {
	var err error
	if h.upstream, _, err = h.self(ctx, "upstream", "serve-upstream", "-body", fmt.Sprint(h.body)); err != nil {
		return err
	}
	began := time.Now()
	r, err := h.caddy(ctx, h.gate(store), tokens, "")
	if err != nil {
		return err
	}
	printFigure("gateway: from its start until it listens", time.Since(began).Round(time.Millisecond).String())
	gateway := r.proxy[0]
	m, err := memoryOf(gateway.cmd.Process.Pid)
	if err != nil {
		return err
	}
	printFigure("gateway: anonymous memory after the start", megabytes(m.anonymous))
	load := &builtin{connections: 64, duration: 10 * time.Second}
	for done := int64(0); done < int64(reads); {
		result, err := load.run(ctx, r.target)
		if err != nil {
			return err
		}
		if result.unexpected > 0 {
			return fmt.Errorf("%d of %d requests were not answered 200", result.unexpected, result.requests)
		}
		done += result.requests
	}
	if m, err = memoryOf(gateway.cmd.Process.Pid); err != nil {
		return err
	}
	printFigure(fmt.Sprintf("gateway: anonymous memory after %d random requests", reads), megabytes(m.anonymous))
	printFigure("gateway: pages of files in memory, which the system may drop", megabytes(m.files))
	gateway.stop()
	return nil
}

// lookups measures the store by itself, in a process of its own.
func (h *house) lookups(ctx context.Context, reads int, tokens string, args ...string) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	return pass(ctx, program, append([]string{"measure-store", "-reads", fmt.Sprint(reads), "-tokens", tokens}, args...)...)
}
