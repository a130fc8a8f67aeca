package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
)

// A subject is an X between smtp-source and smtp-sink. pid 0 is nothing: its address is smtp-sink's own.
type subject struct {
	name    string
	version string
	addr    string
	pid     int
}

// The names of the subjects.
const (
	nothing  = "nothing"
	haproxy  = "haproxy"
	millrace = "millrace"
)

// A bench holds the processes of a run.
type bench struct {
	dir      string
	progress io.Writer
	source   extern.Program
	subjects []subject
	running  []*fleet.Process
}

// start runs smtp-sink and the subjects. HAProxy is left out, and said to be, if there is none.
func (b *bench) start(ctx context.Context, binary string) error {
	var err error
	if b.source, err = extern.Look("smtp-source"); err != nil {
		return err
	}
	sink, err := b.startSink(ctx)
	if err != nil {
		return err
	}
	b.subjects = []subject{{name: nothing, addr: sink}}
	if err := b.startHAProxy(ctx, sink); err != nil {
		fmt.Fprintln(b.progress, "benchrelay: without HAProxy:", err)
	}
	return b.startMillrace(ctx, sink, binary)
}

func (b *bench) startSink(ctx context.Context) (string, error) {
	program, err := extern.Look("smtp-sink")
	if err != nil {
		return "", err
	}
	args := []string{"-c", "-m", "18000"}
	if os.Getuid() == 0 {
		args = append(args, "-u", "nobody") // smtp-sink refuses to serve as root
	}
	addr, err := freeAddr()
	if err != nil {
		return "", err
	}
	_, err = b.serve(ctx, program.Command(ctx, append(args, addr, "4096")...), addr)
	return addr, err
}

// haproxyConfig passes octets on and does nothing else. HAProxy's own default is a thread per core.
const haproxyConfig = `
global
	maxconn 5000
defaults
	mode tcp
	timeout connect 10s
	timeout client 5m
	timeout server 5m
listen relay
	bind %s
	server sink %s
`

func (b *bench) startHAProxy(ctx context.Context, sink string) error {
	program, err := extern.Look("haproxy")
	if err != nil {
		return err
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	config := filepath.Join(b.dir, "haproxy.cfg")
	if err := os.WriteFile(config, fmt.Appendf(nil, haproxyConfig, addr, sink), 0o644); err != nil {
		return err
	}
	pid, err := b.serve(ctx, program.Command(ctx, "-db", "-q", "-f", config), addr)
	if err != nil {
		return err
	}
	said, err := program.Command(ctx, "-v").Output()
	if err != nil {
		return err
	}
	version, _, _ := strings.Cut(string(said), "\n")
	b.subjects = append(b.subjects, subject{haproxy, version + "; TCP mode, a thread per core", addr, pid})
	return nil
}

// millraceConfig has no policy, no TLS, no traces and a log that stays empty.
const millraceConfig = `hostname: millrace.bench.example
postmaster: postmaster@elsewhere.example
listen:
  - {addr: "%s"}
routes: routes.txt
limits: {connections: 15000, connections_per_client: 15000}
log: {level: error}
`

func (b *bench) startMillrace(ctx context.Context, sink, binary string) error {
	version := binary
	if binary == "" {
		version = "built from this tree"
	}
	binary, err := fleet.Build(ctx, b.dir, binary)
	if err != nil {
		return err
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	config := filepath.Join(b.dir, "millrace.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, millraceConfig, addr), 0o644); err != nil {
		return err
	}
	// A proxy in TCP mode does not look at messages either; what looking costs is measured by bench/auth_test.go.
	routes := "domain * dmarc=off require_auth=no seal=never\n@bench.example smtp://" + sink + "\n"
	if err := os.WriteFile(filepath.Join(b.dir, "routes.txt"), []byte(routes), 0o644); err != nil {
		return err
	}
	pid, err := b.serve(ctx, exec.CommandContext(ctx, binary, "serve", "-c", config), addr)
	if err != nil {
		return err
	}
	b.subjects = append(b.subjects, subject{millrace, version, addr, pid})
	return nil
}

// serve runs cmd and returns its pid once addr takes connections.
func (b *bench) serve(ctx context.Context, cmd *exec.Cmd, addr string) (int, error) {
	var said bytes.Buffer // of a program that fails to start; nothing is expected of one that serves
	cmd.Stderr = &said
	p, err := fleet.Run(cmd)
	if err != nil {
		return 0, err
	}
	b.running = append(b.running, p)
	if err := fleet.AwaitPort(ctx, p, addr); err != nil {
		return 0, fmt.Errorf("%w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	return cmd.Process.Pid, nil
}

// close ends the processes, those that feed others first.
func (b *bench) close() {
	for i := len(b.running) - 1; i >= 0; i-- {
		b.running[i].End()
	}
}

// warm lets each subject open its sessions and fill its pools.
func (b *bench) warm(ctx context.Context) error {
	for _, x := range b.subjects {
		for _, octets := range []int{4096, 256 << 10} {
			if _, err := b.measure(ctx, scenario{Sessions: 20, Messages: 200, Octets: octets, Reuse: true},
				x); err != nil {
				return fmt.Errorf("warming %s: %w", x.name, err)
			}
		}
	}
	return nil
}

// A sample is one run of smtp-source.
type sample struct {
	CPU  float64 // seconds of the subject
	Wall float64 // seconds
}

// measure runs smtp-source once.
func (b *bench) measure(ctx context.Context, s scenario, x subject) (sample, error) {
	o := extern.SourceOptions{
		Sessions: s.Sessions, Messages: s.Messages, Octets: s.Octets, Reuse: s.Reuse,
		Reverse: "source@client.example", Forward: "sink@bench.example",
	}
	cmd := b.source.Command(ctx, o.Args(x.addr)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	before, err := cpuTime(x.pid)
	if err != nil {
		return sample{}, err
	}
	begun := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return sample{}, fmt.Errorf("smtp-source: %w: %.300s", err, out)
	}
	wall := time.Since(begun)
	after, err := cpuTime(x.pid)
	return sample{CPU: (after - before).Seconds(), Wall: wall.Seconds()}, err
}

// cpuTime is the CPU time that a process has taken, all its threads together. Its clock is that of
// clock_getcpuclockid(3), which counts in nanoseconds where /proc/PID/stat counts in hundredths of a second.
func cpuTime(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, errors.Join(fmt.Errorf("process %d is gone", pid), err)
	}
	return time.Duration(t.Nano()), nil
}

func freeAddr() (string, error) {
	ports, err := extern.FreePorts(1)
	if err != nil {
		return "", err
	}
	return fleet.Local(ports[0]), nil
}
