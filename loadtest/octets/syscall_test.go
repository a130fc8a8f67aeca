package octets_test

import (
	"bufio"
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

const (
	// maxCalls is how many reads and writes a 4 KiB message may take in reused sessions, on both sides together.
	maxCalls = 22
	// maxMoving is how many of all calls of such a message may be no waits.
	maxMoving = 18
)

// A read or a write on a TCP connection, as strace writes it down; one that another thread's call interrupts is told in
// two lines.
var (
	socketCall = regexp.MustCompile(`^(\d+) +(?:read|readv|write|writev|recvfrom|recvmsg|sendto|sendmsg)\(\d+<TCP`)
	resumed    = regexp.MustCompile(`^(\d+) +<\.\.\. `)
	moved      = regexp.MustCompile(` = [1-9]\d*$`)
)

// TestSyscalls_FewReadsAndWrites: a message takes few reads and writes.
func TestSyscalls_FewReadsAndWrites(t *testing.T) {
	strace := extern.Find(t, "strace")
	for _, c := range []struct {
		name       string
		extensions []string
		cfg        source.Config
	}{
		{"from a client that waits for each reply", smtptest.Without("CHUNKING"), source.Config{}},
		{"from a client that waits for each reply, to BDAT", nil, source.Config{}},
		{"from a client that pipelines", smtptest.Without("CHUNKING"), source.Config{Pipeline: true}},
		{"from a client that sends a chunk", nil, source.Config{Chunking: true, Pipeline: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := smtptest.Start(t, smtptest.Behaviour{Extensions: c.extensions})
			dir := t.TempDir()
			trace := filepath.Join(dir, "trace")
			p := world.StartProcess(t, func(addr string) *exec.Cmd {
				config := world.World{Routes: "@x.example smtp://" + d.Addr() + "\n"}.Write(t, dir, addr)
				return strace.Command(t.Context(), "-f", "-qq", "-yy", "-s", "40", "-o", trace, "-e",
					"trace=read,readv,write,writev,recvfrom,recvmsg,sendto,sendmsg",
					world.Binary(t), "serve", "-c", config)
			})

			const messages = 90 // fewer than a session upstream carries
			c.cfg.Addr = p.Addr
			s := world.Dial(t, c.cfg)
			for range messages {
				world.Send(t, s,
					source.Message{
						Reverse: "a@client.example", Forward: []string{"b@x.example"}, Octets: source.Body(4096),
					})
			}
			p.Terminate(t, world.Tracee(t, p.Cmd.Process.Pid))
			calls := socketCalls(t, trace)
			per := float64(calls) / messages
			t.Logf("%.1f reads and writes per message", per)
			if per > maxCalls || per < 4 {
				t.Errorf("%d for %d messages, want at most %d each", calls, messages, maxCalls)
			}
		})
	}
}

// socketCalls counts the calls that moved octets: in Go each stands for one call of Read or Write on a net.Conn. Reads
// that found nothing, which the runtime makes before it waits, do not count.
func socketCalls(t *testing.T, trace string) int {
	t.Helper()
	f, err := os.Open(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	unfinished := make(map[string]bool) // by thread
	for in := bufio.NewScanner(f); in.Scan(); {
		line := in.Text()
		if m := resumed.FindStringSubmatch(line); m != nil {
			if unfinished[m[1]] && moved.MatchString(line) {
				n++
			}
			delete(unfinished, m[1])
			continue
		}
		m := socketCall.FindStringSubmatch(line)
		switch {
		case m == nil:
		case strings.HasSuffix(line, "<unfinished ...>"):
			unfinished[m[1]] = true
		case moved.MatchString(line):
			n++
		}
	}
	return n
}
