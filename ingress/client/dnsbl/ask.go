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

	addr    netip.Addr // invalid for a domain
	pending []string   // lists that another caller looks up
}

// A Rest is what was still to come when a call of Ask or AskDomain ran out of time.
type Rest struct {
	s *Set
	q query
	n int // look-ups that may be begun
}

// Await returns the lists that speak for or against the client after all, and those of which there is no answer. It
// ends as Ask does; when ctx ends, what was not asked yet will not be asked any more. It may be called once.
func (r *Rest) Await(ctx context.Context) (hits []Hit, missing []Gap) {
	hits, missing, rest := r.s.finish(ctx, &r.q, r.n)
	if rest != nil {
		r.s.leave(rest.q.lookups)
	}
	return hits, missing
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
	return Gap{Zone: l.name, Doubt: unasked || l.isAlive(s.cfg.Now()), Most: l.codes.most()}
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
// awaited. It returns when all answers are in, and at the latest when ctx ends: rest is not nil then, and the caller
// has to call its Await. The look-ups go on meanwhile, and those that were begun serve the next client.
func (s *Set) Ask(ctx context.Context, addr netip.Addr, zones []string,
	stored []mail.ListAnswer) (hits []Hit, missing []Gap, rest *Rest) {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return nil, nil, nil
	}
	q := query{asking: mail.AskingOf(ctx), addr: addr}
	for i, zone := range zones {
		var is mail.ListAnswer
		if i < len(stored) {
			is = stored[i]
		}
		if is.State == mail.ListPending {
			q.pending = append(q.pending, zone)
			continue
		}
		s.use(&q, zone, is, len(zones))
	}
	return s.finish(ctx, &q, len(zones))
}

// finish waits for all answers to q, at most until ctx ends. At most n look-ups are begun in all.
func (s *Set) finish(ctx context.Context, q *query, n int) (hits []Hit, missing []Gap, rest *Rest) {
	for len(q.pending) > 0 && ctx.Err() == nil && s.await(ctx, q, n) {
	}
	s.gather(ctx, q)
	hits, missing = q.hits, q.missing
	if q.open == 0 && len(q.pending) == 0 {
		return hits, missing, nil
	}
	for i := range q.lookups {
		if u := &q.lookups[i]; !u.heard {
			missing = append(missing, s.gap(u.d.list, u.turn.Waits()))
		}
	}
	for _, zone := range q.pending {
		if l := s.byName[zone]; l != nil {
			missing = append(missing, s.gap(l, false))
		}
	}
	rest = &Rest{s: s, q: *q, n: n}
	rest.q.hits, rest.q.missing = nil, slices.Clone(q.missing)
	return hits, missing, rest
}

// use adds one answer of the store to q, or begins a look-up if the store has no answer. At most n look-ups are begun
// in all.
func (s *Set) use(q *query, zone string, is mail.ListAnswer, n int) {
	l := s.byName[zone]
	if l == nil || l.sideOf(q.addr) == nil {
		q.missing = append(q.missing, Gap{Zone: zone})
		return
	}
	d := l.sideOf(q.addr)
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
		s.begin(q, d, addressName(q.addr, l.zone), n)
	}
}

// await waits for answers that another caller looks up, and reports whether it is to be called again for those that are
// pending still, because one of the others has become ours to look up.
func (s *Set) await(ctx context.Context, q *query, n int) (again bool) {
	zones := q.pending
	answers, err := s.cfg.Store.AwaitLists(ctx, q.addr, zones, s.Lock())
	if err != nil || len(answers) != len(zones) {
		answers = make([]mail.ListAnswer, len(zones))
		for i := range answers {
			answers[i].State = mail.ListPending
		}
	}
	q.pending = nil
	for i, zone := range zones {
		if answers[i].State == mail.ListPending {
			q.pending = append(q.pending, zone)
			continue
		}
		s.use(q, zone, answers[i], n)
	}
	if len(q.pending) < len(zones) {
		return true
	}
	if ctx.Err() == nil { // the store does not wait
		for _, zone := range q.pending {
			s.use(q, zone, mail.ListAnswer{State: mail.ListPending}, 0)
		}
		q.pending = nil
	}
	return false
}

// AskDomain returns the lists of Domains that speak for or against about, and those of which there was no answer, as
// Ask does. No list is asked about what is not a domain name of two labels or more in ASCII, or is an address. Answers
// are cached by the resolver alone.
func (s *Set) AskDomain(ctx context.Context, about string) (hits []Hit, missing []Gap, rest *Rest) {
	lists := s.healthy.Load().domains
	if len(lists) == 0 {
		return nil, nil, nil
	}
	name, ok := askable(about)
	if !ok {
		return nil, nil, nil
	}
	q := query{domain: name, asking: mail.AskingOf(ctx)}
	for _, l := range lists {
		if len(name)+1+len(l.zone) > domain.MaxName {
			continue
		}
		s.begin(&q, l.sides[0], name+"."+l.zone, len(lists))
	}
	return s.finish(ctx, &q, len(lists))
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

// begin starts a look-up, or lets it wait until fewer are under way, of this client's network at the list or in all. If
// too many wait, or the Set is closed, the answer is missing.
func (s *Set) begin(q *query, d *side, name string, n int) {
	if q.answers == nil {
		q.answers = make(chan answer, n)
		q.lookups = make([]lookup, 0, n)
	}
	q.lookups = append(q.lookups, lookup{d: d, name: name, addr: q.addr, answers: q.answers})
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
	became := s.turns.add(u, s.cfg.tune.lookups)
	switch became {
	case begun:
		s.running.Add(1)
	case queued:
		u.turn.Await()
	}
	return became
}

// dequeue counts out a look-up that has ended, and returns the next one for its goroutine, or nil.
func (s *Set) dequeue(u *lookup) *lookup {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turns.end(u)
	if s.closed {
		return nil
	}
	next := s.turns.next()
	if next != nil {
		next.turn.Renew()
	}
	return next
}

// leave takes out of their queues the look-ups that wait: no client is there for them any more. Those that are under
// way go on.
func (s *Set) leave(lookups []lookup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range lookups {
		s.turns.drop(&lookups[i])
	}
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
		d.list.answered.Store(int64(s.cfg.Now().Sub(d.list.began)))
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
		s.cfg.Store.PutDNSBL(s.ctx, u.addr, d.list.name, a.codes, s.cfg.tune.keep(a.ttl))
	}
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
			return
		case <-s.ctx.Done():
			for i := range q.lookups {
				if u := &q.lookups[i]; !u.heard {
					u.heard = true
					q.missing = append(q.missing, Gap{Zone: u.d.list.name})
				}
			}
			q.open = 0
		}
	}
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
