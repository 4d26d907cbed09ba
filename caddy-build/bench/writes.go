package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
)

// runWrites compares how many logins per second are durable when they are
// acknowledged: with the store's shared syncs, and with Badger's own
// SyncWrites, which syncs for each transaction.
func runWrites(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("writes", flag.ExitOnError)
	dir := flags.String("dir", ".build/bench", "a directory on the disk to be measured")
	duration := flags.Duration("duration", 3*time.Second, "of each figure in each round")
	rounds := flags.Int("rounds", 5, "rounds")
	_ = flags.Parse(args)

	writers := []int{1, 16, 64}
	shared := make([][]float64, len(writers))
	plain := make([][]float64, len(writers))
	for range *rounds {
		for i, n := range writers {
			for _, kind := range []struct {
				open func(dir string) (*loginStore, error)
				to   *float64
			}{{openShared, grow(&shared[i])}, {openPlain, grow(&plain[i])}} {
				rate, err := loginsPerSecond(ctx, *dir, kind.open, n, *duration)
				if err != nil {
					return err
				}
				*kind.to = rate
			}
		}
	}
	printMachine(os.Stdout, "in this process")
	fmt.Println("| clients | wxgate, durable logins/s | one Badger transaction per login with SyncWrites | ratio |\n|--:|--:|--:|--:|")
	for i, n := range writers {
		ratios := make([]float64, *rounds)
		for r := range ratios {
			ratios[r] = shared[i][r] / plain[i][r]
		}
		fmt.Printf("| %d | %.0f | %.0f | %.1f |\n", n, median(shared[i]), median(plain[i]), median(ratios))
	}
	return nil
}

func grow(values *[]float64) *float64 {
	*values = append(*values, 0)
	return &(*values)[len(*values)-1]
}

// A loginStore is a place where logins are kept.
type loginStore struct {
	login func(ctx context.Context, user int) error
	close func() error
}

// openShared is what the gateway does: session.Manager on badgerstore.
func openShared(dir string) (*loginStore, error) {
	ctx := context.Background()
	store, err := badgerstore.Open(ctx, badgerstore.Options{Dir: dir, SyncWrites: true})
	if err != nil {
		return nil, err
	}
	manager, err := newManager(ctx, store)
	if err != nil {
		return nil, err
	}
	return &loginStore{
		login: func(ctx context.Context, user int) error {
			_, err := manager.Create(ctx, newLogin(user))
			return err
		},
		close: func() error {
			manager.Close()
			return store.Close()
		},
	}, nil
}

// openPlain writes two records of the same size in one transaction, which is
// the least that a login can be, and does nothing else.
func openPlain(dir string) (*loginStore, error) {
	db, err := badger.Open(badger.DefaultOptions(dir).WithSyncWrites(true).WithLogger(nil))
	if err != nil {
		return nil, fmt.Errorf("opening Badger: %w", err)
	}
	record := make([]byte, 200)
	return &loginStore{
		login: func(_ context.Context, user int) error {
			name := openID(user)
			return db.Update(func(txn *badger.Txn) error {
				if err := txn.Set([]byte("session:"+name), record); err != nil {
					return err
				}
				return txn.Set([]byte("user:"+name), record)
			})
		},
		close: db.Close,
	}, nil
}

// loginsPerSecond lets n clients log in for a while, on an empty store.
func loginsPerSecond(ctx context.Context, dir string, open func(dir string) (*loginStore, error), n int, d time.Duration) (float64, error) {
	home, err := os.MkdirTemp(dir, "writes")
	if err != nil {
		return 0, fmt.Errorf("making a directory: %w", err)
	}
	defer os.RemoveAll(home)
	store, err := open(filepath.Join(home, strconv.Itoa(n)))
	if err != nil {
		return 0, err
	}
	var user atomic.Int64
	latencies, took, err := together(ctx, n, d, func(ctx context.Context) error {
		return store.login(ctx, int(user.Add(1)))
	})
	if closeErr := store.close(); err == nil {
		err = closeErr
	}
	return float64(len(latencies)) / took.Seconds(), err
}
