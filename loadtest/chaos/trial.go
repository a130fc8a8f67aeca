package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/proveledger/model"
)

// A scenario is one kind of harm.
type scenario struct {
	name   string
	about  string
	quick  bool                              // short enough for each commit
	limit  time.Duration                     // 0: a minute
	nodes  int                               // 0: three
	config string                            // sections of each node
	wire   fleet.Wire                        // to each node
	zone   string                            // records
	rules  string                            // lines of the rules
	plain  func(t *trial) smtptest.Behaviour // of the destination; nil: it takes everything
	play   func(t *trial) error              // does the harm while mail runs
	judge  func(t *trial)                    // what else must not be, when the ledger is closed; may be nil

	prepare func(t *trial, s *fleet.Stage) error                  // before the nodes start; may be nil
	build   func(ctx context.Context, dir string) (string, error) // makes the binary; nil: it is as the options say
}

func (s *scenario) most() time.Duration {
	if s.limit > 0 {
		return s.limit
	}
	return time.Minute
}

// patience is how long a client tries, where the scenario does not say.
const patience = 25 * time.Second

// keep is how many messages a destination remembers: all of a run.
const keep = 200000

// A trial is one run of a scenario.
type trial struct {
	*fleet.Stage
	scenario *scenario
	options  options
	ctx      context.Context
	rand     *rand.Rand
	begun    time.Time
	ledger   ledger
	loads    int             // makes names
	enter    []*fleet.Member // where mail enters; nil: at all nodes
	sluice   *sluice         // before what the scenario says; may be nil
	aim      chan time.Time  // when aimedDot answers
	answers  answers
	repeats  int // messages that were delivered again in doubt, as the nodes counted

	mu      sync.Mutex // over what follows
	trouble []string   // lines of logs
	figures []string
	harms   []string
}

func newTrial(ctx context.Context, s *scenario, o options) *trial {
	return &trial{
		scenario: s, options: o, ctx: ctx, rand: rand.New(rand.NewPCG(o.seed, 1)), begun: time.Now(),
		ledger: newLedger(),
	}
}

// run starts the stage, has the scenario play on it, ends the nodes and closes the ledger.
func (t *trial) run() {
	ctx, cancel := context.WithTimeout(t.ctx, t.scenario.most())
	defer cancel()
	t.ctx = ctx
	behaviour := smtptest.Behaviour{}
	if t.scenario.plain != nil {
		behaviour = t.scenario.plain(t)
	}
	behaviour.Keep = keep
	nodes := t.scenario.nodes
	if nodes == 0 {
		nodes = 3
	}
	var err error
	t.Stage, err = fleet.NewStage(ctx, fleet.StagePlan{
		Binary: t.options.binary, Nodes: nodes, Base: t.options.base, Config: t.scenario.config,
		Zone: t.scenario.zone, Rules: t.scenario.rules, Plain: behaviour,
		Wire: t.scenario.wire,
		Prepare: func(_ context.Context, s *fleet.Stage) error {
			if t.scenario.prepare == nil {
				return nil
			}
			return t.scenario.prepare(t, s)
		},
	})
	if err != nil {
		t.harmed("%s", err)
		return
	}
	defer t.Close()
	if err := t.scenario.play(t); err != nil {
		t.harmed("%s", err)
	}
	if err := t.end(); err != nil {
		t.harmed("%s", err)
	}
	if err := t.ledger.close(t.Stage); err != nil {
		t.harmed("%s", err)
	}
	if t.scenario.judge != nil {
		t.scenario.judge(t)
	}
	t.logged()
}

// logged keeps lines of the logs about trouble, for a trial that fails: the first ones, and those of the example.
func (t *trial) logged() {
	id, _, _ := strings.Cut(t.ledger.balance().example, " ")
	for _, m := range t.Fleet.Nodes {
		said, _ := os.ReadFile(m.Log()) // the failure stands without it
		n := 0
		for line := range strings.Lines(string(said)) {
			about := id != "" && strings.Contains(line, `"`+id+"@")
			if about || n < 2 && (strings.Contains(line, `"reply":"4`) || strings.Contains(line, "panic")) {
				t.trouble = append(t.trouble, m.Name+": "+strings.TrimSpace(line))
				n++
			}
		}
	}
}

// end drains the nodes, so that they write what they counted.
func (t *trial) end() error {
	for _, m := range t.Fleet.Nodes {
		_ = m.Process.Signal(syscall.SIGCONT) // errors mean that it is gone
		_ = m.Process.Signal(syscall.SIGTERM)
	}
	for _, m := range t.Fleet.Nodes {
		select {
		case <-m.Process.Exited:
		case <-time.After(15 * time.Second):
			return fmt.Errorf("node %s does not end", m.Name)
		}
	}
	return nil
}

