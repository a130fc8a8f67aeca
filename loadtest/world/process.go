package world

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/logtest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
)

// built is the millrace binary of this tree, made when the first test wants it and gone with the last.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// Main runs the tests of a package, removes what they built and returns their exit code. A package whose tests use
// Binary calls it from TestMain.
func Main(m *testing.M) int {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir) // a folder of the system's for such things
	}
	return code
}

// Binary builds millrace, once.
func Binary(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "millrace"); built.err != nil {
			return
		}
		_, built.err = fleet.Build(context.Background(), built.dir, "")
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "millrace")
}

// A Process is a node in a process of its own.
type Process struct {
	*fleet.Process
	Addr string
	Log  *logtest.Log
}

// StartProcess runs what command returns for an address until the test ends. Its log is kept unless the command has an
// Stderr of its own. It tries again if another process took
// that address first.
func StartProcess(t TB, command func(addr string) *exec.Cmd) *Process {
	t.Helper()
	var p *Process
	for range 3 {
		addr := FreeAddr(t)
		p = &Process{Addr: addr, Log: new(logtest.Log)}
		if p.start(t, command(addr)) {
			return p
		}
	}
	t.Fatalf("the node ended: %v\n%s", p.Err(), p.Log)
	return nil
}

// start reports whether the node serves; if not, it has ended.
func (p *Process) start(t TB, cmd *exec.Cmd) bool {
	t.Helper()
	cmd.Stdout = p.Log
	if cmd.Stderr == nil {
		cmd.Stderr = p.Log
	}
	cmd.WaitDelay = 5 * time.Second
	var err error
	if p.Process, err = fleet.Run(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-p.Cmd.Process.Pid, syscall.SIGKILL) // an error means that it is gone
		<-p.Exited
	})
	Await(t, "the node serves or ends", func() bool { return p.Gone() || p.greets() })
	return !p.Gone()
}

// greets reports whether it is the node that serves its address.
func (p *Process) greets() bool {
	conn, err := net.Dial("tcp", p.Addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(time.Second)) != nil {
		return false
	}
	greeting := make([]byte, len("220 relay.example "))
	_, err = io.ReadFull(conn, greeting)
	return err == nil && string(greeting) == "220 relay.example "
}

// Terminate sends SIGTERM to pid and wants the process to end well.
func (p *Process) Terminate(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	select {
	case <-p.Exited:
	case <-ctx.Done():
		t.Fatalf("not gone in %s\n%s", Patience, p.Log)
	}
	if p.Err() != nil {
		t.Errorf("ended with %v\n%s", p.Err(), p.Log)
	}
}

// FreeAddr returns an address on the loopback interface whose port the system hands to no other test.
func FreeAddr(t TB) string {
	t.Helper()
	ports, err := extern.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return fleet.Local(ports[0])
}

// MemoryDir makes a folder on a file system in memory, or at least one for temporary files.
func MemoryDir(t testing.TB) string {
	t.Helper()
	const tmpfs = 0x01021994
	var s syscall.Statfs_t
	parent := ""
	if syscall.Statfs("/dev/shm", &s) == nil && s.Type == tmpfs {
		parent = "/dev/shm"
	}
	dir, err := os.MkdirTemp(parent, "millrace")
	if err != nil && parent != "" {
		dir, err = os.MkdirTemp("", "millrace")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // in memory, or the system's for such things
	return dir
}

// Holding returns the files below dir that hold b, and how many files there are.
func Holding(t testing.TB, dir string, b []byte) (found []string, files int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		content, err := os.ReadFile(path)
		if bytes.Contains(content, b) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, files
}

// Tracee returns the one child of a process.
func Tracee(t testing.TB, pid int) int {
	t.Helper()
	child, err := extern.Child(pid)
	if err != nil {
		t.Fatal(err)
	}
	return child
}
