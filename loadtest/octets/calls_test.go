package octets_test

import (
	"context"
	"os/exec"
	"strconv"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/world"
)

// TestSyscalls_All: of system calls of all kinds, epoll and futex included, a message of 4 KiB takes fewer here than in
// HAProxy, which only copies octets; and at most maxCalls that do something, in sessions that are reused. How many
// reads find nothing and wait depends on what else the machine does: with one session both wait for everything, with
// many of them seldom.
func TestSyscalls_All(t *testing.T) {
	const messages = 400
	haproxy := extern.Find(t, "haproxy")
	extern.Find(t, "strace")
	d := smtptest.Start(t, smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING")})
	ctx, cancel := context.WithTimeout(t.Context(), 10*world.Patience)
	defer cancel()

	// counted returns the calls from start to end, with mail in so many sessions.
	counted := func(sessions int, command func(addr string) *exec.Cmd) extern.Calls {
		t.Helper()
		addr := world.FreeAddr(t)
		calls, err := extern.CountCalls(ctx, command(addr), addr, func() error {
			if sessions == 0 {
				return nil
			}
			return extern.Find(t, "smtp-source").Command(ctx, "-d", "-s", strconv.Itoa(sessions), "-m",
				strconv.Itoa(messages), "-l", "4096", "-f", "a@client.example", "-t", "b@x.example", addr).Run()
		})
		if err != nil {
			t.Fatal(err)
		}
		return calls
	}
	theirs := func(addr string) *exec.Cmd {
		return haproxy.Command(ctx, "-db", "-q", "-f", extern.SaveHAProxy(t, extern.TCPProxy(d.Addr(), ""), addr))
	}
	own := func(addr string) *exec.Cmd {
		config := world.World{Routes: "@x.example smtp://" + d.Addr() + "\n"}.Write(t, t.TempDir(), addr)
		return exec.CommandContext(ctx, world.Binary(t), "serve", "-c", config)
	}
	none := counted(0, own)
	ofOwn := float64(counted(1, own).All-none.All) / messages
	ofTheirs := float64(counted(1, theirs).All-counted(0, theirs).All) / messages
	if t.Logf("%.1f system calls a message in one session, HAProxy %.1f", ofOwn, ofTheirs); ofOwn >= ofTheirs {
		t.Errorf("%.1f system calls a message in one session, HAProxy has %.1f", ofOwn, ofTheirs)
	}
	// What else the machine does only adds to it: the least of some trials counts. A busy machine has threads wait for
	// one another in all of them, and there the calls that move octets have to do.
	calls, moving := ofTheirs, ofTheirs
	for range 4 {
		many := counted(20, own)
		did := float64(many.All-many.Failed-none.All+none.Failed) / messages
		calls = min(calls, did)
		moving = min(moving, did-float64(many.Waits-none.Waits)/messages)
		t.Logf("%.1f system calls a message in 20 sessions that did something, %.1f of them no wait, at least", calls,
			moving)
		if calls <= maxCalls || ingresstest.Raced { // the destination is of this process
			return
		}
	}
	if moving > maxMoving {
		t.Errorf("%.1f system calls a message that did something, want at most %d; %.1f of them no wait, want %d",
			calls, maxCalls, moving, maxMoving)
	}
}
