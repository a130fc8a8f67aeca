package dnsbl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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

// ask looks up a name of a list. ctx ends with the Set and not with any client. What did not get its turn in time was
// not asked, and the time until its turn is not the list's.
func (s *Set) ask(ctx context.Context, l *list, name string) (a answer) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.tune.timeout)
	defer cancel()
	began := time.Now()
	a.list = l
	a.codes, a.ttl, a.err = s.cfg.Resolver.LookupA(ctx, name)
	var turn *mail.Turn
	if asking := mail.AskingOf(ctx); asking != nil {
		turn = asking.Turn
	}
	a.slow = time.Since(turn.Since(began)) > s.cfg.tune.slow
	if a.err != nil && turn.Waits() {
		a.err = fmt.Errorf("%w: %w", mail.ErrNotAsked, a.err)
	}
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
	lookups []lookup    // has room for all
	open    int         // those whose answers have not come
	hits    []Hit
	missing []Gap
	domain  string
	asking  *mail.Asking // for whom; nil if that is not known
}

// A Gap is a list of which there was no answer.
type Gap struct {
	Zone string // the list's Name, or else its Zone
	// Doubt says that the list may well have the client: it was not asked for want of our room, or did not answer
	// about this client although it answered about others just before. A list that answers about none counts for
	// nothing.
	Doubt bool
	Most  float64 // the most that the list could add
}

// gap returns the Gap of a list that was not asked for want of room, or that did not answer.
func (s *Set) gap(l *list, unasked bool) Gap {
	return Gap{Zone: l.name, Doubt: unasked || s.isAlive(l), Most: l.codes.most()}
}

// isAlive reports whether the list answered about a client just before, as soon as a client can wait for.
func (s *Set) isAlive(l *list) bool {
	return s.cfg.Now().Sub(time.Unix(0, l.answered.Load())) < aliveFor
}

// Late returns a Gap of each list of a kind, for a caller that ran out of time before Ask or AskDomain could return.
func (s *Set) Late(kind Kind) []Gap {
	var gaps []Gap
	for _, l := range s.lists {
		if l.kind == kind {
			gaps = append(gaps, s.gap(l, false))
		}
	}
	return gaps
}

// Ask returns the lists that speak for or against addr, and those of which there was no answer. The zones are those of
// Zones. stored[i] is the store's answer about zones[i]; a zone without one is looked up. Answers that the store does
// not have are looked up by DNS, all at once, and put into the store. Those that another caller is looking up are
// awaited. It returns when all answers are in, and at the latest when ctx ends. The look-ups go on and serve the next
// client.
func (s *Set) Ask(ctx context.Context, addr netip.Addr, zones []string,
	stored []mail.ListAnswer) (hits []Hit, missing []Gap) {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return nil, nil
	}
	q := query{asking: mail.AskingOf(ctx)}
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
		q.missing = append(q.missing, Gap{Zone: zone})
		return
	}
	d := l.sideOf(addr)
	switch {
	case d.faulty.Load():
		q.missing = append(q.missing, Gap{Zone: zone})
	case is.State == mail.ListPending:
		q.missing = append(q.missing, s.gap(l, false))
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
		s.miss(q, addr, pending)
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
		s.miss(q, addr, again) // the store does not wait
		return nil
	}
	return again
}

// miss makes answers missing that another caller has not brought.
func (s *Set) miss(q *query, addr netip.Addr, zones []string) {
	for _, zone := range zones {
		s.use(q, addr, zone, mail.ListAnswer{State: mail.ListPending}, 0)
	}
}

// AskDomain returns the lists of Domains that speak for or against about, and those of which there was no answer, as
// Ask does. No list is asked about what is not a domain name of two labels or more in ASCII, or is an address. Answers
// are cached by the resolver alone.
func (s *Set) AskDomain(ctx context.Context, about string) (hits []Hit, missing []Gap) {
	lists := s.healthy.Load().domains
	if len(lists) == 0 {
		return nil, nil
	}
	name, ok := askable(about)
	if !ok {
		return nil, nil
	}
	q := query{domain: name, asking: mail.AskingOf(ctx)}
	for _, l := range lists {
		if len(name)+1+len(l.zone) > domain.MaxName {
			continue
		}
		s.begin(&q, l.sides[0], name+"."+l.zone, netip.Addr{}, len(lists))
	}
	s.gather(ctx, &q)
	return q.hits, q.missing
}

// A lookup is one question to a list. It is the context of the question as well, which ends with the Set.
type lookup struct {
	asking  mail.Asking
	turn    mail.Turn
	d       *side
	name    string
	addr    netip.Addr // invalid for a domain
	answers chan<- answer
	heard   bool // the answer was received, or none will come; the caller's own
}

// A queue is the look-ups of one client network at one list.
type queue struct {
	open    int // under way
	waiting []*lookup
}

// A queueKey names a queue.
type queueKey struct {
	list   *list
	client netip.Prefix
}

