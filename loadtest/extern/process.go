package extern

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// readyTimeout bounds the time from a program's start until it takes a connection. It is long because the machine
	// may be busy with the other tests.
	readyTimeout = 30 * time.Second
	// stopTimeout is what a program gets to end by itself before it is killed.
	stopTimeout = 5 * time.Second
	// pollInterval is the time between two looks at something that a program is about to do.
	pollInterval = 5 * time.Millisecond
	// portTries is how often a program is started anew because another process took its port first.
	portTries = 3
)

// serve starts the program that command prepares for an address on the loopback interface, and returns that address
// once a connection to it succeeds. The program is stopped when the test ends. Its output is shown only if it fails to
// start.
func serve(t testing.TB, command func(addr string) *exec.Cmd) string {
	t.Helper()
	return serveAt(t, "127.0.0.1", command)
}

// serveAt is serve with an address of a host.
func serveAt(t testing.TB, host string, command func(addr string) *exec.Cmd) string {
	t.Helper()
	var failure error
	for range portTries {
		_, port := split(t, FreeAddr(t))
		addr := net.JoinHostPort(host, port)
		cmd := command(addr)
		failure = start(t, cmd, addr)
		if failure == nil {
			return addr
		}
	}
	t.Fatal(failure)
	return ""
}

// start runs cmd until the test ends and returns when addr takes connections, or with what the program said when it
// ended before that.
func start(t testing.TB, cmd *exec.Cmd, addr string) error {
	t.Helper()
	name := filepath.Base(cmd.Path)
	log := filepath.Join(t.TempDir(), "output")
	file, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	// A group of its own, so that the processes it starts can be ended with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	exited := make(chan struct{})
	// Ends when the program does, which stop, called by the test's clean-up at the latest, brings about.
	go func() {
		defer close(exited)
		_ = cmd.Wait() // its end is what matters; how it ended is told by its output
	}()
	// Once, because the number of a process that is gone may become another's.
	end := sync.OnceFunc(func() { stop(cmd.Process.Pid, exited) })
	t.Cleanup(end)

	if awaitPort(addr, exited) {
		return nil
	}
	end()
	said, _ := os.ReadFile(log) // the failure stands without it
	return fmt.Errorf("%s does not serve %s: %s", name, addr, said)
}

// stop ends the process group that the process pid leads and returns when that process is gone.
func stop(pid int, exited <-chan struct{}) {
	_ = syscall.Kill(-pid, syscall.SIGTERM) // an error means that nothing is left to end
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-exited:
	case <-timer.C:
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL) // for children that outlived their parent
	<-exited
}

// awaitPort tells whether addr took a connection before exited was closed or readyTimeout was over.
func awaitPort(addr string, exited <-chan struct{}) bool {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "tcp", addr)
		if err == nil {
			_ = conn.Close() // nothing was said on it
			return true
		}
		select {
		case <-exited:
			return false
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// sandbox prepares a run of a program that expects to be installed: .cache/root lies over /usr, /etc/passwd and
// /etc/group hold one user and one group of the given name, and the program runs as that user, which is the caller
// outside. The files it makes are the caller's.
func sandbox(t testing.TB, user, program string, args ...string) *exec.Cmd {
	t.Helper()
	unshare := Find(t, "unshare")
	Find(t, program)
	dir := t.TempDir()
	passwd, group := filepath.Join(dir, "passwd"), filepath.Join(dir, "group")
	writeFile(t, passwd, user+":x:1000:1000::/:/bin/sh\n")
	writeFile(t, group, user+":x:1000:\n")

	enter := []string{"--mount"}
	if os.Getuid() != 0 {
		enter = append(enter, "--user", "--map-root-user")
	}
	if err := exec.Command(unshare.path, append(enter, "true")...).Run(); err != nil {
		lack(t,
			fmt.Sprintf("%s needs a mount namespace, which this machine refuses: to get it: sysctl "+
				"kernel.unprivileged_userns_clone=1", program))
	}
	const script = `set -e
if [ -n "$1" ]; then cd "$1"; mount -t overlay overlay -o lowerdir=usr:/usr /usr; cd /; fi
mount --bind "$2" /etc/passwd
mount --bind "$3" /etc/group
shift 3
PATH=/usr/sbin:/usr/bin:/sbin:/bin exec unshare --user --map-user=1000 --map-group=1000 "$@"`
	enter = append(enter, "sh", "-c", script, "sh", cacheRoot(), passwd, group, program)
	return exec.Command(unshare.path, append(enter, args...)...)
}

func writeFile(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
