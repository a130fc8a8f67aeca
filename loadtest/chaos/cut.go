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

// A spot is where the link to a client is cut.
type spot int

const (
	behindEnd   spot = iota // some time after the end of the message
	beforeEnd               // some octets before it
	inReply                 // when the client has so many octets of our reply, of which its TCP takes no more
	behindReply             // when it has read the reply and sent so many octets more
	pipelined               // some time after the end, with which it sent so many octets more
)

// A snip says where and how the link of one client is cut.
type snip struct {
	how      severing
	spot     spot
	octets   int
	behind   time.Duration
	balanced bool // the link is one to HAProxy
}

// cutAround is how many octets around the end of data and around our reply links are cut at, and cutBehind how long
// after the end of data at most: about twice what a message takes.
const (
	cutAround = 64
	cutBehind = 40 * time.Millisecond
)

// mostSilent is how many links that were cut in silence stay so at a time: the oldest ends when there are more. All of
// them at once would be more than a node can write of when it drains.
const mostSilent = 100

// cutters is how many clients there are at a time.
const cutters = 16

// snips returns n of them in the order of the seed: each octet of each spot, with HAProxy and without, and then times
// by chance.
func snips(t *trial, n int) []snip {
	var all []snip
	for octet := range cutAround {
		for spot := beforeEnd; spot <= pipelined; spot++ {
			all = append(all, snip{spot: spot, octets: 1 + octet}, snip{spot: spot, octets: 1 + octet, balanced: true})
		}
	}
	for len(all) < n {
		all = append(all, snip{balanced: t.rand.IntN(2) == 0})
	}
	t.rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for i := range all {
		all[i].how, all[i].behind = severing(t.rand.IntN(int(severings))), t.between(0, cutBehind)
	}
	return all[:n]
}

// cutLinks makes a scenario of clients whose links are cut, directly and behind HAProxy, and of nodes that are killed
// meanwhile. Each client tries again, on a link that holds, until its message is taken.
func cutLinks(s scenario, kills int) scenario {
	s.limit, s.plain = 15*time.Minute, aimedDot
	s.play = func(t *trial) error {
		addrs, err := balanced(t)
		if err != nil {
			return err
		}
		at := snips(t, t.runs(1000, 300))
		c := &cutting{trial: t, balancer: addrs()[0], sent: make([]fleet.Sent, len(at))}
		defer c.close()
		k, err := c.killAll(t.kills(kills))
		err = errors.Join(err, c.all(at), c.finish(k))
		t.ledger.send(c.sent)
		t.ledger.balancer = c.balancer
		early := 0
		for _, m := range c.sent {
			if m.Accepted && m.Retries == 0 {
				early++
			}
		}
		t.tell("%d links cut, %d of them when the client had its answer; of the others each message was sent again",
			len(at), early)
		return errors.Join(err, countAgain(t))
	}
	return s
}

// onceOn is what the nodes have with the ledger. Redis may take its time: what it did not answer in time is delivered
// as without the ledger, and that is not what these scenarios are about.
const onceOn = "once: true\ndrain: 3s\nredis: {url: \"redis://" + fleet.RedisAddr + "/0\", timeout: 1s}\n"

var (
	cutAroundDot = cutLinks(scenario{
		name: "cut-around-dot", quick: true,
		about:  "with `once`: clients' links are cut, and nodes killed, around the dot and the reply",
		config: onceOn, judge: onceHolds,
	}, 20)
	cutOneNode = cutLinks(scenario{
		name: "cut-one-node", about: "the same with one node", nodes: 1, config: onceOn, judge: onceHolds,
	}, 20)
	cutWithoutOnce = cutLinks(scenario{
		name: "cut-without-once", config: "drain: 3s\n",
		about: "the same without `once` and kills: the control, in which second copies appear",
		judge: copiesAppear,
	}, 0)
)

// onceHolds wants no second copy but of messages that were delivered again in doubt. What the store did not answer for
// in time is told apart.
func onceHolds(t *trial) {
	tellWindow(t)
	tracesHold(t)
	alone := 0
	for id, n := range t.ledger.alone {
		alone += min(n, max(0, t.ledger.delivered[id]-1))
	}
	if alone > 0 {
		t.tell("%d second copies of messages that one node alone remembered: Redis did not answer in time", alone)
	}
	if b := t.ledger.balance(); b.copies > t.repeats+alone {
		t.harmed("%d second copies with once, of %d messages that were delivered again in doubt", b.copies, t.repeats)
	}
}

