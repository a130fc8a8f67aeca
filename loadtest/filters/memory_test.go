package filters_test

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/filters/scanner"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestMemory: 160 MiB that stream at a time to two filters and a next hop take no more memory than 8 MiB.
func TestMemory(t *testing.T) {
	const most = 16 << 10 // KiB; the runtime keeps as much garbage as there is live memory
	d := smtptest.Start(t, smtptest.Behaviour{Keep: 1})
	spam, virus := scanner.Start(t, scanner.Rspamd("no action", nil)), scanner.Start(t, scanner.Milter(nil))
	dir := t.TempDir()
	w := world.World{Routes: routesTo(d), Config: fmt.Sprintf(
		"filters: [{name: s, rspamd: %q, late: tempfail, deadline: 60s}, {name: v, milter: %q, deadline: 60s}]\n",
		spam.Addr(), virus.Addr())}
	p := world.StartProcess(t, func(addr string) *exec.Cmd {
		return exec.Command(world.Binary(t), "serve", "-c", w.Write(t, dir, addr))
	})
	var peaks []int
	for _, mib := range []int{1, 20} {
		letter := append([]byte("Subject: x\r\n\r\n"), source.Body(mib<<20)...)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { // ends with the reply
				s := world.Dial(t, source.Config{Addr: p.Addr})
				defer s.Abort(false)
				r, err := s.Send(source.Message{
					Reverse: "a@client.example", Forward: []string{"f@x.example"}, Octets: letter,
				})
				if err != nil || r.End.Class() != 2 {
					t.Errorf("%v, %v", r.End, err)
				}
			})
		}
		wg.Wait()
		peaks = append(peaks, peak(t, p.Cmd.Process.Pid))
	}
	t.Logf("at its peak the node had %d KiB with messages of 1 MiB, %d with those of 20 MiB", peaks[0], peaks[1])
	if peaks[1]-peaks[0] > most {
		t.Errorf("messages of 20 MiB take %d KiB more", peaks[1]-peaks[0])
	}
}

// peak returns the most memory that was resident of a process, in KiB.
func peak(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
