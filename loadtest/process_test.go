package loadtest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// built is the millrace binary of this tree, made when the first test wants it and gone with the last.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir) // a folder of the system's for such things
	}
	os.Exit(code)
}

// binary builds millrace, once.
func binary(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "millrace"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", filepath.Join(built.dir, "millrace"), "github.com/millrace/millrace")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w: %s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "millrace")
}

// A process is a node in a process of its own.
type process struct {
	addr   string
	cmd    *exec.Cmd
	log    *logBuffer
	exited chan struct{}
	err    error // how it exited
}

// startProcess runs what command gives for an address until the test ends. It tries again if another process took that
// address first.
func startProcess(t testing.TB, command func(addr string) *exec.Cmd) *process {
	t.Helper()
	var p *process
	for range 3 {
		addr := freeAddr(t)
		p = &process{addr: addr, cmd: command(addr), log: new(logBuffer), exited: make(chan struct{})}
		if p.start(t) {
			return p
		}
	}
	t.Fatalf("the node ended: %v\n%s", p.err, p.log)
	return nil
}

// start reports whether the node serves; if not, it has ended.
func (p *process) start(t testing.TB) bool {
	t.Helper()
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process, which the clean-up ends
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // an error means that it is gone
		<-p.exited
	})
	ended := false
	await(t, "the node serves or ends", func() bool {
		select {
		case <-p.exited:
			ended = true
			return true
		default:
			return p.greets()
		}
	})
	return !ended
}

// greets reports whether it is the node that serves its address.
func (p *process) greets() bool {
	conn, err := net.Dial("tcp", p.addr)
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

// terminate sends SIGTERM to pid and wants the process to end well.
func (p *process) terminate(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case <-p.exited:
	case <-ctx.Done():
		t.Fatalf("not gone in %s\n%s", patience, p.log)
	}
	if p.err != nil {
		t.Errorf("ended with %v\n%s", p.err, p.log)
	}
}

// freeAddr gives an address whose port was free a moment ago.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// memoryDir makes a folder on a file system in memory, or at least one for temporary files.
func memoryDir(t testing.TB) string {
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

// holding gives the files below dir that hold b, and how many files there are.
func holding(t testing.TB, dir string, b []byte) (found []string, files int) {
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
