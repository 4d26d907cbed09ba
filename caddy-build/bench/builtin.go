package main

import (
	"bufio"
	"context"
	"fmt"
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
}

func (b *builtin) name() string {
	return fmt.Sprintf("built-in client, %d connections", b.connections)
}

func (b *builtin) run(ctx context.Context, t target) (result, error) {
	tokens, err := openTokens(t.tokens)
	if err != nil {
		return result{}, err
	}
	defer tokens.close()
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

// A client is one connection, with one request at a time.
type client struct {
	latencies  []time.Duration
	unexpected int64
}

func (c *client) run(ctx context.Context, t target, tokens *tokenFile) error {
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
		token, err := tokens.any()
		if err != nil {
			return err
		}
		began := time.Now()
		if _, err := conn.Write([]byte(head + token + "\r\n\r\n")); err != nil {
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

// percentile sorts the durations.
func percentile(all []time.Duration, percent int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(len(all)-1, len(all)*percent/100)]
}