// begin starts a look-up, or lets it wait until fewer of this client's network are under way at the list. If too many
// are under way or wait, or the Set is closed, the answer is missing.
func (s *Set) begin(q *query, d *side, name string, addr netip.Addr, n int) {
	if q.answers == nil {
		q.answers = make(chan answer, n)
		q.lookups = make([]lookup, 0, n)
	}
	q.lookups = append(q.lookups, lookup{d: d, name: name, addr: addr, answers: q.answers})
	u := &q.lookups[len(q.lookups)-1]
	u.asking = mail.Asking{Context: s.ctx, Rank: mail.RankOurs, Turn: &u.turn}
	if q.asking != nil {
		u.asking.Questions = q.asking.Questions
	}
	switch s.enqueue(u) {
	case begun:
		// It ends after its look-ups, each with a check and a put, each of which is bounded; Close awaits it.
		go s.work(u)
	case noRoom:
		d.list.dropped.Add(1)
		u.heard = true
		q.missing = append(q.missing, s.gap(d.list, true))
		return
	case over:
		u.heard = true
		q.missing = append(q.missing, Gap{Zone: d.list.name})
		return
	}
	q.open++
	d.list.lookups.Add(1)
}

// What became of a look-up that was to begin.
type beginning uint8

const (
	begun  beginning = iota
	queued           // another look-up's goroutine will take it
	noRoom
	over // the Set is closed
)

// enqueue counts a look-up that begins, or queues it.
func (s *Set) enqueue(u *lookup) beginning {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return over
	}
	key := queueKey{u.d.list, u.asking.Client()}
	w := s.queues[key]
	switch {
	case w.open >= maxOfNetwork && key.client.IsValid():
		if len(w.waiting) >= maxWaiting {
			return noRoom
		}
		u.turn.Await()
		w.waiting = append(w.waiting, u)
		s.queues[key] = w
		return queued
	case s.lookups >= s.cfg.tune.lookups:
		return noRoom
	}
	w.open++
	s.queues[key] = w
	s.lookups++
	s.running.Add(1)
	return begun
}

// dequeue returns the next look-up for the goroutine that has ended one, or nil and counts it out.
func (s *Set) dequeue(u *lookup) *lookup {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := queueKey{u.d.list, u.asking.Client()}
	w := s.queues[key]
	if len(w.waiting) > 0 && !s.closed {
		next := w.waiting[0]
		next.turn.Renew()
		w.waiting = slices.Delete(w.waiting, 0, 1)
		s.queues[key] = w
		return next
	}
	s.lookups--
	w.open--
	s.queues[key] = w
	if w.open == 0 {
		delete(s.queues, key)
	}
	return nil
}

// work looks up u, and what waits behind it.
func (s *Set) work(u *lookup) {
	defer s.running.Done()
	for ; u != nil; u = s.dequeue(u) {
		s.lookup(u)
	}
}

// lookup sends an answer to the call that waits for it, and puts one about an address into the store.
func (s *Set) lookup(u *lookup) {
	d := u.d
	if d.faulty.Load() { // since it began to wait
		u.answers <- answer{list: d.list, means: refused}
		return
	}
	a := s.ask(&u.asking, d.list, u.name)
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
		d.list.answered.Store(s.cfg.Now().UnixNano())
	}
	if a.err == nil && a.means == listed {
		if p := (checker{s}).confirmListing(d); p.err != nil {
			a.err = p.err // whether it lists the world is not known
		} else if !p.passed {
			a.means = refused
		}
	}
	u.answers <- a
	// A failure is not put: the lock runs out, and the list is not asked about this address before that.
	if u.addr.IsValid() && a.err == nil && a.means != refused {
		s.cfg.Store.PutDNSBL(s.ctx, u.addr, d.list.name, a.codes, s.keep(a.ttl))
	}
}

// keep returns how long an answer is kept.
func (s *Set) keep(ttl time.Duration) time.Duration {
	return min(max(ttl, s.cfg.tune.minTTL, 0), s.cfg.tune.maxTTL)
}

// gather waits for the look-ups of q until ctx ends.
func (s *Set) gather(ctx context.Context, q *query) {
	for q.open > 0 {
		select {
		case a := <-q.answers:
			s.receive(q, a)
			continue
		default:
		}
		select {
		case a := <-q.answers:
			s.receive(q, a)
		case <-ctx.Done():
			q.abandon(func(u *lookup) Gap { return s.gap(u.d.list, u.turn.Waits()) })
		case <-s.ctx.Done():
			q.abandon(func(u *lookup) Gap { return Gap{Zone: u.d.list.name} })
		}
	}
}

// abandon makes the answers that have not come missing.
func (q *query) abandon(gap func(*lookup) Gap) {
	for i := range q.lookups {
		if u := &q.lookups[i]; !u.heard {
			q.missing = append(q.missing, gap(u))
		}
	}
	q.open = 0
}

// receive takes an answer that was waited for.
func (s *Set) receive(q *query, a answer) {
	for i := range q.lookups {
		if u := &q.lookups[i]; u.d.list == a.list && !u.heard {
			u.heard = true
			q.open--
			break
		}
	}
	if a.err != nil {
		q.missing = append(q.missing, s.gap(a.list, errors.Is(a.err, mail.ErrNotAsked)))
		return
	}
	q.add(a)
}

// add makes a hit of an answer that counts.
func (q *query) add(a answer) {
	switch {
	case a.means == refused:
		q.missing = append(q.missing, Gap{Zone: a.list.name})
	case a.means == listed && a.weight != 0:
		a.list.hits.Add(1)
		q.hits = append(q.hits, Hit{Zone: a.list.name, Code: a.code, Weight: a.weight, Domain: q.domain})
	}
}
