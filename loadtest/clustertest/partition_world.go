package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

// slowly is what the destination takes for each message, so that senders have to share its sessions.
const slowly = 40 * time.Millisecond

// A world is a cluster whose nodes have networks of their own.
type world struct {
	*fleet.Stage
	watch *lookout
}

// newWorld starts three nodes and all they need. What it started ends with close.
func newWorld(ctx context.Context, binary string) (*world, error) {
	s, err := fleet.NewStage(ctx, fleet.StagePlan{
		Binary: binary, Nodes: 3,
		Plain: smtptest.Behaviour{Keep: keep, Answers: map[string]smtptest.Answer{smtptest.Dot: {After: slowly}}},
	})
	if err != nil {
		return nil, err
	}
	w := &world{Stage: s}
	w.watch = w.plainWatch()
	return w, nil
}

func (w *world) close() {
	w.watch.end()
	w.Close()
}

// A lookout sees how many sessions the destination has, at every moment.
type lookout struct {
	server *smtptest.Server
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu   sync.Mutex
	seen []sighting
}

type sighting struct {
	at       time.Time
	sessions int
}

func (w *world) plainWatch() *lookout {
	ctx, stop := context.WithCancel(context.Background())
	l := &lookout{server: w.Plain, stop: stop}
	l.done.Go(func() { // ends with end
		last := -1
		for ctx.Err() == nil {
			_ = w.Plain.WaitFor(ctx, func(c smtptest.Counts) bool { // its error is ctx's
				if c.Current == last {
					return false
				}
				last = c.Current
				return true
			})
			l.mu.Lock()
			l.seen = append(l.seen, sighting{time.Now(), last})
			l.mu.Unlock()
		}
	})
	return l
}

func (l *lookout) end() {
	l.stop()
	l.done.Wait()
}

// most is the highest number in a time, and how long it was above limit in all.
func (l *lookout) most(from, to time.Time, limit int) (most int, above time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, s := range l.seen {
		until := to
		if i+1 < len(l.seen) && l.seen[i+1].at.Before(to) {
			until = l.seen[i+1].at
		}
		if until.Before(from) || s.at.After(to) {
			continue
		}
		most = max(most, s.sessions)
		if begun := s.at; s.sessions > limit {
			if begun.Before(from) {
				begun = from
			}
			above += until.Sub(begun)
		}
	}
	return most, above
}

// A side is senders that reach some of the nodes, and when they were answered.
type side struct {
	load *fleet.Load
	stop chan struct{}
	done chan []fleet.Sent

	mu       sync.Mutex
	accepted []time.Time
	deferred []time.Time
}

func (w *world) side(ctx context.Context, name string, senders int, nodes ...*fleet.Member) *side {
	s := &side{stop: make(chan struct{}), done: make(chan []fleet.Sent, 1)}
	s.load = &fleet.Load{
		Name: name, Addrs: fleet.AnyOf(nodes), Forward: fleet.Always("ok@plain.test"), Clients: senders, Stop: s.stop,
		Watch: s.see, Patience: 30 * time.Second,
	}
	go func() { s.done <- s.load.Run(ctx) }() // ends with stop
	return s
}

func (s *side) see(r source.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.End.Class() {
	case 2:
		s.accepted = append(s.accepted, time.Now())
	case 4:
		s.deferred = append(s.deferred, time.Now())
	}
}

// between returns how many messages were accepted in a time, the longest time without one, and how many were deferred.
func (s *side) between(from, to time.Time) (accepted int, silence time.Duration, deferred int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := from
	for _, at := range s.accepted {
		if at.After(from) && at.Before(to) {
			accepted++
			silence = max(silence, at.Sub(last))
			last = at
		}
	}
	for _, at := range s.deferred {
		if at.After(from) && at.Before(to) {
			deferred++
		}
	}
	return accepted, max(silence, to.Sub(last)), deferred
}

// logs returns what the nodes said of each other, for a scene that failed.
func (w *world) logs() string {
	var b strings.Builder
	for _, m := range w.Fleet.Nodes {
		said, _ := os.ReadFile(m.Log()) // the failure stands without it
		for line := range strings.Lines(string(said)) {
			if strings.Contains(line, `"msg":"cluster"`) {
				fmt.Fprintf(&b, "%s: %s", m.Name, line)
			}
		}
	}
	return b.String()
}
