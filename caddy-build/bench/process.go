package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A process is one part of the set-up, with the processes that it starts.
type process struct {
	cmd    *exec.Cmd
	output bytes.Buffer
	exited chan struct{}
}

// start runs a program and waits until it accepts connections at address. It
// ends with this one.
func (h *house) start(address string, env []string, program string, args ...string) *process {
	p := &process{cmd: exec.Command(program, args...), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	check(p.cmd.Start())
	h.running = append(h.running, p)
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	for {
		if conn, err := net.Dial("tcp", address); err == nil {
			_ = conn.Close()
			return p
		}
		select {
		case <-p.exited:
			check(fmt.Errorf("%s has ended: %v:\n%s", program, p.cmd.ProcessState, p.output.String()))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop ends the process as its service manager would.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.exited
}

// cpu returns the processor time that the processes and their children have
// used, in µs: utime and stime, the fields 14 and 15 of proc_pid_stat(5). Their
// unit, USER_HZ, is 10 ms on every Linux.
func cpu(processes []*process) (sum float64) {
	for _, pid := range family(processes) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		check(err)
		// The second field, the name in parentheses, may hold spaces.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		for _, field := range fields[14-3 : 15-2] {
			sum += number(field) * 10_000
		}
	}
	return sum
}

// anonymousMemory returns how much memory the processes have that the system
// cannot drop, in bytes.
func anonymousMemory(processes []*process) (sum int64) {
	for _, pid := range family(processes) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		check(err)
		_, rest, _ := strings.Cut(string(status), "RssAnon:")
		sum += int64(number(strings.Fields(rest)[0])) << 10
	}
	return sum
}

// family returns the processes and their children: nginx's master has workers.
func family(processes []*process) (pids []int) {
	for _, p := range processes {
		pid := p.cmd.Process.Pid
		pids = append(pids, pid)
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		check(err)
		for child := range strings.FieldsSeq(string(children)) {
			pids = append(pids, int(number(child)))
		}
	}
	return pids
}

func number(text string) float64 {
	n, err := strconv.ParseInt(text, 10, 64)
	check(err)
	return float64(n)
}
