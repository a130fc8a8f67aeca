package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// poll is the time between two looks at something that is about to happen.
const poll = 10 * time.Millisecond

// startsWithin is how long a program may take until it serves, on a machine that is busy with other things.
const startsWithin = time.Minute

// A Process is a program that serves until it is ended, and with this process at the latest.
type Process struct {
	Cmd    *exec.Cmd
	Exited chan struct{}
	err    error // how it ended, once Exited is closed
}

// Launch runs cmd with its output in a file.
func Launch(cmd *exec.Cmd, output string) (*Process, error) {
	file, err := os.OpenFile(output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close() // the process has it by then
	cmd.Stdout, cmd.Stderr = file, file
	return Run(cmd)
}

// Run runs cmd, whose output goes where the caller said. It leads a group of its own.
func Run(cmd *exec.Cmd) (*Process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{Cmd: cmd, Exited: make(chan struct{})}
	go func() { // ends with the process, which End brings about
		p.err = cmd.Wait()
		close(p.Exited)
	}()
	return p, nil
}

// Err tells how the process ended, once Exited is closed.
func (p *Process) Err() error { return p.err }

// Gone reports whether the process has ended.
func (p *Process) Gone() bool {
	select {
	case <-p.Exited:
		return true
	default:
		return false
	}
}

// Signal sends s unless the process is gone.
func (p *Process) Signal(s syscall.Signal) error {
	if p.Gone() {
		return errors.New("the process is gone")
	}
	return p.Cmd.Process.Signal(s)
}

// End asks the process to end, and kills it when it takes longer than a while.
func (p *Process) End() {
	_ = p.Signal(syscall.SIGCONT) // errors mean that it is gone
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-p.Exited:
	case <-time.After(5 * time.Second):
		_ = p.Signal(syscall.SIGKILL)
		<-p.Exited
	}
}

// CPU is the time that the process has taken, all its threads together.
func (p *Process) CPU() (time.Duration, error) { return cpu(p.Cmd.Process.Pid) }

// TreeCPU is CPU with that of the processes that it has started, which must not end meanwhile.
func (p *Process) TreeCPU() (time.Duration, error) {
	sum, err := p.CPU()
	if err != nil {
		return 0, err
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", p.Cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for child := range strings.FieldsSeq(string(children)) {
		pid, err := strconv.Atoi(child)
		if err != nil {
			return 0, err
		}
		took, err := cpu(pid)
		if err != nil {
			return 0, err
		}
		sum += took
	}
	return sum, nil
}

// cpu is the time that a process has taken. Its clock is that of clock_getcpuclockid(3).
func cpu(pid int) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// A Memory is what a process holds, in octets. What the kernel keeps for its sockets is not in it.
type Memory struct {
	PSS, RSS int64
	Peak     int64 // the most that RSS was
}

// Memory asks for what the process holds.
func (p *Process) Memory() (m Memory, err error) {
	for _, field := range []struct {
		file, name string
		to         *int64
	}{{"smaps_rollup", "Pss:", &m.PSS}, {"smaps_rollup", "Rss:", &m.RSS}, {"status", "VmHWM:", &m.Peak}} {
		file := fmt.Sprintf("/proc/%d/%s", p.Cmd.Process.Pid, field.file)
		text, err := os.ReadFile(file)
		if err != nil {
			return m, err
		}
		_, rest, found := strings.Cut(string(text), "\n"+field.name)
		line, _, _ := strings.Cut(rest, "\n")
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 10, 64)
		if !found || err != nil {
			return m, fmt.Errorf("no %s in %s", field.name, file)
		}
		*field.to = kib << 10
	}
	return m, nil
}

// Await waits until cond holds, or ctx or limit ends.
func Await(ctx context.Context, limit time.Duration, what string, cond func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not in %s", what, limit)
		case <-tick.C:
		}
	}
	return nil
}

// AwaitPort waits until addr takes connections or p has ended.
func AwaitPort(ctx context.Context, p *Process, addr string) error {
	name := filepath.Base(p.Cmd.Path)
	err := Await(ctx, startsWithin, name+" serves "+addr, func() bool {
		if p.Gone() {
			return true
		}
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
	if err == nil && p.Gone() {
		return fmt.Errorf("%s has ended: %v", name, p.err)
	}
	return err
}

// Local is a port of loopback.
func Local(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// Rest lets time pass that is part of what is tried.
func Rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// MS is a time as figures have it.
func MS(d time.Duration) string { return d.Round(time.Millisecond).String() }

// Build returns the absolute name of the binary to run, which it makes in dir from this tree if there is none.
func Build(ctx context.Context, dir, binary string) (string, error) {
	if binary != "" {
		return filepath.Abs(binary)
	}
	binary = filepath.Join(dir, "millrace")
	return binary, BuildIn(ctx, "", binary)
}

// BuildIn makes a binary as it is shipped, of the tree in dir; "" is that of the caller.
func BuildIn(ctx context.Context, dir, binary string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "timetzdata", "-ldflags", "-s -w -buildid=",
		"-o", binary, "github.com/millrace/millrace")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	return nil
}
