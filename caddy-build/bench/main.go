package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// commands are what the first argument can name. The last three are
// started by the others.
var commands = map[string]func(ctx context.Context, args []string) error{
	"load":   runLoad,
	"logins": runLogins,
	"writes": runWrites,
	"scale":  runScale,

	"serve-upstream": serveUpstream,
	"serve-auth":     serveAuth,
	"measure-store":  measureStore,
}

func main() {
	name, args := "load", os.Args[1:]
	if len(args) > 0 && commands[args[0]] != nil {
		name, args = args[0], args[1:]
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := commands[name](ctx, args)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
