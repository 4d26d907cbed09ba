package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/wxgate/wxgate/caddymodule/wechat/fakewechat"
)

// runLogins measures logins through the gateway, with a WeChat that answers at
// once: HTTP, exchange, and the session durable on Badger.
func runLogins(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("logins", flag.ExitOnError)
	binary := flags.String("binary", ".build/wxgate", "the gateway, as make build leaves it")
	dir := flags.String("dir", ".build/bench", "a directory on the disk to be measured")
	duration := flags.Duration("duration", 5*time.Second, "of each figure in each round")
	rounds := flags.Int("rounds", 5, "rounds")
	_ = flags.Parse(args)

	wechat := fakewechat.New(fakewechat.Config{MiniPrograms: map[string]string{appID: secret}})
	defer wechat.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening as WeChat: %w", err)
	}
	server := &http.Server{Handler: wechat}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()

	h := &house{upstream: listener.Addr().String()} // which no login asks
	defer h.stop()
	if h.program, err = filepath.Abs(*binary); err != nil {
		return err
	}
	home, err := os.MkdirTemp(*dir, "logins")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer os.RemoveAll(home)
	s := h.gate("store badger "+filepath.Join(home, "sessions"), "wechat_api http://"+listener.Addr().String(), "login_rate off")
	address, gateway, err := h.startCaddy(ctx, s)
	if err != nil {
		return err
	}

	clients := []int{1, 16, 64}
	results := make([][]loginResult, len(clients))
	c := &loginClient{url: "http://" + address + "/login", wechat: wechat}
	for range *rounds {
		for i, n := range clients {
			r, err := c.run(ctx, gateway, n, *duration)
			if err != nil {
				return err
			}
			results[i] = append(results[i], r)
		}
	}
	printMachine(os.Stdout, "in this process")
	fmt.Println("| clients | logins/s | p50 | p99 | CPU µs/login of the gateway |\n|--:|--:|--:|--:|--:|")
	for i, n := range clients {
		of := func(f func(loginResult) float64) float64 {
			values := make([]float64, len(results[i]))
			for at, r := range results[i] {
				values[at] = f(r)
			}
			return median(values)
		}
		fmt.Printf("| %d | %.0f | %v | %v | %.0f |\n", n, of(func(r loginResult) float64 { return r.rate }),
			time.Duration(of(func(r loginResult) float64 { return float64(r.p50) })).Round(10*time.Microsecond),
			time.Duration(of(func(r loginResult) float64 { return float64(r.p99) })).Round(10*time.Microsecond),
			of(func(r loginResult) float64 { return r.cpu }))
	}
	return nil
}

type loginResult struct {
	rate, cpu float64 // logins/s, µs per login
	p50, p99  time.Duration
}

// A loginClient is many mini programs.
type loginClient struct {
	url    string
	wechat *fakewechat.Server
	users  atomic.Int64
}

func (c *loginClient) run(ctx context.Context, gateway *process, n int, d time.Duration) (loginResult, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n}}
	defer client.CloseIdleConnections()
	before, err := gateway.cpu()
	if err != nil {
		return loginResult{}, err
	}
	latencies, took, err := together(ctx, n, d, func(ctx context.Context) error { return c.login(ctx, client) })
	if err != nil {
		return loginResult{}, err
	}
	after, err := gateway.cpu()
	if err != nil {
		return loginResult{}, err
	}
	return loginResult{
		rate: float64(len(latencies)) / took.Seconds(),
		cpu:  float64((after - before).Microseconds()) / float64(len(latencies)),
		p50:  percentile(latencies, 50),
		p99:  percentile(latencies, 99),
	}, nil
}

// login logs a new user in.
func (c *loginClient) login(ctx context.Context, client *http.Client) error {
	code := c.wechat.IssueCode(appID, fmt.Sprint("user", c.users.Add(1)))
	body, err := json.Marshal(map[string]string{"code": code})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("logging in: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("logging in: %s %s: %w", resp.Status, answer, err)
	}
	return nil
}
