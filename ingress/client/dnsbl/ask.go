package dnsbl

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// An answer is what came of a look-up.
type answer struct {
	list   *list
	means  reading // only if err is nil
	code   netip.Addr
	weight float64
	codes  []netip.Addr
	ttl    time.Duration
	slow   bool // it took longer than tuning.slow
	err    error
}

// ask looks up a name of a list. It ends with the Set or after the timeout of a look-up, and not with any client.
func (s *Set) ask(l *list, name string) (a answer) {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.tune.timeout)
	defer cancel()
	began := time.Now()
	a.list = l
	a.codes, a.ttl, a.err = s.cfg.Resolver.LookupA(ctx, name)
	a.slow = time.Since(began) > s.cfg.tune.slow
	if a.err != nil {
		if s.ctx.Err() == nil {
			l.failures.Add(1)
		}
		return a
	}
	if a.slow {
		l.slow.Add(1)
	}
	a.means, a.code, a.weight = l.codes.read(a.codes)
	return a
}

// A query is the look-ups that one call of Ask or AskDomain waits for.
type query struct {
	answers chan answer // has room for all, so that no look-up waits for a client which has gone
	open    []*list     // lists whose answers have not come
	hits    []Hit
	missing []string
	domain  string
}

// Ask returns the lists that speak for or against addr, and those of which there was no answer. The zones are those of
// Zones. stored[i] is the store's answer about zones[i]; a zone without one is looked up. Answers that the store does
// not have are looked up by DNS, all at once, and put into the store. Those that another caller is looking up are
// awaited. It returns when all answers are in, and at the latest when ctx ends. The look-ups go on and serve the next
// client.
func (s *Set) Ask(ctx context.Context, addr netip.Addr, zones []string,
	stored []mail.ListAnswer) (hits []Hit, missing []string) {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return nil, nil
	}
	var q query
	var pending []string
	for i, zone := range zones {
		var is mail.ListAnswer
		if i < len(stored) {
			is = stored[i]
		}
		if is.State == mail.ListPending {
			pending = append(pending, zone)
			continue
		}
		s.use(&q, addr, zone, is, len(zones))
	}
	for len(pending) > 0 {
		pending = s.await(ctx, &q, addr, pending, len(zones))
	}
	s.gather(ctx, &q)
	return q.hits, q.missing
}

// use adds one answer of the store to q, or begins a look-up if the store has no answer. At most n look-ups are begun
// in all.
func (s *Set) use(q *query, addr netip.Addr, zone string, is mail.ListAnswer, n int) {
	l := s.byName[zone]
	if l == nil || l.sideOf(addr) == nil {
		q.missing = append(q.missing, zone)
		return
	}
	d := l.sideOf(addr)
	switch {
	case d.faulty.Load() || is.State == mail.ListPending:
		q.missing = append(q.missing, zone)
	case is.State == mail.ListKnown:
		a := answer{list: l}
		a.means, a.code, a.weight = l.codes.read(is.Codes)
		if a.means == refused {
			l.refused.Add(1) // a node with another code map stored it; it does not take the list out here
		}
		q.add(a)
	default:
		s.begin(q, d, addressName(addr, l.zone), addr, n)
	}
}

// await waits for answers that another caller looks up. It returns those that are still to be awaited, because one of
// the others has become ours to look up.
func (s *Set) await(ctx context.Context, q *query, addr netip.Addr, pending []string, n int) []string {
	answers, err := s.cfg.Store.AwaitLists(ctx, addr, pending, s.Lock())
	if err != nil || len(answers) != len(pending) {
		q.missing = append(q.missing, pending...)
		return nil
	}
	var again []string
	for i, zone := range pending {
		if answers[i].State == mail.ListPending && ctx.Err() == nil {
			again = append(again, zone)
			continue
		}
		s.use(q, addr, zone, answers[i], n)
	}
	if len(again) == len(pending) {
		q.missing = append(q.missing, again...) // the store does not wait
		return nil
	}
	return again
}

