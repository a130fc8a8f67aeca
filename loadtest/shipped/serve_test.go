package shipped_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// ordinary is the number of a user without rights.
const ordinary = 65534

// A home is a folder with the files that millrace init wrote, of a user without rights.
type home struct {
	dir  string // has etc and state
	dest *smtptest.Server
	etc  string // its name for the node
}

// newHome writes one. settings stand at the end of the configuration.
func newHome(t *testing.T, dir, etc, settings string) *home {
	t.Helper()
	h := &home{dir: dir, dest: smtptest.Start(t, smtptest.Behaviour{}), etc: etc}
	h.initialise(t, "etc")
	names := dnstest.Start(t, "sender.test. 60 IN A 127.0.0.1\nsender.test. 60 IN TXT \"v=spf1 ip4:127.0.0.1 -all\"\n")
	h.edit(t, "millrace.yaml", `":25"`, `"ADDR"`, "127.0.0.1:8025", "127.0.0.1:0", `# dns: {servers: ["127.0.0.1:53"]}`,
		fmt.Sprintf("dns: {servers: [%q]}\n%s", names.Addr(), settings))
	if err := os.Mkdir(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	return h
}

// initialise has millrace init fill a folder.
func (h *home) initialise(t *testing.T, folder string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), world.Binary(t), "init", filepath.Join(h.dir, folder), "--domain",
		"example.com", "--to", "smtp://"+h.dest.Addr(), "--hostname", "relay.example", "--postmaster",
		"ops@elsewhere.example").CombinedOutput()
	if err != nil {
		t.Fatalf("init: %v: %s", err, out)
	}
}

// edit replaces texts of a file of etc that have to be there, by putting another file in its place.
func (h *home) edit(t *testing.T, name string, pairs ...string) {
	t.Helper()
	file := filepath.Join(h.dir, "etc", name)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(pairs); i += 2 {
		if !bytes.Contains(text, []byte(pairs[i])) {
			t.Fatalf("%s has no %q", file, pairs[i])
		}
		text = bytes.ReplaceAll(text, []byte(pairs[i]), []byte(pairs[i+1]))
	}
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	h.own(t)
}

// own has all belong to the user without rights, where this one may do that.
func (h *home) own(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		return
	}
	out, err := exec.CommandContext(t.Context(), "chown", "-R", fmt.Sprint(ordinary), h.dir).CombinedOutput()
	if err != nil {
		t.Fatalf("chown: %v: %s", err, out)
	}
}

// start runs a node in the home by a command to which the binary's arguments are added.
func (h *home) start(t *testing.T, listen func(free string) string, command ...string) *world.Process {
	t.Helper()
	last := "ADDR"
	return world.StartProcess(t, func(addr string) *exec.Cmd {
		h.edit(t, "millrace.yaml", last, listen(addr))
		last = listen(addr)
		all := slices.Concat(command, []string{"serve", "-c", h.etc + "/millrace.yaml"})
		cmd := exec.CommandContext(t.Context(), all[0], all[1:]...)
		cmd.Env = append(os.Environ(), "TZ=Asia/Tokyo")
		return cmd
	})
}

// certificate returns the serial number of the certificate that a node shows.
func certificate(t *testing.T, addr string) string {
	t.Helper()
	c, err := smtp.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.StartTLS(&tls.Config{InsecureSkipVerify: true}); err != nil {
		t.Fatal(err)
	}
	state, _ := c.TLSConnectionState()
	return state.PeerCertificates[0].SerialNumber.String()
}

// TestServe_EmptyRoot: the binary, its configuration and a folder for state are all that a node needs of a file system.
// It runs there without rights, and takes from itself what it had: a write outside of that folder is refused although
// the file system would allow it. Certificates that were put in the place of others are read at SIGHUP nonetheless.
func TestServe_EmptyRoot(t *testing.T) {
	redis := world.StartRedis(t)
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	h := newHome(t, root, "/etc", "state: /state\nredis: {url: \""+redis.URL()+"\"}\n")
	binary, err := os.ReadFile(world.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "millrace"), binary, 0o755); err != nil {
		t.Fatal(err)
	}
	chroot := extern.Find(t, "chroot").Path()
	command := []string{chroot, fmt.Sprintf("--userspec=%d:%[1]d", ordinary), root, "/millrace"}
	if os.Getuid() != 0 {
		command = []string{"unshare", "--map-root-user", chroot, root, "/millrace"}
	}
	p := h.start(t, func(free string) string { return free }, command...)
	s := world.Dial(t, source.Config{Addr: p.Addr})
	world.Send(t, s, source.Message{
		Reverse: "a@sender.test", Forward: []string{"info@example.com"}, Octets: []byte("Subject: first\r\n\r\nhi\r\n"),
	})
	world.Messages(t, h.dest, 1)

	world.Await(t, "the node has said that it is ready", func() bool { return p.Log.Has(`"msg":"ready"`) })
	log := p.Log.String()
	if !strings.Contains(log, `"msg":"confined","writes":"/state"`) {
		t.Errorf("the node is not confined:\n%.3000s", log)
	}
	if !regexp.MustCompile(`"time":"[0-9T:.-]+\+09:00"`).MatchString(log) {
		t.Errorf("no time zones in the binary:\n%.500s", log)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.Cmd.Process.Pid))
	if err != nil || !regexp.MustCompile(`Max core file size +0 +0 `).Match(limits) {
		t.Errorf("cores may be written (%v):\n%s", err, limits)
	}

	before := certificate(t, p.Addr)
	h.initialise(t, "next")
	for _, name := range []string{"cert.pem", "cert.key"} {
		if err := os.Rename(filepath.Join(root, "next", name), filepath.Join(root, "etc", name)); err != nil {
			t.Fatal(err)
		}
	}
	h.edit(t, "routes.txt", "\n@example.com", "\nsecond@example.com drop\n@example.com")
	reload(t, p)
	world.Await(t, "another certificate is shown", func() bool { return certificate(t, p.Addr) != before })
	world.Await(t, "the rules are kept in the state folder", func() bool {
		return len(filesOf(t, filepath.Join(root, "state"))) > 0
	})

	// Another folder in the place of that which is kept: it is the node's own, and not the one that it was told of.
	if err := os.Rename(filepath.Join(root, "state"), filepath.Join(root, "was")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.edit(t, "routes.txt", "second@", "third@")
	reload(t, p)
	world.Await(t, "a write outside is refused", func() bool { return p.Log.Has("permission denied") })
	if left := filesOf(t, filepath.Join(root, "state")); len(left) > 0 {
		t.Errorf("written outside of what is kept: %v", left)
	}
	world.Send(t, s, source.Message{
		Reverse: "a@sender.test", Forward: []string{"info@example.com"},
		Octets: []byte("Subject: second\r\n\r\nhi\r\n"),
	})
	end(t, p)
}

// reload has a node read its files anew and waits until it has.
func reload(t *testing.T, p *world.Process) {
	t.Helper()
	n := p.Log.Count(`"msg":"reloaded`)
	if err := p.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	world.Await(t, "the node has reloaded", func() bool { return p.Log.Count(`"msg":"reloaded`) > n })
}

// end drains a node, which ends with 0.
func end(t *testing.T, p *world.Process) {
	t.Helper()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-p.Exited
	if err := p.Err(); err != nil || !p.Log.Has(`"msg":"ended"`) {
		t.Errorf("the node ended with %v:\n%s", err, p.Log)
	}
}

func filesOf(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return files
}
