package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
)

// A cell is one way of using smtp-source.
type cell struct {
	octets, sessions int
	reuse            bool
	messages, quick  int // how many, and in the short set; 0: none there
}

// cells have as many messages as take a few seconds.
var cells = []cell{
	{4 << 10, 1, true, 2000, 40}, {4 << 10, 20, true, 8000, 400}, {4 << 10, 100, true, 8000, 0},
	{4 << 10, 1, false, 1500, 40}, {4 << 10, 20, false, 6000, 200}, {4 << 10, 100, false, 6000, 0},
	{64 << 10, 1, true, 1500, 20}, {64 << 10, 20, true, 4000, 100}, {64 << 10, 100, true, 4000, 0},
	{64 << 10, 1, false, 1000, 0}, {64 << 10, 20, false, 3000, 40}, {64 << 10, 100, false, 3000, 0},
	{1 << 20, 1, true, 200, 0}, {1 << 20, 20, true, 500, 20}, {1 << 20, 100, true, 500, 0},
	{1 << 20, 1, false, 200, 0}, {1 << 20, 20, false, 500, 0}, {1 << 20, 100, false, 500, 0},
}

// sources is how many processes of smtp-source share a cell, because each can name one domain.
const sources = 4

// attempts is how often a cell is tried. smtp-source ends at the first 4yz, as no mail server does.
const attempts = 3

// matrix has Postfix's smtp-source send.
func (r *run) matrix() error {
	program, err := extern.Look("smtp-source")
	if err != nil {
		return err
	}
	for _, warm := range []cell{{4 << 10, 20, true, 200, 40}, {64 << 10, 20, true, 100, 20}} {
		sent, err := r.source(program, warm, r.size(warm.messages, warm.quick))
		r.ledger.sent = append(r.ledger.sent, sent...)
		if err != nil {
			return err
		}
	}
	for _, c := range cells {
		n := r.size(c.messages, c.quick)
		if n == 0 {
			continue
		}
		how := "reuse"
		if !c.reuse {
			how = "one message each"
		}
		w := row{Part: "matrix", Octets: c.octets, Sessions: c.sessions, Reuse: c.reuse, Name: fmt.Sprintf(
			"%s, %d session%s, %s", kib(c.octets), c.sessions, plural(c.sessions), how)}
		var failed error
		send := func() ([]fleet.Sent, error) { return r.source(program, c, n) }
		for attempt := range attempts {
			if failed != nil {
				w.Note = fmt.Sprintf("attempt %d, after %.120s", attempt+1, failed)
			}
			if _, failed = r.measure(w, send); failed == nil {
				break
			}
		}
		if failed != nil {
			return fmt.Errorf("%s: %w", w.Name, failed)
		}
	}
	return nil
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// source sends n messages or some more. With an error nothing is said of them: any may have been accepted.
func (r *run) source(program extern.Program, c cell, n int) ([]fleet.Sent, error) {
	processes := min(sources, c.sessions)
	each := (n + processes - 1) / processes
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	failed := make([]error, processes)
	var (
		wg   sync.WaitGroup
		sent []fleet.Sent
	)
	for i := range processes {
		name := r.name("s")
		for k := range each {
			sent = append(sent, fleet.Sent{ID: fmt.Sprintf("%d-%s", k+1, name), Accepted: true})
		}
		o := extern.SourceOptions{
			Sessions: c.sessions / processes, Messages: each, Octets: c.octets, Reuse: c.reuse, Numbered: true,
			Reverse: "source@client.example", Forward: fmt.Sprintf("-%s@%s.load.test", name, domain(i)),
		}
		wg.Go(func() {
			if out, err := program.Command(ctx, o.Args(r.rig.trio.Balancer)...).CombinedOutput(); err != nil {
				failed[i] = fmt.Errorf("smtp-source: %w: %.200s", err, out)
				cancel()
			}
		})
	}
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		for i := range sent {
			sent[i] = fleet.Sent{ID: sent[i].ID, Doubtful: true, Last: "smtp-source gave up"}
		}
		return sent, err
	}
	return sent, nil
}
