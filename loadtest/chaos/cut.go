package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

// A severing is how the link to a client ends.
type severing int

const (
	silently severing = iota // nothing comes through any more
	byFIN
	byRST
	severings
)

// A snip says where and how the link of one client is cut: octets before the end of the message, or a time behind it.
type snip struct {
	how    severing
	before int
	behind time.Duration
}

// cutAround is how many octets before the end of data a link is cut at most, and cutBehind how long after it: about
// twice what a message takes.
const (
	cutAround = 64
	cutBehind = 40 * time.Millisecond
)

// mostSilent is how many links that were cut in silence stay so at a time: the oldest ends when there are more. All of
// them at once would be more than a node can write of when it drains.
const mostSilent = 100

// cutters is how many clients there are at a time.
const cutters = 16

// cutAroundDot cuts the links of clients at random octets before the dot and at random times between it and the reply.
// Each client tries again, on a link that holds, until its message is taken.
var cutAroundDot = scenario{
	name: "cut-around-dot", about: "clients' links are cut around the dot and the reply", quick: true,
	limit: 10 * time.Minute, config: "drain: 3s\n", plain: slowDot,
	play: func(t *trial) error {
		if _, _, err := t.warm(); err != nil {
			return err
		}
		snips := make([]snip, t.runs(1000, 300))
		for i := range snips {
			snips[i].how = severing(t.rand.IntN(int(severings)))
			if t.rand.IntN(3) == 0 {
				snips[i].before = 1 + t.rand.IntN(cutAround)
			} else {
				snips[i].behind = t.between(0, cutBehind)
			}
		}
		c := &cutting{trial: t, sent: make([]fleet.Sent, len(snips))}
		defer c.close()
		err := c.all(snips)
		t.ledger.send(c.sent)
		early := 0
		for _, m := range c.sent {
			if m.Retries == 0 {
				early++
			}
		}
		t.tell("%d links cut, %d of them when the client had its answer; of the others each message was sent again",
			len(snips), early)
		return err
	},
}

// A cutting is the clients whose links are cut.
type cutting struct {
	trial *trial
	sent  []fleet.Sent

	mu   sync.Mutex // over what follows
	next int
	open []*source.Session // links that were cut in silence
}

func (c *cutting) close() {
	for _, s := range c.open {
		s.Abort(true)
	}
}

// all cuts each link and returns when each message was taken.
func (c *cutting) all(snips []snip) error {
	var wg sync.WaitGroup
	failed := make([]error, cutters)
	for i := range cutters {
		wg.Go(func() { // ends when there is none left, or with ctx
			for c.trial.ctx.Err() == nil && failed[i] == nil {
				c.mu.Lock()
				n := c.next
				c.next++
				c.mu.Unlock()
				if n >= len(snips) {
					return
				}
				c.sent[n], failed[i] = c.one(n, snips[n])
			}
		})
	}
	wg.Wait()
	return errors.Join(failed...)
}

// one sends a message over a link that is cut, and again until it is taken.
func (c *cutting) one(n int, at snip) (fleet.Sent, error) {
	m := fleet.Sent{ID: fmt.Sprintf("cut-%d", n)}
	letter := source.Message{
		Reverse: m.ID + "@client.example", Forward: []string{"ok@plain.test"},
		Octets: fmt.Appendf(nil, "Subject: %s\r\n\r\n%s\r\n", m.ID, bytes.Repeat([]byte("x"), 64)),
	}
	begun := time.Now()
	taken, err := c.cut(letter, at)
	for ; err == nil && !taken; m.Retries++ {
		if c.trial.ctx.Err() != nil || time.Since(begun) > patience {
			return m, errors.New("a message was not taken in time")
		}
		fleet.Rest(c.trial.ctx, 50*time.Millisecond)
		taken, err = c.whole(letter, &m)
	}
	m.Accepted, m.Took = taken, time.Since(begun)
	return m, err
}

func (c *cutting) dial() (*source.Session, error) {
	nodes := c.trial.Fleet.Nodes
	return source.Dial(c.trial.ctx, source.Config{Addr: nodes[rand.IntN(len(nodes))].SMTP})
}

// whole sends a message and reports whether it was taken.
func (c *cutting) whole(letter source.Message, m *fleet.Sent) (bool, error) {
	s, err := c.dial()
	if err != nil {
		return false, err
	}
	defer s.Abort(false)
	r, err := s.Send(letter)
	if err == nil && r.End.Class() != 2 {
		m.Last = r.End.String()
		return false, s.Reset()
	}
	if err != nil {
		return false, err
	}
	return true, s.Quit()
}

// cut sends a message, cuts the link and reports whether the reply came before that.
func (c *cutting) cut(letter source.Message, at snip) (bool, error) {
	s, err := c.dial()
	if err != nil {
		return false, err
	}
	if _, ok, err := s.Envelope(letter); err != nil || !ok {
		s.Abort(false)
		return false, errors.Join(err, errors.New("no recipient was taken"))
	}
	if r, err := s.Command("DATA"); err != nil || r.Code != 354 {
		s.Abort(false)
		return false, errors.Join(err, fmt.Errorf("DATA: %s", r))
	}
	octets := source.Stuff(letter.Octets)
	if err := s.Write(octets[:len(octets)-at.before]); err != nil {
		return false, err
	}
	if at.before == 0 {
		if r, err := s.ReadWithin(at.behind); err == nil {
			s.Abort(false)
			return r.Class() == 2, nil
		}
	}
	return c.sever(s, at.how)
}

// sever ends the link, and reports whether the reply had come, which is seen only now.
func (c *cutting) sever(s *source.Session, how severing) (bool, error) {
	if err := s.Control(func(fd uintptr) error { return deafenSocket(int(fd)) }); err != nil {
		return false, err
	}
	r, err := s.ReadWithin(time.Millisecond)
	taken := err == nil && r.Class() == 2
	if how != silently {
		s.Abort(how == byRST)
		return taken, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = append(c.open, s)
	if len(c.open) > mostSilent {
		c.open[0].Abort(true)
		c.open = c.open[1:]
	}
	return taken, nil
}
