package pool

import (
	"cmp"
	"slices"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Count says what a Site has at the moment, or several have.
type Count struct {
	Site    mail.Site // "" for several
	Lent    int       // Slots that are held, those in which a connection is being opened included
	Idle    int
	Waiting int
	Cooling bool
	Chosen  bool // strangers alone chose it
}

// States are numbers of Sites that mail is held back from, by why.
type States struct {
	Cooling   int // no new session is opened for a while
	Suspended int // no mail is sent for a while
	Slowed    int // to fewer messages per second
	Limited   int // to fewer sessions
}

// States counts them as they are now.
func (p *Pool[C]) States() (s States) {
	now := p.instant(p.now())
	for _, t := range p.all() {
		t.mu.Lock()
		switch {
		case t.cooling.IsSuspended():
			s.Suspended++
		case t.cooling.IsOn():
			s.Cooling++
		}
		if t.messages.Slowed(now) > 0 {
			s.Slowed++
		}
		if t.sessions.Allowed > 0 {
			s.Limited++
		}
		t.mu.Unlock()
	}
	return s
}

// An Adaptation is what a Site's own replies taught: the connections and the messages per second that it gets, 0 where
// nothing holds it back, and until when it is suspended, zero if it is not.
type Adaptation struct {
	Site      mail.Site
	Sessions  int
	Rate      float64
	Suspended time.Time
}

// Adaptations returns those that hold now, by Site.
func (p *Pool[C]) Adaptations() (all []Adaptation) {
	now := p.instant(p.now())
	for _, t := range p.all() {
		t.mu.Lock()
		a := Adaptation{Site: t.name, Sessions: t.sessions.Allowed, Rate: t.messages.Slowed(now)}
		if t.cooling.IsSuspended() {
			a.Suspended = t.cooling.Until()
		}
		t.mu.Unlock()
		if a != (Adaptation{Site: t.name}) {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b Adaptation) int { return cmp.Compare(a.Site, b.Site) })
	return all
}

// Cooling returns the Sites to which no new connection is opened for a while, in no order.
func (p *Pool[C]) Cooling() (names []mail.Site) {
	for _, t := range p.all() {
		if t.cool.Load() {
			names = append(names, t.name)
		}
	}
	return names
}

// Count counts over all Sites; Cooling is true if any is.
func (p *Pool[C]) Count() (c Count) {
	for _, t := range p.all() {
		c.add(t.sum())
	}
	return c
}

// Sites counts each Site that has connections or waiters, and returns the n with most of these. If there are more, one
// Count without a name follows with the sum of the rest.
func (p *Pool[C]) Sites(n int) []Count {
	var all []Count
	for _, t := range p.all() {
		if c := t.sum(); c.busy() > 0 {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b Count) int {
		return cmp.Or(cmp.Compare(b.busy(), a.busy()), cmp.Compare(a.Site, b.Site))
	})
	if len(all) <= n {
		return all
	}
	var rest Count
	for _, c := range all[n:] {
		rest.add(c)
	}
	return append(all[:n:n], rest)
}

func (t *site[C]) sum() Count {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Count{
		Site: t.name, Lent: len(t.holders.lent), Idle: len(t.idle), Waiting: int(t.line.waiting.Load()),
		Cooling: t.cooling.IsOn(), Chosen: !t.ours,
	}
}

func (c Count) busy() int { return c.Lent + c.Idle + c.Waiting }

func (c *Count) add(o Count) {
	c.Lent += o.Lent
	c.Idle += o.Idle
	c.Waiting += o.Waiting
	c.Cooling = c.Cooling || o.Cooling
}
