package policy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/loadtest/world"
)

// An authProcess is a node that authenticates, in a process of its own.
type authProcess struct {
	*world.Process
	dest *smtptest.Server
}

func startAuthProcess(t testing.TB, s authSetup) *authProcess {
	t.Helper()
	s.dest = smtptest.Start(t, smtptest.Behaviour{Keep: 1}) // forgets what it took: its messages are large
	s.dns = dnstest.Start(t, newAuthRecords(t).zone())
	dir := t.TempDir()
	p := world.StartProcess(t, func(addr string) *exec.Cmd {
		return exec.Command(world.Binary(t), "serve", "-c", authWorld(t, dir, s).Write(t, dir, addr))
	})
	return &authProcess{p, s.dest}
}

// cpu is the time that the process has computed. Its clock is that of clock_getcpuclockid(3).
func (p *authProcess) cpu(t testing.TB) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p.Cmd.Process.Pid<<3|2), &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// forget has the kernel count the peak of the process's memory anew, and returns the memory that is resident now.
func (p *authProcess) forget(t testing.TB) int64 {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.Cmd.Process.Pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	return p.status(t, "VmRSS")
}

// status reads a size of /proc/PID/status, in octets.
func (p *authProcess) status(t testing.TB, key string) int64 {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for in := bufio.NewScanner(bytes.NewReader(content)); in.Scan(); {
		if f := strings.Fields(in.Text()); len(f) == 3 && f[0] == key+":" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatalf("no %s", key)
	return 0
}

// TestAuth_ForgedMemory has a domain of p=reject forged in the three ways that there are:
// without a signature, which is refused by the header section; with one of the domain's header sections above another
// body, which is known at the end of the body when nothing is sealed; and the same where the body's hash was foretold
// for our seal.
//
// A few smaller messages go ahead: the first ones fill pools and map pages of the program, and grow a process by 1 to 5
// MiB whatever their size is. Each further one leaves 0.1 to 0.2 MiB of garbage until the next collection, of any size
// as well, and a collector that gets no processor in time leaves some of those, more than 1 MiB on a busy machine. So
// the message may cost a sixth of its size: what keeps it costs all of it, and what keeps each part twice costs more.
func TestAuth_ForgedMemory(t *testing.T) {
	for _, tt := range []struct {
		name   string
		seal   bool
		signed bool
	}{
		{"stream, no signature", false, false},
		{"stream, another body", false, true},
		{"predict, another body", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := startAuthProcess(t, authSetup{seal: tt.seal, log: "info"})
			letters := 0
			mail := func(size int, reverse, more string) authMail {
				letters++
				body := authBody(size)
				header := strings.Replace(authHeader("reject.example"), "<1@", fmt.Sprintf("<%d@", letters), 1)
				if tt.signed {
					header = signedBy(t, "reject.example", header, body+more, dkim.Relaxed)
				}
				return authMail{reverse: reverse, octets: header + "\r\n" + body}
			}
			send := func(m authMail, want string) {
				t.Helper()
				if r := sendAuthMail(t, p.Addr, m); !strings.HasPrefix(r.String(), want) {
					t.Fatalf("got %s, want %s", r, want)
				}
			}
			for range 5 {
				send(mail(1<<20, "a@reject.example", ""), "250")
			}
			send(mail(1<<20, "a@esp.example", "more\r\n"), notAccepted)
			stored := p.dest.Counts().Messages

			const size = 25 << 20
			large := mail(size, "a@esp.example", "more\r\n")
			before := p.forget(t)
			send(large, notAccepted)
			peak, after := p.status(t, "VmHWM"), p.status(t, "VmRSS")
			t.Logf("%d KiB before, %d KiB at most, %d KiB after", before>>10, peak>>10, after>>10)
			if grew := peak - before; grew > size/6 {
				t.Errorf("grew by %d KiB for a message of %d KiB", grew>>10, size>>10)
			}
			mode, _, _ := strings.Cut(tt.name, ",")
			world.Await(t, "the log tells of all in mode "+mode, func() bool {
				return strings.Count(p.Log.String(), `"mode":"`+mode+`"`) == letters
			})
			if n := p.dest.Counts().Messages; n != stored {
				t.Errorf("%d messages stored", n-stored)
			}
		})
	}
}
