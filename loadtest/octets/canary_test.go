package octets_test

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// canary travels in every message and stands nowhere else.
const canary = "cAnArY-7c1f0e2b"

// fileCalls are the system calls that open a file or make one.
const fileCalls = "open,openat,openat2,creat,memfd_create,mkdir,mkdirat,rename," +
	"renameat,renameat2,link,linkat,symlink,symlinkat,mknod,mknodat,truncate"

// TestCanary_NoOctetWritten runs a node under strace in a folder in memory, sends it messages that end in
// every way, and looks for the canary in files and log, and for a file opened for writing.
func TestCanary_NoOctetWritten(t *testing.T) {
	strace := extern.Find(t, "strace")
	d := smtptest.Start(t, smtptest.Behaviour{
		Dots: map[string]smtptest.Answer{
			"refused": {Reply: "550 5.7.1 No"}, "deferred": {Reply: "451 4.3.0 Later"}, "lost": {Close: true},
		},
		Recipients: map[string]smtptest.Answer{"unknown": {Reply: "550 5.1.1 Nobody"}},
	})
	config, memory := t.TempDir(), world.MemoryDir(t)
	trace := filepath.Join(config, "trace")
	w := world.World{
		Routes: "trap@x.example drop\n@x.example smtp://" + d.Addr() + "\n", Log: "debug",
		Config: "telemetry: {sample: 1}",
	}
	p := world.StartProcess(t, func(addr string) *exec.Cmd {
		// With no core dumps: the one file that a process may leave without opening it.
		cmd := strace.Command(t.Context(), "-f", "-qq", "-s", "300", "-o", trace, "-e", "trace="+fileCalls,
			"sh", "-c", `ulimit -c 0; exec "$0" "$@"`, world.Binary(t), "serve", "-c", w.Write(t, config, addr))
		cmd.Dir = memory
		cmd.Env = append(cmd.Env, "TMPDIR="+memory, "HOME="+memory, "XDG_CACHE_HOME="+memory)
		return cmd
	})

	sendCanaries(t, p.Addr)
	if _, err := d.WaitMessages(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, m := range d.Messages() {
		if bytes.Contains(m.Octets, []byte(canary)) {
			found++
		}
	}
	if found < 5 {
		t.Errorf("the canary arrived in %d messages only: this test proves nothing", found)
	}
	if files, n := world.Holding(t, memory, []byte(canary)); n != 0 {
		t.Errorf("%d files in the node's folder while it runs, the canary in %q", n, files)
	}
	p.Terminate(t, world.Tracee(t, p.Cmd.Process.Pid))
	if _, n := world.Holding(t, memory, []byte(canary)); n != 0 {
		t.Errorf("%d files in the node's folder when it ended", n)
	}
	if log := p.Log.String(); strings.Contains(log, canary) || !strings.Contains(log, "relayed") {
		t.Errorf("the canary is in the log, or the log tells nothing:\n%.3000s", log)
	}
	checkTrace(t, trace)
}

// sendCanaries sends the canary in messages that are accepted, refused, deferred, lost, dropped, malformed and cut
// short, inside the hold window and beyond it.
func sendCanaries(t *testing.T, addr string) {
	t.Helper()
	ctx := t.Context()
	small := []byte("Subject: " + canary + "\r\nX-" + canary + ": " + canary + "\r\n\r\n" + canary + "\r\n")
	large := append(bytes.Clone(small), bytes.Repeat([]byte("padding "+canary+"\r\n"), 8000)...)
	for _, octets := range [][]byte{
		small, large, append(bytes.Clone(small), canary+"\rbare\r\n"...),
		append(bytes.Clone(large), canary+"\nbare\r\n"...),
	} {
		for _, to := range []string{"b", "refused", "deferred", "lost", "trap", "unknown"} {
			for _, cfg := range []source.Config{
				{Addr: addr}, {Addr: addr, Chunking: true, Chunk: 50000},
				{Addr: addr, Cut: source.Cut{After: int64(len(octets)) - 10}},
			} {
				s, err := source.Dial(ctx, cfg)
				if err != nil {
					t.Fatal(err)
				}
				// whatever comes of it
				_, _ = s.Send(source.Message{
					Reverse: "a@client.example", Forward: []string{to + "@x.example"}, Octets: octets,
				})
				s.Abort(false)
			}
		}
	}
	s := world.Dial(t, source.Config{Addr: addr}) // octets of a message where commands are expected
	for range 3 {
		if _, err := s.Command("X" + canary); err != nil {
			t.Fatal(err)
		}
	}
}

// calls that strace saw: an open of a path with flags, or anything else, which may make a file.
var (
	openCall = regexp.MustCompile(`(?:open|openat|openat2)\((?:AT_FDCWD, )?"([^"]*)", (.*)`)
	// A thread that was killed as it entered a call: strace could not read which one, and the kernel never began it.
	neverBegun = regexp.MustCompile(`^\d+ +\?+\( <detached \.\.\.>$`)
	writing    = regexp.MustCompile(`O_(?:WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)`)
)

// checkTrace looks for files that were opened for writing or made.
func checkTrace(t *testing.T, name string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, opens := 0, 0
	for in := bufio.NewScanner(f); in.Scan(); {
		line := in.Text()
		lines++
		if strings.Contains(line, "resumed>") || strings.Contains(line, "+++") || strings.Contains(line, "---") ||
			neverBegun.MatchString(line) {
			continue
		}
		call := openCall.FindStringSubmatch(line)
		if call == nil {
			t.Errorf("not an open: %s", line)
			continue
		}
		opens++
		if writing.MatchString(call[2]) && call[1] != "/dev/null" && !strings.HasPrefix(call[1], "/proc/") &&
			!strings.HasPrefix(call[1], "/sys/") {
			t.Errorf("opened for writing: %s", line)
		}
	}
	if opens < 3 {
		t.Errorf("strace saw %d opens in %d lines: this test proves nothing", opens, lines)
	}
}
