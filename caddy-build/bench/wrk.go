package main

import (
	"bytes"
	"context"
	_ "embed" // wrk's script
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

//go:embed wrk.lua
var wrkScript []byte

// wrk runs https://github.com/wg/wrk with our script.
type wrk struct {
	path        string
	script      string
	connections int
	duration    time.Duration
}

func newWrk(path string, s settings) (*wrk, error) {
	w := &wrk{path: path, script: filepath.Join(s.dir, "wrk.lua"), connections: s.connections, duration: s.duration}
	if err := os.WriteFile(w.script, wrkScript, 0o600); err != nil {
		return nil, fmt.Errorf("writing wrk's script: %w", err)
	}
	return w, nil
}

func (w *wrk) name() string { return fmt.Sprintf("wrk, %d connections, one thread", w.connections) }

func (w *wrk) run(ctx context.Context, t target) (result, error) {
	u, err := url.Parse(t.url)
	if err != nil {
		return result{}, err
	}
	cmd := exec.CommandContext(ctx, w.path, "--threads", "1",
		"--connections", strconv.Itoa(w.connections), "--duration", strconv.Itoa(int(w.duration.Seconds()))+"s",
		"--timeout", "10s", "--script", w.script, t.url,
		"--", t.tokens, requestHead(u.Host))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		return result{}, fmt.Errorf("running wrk: %w: %s%s", err, output, stderr.Bytes())
	}
	// The script's own line is the last; wrk's report stands before it.
	var line struct {
		Requests, Refused, Failed, Duration int64
		P50, P99                            float64 // µs
	}
	if err := json.Unmarshal(output[bytes.LastIndexByte(output, '{'):], &line); err != nil {
		return result{}, fmt.Errorf("reading wrk's report: %w", err)
	}
	unexpected := line.Failed + line.Refused
	if t.status == http.StatusUnauthorized {
		unexpected = line.Failed + line.Requests - line.Refused
	}
	return result{
		requests:   line.Requests,
		unexpected: unexpected,
		took:       time.Duration(line.Duration) * time.Microsecond,
		p50:        time.Duration(line.P50) * time.Microsecond,
		p99:        time.Duration(line.P99) * time.Microsecond,
	}, nil
}
