package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
)

// hopTarget is the most that a message with a hop may cost, over one without.
const hopTarget = 1.7

// hopRounds is how often each side is measured; the median counts.
const hopRounds = 5

// A sample is mail that the cost of the hop is measured with.
type sample struct {
	name                      string
	octets, messages, senders int
}

// A road is where that mail goes.
type road struct {
	forward string
	host    string // its MX
	server  *smtptest.Server
	tls     bool
}

// measureHop sends the same mail to a node that owns the destination's Site and to one that does not, in turns, and
// compares the CPU time that all nodes took for it: first with the cheapest message that there is, then as nodes are
// deployed.
func (l *lab) measureHop(ctx context.Context, out io.Writer) error {
	fmt.Fprintf(out, "CPU of all nodes per message, medians of %d rounds, in turns; %d cores, %s\n", hopRounds,
		runtime.NumCPU(), runtime.Version())
	fmt.Fprint(out,
		"Bare TLS: two processes that exchange the same octets over the hop's TLS, a record a write, and do "+
			"nothing else.\n\nNo policy, no TLS to the destination:\n\n")
	err := l.compareHop(ctx, out, road{"ok@plain.test", "mx.plain.example", l.plain, false}, []sample{
		{"4 KiB", 4 << 10, 1000, 4}, {"4 KiB", 4 << 10, 3000, 16}, {"64 KiB", 64 << 10, 1000, 16},
		{"1 MiB", 1 << 20, 100, 16},
	})
	if err != nil {
		return err
	}
	if err := l.deploy(ctx); err != nil {
		return err
	}
	fmt.Fprint(out,
		"\nAs deployed, with seal=always: the default policy, ARC (RSA, 2048 bits), STARTTLS to the destination:\n\n")
	return l.compareHop(ctx, out, road{"ok@d0.tls.test", "mx0.tls.example", l.tls, true}, []sample{
		{"4 KiB", 4 << 10, 600, 4}, {"4 KiB", 4 << 10, 1000, 16}, {"1 MiB", 1 << 20, 80, 16},
	})
}

// deploy makes later fleets authenticate and seal what they forward.
func (l *lab) deploy(ctx context.Context) error {
	for _, f := range l.fleets { // the nodes before
		f.Close()
	}
	key := filepath.Join(l.dir, "arc.pem")
	said, err := exec.CommandContext(ctx, l.binary, "dkim", "new", "--domain", "relay.example", "--selector", "m1",
		"--out", key).CombinedOutput()
	if err != nil {
		return fmt.Errorf("dkim new: %w: %s", err, said)
	}
	l.more = fmt.Sprintf("arc: {domain: relay.example, selector: m1, key_file: %q}\ndkim: {unpublished: sign}\n", key)
	_, hosted, _ := strings.Cut(rules(), "\n") // without the line that switches everything off
	return os.WriteFile(filepath.Join(l.dir, "routes.txt"), []byte("domain * seal=always\n"+hosted), 0o600)
}

// compareHop writes a table of the cost with and without a hop.
func (l *lab) compareHop(ctx context.Context, out io.Writer, r road, samples []sample) error {
	t := &trial{lab: l}
	var err error
	if t.ring, err = l.newFleet(ctx, 3, true, false); err != nil {
		return err
	}
	if _, _, err := t.ready(ctx); err != nil {
		return err
	}
	behaviour := smtptest.Behaviour{}
	if r.tls {
		behaviour.TLS = smtptest.NewCA().Server(r.host)
	}
	if _, err := t.cost(ctx, t.ring.Nodes[0], r, behaviour, sample{octets: 100, messages: 10, senders: 1}); err != nil {
		return err
	}
	owner, others, err := t.ring.OwnerOf(ctx, r.host)
	if err != nil {
		return err
	}
	f, err := newFloor(ctx, filepath.Join(t.ring.Nodes[0].Dir, "..", "keys"))
	if err != nil {
		return err
	}
	defer f.close()
	fmt.Fprintf(out,
		"| message | senders | here (us) | with a hop (us) | ratio | rounds | target | the hop adds (us) | bare "+
			"TLS (us) |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, s := range samples {
		var here, hop, ratios, added, bares []float64
		for round := range hopRounds + 1 {
			a, err := t.cost(ctx, owner, r, behaviour, s)
			if err != nil {
				return err
			}
			b, err := t.cost(ctx, others[round%len(others)], r, behaviour, s)
			if err != nil {
				return err
			}
			c, err := f.cost(s.octets, s.messages, s.senders)
			if err != nil {
				return err
			}
			if round > 0 { // the first one opens sessions and fills pools
				here, hop, ratios, added, bares = append(here, a), append(hop, b), append(ratios, b/a), append(added,
					b-a), append(bares, c)
			}
		}
		slices.Sort(ratios)
		ratio, verdict := median(ratios), "reached"
		if ratio > hopTarget {
			verdict = "MISSED"
		}
		fmt.Fprintf(out, "| %s | %d | %.0f | %.0f | %.2f | %.2f-%.2f | %.1f %s | %.0f | %.0f |\n", s.name, s.senders,
			median(here), median(hop), ratio, ratios[0], ratios[len(ratios)-1], hopTarget, verdict, median(added),
			median(bares))
	}
	return nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// cost returns the CPU time of all nodes in microseconds for each message that enters at m, less what they take when
// idle.
func (t *trial) cost(
	ctx context.Context, m *fleet.Member, r road, behaviour smtptest.Behaviour, s sample,
) (float64, error) {
	idle, err := t.spent(func() error { fleet.Rest(ctx, 200*time.Millisecond); return nil })
	if err != nil {
		return 0, err
	}
	perSecond := idle.cpu.Seconds() / idle.wall.Seconds()
	behaviour.Keep = s.messages + 10 // large ones would fill the memory
	r.server.Set(behaviour)
	load := &fleet.Load{
		Name: t.tag("hop"), Addrs: fleet.Only(m.SMTP), Forward: fleet.Always(r.forward), Octets: s.octets,
		Clients:  s.senders,
		Messages: s.messages,
	}
	busy, err := t.spent(func() error {
		tallied := fleet.Count(load.Run(ctx), r.server)
		return tallied.Err()
	})
	return 1e6 * (busy.cpu.Seconds() - perSecond*busy.wall.Seconds()) / float64(s.messages), err
}

// An effort is what nodes took.
type effort struct{ cpu, wall time.Duration }

// spent returns what the nodes take while do runs.
func (t *trial) spent(do func() error) (effort, error) {
	total := func() (sum time.Duration, err error) {
		nodes, _, err := t.ring.CPU()
		for _, c := range nodes {
			sum += c
		}
		return sum, err
	}
	begun := time.Now()
	before, err := total()
	if err != nil {
		return effort{}, err
	}
	if err := do(); err != nil {
		return effort{}, err
	}
	after, err := total()
	return effort{after - before, time.Since(begun)}, err
}
