package pool

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// Start begins closing sessions that are idle for too long or too old, every reapEvery. Shutdown ends it.
func (p *Pool[C]) Start() {
	p.done.Go(func() { // ends when Shutdown closes p.stop
		tick := time.NewTicker(reapEvery)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
				p.reap()
			}
		}
	})
}

// reap closes the idle sessions that are over their time, and forgets Sites of which nothing is left to know.
func (p *Pool[C]) reap() {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, t := range p.sites {
		kept := t.idle[:0]
		for _, s := range t.idle {
			if s.spent || t.expired(s, now) {
				p.ending(t, s.session)
				continue
			}
			kept = append(kept, s)
		}
		clear(t.idle[len(kept):])
		t.idle = kept
		for host, m := range t.down {
			if now.Sub(m.until) > coolMost {
				delete(t.down, host)
			}
		}
		if t.slots == 0 && t.waiting.Load() == 0 && len(t.down) == 0 && now.Sub(t.cooling.until) > coolMost &&
			now.Sub(t.used) > coolMost && !t.isAdapted(p.since(now)) {
			delete(p.sites, name)
		}
	}
}

// Yield is called when Sites have changed hands, or the shares of their limits have: ours reports whether a Site is
// this node's, and limits what it has now. Of those that are not ours what is idle is closed, and what is lent as soon
// as it is given back and nobody waits for it: the other node opens sessions of its own, and the Site is not to see
// both for longer than a message takes. Of the others, idle sessions over the limit are closed. A Site that is met
// later is not one of them.
func (p *Pool[C]) Yield(ours func(mail.Site) bool, limits func(mail.Site) Limits) {
	p.mu.Lock()
	names := make([]mail.Site, 0, len(p.sites))
	for name := range p.sites {
		names = append(names, name)
	}
	p.mu.Unlock()
	type now struct {
		ours   bool
		limits Limits
	}
	changed := make(map[mail.Site]now, len(names))
	for _, name := range names {
		changed[name] = now{ours(name), limits(name)}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, is := range changed {
		t := p.sites[name]
		if t == nil || p.closed {
			continue
		}
		t.limit(is.limits)
		t.yields = !is.ours
		for len(t.idle) > 0 && (t.yields || t.isOver()) {
			p.ending(t, t.evictIdle().session)
		}
		p.serve(t, p.now())
	}
}

// popAll takes out all idle sessions.
func (t *site[C]) popAll() (doomed []C) {
	for _, s := range t.idle {
		doomed = append(doomed, s.session)
	}
	t.slots -= len(t.idle)
	t.idle = nil
	return doomed
}

// Shutdown closes all idle sessions, fails whoever waits, and waits until every Slot was given back or ctx ends, whose
// error it then returns. Get fails from now on. It may be called again.
func (p *Pool[C]) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	doomed := p.close()
	p.mu.Unlock()
	closeAll(doomed)
	p.done.Wait()
	select {
	case <-p.drained:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Abort is for a drain whose time is up: it closes what is idle and fails whoever waits, as Shutdown does, and cuts every
// session that is lent, and every one that is put into a Slot later. It waits for nothing; Shutdown is to be called
// after it.
func (p *Pool[C]) Abort() {
	p.mu.Lock()
	doomed := p.close()
	p.cut = true
	var lent []C
	for _, t := range p.sites {
		for _, s := range t.lent {
			if s.full {
				lent = append(lent, s.session)
			}
		}
	}
	p.mu.Unlock()
	for _, s := range lent { // nobody else can have got it meanwhile: the pool lends nothing any more
		s.Abort()
	}
	closeAll(doomed)
}

// close makes Get fail from now on, for those who wait as well, and takes out all idle sessions. It is done once.
func (p *Pool[C]) close() (doomed []C) {
	if p.closed {
		return nil
	}
	p.closed = true
	close(p.stop)
	if p.lent == 0 {
		close(p.drained)
	}
	for _, t := range p.sites {
		doomed = append(doomed, t.popAll()...)
		for w := t.next(); w != nil; w = t.next() {
			w.grant <- granted[C]{err: ErrClosed}
		}
	}
	return doomed
}

// A Count says what a Site has at the moment, or several have.
type Count struct {
	Site    mail.Site // "" for several
	Lent    int       // Slots that are held, dialling included
	Idle    int
	Waiting int
	Cooling bool
}

// A Adaptation is what a Site's own replies taught: the sessions and the messages per second that it gets, 0 where nothing
// holds it back, and until when it is suspended, zero if it is not.
type Adaptation struct {
	Site      mail.Site
	Sessions  int
	Rate      float64
	Suspended time.Time
}

// Adaptations gives those that hold now, by Site.
func (p *Pool[C]) Adaptations() (all []Adaptation) {
	now := p.clock()
	p.mu.Lock()
	for _, t := range p.sites {
		l := Adaptation{Site: t.name, Sessions: t.crowd.allowed, Rate: t.slow.rate(now)}
		if t.cooling.suspended {
			l.Suspended = t.cooling.until
		}
		if l != (Adaptation{Site: t.name}) {
			all = append(all, l)
		}
	}
	p.mu.Unlock()
	slices.SortFunc(all, func(a, b Adaptation) int { return cmp.Compare(a.Site, b.Site) })
	return all
}

// Count counts over all Sites; Cooling is true if any is.
func (p *Pool[C]) Count() (c Count) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.sites {
		c.add(t.sum())
	}
	return c
}

// Sites counts each Site that has sessions or somebody who waits, and gives the n with most of these. If there are
// more, one Count without a name follows with the sum of the rest.
func (p *Pool[C]) Sites(n int) []Count {
	var all []Count
	p.mu.Lock()
	for _, t := range p.sites {
		if c := t.sum(); c.busy() > 0 {
			all = append(all, c)
		}
	}
	p.mu.Unlock()
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
	return Count{
		Site: t.name, Lent: len(t.lent), Idle: len(t.idle), Waiting: int(t.waiting.Load()), Cooling: t.cooling.step > 0,
	}
}

func (c Count) busy() int { return c.Lent + c.Idle + c.Waiting }

func (c *Count) add(o Count) {
	c.Lent += o.Lent
	c.Idle += o.Idle
	c.Waiting += o.Waiting
	c.Cooling = c.Cooling || o.Cooling
}
