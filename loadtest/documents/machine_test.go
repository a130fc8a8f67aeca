package documents

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/world"
)

// The addresses of the world around the machine. They are public, for a relay sends to no other MX host; nothing of it
// leaves the namespace.
const (
	machineAddr  = "11.0.0.10"
	receiverAddr = "11.0.0.25"
	dnsAddr      = "11.0.0.53"
	senderAddr   = "11.0.0.7"
)

// outside is the DNS before the page has published anything. The destination is of a provider that looks at ARC sets.
const outside = `mailbox.example. 60 IN MX 10 mx.mailbox.google.com.
mx.mailbox.google.com. 60 IN A ` + receiverAddr + `
elsewhere.example. 60 IN TXT "v=spf1 ip4:` + senderAddr + ` -all"
elsewhere.example. 60 IN MX 10 mx.mailbox.google.com.
mail.elsewhere.example. 60 IN A ` + senderAddr + `
7.0.0.11.in-addr.arpa. 60 IN PTR mail.elsewhere.example.
`

// A machine is a fresh one with the program installed, on which a page is followed.
type machine struct {
	t        *testing.T
	port     fleet.Port
	work     string // the folder that the commands are typed in
	dns      *dnstest.Server
	zone     string
	received func() []extern.Message
	serving  *fleet.Process
	log      string // file of what serves
}

// newMachine makes one in the namespace of this process, which apart made.
func newMachine(t *testing.T, binary string) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, work: filepath.Join(dir, "work"), zone: outside, log: filepath.Join(dir, "log")}
	m.fileSystem(dir, binary)
	ports, err := fleet.Plug(t.Context(), 1, fleet.Wire{})
	if err != nil {
		t.Fatal(err)
	}
	m.port = ports[0]
	t.Cleanup(m.port.Close)
	t.Cleanup(m.stop)
	err = errors.Join(
		fleet.IP(t.Context(), "addr add "+senderAddr+"/24 dev hub", // the first is what connections come from
			"addr add "+receiverAddr+"/24 dev hub", "addr add "+dnsAddr+"/24 dev hub"),
		m.port.Do(func() error { return fleet.IP(t.Context(), "addr add "+machineAddr+"/24 dev eth0") }),
		os.WriteFile("/etc/resolv.conf", []byte("nameserver "+dnsAddr+"\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	if m.dns, err = dnstest.Listen(net.JoinHostPort(dnsAddr, "53"), m.zone); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.dns.Close)
	var receiver string
	receiver, m.received = extern.StartExim(t)
	forward(t, net.JoinHostPort(receiverAddr, "25"), receiver)
	return m
}

// fileSystem has what a page writes to lie in memory, for this process and those that it starts.
func (m *machine) fileSystem(dir, binary string) {
	m.t.Helper()
	mount := func(source, target, kind string, flags uintptr) {
		if err := unix.Mount(source, target, kind, flags, ""); err != nil {
			m.t.Fatalf("mount %s: %v", target, err)
		}
		m.t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) }) // goes with the namespace at the latest
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		m.t.Fatal(err)
	}
	mount("tmpfs", dir, "tmpfs", 0)
	_ = exec.CommandContext(m.t.Context(), "cp", "-a", "/etc", dir).Run() // some of it is not for each user
	mount(filepath.Join(dir, "etc"), "/etc", "", unix.MS_BIND)
	for _, empty := range []string{"/usr/local", "/var/log", "/var/lib", "/srv"} {
		mount("tmpfs", empty, "tmpfs", 0)
	}
	for _, folder := range []string{
		m.work, "/usr/local/bin", "/usr/local/share/man/man1", "/etc/bash_completion.d", "/etc/postfix", "/etc/redis",
		"/etc/haproxy",
	} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := os.WriteFile("/usr/local/bin/millrace", program, 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// forward passes connections on, for a program that chose a port of its own.
func forward(t *testing.T, from, to string) {
	t.Helper()
	l, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			go passOn(in, out)
			go passOn(out, in)
		}
	}()
}

// passOn copies until one side ends, which ends both.
func passOn(from, to net.Conn) {
	_, _ = io.Copy(to, from)
	from.Close()
	to.Close()
}

