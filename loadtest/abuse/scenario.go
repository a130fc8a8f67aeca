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
	name    string
	long    bool                   // takes too long for the short set
	config  string                 // lines of the configuration besides those of every node
	routes  string                 // rules besides those of every node
	judged  bool                   // messages are authenticated
	cluster bool                   // the node has a hop
	memory  int                    // MiB that the node may take beside those of the control run; 0: 64
	log     int                    // octets of log that the node may write, as mostLog, which 0 means
	world   func(t *trial)         // prepares the trial before the node starts: records, destinations; may be nil
	attack  func(t *trial)         // returns when the attack stands; what it starts ends with the trial's context
	harm    func(t *trial)         // reports what must not be, when the honest messages are answered; may be nil
	letter  func(i int) (b []byte) // the octets of honest message i; nil: a small one
}

// What honest clients send in one run, and what is allowed to an attack.
const (
	honestMessages = 150
	honestEvery    = 10 * time.Millisecond
	leastAccepted  = 0.99
	mostSlower     = 3 * time.Second
	mostMemory     = 64
	mostLog        = 1 << 20 // octets, besides a line for each honest message
	lineOctets     = 1 << 10
	listedClients  = 10
)

// play runs the scenario against a node of its own, prints what was measured and reports whether all was as it should
// be.
func (s *scenario) play(ctx context.Context, out io.Writer, binary string) bool {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	t := &trial{scenario: s, ctx: ctx, binary: binary}
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

// measure starts the node and sends what honest clients send, first alone and then under the attack.
func (s *scenario) measure(t *trial) string {
	t.prepare()
	t.startNode()
	control := t.honest()
	memory, log := t.memory(), len(t.node.Log.String())
	if control.accepted < honestMessages {
		t.harmed("without the attack %d of %d are accepted: %s", control.accepted, honestMessages, control.answers())
	}
	stop := t.begin()
	under := t.honest()
	listed := t.listed()
	stop()
	if s.harm != nil {
		s.harm(t)
	}
	if float64(under.accepted) < leastAccepted*honestMessages {
		t.harmed("honest mail: %s", under.answers())
	}
	slower := under.at(99) - control.at(99)
	if slower > mostSlower && os.Getenv("CI") == "" {
		t.harmed("honest mail is %s slower", slower)
	}
	grown, written := t.memory()-memory, len(t.node.Log.String())-log
	allowed := s.memory
	if allowed == 0 {
		allowed = mostMemory
	}
	if grown > allowed {
		t.harmed("the node took %d MiB more, want at most %d", grown, allowed)
	}
	if written > cmp.Or(s.log, mostLog)+honestMessages*lineOctets {
		t.harmed("%d KiB of log", written>>10)
	}
	return fmt.Sprintf("honest %d of %d, p99 %s (alone %s), memory +%d MiB, log %d KiB, listed refused %d of %d%s",
		under.accepted, honestMessages, ms(under.at(99)), ms(control.at(99)), grown, written>>10, listed, listedClients,
		t.figures())
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

// listed lets clients come that a list names, and returns how many of them are refused. What others are answered is
// harm.
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
