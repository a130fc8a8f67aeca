package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
)

// A step shows one thing. It returns what was measured, and an error if that is not what was promised.
type step struct {
	name string
	run  func(context.Context, *trial) (string, error)
	long bool // takes so long that it runs only when that is asked for
}

// How long a step may take, and one that is long.
const (
	stepLimit     = 40 * time.Second
	longStepLimit = 3 * time.Minute
)

// steps are in the order in which they run: those that need all three nodes unharmed come first.
var steps = []step{
	{name: "form: three nodes see each other", run: form},
	{name: "equality: three nodes answer and deliver as one does", run: equality},
	{name: "limit: many domains on one MX set keep to the Site's limit", run: siteLimit},
	{name: "suffix: 300 MX names of one provider are one Site", run: suffix, long: true},
	{name: "spread: two owners share a Site's limit", run: spread, long: true},
	{name: "provider: its limits are used and hardly ever met", run: provided, long: true},
	{name: "flushall: Redis is emptied under load", run: flushAll},
	{name: "failover: an empty replica takes the place of Redis under load", run: failover, long: true},
	{name: "greylist: a retry passes wherever it enters", run: greylisting},
	{name: "handshakes: TLS sessions with destinations", run: handshakes},
	{name: "pause: the owner pauses for 2 s and the ring does not flap", run: pause},
	{name: "stop: the owner is stopped", run: stopped},
	{name: "kill: the owner is killed", run: killed},
	{name: "split: one node is cut off from the two others", run: scene("split")},
	{name: "split-owner: the owner is cut off from the two others", run: scene("split-owner"), long: true},
	{name: "pair: the owner and one other node are cut from each other", run: scene("pair"), long: true},
	{name: "oneway: what the owner says does not reach one other node", run: scene("oneway"), long: true},
	{name: "far: replies over a network that delays, reorders and loses", run: scene("far"), long: true},
	{name: "unable: a node reaches no destination", run: scene("unable")},
	{name: "unable-noroute: a node has no route to destinations", run: scene("unable-noroute"), long: true},
	{name: "unable-dns: a node does not reach its name server", run: scene("unable-dns"), long: true},
	{name: "unable-silent: what a node sends to destinations is lost", run: scene("unable-silent"), long: true},
	{name: "unable-files: a node may open no more files", run: scene("unable-files"), long: true},
	{name: "rolling: all nodes are restarted one by one", run: rolling},
	{name: "cold: all nodes start under load on an empty Redis and without a state", run: coldStart},
}

// A trial is a run of the steps. Its cluster is started by the first of them that needs it.
type trial struct {
	lab     *lab
	long    bool         // the steps that are long run too, and others with more
	ring    *fleet.Fleet // three nodes as a cluster, behind a load balancer
	one     *fleet.Fleet
	apart   *fleet.Fleet // three nodes without a cluster
	formed  time.Duration
	numbers int // makes names of loads
}

// accept runs the steps that are wanted, those that are long only with long, and prints the verdict as the last line.
func (l *lab) accept(ctx context.Context, out io.Writer, wanted *regexp.Regexp, long bool) error {
	t := &trial{lab: l, long: long}
	begun := time.Now()
	failed, run := 0, 0
	if err := t.start(ctx); err != nil {
		return err
	}
	for _, s := range steps {
		if !wanted.MatchString(s.name) || s.long && !long {
			continue
		}
		run++
		stepBegun := time.Now()
		most := stepLimit
		if long {
			most = longStepLimit
		}
		ctx, cancel := context.WithTimeout(ctx, most)
		figures, err := s.run(ctx, t)
		cancel()
		mark := "ok  "
		if err != nil {
			mark = "FAIL"
			failed++
		}
		fmt.Fprintf(out, "%s  %s (%.1f s)\n", mark, s.name, time.Since(stepBegun).Seconds())
		for line := range strings.SplitSeq(figures, "\n") {
			fmt.Fprintf(out, "        %s\n", line)
		}
		if err != nil {
			fmt.Fprintf(out, "      ! %s\n", err)
		}
	}
	verdict := "PASS"
	if failed > 0 || run == 0 {
		verdict = "FAIL"
	}
	fmt.Fprintf(out, "cluster-test: %s, %d of %d steps in %.1f s\n", verdict, run-failed, run,
		time.Since(begun).Seconds())
	if verdict == "FAIL" {
		return fleet.ErrVerdict
	}
	return nil
}

// start runs the cluster that most steps harm.
func (t *trial) start(ctx context.Context) error {
	begun := time.Now()
	var err error
	if t.ring, err = t.lab.newFleet(ctx, 3, true, true); err != nil {
		return err
	}
	err = fleet.Await(ctx, 10*time.Second, "three nodes see each other", func() bool {
		return t.ring.Sees(ctx, t.ring.Nodes, 3)
	})
	t.formed = time.Since(begun)
	return err
}

// alone runs one node, and three that know nothing of each other, for comparison.
func (t *trial) alone(ctx context.Context) (err error) {
	if t.one == nil {
		t.one, err = t.lab.newFleet(ctx, 1, false, false)
	}
	if t.apart == nil && err == nil {
		t.apart, err = t.lab.newFleet(ctx, 3, false, false)
	}
	return err
}

// tag is a name for the messages of a load that no other load has.
func (t *trial) tag(what string) string {
	t.numbers++
	return fmt.Sprintf("%s%d", what, t.numbers)
}

// send sends messages to the plain destination through nodes.
func (t *trial) send(ctx context.Context, nodes []*fleet.Member, messages int) error {
	l := &fleet.Load{
		Name: t.tag("warm"), Addrs: fleet.AnyOf(nodes), Forward: fleet.Always("ok@plain.test"), Clients: 4,
		Messages: messages,
	}
	return fleet.Count(l.Run(ctx), t.lab.plain).Err()
}

// under runs a load through nodes to the plain destination while harm is done, and counts.
func (t *trial) under(ctx context.Context, l *fleet.Load, harm func() error) (fleet.Tally, error) {
	stop := make(chan struct{})
	l.Name, l.Forward, l.Stop = t.tag("load"), fleet.Always("ok@plain.test"), stop
	done := make(chan []fleet.Sent, 1)
	go func() { done <- l.Run(ctx) }() // ends with stop
	err := harm()
	close(stop)
	n := fleet.Count(<-done, t.lab.plain)
	return n, errors.Join(err, n.Err())
}

// within is an error if got is not under limit.
func within(what string, got, limit time.Duration) error {
	if got < limit {
		return nil
	}
	return fmt.Errorf("%s took %s, want under %s", what, got.Round(time.Millisecond), limit)
}
