package main

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

// The scenarios here have HAProxy in front of the nodes, with the configuration of deploy/haproxy.cfg.

// balanced has mail flow to the nodes, then runs HAProxy in front of them and returns where clients find it.
func balanced(t *trial) (addrs func() []string, err error) {
	if _, _, err := t.warm(); err != nil {
		return nil, err
	}
	err = t.Fleet.Balance(t.ctx, fleet.Hub+":2600")
	return fleet.Only(t.Fleet.Balancer), err
}

// sixLong are six messages that take two seconds each.
func sixLong(addrs func() []string) *fleet.Load {
	return &fleet.Load{
		Clients: 6, Messages: 6, Octets: 400 << 10, Addrs: addrs,
		Pace: source.Pace{Octets: 10 << 10, Every: 50 * time.Millisecond},
	}
}

// atOnce tells how many messages were taken at their first attempt, which all have to be.
func atOnce(t *trial, what string, sent []fleet.Sent) {
	first, why := 0, ""
	for _, m := range sent {
		if m.Accepted && m.Retries == 0 {
			first++
		} else {
			why = m.Last
		}
	}
	t.tell("%s: %d of %d messages at the first attempt", what, first, len(sent))
	if first < len(sent) {
		t.harmed("%s: %d of %d messages at the first attempt, such as %q", what, first, len(sent), why)
	}
}

// haproxy drains nodes, kills them and starts them again behind HAProxy. What was under way when a drain began is taken
// at the first attempt.
var haproxy = scenario{
	name: "haproxy", about: "nodes behind HAProxy are drained, killed and started again", plain: slowDot,
	play: func(t *trial) error {
		addrs, err := balanced(t)
		if err != nil {
			return err
		}
		t.ledger.balancer = addrs()[0] // it does not tell which node it had a client of whom it lost
		fresh := small()
		fresh.Addrs, fresh.Fresh = addrs, true
		return t.under(fresh, func() error {
			for i := range t.runs(4, 2) {
				m := t.Fleet.Nodes[t.rand.IntN(len(t.Fleet.Nodes))]
				if i%2 == 1 {
					begun := time.Now()
					if err := t.kill(m); err != nil {
						return err
					}
					t.rest(t.between(0, 500*time.Millisecond))
					if err := t.again(m); err != nil {
						return err
					}
					t.rest(time.Second)
					t.tell("node %s killed: none accepted for %s at most", m.Name,
						fleet.MS(t.answers.silence(begun, time.Now())))
					continue
				}
				stop := t.begin(sixLong(addrs))
				t.rest(t.between(300*time.Millisecond, time.Second))
				if err := t.drained(m); err != nil {
					return err
				}
				atOnce(t, fmt.Sprintf("node %s drained", m.Name), stop())
				if err := t.again(m); err != nil {
					return err
				}
			}
			return nil
		})
	},
}

// haproxyReload has HAProxy read its configuration anew, again and again. No message is to feel it.
var haproxyReload = scenario{
	name: "haproxy-reload", about: "HAProxy in front of the nodes is reloaded", plain: slowDot,
	play: func(t *trial) error {
		addrs, err := balanced(t)
		if err != nil {
			return err
		}
		short := small()
		short.Addrs, short.Fresh = addrs, true
		stopShort := t.begin(short)
		defer stopShort()
		for range t.runs(3, 1) {
			stop := t.begin(sixLong(addrs))
			for range 3 {
				t.rest(t.between(200*time.Millisecond, 600*time.Millisecond))
				if err := t.Fleet.ReloadBalancer(); err != nil {
					return err
				}
			}
			atOnce(t, "three reloads, long ones", stop())
		}
		atOnce(t, "all reloads, short ones", stopShort())
		return nil
	},
}
