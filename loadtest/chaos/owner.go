package main

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

// slowDot is a destination that takes its time to answer, so that there are always messages between the replies.
func slowDot(*trial) smtptest.Behaviour {
	return smtptest.Behaviour{Answers: map[string]smtptest.Answer{smtptest.Dot: {After: 20 * time.Millisecond}}}
}

// small is mail of which always some is between the destination's reply and ours.
func small() *fleet.Load { return &fleet.Load{Clients: 8, Every: time.Millisecond} }

// large is mail of which always some streams: 400 KiB in a fifth of a second.
func large() *fleet.Load {
	return &fleet.Load{Clients: 3, Octets: 400 << 10, Pace: source.Pace{Octets: 20 << 10, Every: 10 * time.Millisecond}}
}

// killingOwner makes a scenario that kills and stops, in turns, the node that owns the destination's Site. Clients try
// for as long as patience.
func killingOwner(s scenario, patience time.Duration) scenario {
	s.limit, s.plain = 3*time.Minute, slowDot
	s.play = func(t *trial) error {
		if _, _, err := t.warm(); err != nil {
			return err
		}
		short, long := small(), large()
		short.Patience, long.Patience = patience, patience
		stopSmall, stopLarge := t.begin(short), t.begin(long)
		defer stopLarge()
		defer stopSmall()
		for i := range t.runs(4, 2) {
			owner, others, err := t.Fleet.OwnerOf(t.ctx, fleet.PlainHost)
			if err != nil {
				return err
			}
			t.rest(t.between(200*time.Millisecond, 700*time.Millisecond))
			begun := time.Now()
			if i%2 == 0 {
				err = t.killed(owner, others)
			} else {
				err = t.stopped(owner)
			}
			if err != nil {
				return err
			}
			t.tell("%s: node %s, none accepted for %s at most", []string{"killed", "stopped"}[i%2], owner.Name,
				fleet.MS(t.answers.silence(begun, time.Now())))
		}
		stopLarge()
		stopSmall()
		return countAgain(t)
	}
	return s
}

var (
	killOwner = killingOwner(scenario{
		name: "kill-owner", quick: true,
		about: "the owner is killed, and stopped, while messages stream and between the replies",
	}, patience)
	// The clients wait for the lease of what was under way: what gossip says of its holder is no sign that it does not
	// deliver yet.
	killOwnerOnce = killingOwner(scenario{
		name: "kill-owner-once", about: "the same with `once`", config: onceOn, judge: onceHolds,
	}, leasePatience)
)

// killed kills a node and starts it again.
func (t *trial) killed(m *fleet.Member, others []*fleet.Member) error {
	if err := t.kill(m); err != nil {
		return err
	}
	if _, err := t.Fleet.Out(t.ctx, others, len(others)); err != nil {
		return err
	}
	t.rest(t.between(0, 500*time.Millisecond))
	return t.again(m)
}

// stopped holds a node for a while, in which the others may find it gone.
func (t *trial) stopped(m *fleet.Member) error {
	if err := m.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	t.rest(t.between(500*time.Millisecond, 4*time.Second))
	err := m.Process.Signal(syscall.SIGCONT)
	_, back := t.Fleet.Out(t.ctx, t.Fleet.Nodes, len(t.Fleet.Nodes))
	return errors.Join(err, back)
}

// killAll kills all nodes at once.
var killAll = scenario{
	name: "kill-all", about: "all nodes are killed at once", limit: 2 * time.Minute, plain: slowDot,
	play: func(t *trial) error {
		if _, _, err := t.warm(); err != nil {
			return err
		}
		return t.under(small(), func() error {
			for range t.runs(3, 1) {
				t.rest(t.between(300*time.Millisecond, time.Second))
				begun := time.Now()
				for _, m := range t.Fleet.Nodes {
					if err := t.kill(m); err != nil {
						return err
					}
				}
				for _, m := range t.Fleet.Nodes {
					if err := t.Fleet.StartNode(m); err != nil {
						return err
					}
				}
				if _, err := t.Fleet.Out(t.ctx, t.Fleet.Nodes, len(t.Fleet.Nodes)); err != nil {
					return err
				}
				t.rest(300 * time.Millisecond)
				t.tell("none accepted for %s", fleet.MS(t.answers.silence(begun, time.Now())))
			}
			return nil
		})
	},
}

// rolling restarts the nodes one by one.
var rolling = scenario{
	name: "rolling", about: "the nodes are restarted one by one while messages stream", limit: 2 * time.Minute,
	plain: slowDot,
	play: func(t *trial) error {
		if _, _, err := t.warm(); err != nil {
			return err
		}
		stopLarge := t.begin(large())
		defer stopLarge()
		return t.under(small(), func() error {
			for _, m := range t.Fleet.Nodes {
				t.rest(t.between(100*time.Millisecond, 500*time.Millisecond))
				begun := time.Now()
				if err := t.drained(m); err != nil {
					return err
				}
				t.tell("node %s drained in %s", m.Name, fleet.MS(time.Since(begun)))
				if err := t.again(m); err != nil {
					return err
				}
			}
			return nil
		})
	},
}

// drained ends a node in order.
func (t *trial) drained(m *fleet.Member) error {
	if err := m.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-m.Process.Exited:
		return m.Process.Err()
	case <-t.ctx.Done():
		return fmt.Errorf("node %s does not end", m.Name)
	}
}

// drainLong drains a node that a long message enters at, and the owner to which another one streams through a hop. Both
// are to be delivered at their first attempt.
var drainLong = scenario{
	name: "drain-long", about: "nodes are drained with long messages under way, one of them through a hop",
	play: func(t *trial) error {
		owner, others, err := t.warm()
		if err != nil {
			return err
		}
		long := func(m *fleet.Member) func() []fleet.Sent { // 4 s
			return t.begin(&fleet.Load{
				Clients: 1, Messages: 1, Octets: 2 << 20, Addrs: fleet.Only(m.SMTP),
				Pace: source.Pace{Octets: 50 << 10, Every: 100 * time.Millisecond},
			})
		}
		for _, drain := range []struct {
			what         string
			enters, ends *fleet.Member
		}{{"the entry", others[0], others[0]}, {"the owner", others[1], owner}} {
			stop := long(drain.enters)
			t.rest(t.between(500*time.Millisecond, 2*time.Second))
			begun := time.Now()
			if err := t.drained(drain.ends); err != nil {
				return err
			}
			took := time.Since(begun)
			sent := stop()
			t.tell("%s drained in %s; the message that was under way: %d attempts, %s", drain.what, fleet.MS(took),
				1+sent[0].Retries, fleet.MS(sent[0].Took))
			if sent[0].Retries > 0 {
				t.harmed("%s: the long message was not taken at once: %s", drain.what, sent[0].Last)
			}
			if err := t.again(drain.ends); err != nil {
				return err
			}
		}
		return nil
	},
}
