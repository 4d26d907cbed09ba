package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// builtin is a loader for machines without wrk. It needs more of the CPU than
// wrk, so requests/s are lower; the CPU time of the proxy is the same.
type builtin struct {
	connections int
	duration    time.Duration
	tokens      map[string][]string // by file
}

func (b *builtin) name() string {
	return fmt.Sprintf("built-in client, %d connections", b.connections)
}

func (b *builtin) run(ctx context.Context, t target) (result, error) {
	tokens, err := b.load(t.tokens)
	if err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.duration)
	defer cancel()
	began := time.Now()
	clients := make([]client, b.connections)
	errs := make(chan error, b.connections)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() { errs <- clients[i].run(ctx, t, tokens) })
	}
	wg.Wait()
	took := time.Since(began)
	close(errs)
	for err := range errs {
		if err != nil {
			return result{}, err
		}
	}

	r := result{took: took}
	var latencies []time.Duration
	for _, c := range clients {
		r.requests += int64(len(c.latencies))
		r.unexpected += c.unexpected
		latencies = append(latencies, c.latencies...)
	}
	r.p50, r.p99 = percentile(latencies, 50), percentile(latencies, 99)
	return r, nil
}

func (b *builtin) load(file string) ([]string, error) {
	if file == "" || b.tokens[file] != nil {
		return b.tokens[file], nil
	}
	tokens, err := readTokens(file)
	if err != nil {
		return nil, err
	}
	if b.tokens == nil {
		b.tokens = make(map[string][]string)
	}
	b.tokens[file] = tokens
	return tokens, nil
}

// A client is one connection, with one request at a time.
type client struct {
	latencies  []time.Duration
	unexpected int64
}

func (c *client) run(ctx context.Context, t target, tokens []string) error {
	u, err := url.Parse(t.url)
	if err != nil {
		return err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	head := requestHead(u.Host)
	replies := bufio.NewReader(conn)
	for ctx.Err() == nil {
		began := time.Now()
		if _, err := conn.Write([]byte(head + anyToken(tokens) + "\r\n\r\n")); err != nil {
			return fmt.Errorf("sending a request: %w", err)
		}
		resp, err := http.ReadResponse(replies, nil)
		if err != nil {
			return fmt.Errorf("reading an answer: %w", err)
		}
		if _, err := replies.Discard(int(resp.ContentLength)); err != nil {
			return fmt.Errorf("reading an answer: %w", err)
		}
		if resp.StatusCode != t.status {
			c.unexpected++
		}
		c.latencies = append(c.latencies, time.Since(began))
	}
	return nil
}

func anyToken(tokens []string) string {
	if len(tokens) > 0 {
		return tokens[rand.IntN(len(tokens))]
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	made := make([]byte, 43)
	for i := range made {
		made[i] = alphabet[rand.IntN(len(alphabet))]
	}
	return string(made)
}

// percentile sorts the durations.
func percentile(all []time.Duration, percent int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(len(all)-1, len(all)*percent/100)]
}
