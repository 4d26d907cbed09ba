package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
)

// takeProfile loads a row once more and writes what the Go runtime saw of it.
func (h *house) takeProfile(ctx context.Context, rows []*row, generate loader) error {
	at := slices.IndexFunc(rows, func(r *row) bool { return r.name == h.profiled })
	if at < 0 || rows[at].proxy[0].admin == "" {
		return fmt.Errorf("-profile-row: %q is not one of the rows with Caddy", h.profiled)
	}
	loaded := make(chan error, 1)
	go func() {
		_, err := generate.run(ctx, rows[at].target)
		loaded <- err
	}()
	err := fetchProfile(ctx, rows[at].proxy[0].admin, int(h.duration.Seconds()), h.profile)
	return errors.Join(err, <-loaded)
}

func fetchProfile(ctx context.Context, socket string, seconds int, file string) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://admin/debug/pprof/profile?seconds=%d", seconds), nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("fetching the profile: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("fetching the profile: %s", resp.Status)
	}
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("writing the profile: %w", err)
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}
