package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wxgate/wxgate/caddymodule/session"
	"github.com/wxgate/wxgate/caddymodule/session/badgerstore"
	"github.com/wxgate/wxgate/caddymodule/session/redisstore"
)

const (
	tokenHeader = "3rd_session"
	appID       = "wx0000000000000001"
	secret      = "5ec2e70000000000000000000000000a"

	// Sessions last so long that those of an earlier run can be used again,
	// and that reading them renews none.
	idleTimeout = 365 * 24 * time.Hour
	lifetime    = 365 * 24 * time.Hour
	keepFor     = 30 * 24 * time.Hour
)

// key seals the sessions of the bench; it protects nothing.
var key = []byte("a key that seals only test data!")

func encodedKey() string { return base64.StdEncoding.EncodeToString(key) }

// openID looks like one of WeChat's.
func openID(i int) string { return fmt.Sprintf("oBench%022d", i) }

func newLogin(user int) session.Login {
	return session.Login{AppID: appID, OpenID: openID(user), SessionKey: "AAAAAAAAAAAAAAAAAAAAAA=="}
}

// A population is a store full of sessions, one for each user.
type population struct {
	dir    string // of a Badger store; empty for Redis
	tokens string // the file of their tokens, one in a line
	took   time.Duration
}

// newManager is a Manager as the gateway has it.
func newManager(ctx context.Context, store session.Store) (*session.Manager, error) {
	return session.NewManager(ctx, session.Config{
		Store:       store,
		Keys:        [][]byte{key},
		IdleTimeout: idleTimeout,
		Lifetime:    lifetime,
		MaxPerUser:  10,
	})
}

// populateBadger makes a store of n sessions below dir, unless a recent run has
// left it there.
func populateBadger(ctx context.Context, dir string, n int) (population, error) {
	base := filepath.Join(dir, fmt.Sprintf("badger-%d", n))
	p := population{dir: filepath.Join(base, "sessions"), tokens: filepath.Join(base, "tokens")}
	if info, err := os.Stat(p.tokens); err == nil && time.Since(info.ModTime()) < keepFor {
		return p, nil
	}
	if err := os.RemoveAll(base); err != nil {
		return p, fmt.Errorf("removing old sessions: %w", err)
	}
	if err := os.MkdirAll(base, 0o700); err != nil {
		return p, fmt.Errorf("making sessions: %w", err)
	}
	fmt.Fprintf(os.Stderr, "bench: making %d sessions in %s\n", n, p.dir)
	store, err := badgerstore.Open(ctx, badgerstore.Options{Dir: p.dir})
	if err != nil {
		return p, err
	}
	began := time.Now()
	err = populate(ctx, store, n, p.tokens)
	if err := errors.Join(err, store.Close()); err != nil {
		return p, err
	}
	p.took = time.Since(began)
	return p, nil
}

// populateRedis fills an empty Redis with n sessions.
func populateRedis(ctx context.Context, address, dir string, n int) (population, error) {
	p := population{tokens: filepath.Join(dir, fmt.Sprintf("redis-%d.tokens", n))}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return p, fmt.Errorf("making sessions: %w", err)
	}
	store, err := openRedis(ctx, address)
	if err != nil {
		return p, err
	}
	began := time.Now()
	err = populate(ctx, store, n, p.tokens)
	p.took = time.Since(began)
	return p, errors.Join(err, store.Close())
}

func openRedis(ctx context.Context, address string) (session.Store, error) {
	return redisstore.Open(ctx, redisstore.Options{Addresses: []string{address}, ClientCache: true})
}

// populators work at once, so that a store that syncs or is far away is kept
// busy.
const populators = 16

// populate logs in n users, and writes their tokens to a file when all is done.
func populate(ctx context.Context, store session.Store, n int, file string) error {
	manager, err := newManager(ctx, store)
	if err != nil {
		return err
	}
	defer manager.Close()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	tokens := make([]string, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range populators {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				created, err := manager.Create(ctx, newLogin(i))
				if err != nil {
					cancel(err)
					return
				}
				tokens[i] = created.Token
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("making sessions: %w", err)
	}
	return writeTokens(file, tokens)
}

// diskUse is what the files below dir occupy, holes not counted.
func diskUse(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			bytes += allocated(info)
		}
		return err
	})
	return bytes, err
}
