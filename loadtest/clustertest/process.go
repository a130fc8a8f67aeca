package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// poll is the time between two looks at something that is about to happen.
const poll = 10 * time.Millisecond

// A process is a program that serves until it is ended.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // how it ended, once exited is closed
}

// launch runs cmd with its output in a file.
func launch(cmd *exec.Cmd, output string) (*process, error) {
	file, err := os.OpenFile(output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close() // the process has it by then
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() { // ends with the process, which end brings about
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

func (p *process) gone() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// signal sends s unless the process is gone.
func (p *process) signal(s syscall.Signal) error {
	if p.gone() {
		return errors.New("the process is gone")
	}
	return p.cmd.Process.Signal(s)
}

// end asks the process to end, and kills it when it takes longer than a while.
func (p *process) end() {
	_ = p.signal(syscall.SIGCONT) // errors mean that it is gone
	_ = p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second):
		_ = p.signal(syscall.SIGKILL)
		<-p.exited
	}
}

// cpu is the time that the process has taken, all its threads together. Its clock is that of clock_getcpuclockid(3).
func (p *process) cpu() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|2), &t); err != nil {
		return 0, fmt.Errorf("process %d: %w", p.cmd.Process.Pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// await waits until cond holds, or ctx or limit ends.
func await(ctx context.Context, limit time.Duration, what string, cond func() bool) error {
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

// awaitPort waits until addr takes connections or p has ended.
func awaitPort(ctx context.Context, p *process, addr string) error {
	name := filepath.Base(p.cmd.Path)
	err := await(ctx, 15*time.Second, name+" serves "+addr, func() bool {
		if p.gone() {
			return true
		}
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
	if err == nil && p.gone() {
		return fmt.Errorf("%s has ended: %v", name, p.err)
	}
	return err
}

// freePorts returns n ports that are free for TCP and UDP. They lie below those that the system takes for outgoing
// connections: a node that is restarted has to find its own ports free.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range 50 * n {
		port := 11000 + rand.IntN(20000)
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		u, err := net.ListenPacket("udp", addr)
		l.Close()
		if err != nil {
			continue
		}
		u.Close()
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, errors.New("no free ports")
}
