package extern

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Calls are how many system calls a program made, and how many of them failed: a read that finds nothing does.
type Calls struct {
	All, Failed int
	Waits       int // of All, those by which threads wait for work and for one another
}

// CountCalls runs cmd, which serves addr, under "strace -f -c", has work done once it serves, ends it with SIGTERM, and
// counts the system calls from its start to its end, those of all of its threads.
func CountCalls(ctx context.Context, cmd *exec.Cmd, addr string, work func() error) (Calls, error) {
	strace, err := Look("strace")
	if err != nil {
		return Calls{}, err
	}
	file, err := os.CreateTemp("", "calls")
	if err != nil {
		return Calls{}, err
	}
	file.Close()
	defer os.Remove(file.Name())
	args := append([]string{"-f", "-c", "-o", file.Name(), cmd.Path}, cmd.Args[1:]...)
	tracer := strace.Command(ctx, args...)
	tracer.Env = append(tracer.Env, cmd.Env...)
	tracer.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	tracer.WaitDelay = stopTimeout
	var said bytes.Buffer
	tracer.Stderr = &said
	if err := tracer.Start(); err != nil {
		return Calls{}, err
	}
	exited := make(chan struct{})
	go func() { // ends with the program
		defer close(exited)
		_ = tracer.Wait() // how it ended is told by what it wrote
	}()
	if awaitPort(addr, exited) {
		err = work()
	} else {
		err = fmt.Errorf("%s does not serve %s: %s", cmd.Path, addr, said.Bytes())
	}
	if child, gone := Child(tracer.Process.Pid); gone == nil {
		_ = syscall.Kill(child, syscall.SIGTERM) // an error means that it is gone
	}
	select {
	case <-exited:
	case <-time.After(readyTimeout):
		_ = tracer.Process.Kill() // and with it what it traces
		<-exited
		err = errors.Join(err, fmt.Errorf("%s does not end", cmd.Path))
	}
	if err != nil {
		return Calls{}, err
	}
	summary, err := os.ReadFile(file.Name())
	return parseCalls(string(summary)), err
}

// parseCalls reads the table of strace -c: share, seconds, microseconds a call, calls, perhaps errors, and the name.
func parseCalls(summary string) Calls {
	var sum Calls
	for line := range strings.Lines(summary) {
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[len(fields)-1] == "total" {
			continue
		}
		n, err := strconv.Atoi(fields[3])
		if err != nil {
			continue // a headline
		}
		sum.All += n
		if len(fields) == 6 {
			failed, _ := strconv.Atoi(fields[4]) // strace wrote it
			sum.Failed += failed
			n -= failed
		}
		switch fields[len(fields)-1] {
		case "futex", "nanosleep", "epoll_wait", "epoll_pwait", "sched_yield":
			sum.Waits += n
		}
	}
	return sum
}

// Child returns the one child of a process, such as what strace traces.
func Child(pid int) (int, error) {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		return 0, err
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(children)))
	if err != nil {
		return 0, fmt.Errorf("children of %d: %q", pid, children)
	}
	return child, nil
}
