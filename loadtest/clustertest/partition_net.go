package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/loadtest/extern"
)

// A cut needs nodes with networks of their own. A scene is such a step: it runs in a process of its own, in a network
// namespace that has nothing but loopback and one bridge. The process's own namespace is where destinations, Redis, the
// name server and the clients are, each node is in another one, and a cable leads from there to the bridge. None of the
// namespaces has a name, so that the system removes them with the last process in them, however that ends.

// scene makes a step of a scene. Where namespaces cannot be had it is left out; with CI=true that is a failure.
func scene(name string) func(context.Context, *trial) (string, error) {
	return func(ctx context.Context, t *trial) (string, error) {
		if _, err := extern.Look("ip"); err != nil {
			return leftOut(err)
		}
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		cmd := exec.CommandContext(ctx, self, "-scene", name, "-binary", t.lab.binary)
		cmd.Env = append(os.Environ(), "TMPDIR="+t.lab.dir) // what it leaves there goes with the lab
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 2 * drainWait
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		if uid := os.Getuid(); uid != 0 {
			cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		var out, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &said
		if err := cmd.Start(); err != nil {
			return leftOut(fmt.Errorf("no network namespace: %w", err))
		}
		err = cmd.Wait()
		figures := string(bytes.TrimSpace(out.Bytes()))
		if err != nil && said.Len() > 0 {
			err = errors.New(string(bytes.TrimSpace(said.Bytes())))
		}
		return figures, err
	}
}

func leftOut(why error) (string, error) {
	if os.Getenv("CI") == "true" {
		return "", why
	}
	return "left out: " + why.Error(), nil
}

// A namespace is a network of its own: one thread that is in it, on which all that has to happen there is done.
// Processes that are started there stay in it, and are killed when the thread ends.
type namespace struct {
	path string
	work chan func()
}

func newNamespace() (*namespace, error) {
	n := &namespace{work: make(chan func())}
	failed := make(chan error)
	go func() { // ends with close, and its thread with it, because it is never unlocked
		runtime.LockOSThread()
		n.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		failed <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range n.work {
			f()
		}
	}()
	if err := <-failed; err != nil {
		close(n.work)
		return nil, fmt.Errorf("no network namespace: %w", err)
	}
	return n, nil
}

// do runs f in the namespace.
func (n *namespace) do(f func() error) error {
	done := make(chan error)
	n.work <- func() { done <- f() }
	return <-done
}

// ip runs the program of that name with each line of orders, in the namespace of the caller's thread.
func ip(ctx context.Context, orders ...string) error {
	program, err := extern.Look("ip")
	if err != nil {
		return err
	}
	cmd := program.Command(ctx, "-batch", "-")
	var in bytes.Buffer
	for _, o := range orders {
		fmt.Fprintln(&in, o)
	}
	cmd.Stdin = &in
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %q: %w: %s", orders, err, out)
	}
	return nil
}

// hub is where everything but the nodes is.
const hub = "10.77.0.1"

// A port is where a node is plugged in.
type port struct {
	*namespace
	number int
}

func (p port) addr() string { return fmt.Sprintf("10.77.0.%d", 11+p.number) }

// hardware is the address that frames to the port bear.
func (p port) hardware() string { return fmt.Sprintf("02:00:00:00:00:%02x", 11+p.number) }

// nowhere is a hardware address that no port has.
const nowhere = "02:00:00:00:00:ff"

// plug makes a bridge in the namespace of this process, and n ports.
func plug(ctx context.Context, n int) ([]port, error) {
	err := ip(ctx, "link set lo up", "link add hub type bridge forward_delay 0 stp_state 0",
		"addr add "+hub+"/24 dev hub", "link set hub up")
	if err != nil {
		return nil, err
	}
	var ports []port
	for i := range n {
		space, err := newNamespace()
		if err != nil {
			return nil, err
		}
		p := port{space, i}
		ports = append(ports, p)
		cable := fmt.Sprintf("port%d", i)
		if err := ip(ctx,
			fmt.Sprintf("link add %s type veth peer name eth0 address %s netns %s", cable, p.hardware(), p.path),
			fmt.Sprintf("link set %s master hub up", cable)); err != nil {
			return nil, err
		}
		if err := p.do(func() error {
			return ip(ctx, "link set lo up", "addr add "+p.addr()+"/24 dev eth0", "link set eth0 up")
		}); err != nil {
			return nil, err
		}
	}
	return ports, nil
}

// cut loses whatever p sends to another port, without a word to either; join ends that. To do it at the sender, with
// the wrong address on the frames, needs neither a packet filter nor anything of the kernel that a machine may lack.
func (p port) cut(ctx context.Context, to port) error { return p.lead(ctx, to, nowhere) }

func (p port) join(ctx context.Context, to port) error { return p.lead(ctx, to, to.hardware()) }

func (p port) lead(ctx context.Context, to port, hardware string) error {
	return p.do(func() error {
		return ip(ctx, fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud permanent", to.addr(), hardware))
	})
}
