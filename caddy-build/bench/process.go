package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A process is one part of the set-up, with whatever processes it starts.
type process struct {
	name   string
	dir    string // removed when it has ended; may be empty
	admin  string // the socket of Caddy's admin endpoint
	cmd    *exec.Cmd
	output bytes.Buffer
	exited chan struct{}
}

// startTimeout is how long a part may take until it listens: a gateway verifies
// a large store first.
const startTimeout = 2 * time.Minute

// start runs a program and waits until it accepts connections at address.
func start(ctx context.Context, name, address string, env []string, program string, args ...string) (*process, error) {
	p := &process{name: name, exited: make(chan struct{})}
	p.cmd = exec.Command(program, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	if err := p.await(ctx, address); err != nil {
		p.stop()
		return nil, fmt.Errorf("starting %s: %w:\n%s", name, err, p.output.String())
	}
	return p, nil
}

func (p *process) await(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.exited:
			return fmt.Errorf("it ended: %v", p.cmd.ProcessState)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// stop ends the process as its service manager would.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	if p.dir != "" {
		_ = os.RemoveAll(p.dir)
	}
}

// cpu returns the processor time that the process and its children have used,
// in user and kernel mode.
func (p *process) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, pid := range family(p.cmd.Process.Pid) {
		used, err := cpuOf(pid)
		if err != nil {
			return 0, fmt.Errorf("reading the CPU time of %s: %w", p.name, err)
		}
		sum += used
	}
	return sum, nil
}

// clockTick is the unit of /proc/<pid>/stat: USER_HZ, which is 100 on every
// Linux. The kernel keeps nanoseconds and rounds for this file, so the error is
// one tick for a whole round.
const clockTick = 10 * time.Millisecond

// cpuOf reads utime and stime, the fields 14 and 15 of proc_pid_stat(5).
func cpuOf(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	// The second field, the name in parentheses, may hold spaces.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks int64
	for _, field := range fields[14-3 : 15-2] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// family is a process and its children: nginx's master has workers.
func family(pid int) []int {
	pids := []int{pid}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return pids
	}
	for _, field := range strings.Fields(string(children)) {
		if child, err := strconv.Atoi(field); err == nil {
			pids = append(pids, family(child)...)
		}
	}
	return pids
}

// memory is what a process has in RAM, in bytes. Pages of mapped files can be
// dropped at any time; anonymous ones cannot.
type memory struct{ anonymous, files int64 }

func memoryOf(pid int) (memory, error) {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return memory{}, fmt.Errorf("reading memory use: %w", err)
	}
	var m memory
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		kilobytes, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		n, _ := strconv.ParseInt(kilobytes, 10, 64)
		switch name {
		case "RssAnon":
			m.anonymous = n << 10
		case "RssFile":
			m.files = n << 10
		}
	}
	return m, nil
}
