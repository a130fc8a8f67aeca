package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/loadtest/extern"
)

// A program that is to have networks runs anew in a process that Apart prepares: in a namespace that has nothing but
// loopback and one bridge. That is where destinations, Redis, the name server and the clients are, each node is in
// another one, and a cable leads from there to the bridge. None of the namespaces has a name, so that the system
// removes them with the last process in them, however that ends.

// Apart prepares a run of this program in a network namespace of its own. What it mounts is seen there alone.
func Apart(ctx context.Context, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * drainWait
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return cmd, nil
}

// drainWait is how long what such a program started may take to end.
const drainWait = 5 * time.Second

// A Namespace is a network of its own: one thread that is in it, on which all that has to happen there is done.
// Processes that are started there stay in it, and are killed when the thread ends.
type Namespace struct {
	path string
	work chan func()

	ends    []*os.File // of a Wire
	carried sync.WaitGroup

	longestOut, longestIn atomic.Int64 // frames that a Wire carries; 0: any
}

func newNamespace() (*Namespace, error) {
	n := &Namespace{work: make(chan func())}
	failed := make(chan error)
	go func() { // ends with Close, and its thread with it, because it is never unlocked
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

// Do runs f in the namespace.
func (n *Namespace) Do(f func() error) error {
	done := make(chan error)
	n.work <- func() { done <- f() }
	return <-done
}

// Within runs f in the namespace, on the goroutine of the caller, which f may end.
func (n *Namespace) Within(f func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		return err
	}
	defer own.Close()
	other, err := os.Open(n.path)
	if err != nil {
		return err
	}
	defer other.Close()
	if err := unix.Setns(int(other.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	defer func() {
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) != nil {
			runtime.LockOSThread() // once more than it is unlocked: the thread ends with the goroutine
		}
	}()
	f()
	return nil
}

// IP runs the program of that name with each line of orders, in the namespace of the caller's thread.
func IP(ctx context.Context, orders ...string) error { return batch(ctx, "ip", orders) }

// batch runs ip or tc.
func batch(ctx context.Context, name string, orders []string) error {
	program, err := extern.Look(name)
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
		return fmt.Errorf("%s %q: %w: %s", name, orders, err, out)
	}
	return nil
}

// Hub is where everything but the nodes is.
const Hub = "10.77.0.1"

// Close ends the processes in the namespace.
func (n *Namespace) Close() {
	close(n.work)
	for _, end := range n.ends {
		end.Close()
	}
	n.carried.Wait()
}

// A Port is where a node is plugged in.
type Port struct {
	*Namespace
	number int
}

// Addr is the address of the port.
func (p Port) Addr() string { return fmt.Sprintf("10.77.0.%d", 11+p.number) }

// cable is the name of the end at the Hub.
func (p Port) cable() string { return fmt.Sprintf("port%d", p.number) }

// hardware is the address that frames to the port bear.
func (p Port) hardware() string { return fmt.Sprintf("02:00:00:00:00:%02x", 11+p.number) }

// nowhere is a hardware address that no port has.
const nowhere = "02:00:00:00:00:ff"

// Plug makes a bridge in the namespace of this process, and n ports with such a wire each.
func Plug(ctx context.Context, n int, wire Wire) ([]Port, error) {
	err := IP(ctx, "link set lo up", "link add hub type bridge forward_delay 0 stp_state 0",
		"addr add "+Hub+"/24 dev hub", "link set hub up")
	if err != nil {
		return nil, err
	}
	var ports []Port
	for i := range n {
		p, err := plug(ctx, i, wire)
		if err != nil {
			return nil, err
		}
		ports = append(ports, p)
	}
	return ports, nil
}

// plug makes one more port at the bridge.
func plug(ctx context.Context, number int, wire Wire) (Port, error) {
	space, err := newNamespace()
	if err != nil {
		return Port{}, err
	}
	p := Port{space, number}
	if wire == (Wire{}) {
		err = IP(ctx, fmt.Sprintf("link add %s type veth peer name eth0 address %s netns %s", p.cable(), p.hardware(),
			p.path))
	} else {
		err = wire.lay(ctx, p.cable(), p)
	}
	if err == nil {
		err = IP(ctx, fmt.Sprintf("link set %s master hub up", p.cable()))
	}
	if err != nil {
		return Port{}, err
	}
	return p, p.Do(func() error {
		return IP(ctx, "link set lo up", "addr add "+p.Addr()+"/24 dev eth0", "link set eth0 up")
	})
}

// Cut loses whatever p sends to an address, without a word to either side; Join ends that. To do it at the sender, with
// the wrong address on the frames, needs neither a packet filter nor anything of the kernel that a machine may lack.
func (p Port) Cut(ctx context.Context, addr string) error {
	return p.Do(func() error {
		return IP(ctx, fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud permanent", addr, nowhere))
	})
}

// Join ends a Cut.
func (p Port) Join(ctx context.Context, addr string) error {
	return p.Do(func() error { return IP(ctx, "neigh del "+addr+" dev eth0") })
}

// Narrow lets no more than a rate, such as 4mbit, through the cable in each direction; "" ends that.
func (p Port) Narrow(ctx context.Context, rate string) error {
	order := func(device string) []string {
		if rate == "" {
			return []string{"qdisc del dev " + device + " root"}
		}
		return []string{"qdisc add dev " + device + " root tbf rate " + rate + " burst 32kbit latency 400ms"}
	}
	return errors.Join(batch(ctx, "tc", order(p.cable())),
		p.Do(func() error { return batch(ctx, "tc", order("eth0")) }))
}

// Swallow loses the frames of a Wire that are longer than so many octets on their way out of the port, and on their way
// in, without a word to either side, as a path does that cannot carry them and whose ICMP is filtered; 0 ends that.
func (p Port) Swallow(out, in int) {
	p.longestOut.Store(int64(out))
	p.longestIn.Store(int64(in))
}

// ProbeMTU has TCP try shorter segments where long ones are lost, in the network of the caller's thread. It is what an
// administrator can do on such a path; the kernel ships with it off.
func ProbeMTU() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_mtu_probing", []byte("1"), 0o644) }