// AskDomain returns the lists of Domains that speak for or against about, and those of which there was no answer, as
// Ask does. No list is asked about what is not a domain name of two labels or more in ASCII, or is an address. Answers
// are cached by the resolver alone.
func (s *Set) AskDomain(ctx context.Context, about string) (hits []Hit, missing []string) {
	lists := s.healthy.Load().domains
	if len(lists) == 0 {
		return nil, nil
	}
	name, ok := askable(about)
	if !ok {
		return nil, nil
	}
	q := query{domain: name}
	for _, l := range lists {
		if len(name)+1+len(l.zone) > domain.MaxName {
			continue
		}
		s.begin(&q, l.sides[0], name+"."+l.zone, netip.Addr{}, len(lists))
	}
	s.gather(ctx, &q)
	return q.hits, q.missing
}

// begin starts a look-up, unless too many are under way or the Set is closed.
func (s *Set) begin(q *query, d *side, name string, addr netip.Addr, n int) {
	select {
	case s.slots <- struct{}{}:
	default:
		d.list.dropped.Add(1)
		q.missing = append(q.missing, d.list.name)
		return
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.slots
		q.missing = append(q.missing, d.list.name)
		return
	}
	s.running.Add(1)
	s.mu.Unlock()
	if q.answers == nil {
		q.answers = make(chan answer, n)
	}
	q.open = append(q.open, d.list)
	d.list.lookups.Add(1)
	// It ends after the look-up, a check and a put, each of which is bounded; Close awaits it.
	go s.lookup(d, name, addr, q.answers)
}

// lookup sends an answer to the call that waits for it, and puts one about an address into the store.
func (s *Set) lookup(d *side, name string, addr netip.Addr, answers chan<- answer) {
	defer s.running.Done()
	defer func() { <-s.slots }()
	a := s.ask(d.list, name)
	if s.ctx.Err() != nil {
		return
	}
	switch {
	case errors.Is(a.err, mail.ErrNotAsked):
	case a.err != nil:
		s.failed(d, "does not answer: "+a.err.Error())
	case a.means == refused:
		s.refuses(d.list, a.code)
	case a.slow:
		s.failed(d, "takes longer than "+s.cfg.tune.slow.String()+" to answer")
	default:
		d.fails.Store(0)
	}
	if a.err == nil && a.means == listed && !s.confirmListing(d) {
		a.means = refused
	}
	answers <- a
	// A failure is not put: the lock runs out, and the list is not asked about this address before that.
	if addr.IsValid() && a.err == nil && a.means != refused {
		s.cfg.Store.PutDNSBL(s.ctx, addr, d.list.name, a.codes, s.keep(a.ttl))
	}
}

// keep returns how long an answer is kept.
func (s *Set) keep(ttl time.Duration) time.Duration {
	return min(max(ttl, s.cfg.tune.minTTL, 0), s.cfg.tune.maxTTL)
}

// gather waits for the look-ups of q until ctx ends.
func (s *Set) gather(ctx context.Context, q *query) {
	for len(q.open) > 0 {
		select {
		case a := <-q.answers:
			q.receive(a)
			continue
		default:
		}
		select {
		case a := <-q.answers:
			q.receive(a)
		case <-ctx.Done():
			q.abandon()
		case <-s.ctx.Done():
			q.abandon()
		}
	}
}

// receive takes an answer that was waited for.
func (q *query) receive(a answer) {
	for i, l := range q.open {
		if l == a.list {
			q.open = append(q.open[:i], q.open[i+1:]...)
			break
		}
	}
	q.add(a)
}

// abandon makes the answers that have not come missing.
func (q *query) abandon() {
	for _, l := range q.open {
		q.missing = append(q.missing, l.name)
	}
	q.open = nil
}

// add makes a hit of an answer that counts.
func (q *query) add(a answer) {
	switch {
	case a.err != nil || a.means == refused:
		q.missing = append(q.missing, a.list.name)
	case a.means == listed && a.weight != 0:
		a.list.hits.Add(1)
		q.hits = append(q.hits, Hit{Zone: a.list.name, Code: a.code, Weight: a.weight, Domain: q.domain})
	}
}