// follow does what a page says: writes the files whose content it shows, and runs its commands.
func (m *machine) follow(name string, blocks []block) {
	m.t.Helper()
	for i := range blocks {
		b := &blocks[i]
		if file := b.file(); file != "" {
			if !filepath.IsAbs(file) {
				file = filepath.Join(m.work, file)
			}
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				m.t.Fatal(err)
			}
			world.Save(m.t, file, b.text)
		}
		if b.isRun() {
			m.run(fmt.Sprintf("%s:%d", name, b.line), b.text)
		}
	}
}

// explain ends with the verdict as its exit code, which is no failure of the command.
const explain = `set -e
millrace() {
	local code=0
	command millrace "$@" || code=$?
	[ "$1" = explain ] && [ "$code" -lt 3 ] && return 0
	return "$code"
}
`

// run runs the commands of a block. What serves in the foreground is left running, as in a terminal of its own, and
// what is printed as records is published.
func (m *machine) run(at, commands string) {
	m.t.Helper()
	var script strings.Builder
	shell := func() {
		if strings.TrimSpace(script.String()) == "" {
			return
		}
		out, err := m.shell(explain + script.String())
		m.t.Logf("%s\n%s%s", at, script.String(), out)
		if err != nil {
			m.t.Fatalf("%s: %v\n%s\n%s", at, err, script.String(), out)
		}
		m.publish(out)
		script.Reset()
	}
	for line := range strings.Lines(commands) {
		if !strings.HasPrefix(line, "millrace serve ") {
			script.WriteString(line)
			continue
		}
		shell()
		m.serve(line)
	}
	shell()
}

// shell runs a script on the machine.
func (m *machine) shell(script string) (string, error) {
	var out []byte
	err := m.port.Do(func() (err error) {
		out, err = m.command("bash", "-c", script).CombinedOutput()
		return err
	})
	return string(out), err
}

// command prepares a command in the folder of the page.
func (m *machine) command(name string, args ...string) *exec.Cmd {
	tools := extern.Find(m.t, "jq").Command(m.t.Context()).Env
	cmd := exec.CommandContext(m.t.Context(), name, args...)
	cmd.Dir = m.work
	root := filepath.Join(extern.Root(), ".cache", "root", "usr")
	cmd.Env = append(tools, "PATH=/usr/local/bin:"+root+"/bin:"+root+"/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
	return cmd
}

// serve starts a line that serves, in place of the one before.
func (m *machine) serve(line string) {
	m.t.Helper()
	m.stop()
	words, _, _ := strings.Cut(line, "#")
	args := strings.Fields(words)
	err := m.port.Do(func() (err error) {
		m.serving, err = fleet.Launch(m.command("/usr/local/bin/"+args[0], args[1:]...), m.log)
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	world.Await(m.t, "it serves", func() bool { return m.serving.Gone() || greets() })
	if m.serving.Gone() {
		said, _ := os.ReadFile(m.log) // the failure stands without it
		m.t.Fatalf("%s: %v\n%s", line, m.serving.Err(), said)
	}
}

// greets reports whether the machine takes mail.
func greets() bool {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(machineAddr, "25"), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	greeting := make([]byte, 4)
	_, err = io.ReadFull(conn, greeting)
	return err == nil && string(greeting) == "220 "
}

// stop ends what serves.
func (m *machine) stop() {
	if m.serving != nil && !m.serving.Gone() {
		_ = syscall.Kill(m.serving.Cmd.Process.Pid, syscall.SIGTERM) // an error means that it is gone
		<-m.serving.Exited
	}
}

// recordForm is a line of a zone, as init prints it.
var recordForm = regexp.MustCompile(`(?m)^([a-z0-9._-]+\.)\s+IN (A|AAAA|MX|TXT|PTR)\s+(.+)$`)

// publish adds the records that a command printed to the DNS.
func (m *machine) publish(out string) {
	m.t.Helper()
	for _, r := range recordForm.FindAllStringSubmatch(out, -1) {
		m.zone += r[1] + " 60 IN " + r[2] + " " + r[3] + "\n"
	}
	if err := m.dns.SetZone(m.zone); err != nil {
		m.t.Fatal(err)
	}
}
