package main

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

// TestMain_Stay: one command runs a cluster behind a load balancer.
func TestMain_Stay(t *testing.T) {
	extern.Find(t, "redis-server")
	extern.Find(t, "haproxy")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	binary := filepath.Join(t.TempDir(), "millrace")
	if _, err := fleet.Build(ctx, filepath.Dir(binary), ""); err != nil {
		t.Fatal(err)
	}
	l, err := newLab(ctx, binary)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	var out bytes.Buffer
	if err := l.stay(ctx, &out, true); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	status := ""
	for line := range strings.Lines(out.String()) {
		if command := strings.Fields(line); len(command) == 5 && command[1] == "cluster" {
			said, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
			if err != nil {
				t.Errorf("%s%v: %s", line, err, said)
			}
			status = string(said)
		}
	}
	for _, want := range []string{"node      a", "ring      ", "\nb  ", "\nc  ", "mx.plain.example"} {
		if !strings.Contains(status, want) {
			t.Errorf("the status lacks %q:\n%s", want, status)
		}
	}
	for _, want := range []string{
		"load balancer  smtp 127.0.0.1:", "node c  ", "redis  ", "A message went through each node",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, &out)
		}
	}
}

// TestLoad_CountsBothEnds: messages are counted at both ends.
func TestLoad_CountsBothEnds(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{Recipients: map[string]smtptest.Answer{"no": {Reply: "550 5.1.1 No"}}})
	l := &fleet.Load{Name: "x", Addrs: fleet.Only(d.Addr()), Clients: 3, Messages: 30, Forward: func(i int) string {
		if i%10 == 9 {
			return "no@plain.test"
		}
		return "ok@plain.test"
	}}
	all := l.Run(t.Context())
	n := fleet.Count(all, d)
	if n.Messages != 30 || n.Refused != 3 || n.Lost+n.Doubled+n.Failed+n.Doubtful != 0 || n.Err() == nil {
		t.Errorf("got %s", n)
	}
	again := &fleet.Load{
		Name: "x", Addrs: fleet.Only(d.Addr()), Clients: 1, Messages: 1, Forward: fleet.Always("ok@plain.test"),
	}
	again.Run(t.Context()) // x-0 once more
	if n := fleet.Count(all, d); n.Doubled != 1 {
		t.Errorf("a message was sent twice: %s", n)
	}
	all = append(all, fleet.Sent{ID: "x-77", Accepted: true}, fleet.Sent{ID: "x-0", Doubtful: true, Accepted: true})
	if n := fleet.Count(all, d); n.Lost != 1 || n.DoubtfulDoubled != 1 {
		t.Errorf("one was lost and one in doubt: %s", n)
	}
}

// TestLoad_LongestSilence: the longest silence is found.
func TestLoad_LongestSilence(t *testing.T) {
	var p pulse
	if n, silence := p.now(); n != 0 || silence != 0 {
		t.Errorf("before the first: %d %s", n, silence)
	}
	p.see(source.Result{End: source.Reply{Code: 451}})
	p.see(source.Result{End: source.Reply{Code: 250}})
	p.last = p.last.Add(-time.Minute)
	if n, silence := p.now(); n != 1 || silence < time.Minute {
		t.Errorf("a silence that has not ended: %d %s", n, silence)
	}
	p.see(source.Result{End: source.Reply{Code: 250}})
	if n, silence := p.now(); n != 2 || silence < time.Minute || silence > 2*time.Minute {
		t.Errorf("one that has: %d %s", n, silence)
	}
}
