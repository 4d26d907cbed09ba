package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
)

// measureStore opens a store that is full of sessions, and prints what this
// takes and how fast it is, without a gateway around it.
func measureStore(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("measure-store", flag.ExitOnError)
	dir := flags.String("badger", "", "directory")
	address := flags.String("redis", "", "address")
	name := flags.String("tokens", "", "file of tokens")
	reads := flags.Int("reads", 0, "random reads")
	logins := flags.Duration("logins", 0, "log in for so long, with each number of clients")
	_ = flags.Parse(args)

	began := time.Now()
	open := func() (session.Store, error) {
		return badgerstore.Open(ctx, badgerstore.Options{Dir: *dir, SyncWrites: true})
	}
	if *address != "" {
		open = func() (session.Store, error) { return openRedis(ctx, *address) }
	}
	store, err := open()
	if err != nil {
		return err
	}
	manager, err := newManager(ctx, store)
	if err != nil {
		return errors.Join(err, store.Close())
	}
	opened := time.Since(began)
	if *reads > 0 {
		printFigure("store: opening it", opened.Round(time.Millisecond).String())
		err = measureReads(ctx, manager, *name, *reads)
	}
	if err == nil && *logins > 0 {
		err = measureLogins(ctx, manager, *logins)
	}
	began = time.Now()
	manager.Close()
	if err := errors.Join(err, store.Close()); err != nil {
		return err
	}
	printFigure("store: closing it", time.Since(began).Round(time.Millisecond).String())
	return nil
}

// lookUpInTurn is a function of its own so that the latencies are garbage when
// memory is measured.
func lookUpInTurn(ctx context.Context, manager *session.Manager, tokens *tokenFile, reads int) (p50, p99 time.Duration, err error) {
	latencies := make([]time.Duration, reads)
	for i := range latencies {
		token, err := tokens.any()
		if err != nil {
			return 0, 0, err
		}
		began := time.Now()
		if _, err := manager.Lookup(ctx, token); err != nil {
			return 0, 0, err
		}
		latencies[i] = time.Since(began)
	}
	return percentile(latencies, 50), percentile(latencies, 99), nil
}

// measureReads looks up random sessions, one after the other and then many at
// a time.
func measureReads(ctx context.Context, manager *session.Manager, name string, reads int) error {
	tokens, err := openTokens(name)
	if err != nil {
		return err
	}
	defer tokens.close()
	p50, p99, err := lookUpInTurn(ctx, manager, tokens, reads)
	if err != nil {
		return err
	}
	m, err := memoryOf(os.Getpid())
	if err != nil {
		return err
	}
	printFigure(fmt.Sprintf("store: %d random look-ups, p50", reads), p50.Round(100*time.Nanosecond).String())
	printFigure("store: the same, p99", p99.Round(100*time.Nanosecond).String())
	printFigure("store: anonymous memory after them", megabytes(m.anonymous))

	all, took, err := together(ctx, 16, 5*time.Second, func(ctx context.Context) error {
		token, err := tokens.any()
		if err == nil {
			_, err = manager.Lookup(ctx, token)
		}
		return err
	})
	if err == nil {
		printFigure("store: random look-ups by 16 goroutines", fmt.Sprintf("%.0f/s", float64(len(all))/took.Seconds()))
	}
	return err
}

func measureLogins(ctx context.Context, manager *session.Manager, d time.Duration) error {
	user := atomic.Int64{}
	user.Store(1 << 40) // none that has a session
	for _, n := range []int{1, 16, 64} {
		all, took, err := together(ctx, n, d, func(ctx context.Context) error {
			_, err := manager.Create(ctx, newLogin(int(user.Add(1))))
			return err
		})
		if err != nil {
			return err
		}
		printFigure(fmt.Sprintf("store: durable logins of %d clients", n), fmt.Sprintf("%.0f/s", float64(len(all))/took.Seconds()))
	}
	return nil
}

// pass runs a program whose output is ours.
func pass(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running %s: %w", args[0], err)
	}
	return nil
}