// harmed notes what must not be.
func (t *trial) harmed(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.harms = append(t.harms, fmt.Sprintf(format, args...))
}

// tell adds a figure.
func (t *trial) tell(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.figures = append(t.figures, fmt.Sprintf(format, args...))
}

// rest lets time pass that is part of the harm.
func (t *trial) rest(d time.Duration) { fleet.Rest(t.ctx, d) }

// between returns a time between two, by the seed.
func (t *trial) between(least, most time.Duration) time.Duration {
	return least + time.Duration(t.rand.Int64N(int64(most-least)))
}

// runs is how often the harm is done.
func (t *trial) runs(usual, quick int) int {
	switch {
	case t.options.runs > 0:
		return t.options.runs
	case t.options.quick:
		return quick
	}
	return usual
}

// kills is how often a node is killed, where the scenario kills as well.
func (t *trial) kills(usual int) int {
	switch {
	case t.options.kills > 0:
		return t.options.kills
	case t.options.quick:
		return 0
	}
	return usual
}

// begin lets mail run, to the plain destination through all nodes unless the load says otherwise. What it returns stops
// the load, waits for its messages and puts them into the ledger.
func (t *trial) begin(l *fleet.Load) (stop func() []fleet.Sent) {
	t.loads++
	l.Name = fmt.Sprintf("m%d", t.loads)
	if l.Addrs == nil && t.enter != nil {
		l.Addrs = fleet.AnyOf(t.enter)
	} else if l.Addrs == nil {
		l.Addrs = fleet.AnyOf(t.Fleet.Nodes)
	}
	if l.Forward == nil {
		l.Forward = fleet.Always("ok@plain.test")
	}
	if l.Patience == 0 {
		l.Patience = patience
	}
	l.Watch = t.answers.see
	end := make(chan struct{})
	l.Stop = end
	done := make(chan []fleet.Sent, 1)
	ctx := t.ctx
	go func() { done <- l.Run(ctx) }() // ends with end, or ctx
	return sync.OnceValue(func() []fleet.Sent {
		close(end)
		sent := <-done
		t.ledger.send(sent)
		return sent
	})
}

// under lets mail run while harm is done.
func (t *trial) under(l *fleet.Load, harm func() error) error {
	stop := t.begin(l)
	err := harm()
	stop()
	return err
}

// warm lets some mail through and returns the node that owns the plain destination, and the others.
func (t *trial) warm() (owner *fleet.Member, others []*fleet.Member, err error) {
	stop := t.begin(&fleet.Load{Clients: 4, Messages: 40, Patience: 5 * time.Second})
	err = fleet.Await(t.ctx, 10*time.Second, "mail runs", func() bool { return t.Plain.Counts().Messages >= 40 })
	stop()
	if err != nil {
		return nil, nil, err
	}
	return t.Fleet.OwnerOf(t.ctx, fleet.PlainHost)
}

// kill ends a node without a word. What it had under way no node can count.
func (t *trial) kill(m *fleet.Member) error {
	t.ledger.killed[m.SMTP] = true
	from := time.Now()
	if err := m.Process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-m.Process.Exited
	t.ledger.traces.kills = append(t.ledger.traces.kills, killedAt{m.SMTP, model.Kill{From: from, To: time.Now()}})
	return nil
}

// again starts a node that has ended, and waits until all see all.
func (t *trial) again(m *fleet.Member) error {
	if err := t.Fleet.StartNode(m); err != nil {
		return err
	}
	if err := t.Fleet.AwaitReady(t.ctx, m); err != nil {
		return err
	}
	if !t.Fleet.Ring {
		return nil
	}
	_, err := t.Fleet.Out(t.ctx, t.Fleet.Nodes, len(t.Fleet.Nodes))
	return err
}

// judge prints the figures, what must not be, and the verdict as the last line.
func (t *trial) judge(out io.Writer) error {
	b := t.ledger.balance()
	t.harms = append(t.harms, b.broken()...)
	for _, f := range t.figures {
		fmt.Fprintf(out, "        %s\n", f)
	}
	for _, h := range t.harms[:min(len(t.harms), 8)] {
		fmt.Fprintf(out, "      ! %.600s\n", h)
	}
	mark := "PASS"
	if len(t.harms) > 0 {
		for _, line := range t.trouble {
			fmt.Fprintf(out, "        %.900s\n", line)
		}
		mark = "FAIL"
	}
	fmt.Fprintf(out, "chaos: %s %s seed %d: %s, %d replies of 4yz (%.1f s)\n", mark, t.scenario.name, t.options.seed, b,
		t.answers.putOff(0), time.Since(t.begun).Seconds())
	if len(t.harms) > 0 {
		return fleet.ErrVerdict
	}
	return nil
}

// errNever is the end of a scenario that has shown nothing.
var errNever = errors.New("no harm was done")
