package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// A scenario is one attack. Honest clients send before it and beside it.
type scenario struct {
	name   string
	long   bool   // takes too long for the short set
	config string // lines of the configuration besides those of every node
	small  string // lines besides those in the short set, with which a small attack fills the node
	egress string // keys of the section egress besides those of every node, behind a comma
	routes string // rules besides those of every node
	judged bool   // messages are authenticated
	// nodes is the size of the cluster: attackers come in at a node that does not own the destination's Site, honest
	// clients at all of them in turn. 1 is a node with a hop and no others, 0 one without.
	nodes int
	// memory is what a node may take beside that of the control run, in MiB: in the short set, and at full size. 0 is
	// as mostMemory.
	memory [2]int
	slower time.Duration          // what honest mail may be slower by at the 99th percentile, as mostSlower
	log    int                    // octets of log that a node may write, as mostLog, which 0 means
	world  func(t *trial)         // prepares the trial before the node starts: records, destinations; may be nil
	attack func(t *trial)         // returns when the attack stands; what it starts ends with the trial's context
	harm   func(t *trial)         // reports what must not be, when the honest messages are answered; may be nil
	letter func(i int) (b []byte) // the octets of honest message i; nil: a small one
}

// acrossNodes is the same attack on a cluster of three: it comes in at one node, and another owns the Site.
func acrossNodes(s scenario, long bool) scenario {
	s.name += ", which another node owns"
	s.nodes = 3
	s.long = long
	return s
}

// What honest clients send in one run, and what is allowed to an attack.
const (
	honestEvery   = 10 * time.Millisecond
	leastAccepted = 0.99
	mostSlower    = 3 * time.Second
	mostMemory    = 64
	mostLog       = 1 << 20 // octets, besides a line for each honest message
	lineOctets    = 1 << 10
	listedClients = 10
)

// play runs the scenario against nodes of its own, prints what was measured and reports whether all was as it should
// be.
func (s *scenario) play(ctx context.Context, out io.Writer, binary string, full bool) bool {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	t := &trial{scenario: s, ctx: ctx, binary: binary, full: full}
	var figures string
	t.run(func() { figures = s.measure(t) })
	mark := "ok  "
	if len(t.harms) > 0 {
		mark = "FAIL"
	}
	fmt.Fprintf(out, "%s  %s: %s (%.1f s)\n", mark, s.name, figures, time.Since(begun).Seconds())
	for _, h := range t.harms[:min(len(t.harms), 8)] {
		fmt.Fprintf(out, "      ! %.300s\n", h)
	}
	return len(t.harms) == 0
}

// messages is how many messages honest clients send, in each of the two runs.
func (t *trial) messages() int { return t.size(100, 150) }

// measure starts the nodes and sends what honest clients send, first alone and then under the attack.
func (s *scenario) measure(t *trial) string {
	t.prepare()
	t.startNodes()
	control := t.honest()
	before := t.usages()
	if control.accepted < t.messages() {
		t.harmed("without the attack %d of %d are accepted: %s", control.accepted, t.messages(), control.answers())
	}
	stop := t.begin()
	listing := make(chan int, 1)
	go func() { listing <- t.listed() }() // is awaited
	under := t.honest()
	listed := <-listing
	stop()
	if s.harm != nil {
		s.harm(t)
	}
	if float64(under.accepted) < leastAccepted*float64(t.messages()) {
		t.harmed("honest mail: %s", under.answers())
	}
	slower := under.at(99) - control.at(99)
	if slower > cmp.Or(s.slower, mostSlower) && os.Getenv("CI") == "" {
		t.harmed("honest mail is %s slower", slower)
	}
	grown := t.grown(before)
	if most := cmp.Or(s.memory[t.size(0, 1)], mostMemory); grown.memory > most {
		t.harmed("a node took %d MiB more, want at most %d", grown.memory, most)
	}
	if grown.log > cmp.Or(s.log, mostLog)+t.messages()*lineOctets {
		t.harmed("%d KiB of log", grown.log>>10)
	}
	return fmt.Sprintf("honest %d of %d, p99 %s (alone %s), memory +%d MiB, log %d KiB, listed refused %d of %d%s",
		under.accepted, t.messages(), ms(under.at(99)), ms(control.at(99)), grown.memory, grown.log>>10, listed,
		listedClients, t.figures())
}

func ms(d time.Duration) string { return d.Round(time.Millisecond).String() }

// begin starts the attack and returns when it stands. What it returns ends the attack and waits until it has ended.
func (t *trial) begin() (stop func()) {
	whole := t.ctx
	var cancel context.CancelFunc
	t.ctx, cancel = context.WithCancel(whole)
	stop = func() {
		cancel()
		t.attackers.Wait()
		t.ctx = whole
	}
	t.Cleanup(stop)
	t.scenario.attack(t)
	return stop
}

// listed lets clients come that a list names, while the honest ones come, and returns how many of them are refused.
// What others are answered is harm.
func (t *trial) listed() int {
	refused := 0
	for i := range listedClients {
		answer := t.deliver(listedClient(i), source.Message{
			Reverse: "a@client.example", Forward: []string{"listed@x.test"}, Octets: small(i),
		})
		if strings.HasPrefix(answer, "554") || strings.HasPrefix(answer, "450") {
			refused++
			continue
		}
		t.harmed("a listed client is answered %s", answer)
	}
	return refused
}

// A report is what became of honest messages.
type report struct {
	accepted int
	wrong    map[string]int // answers other than 2yz, and errors
	took     []time.Duration
}

// at returns what q percent of the messages took at most, from the connection to the last answer.
func (r *report) at(q int) time.Duration {
	slices.Sort(r.took)
	return r.took[min(len(r.took)-1, len(r.took)*q/100)]
}

// answers tells those that were wrong.
func (r *report) answers() string {
	var all []string
	for _, a := range slices.Sorted(maps.Keys(r.wrong)) {
		all = append(all, fmt.Sprintf("%d of %q", r.wrong[a], a))
	}
	return strings.Join(all[:min(3, len(all))], ", ")
}

// count enters a message.
func (r *report) count(answer string, took time.Duration) {
	r.took = append(r.took, took)
	if strings.HasPrefix(answer, "250") {
		r.accepted++
		return
	}
	answer = world.ReplyID.ReplaceAllString(answer, "")
	r.wrong[answer[:min(len(answer), 100)]]++
}
