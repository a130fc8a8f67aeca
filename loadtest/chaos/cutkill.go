package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
)

// Kills between the replies: a node is killed when the destination has answered a message and the client has not been.

// How long the destination takes to answer such a message, when a node is killed around that answer, and how many
// messages there are at a time. leasePatience is how long clients try: longer than the lease of a killed attempt.
const (
	aimedAfter    = 10 * time.Millisecond
	killFrom      = -time.Millisecond
	killTo        = 4 * time.Millisecond
	aimedMessages = 3
	leasePatience = 50 * time.Second
)

// aimedDot is slowDot that tells the trial of the messages at whose dot a node is to be killed.
func aimedDot(t *trial) smtptest.Behaviour {
	b := slowDot(t)
	t.aim = make(chan time.Time, aimedMessages)
	b.On = func(step smtptest.Step) (smtptest.Answer, bool) {
		if step.Verb != smtptest.Dot || !strings.HasPrefix(step.Message.Reverse, "kill-") {
			return smtptest.Answer{}, false
		}
		select {
		case t.aim <- time.Now().Add(aimedAfter):
		default: // one more attempt at a message
		}
		return smtptest.Answer{After: aimedAfter}, true
	}
	return b
}

// A kill is one message that was under way when a node was killed.
type kill struct {
	fleet.Sent
	after time.Duration // the destination's answer
}

// killAll kills nodes so often, the owner and the node that messages enter at in turns, each time with some messages
// between the replies. It returns those messages. Each was tried once more.
func (c *cutting) killAll(times int) (all []*kill, err error) {
	for i := range times {
		some, err := c.killOne(i)
		all = append(all, some...)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func (c *cutting) killOne(i int) ([]*kill, error) {
	t := c.trial
	victim, enter := t.Fleet.Nodes[0], t.Fleet.Nodes[0]
	if len(t.Fleet.Nodes) > 1 {
		owner, others, err := t.Fleet.OwnerOf(t.ctx, fleet.PlainHost)
		if err != nil {
			return nil, err
		}
		if enter, victim = others[0], owner; i%2 == 1 {
			victim = enter
		}
	}
	for len(t.aim) > 0 {
		<-t.aim
	}
	after := t.between(killFrom, killTo)
	some := make([]*kill, aimedMessages)
	ended := make(chan struct{})
	for n := range some {
		id := fmt.Sprintf("kill-%d-%d", i, n)
		some[n] = &kill{Sent: fleet.Sent{ID: id, Begun: time.Now()}, after: after}
		go func() { // ends with the reply, or with the node
			defer func() { ended <- struct{}{} }()
			m := &some[n].Sent
			m.Accepted, _ = c.whole(enter.SMTP, letter(m.ID), m) // the error is the kill
		}()
	}
	var err error
	select {
	case at := <-t.aim:
		t.rest(time.Until(at.Add(after)))
		err = t.kill(victim)
	case <-time.After(patience):
		err = errNever
	}
	for range some {
		<-ended
	}
	if err != nil {
		return some, err
	}
	for _, k := range some {
		if !k.Accepted { // a node may not have seen yet that the other one is gone
			k.DoubtAt = []string{victim.SMTP}
			k.Retries++
			other := t.Fleet.Nodes[(i+1)%len(t.Fleet.Nodes)]
			k.Accepted, _ = c.whole(other.SMTP, letter(k.ID), &k.Sent)
		}
	}
	return some, t.again(victim)
}

// finish sends the messages of kills until each is taken, enters them into the ledger and tells what was seen.
func (c *cutting) finish(all []*kill) error {
	if len(all) == 0 {
		return nil
	}
	var failed error
	between, settled := 0, 0
	c.trial.ledger.kills = all
	for _, k := range all {
		if len(k.DoubtAt) > 0 && k.after >= 0 {
			between++
		}
		if k.Accepted {
			settled++
		} else {
			failed = errors.Join(failed, c.again(&k.Sent, leasePatience))
		}
		k.Took = time.Since(k.Begun)
		c.trial.ledger.send([]fleet.Sent{k.Sent})
	}
	c.trial.tell("%d nodes killed with %d messages under way: %d of these unanswered and behind the destination's "+
		"answer, %d settled at once, the others when the lease was over", len(all)/aimedMessages, len(all), between,
		settled)
	return failed
}

// tellWindow tells how long after the destination's answer a node was killed at the latest that left a second copy: the
// time that it takes until the answer is in the store.
func tellWindow(t *trial) {
	doubled, last := 0, time.Duration(0)
	for _, k := range t.ledger.kills {
		if t.ledger.delivered[k.ID] > 1 {
			doubled++
			last = max(last, k.after)
		}
	}
	if len(t.ledger.kills) > 0 {
		t.tell("%d of these messages came twice, each killed within %s of the destination's answer; %d were delivered "+
			"again in doubt", doubled, last.Round(100*time.Microsecond), t.repeats)
	}
}