// copiesAppear wants that there was something to hold back, and that the model of the ledger has no paths to it.
func copiesAppear(t *trial) {
	if t.ledger.balance().copies == 0 {
		t.harmed("no second copy: the cuts show nothing")
	}
	e := t.ledger.traces.explain(t.ledger.sent)
	t.tell("%d of %d messages are no path of the model of the ledger", e.wrong, e.messages)
	if e.wrong == 0 {
		t.harmed("without the ledger all messages are paths of its model: it shows nothing")
	}
}

// countAgain counts what the nodes have delivered again in doubt. Their logs may leave some out.
func countAgain(t *trial) error {
	for _, m := range t.Fleet.Nodes {
		n, err := t.Fleet.Metric(t.ctx, m, "millrace_events_total", `reason="`+deliveredAgain+`"`)
		if err != nil {
			return err
		}
		t.repeats += int(n)
	}
	return nil
}

// A cutting is the clients whose links are cut.
type cutting struct {
	trial    *trial
	balancer string
	sent     []fleet.Sent

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

// letter returns a message of an id, as all its attempts send it.
func letter(id string) source.Message {
	return source.Message{
		Reverse: id + "@client.example", Forward: []string{"ok@plain.test"},
		Octets: fmt.Appendf(nil, "Subject: %s\r\nMessage-ID: <%s@client.example>\r\n"+
			"Date: Mon, 30 Nov 2026 12:00:00 +0000\r\n\r\n%s\r\n", id, id, bytes.Repeat([]byte("x"), 64)),
	}
}

// one sends a message over a link that is cut, and again until it is taken.
func (c *cutting) one(n int, at snip) (fleet.Sent, error) {
	begun := time.Now()
	m := fleet.Sent{ID: fmt.Sprintf("cut-%d", n), Begun: begun}
	addr := c.addr(at.balanced)
	taken, err := c.cut(addr, letter(m.ID), at)
	if err == nil && !taken {
		m.DoubtAt = []string{addr}
		err = c.again(&m, patience)
	} else {
		m.Accepted = taken
	}
	m.Took = time.Since(begun)
	return m, err
}

// again sends a message until it is taken.
func (c *cutting) again(m *fleet.Sent, patience time.Duration) error {
	for begun := time.Now(); c.trial.ctx.Err() == nil && time.Since(begun) < patience; {
		m.Retries++
		fleet.Rest(c.trial.ctx, 50*time.Millisecond)
		taken, err := c.whole(c.addr(rand.IntN(2) == 0), letter(m.ID), m)
		if err != nil || taken {
			m.Accepted = taken
			return err
		}
	}
	return fmt.Errorf("%s was not taken in time: %s", m.ID, m.Last)
}

// addr is that of HAProxy, or of a node.
func (c *cutting) addr(balanced bool) string {
	if balanced {
		return c.balancer
	}
	nodes := c.trial.Fleet.Nodes
	return nodes[rand.IntN(len(nodes))].SMTP
}

// whole sends a message and reports whether it was taken.
func (c *cutting) whole(addr string, letter source.Message, m *fleet.Sent) (bool, error) {
	s, err := source.Dial(c.trial.ctx, source.Config{Addr: addr})
	if err != nil {
		return false, err
	}
	defer s.Abort(false)
	r, err := s.Send(letter)
	if err != nil {
		return false, err
	}
	c.trial.answers.see(r)
	if r.End.Class() != 2 {
		m.Last = r.End.String()
		return false, s.Reset()
	}
	return true, s.Quit()
}

// more is what clients say behind a message.
const more = "NOOP\r\nMAIL FROM:<next@client.example>\r\nRCPT TO:<ok@plain.test>\r\nRSET\r\n"

// cut sends a message, cuts the link and reports whether the reply came before that.
func (c *cutting) cut(addr string, letter source.Message, at snip) (taken bool, err error) {
	s, err := source.Dial(c.trial.ctx, source.Config{Addr: addr})
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
	switch at.spot {
	case beforeEnd:
		octets = octets[:len(octets)-at.octets]
	case pipelined:
		octets = append(octets, more[:at.octets]...)
	case inReply:
		err = s.Control(func(fd uintptr) error { return passOctets(int(fd), at.octets) })
	}
	if err = errors.Join(err, s.Write(octets)); err != nil {
		return false, err
	}
	switch at.spot {
	case behindEnd, pipelined:
		if r, err := s.ReadWithin(at.behind); err == nil {
			s.Abort(false)
			return r.Class() == 2, nil
		}
	case inReply:
		err = s.Await(patience)
	case behindReply:
		var r source.Reply
		r, err = s.Read()
		taken = r.Class() == 2
		err = errors.Join(err, s.Write([]byte(more[:at.octets])))
	}
	if err != nil {
		return false, err
	}
	came, err := c.sever(s, at.how)
	return taken || came, err
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
