package dnsbl

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A fault is why a side of a list is not asked.
type fault uint8

const (
	none      fault = iota
	unknown         // its first check has not ended
	failing         // it does not answer
	unwilling       // it answers that it refuses, or what answers is no list
	lying           // it lists what no list may: it lists the world
	unasked         // of a check: it could not be made, for want of room of our own
	empty           // it does not list what every list must: it is none, or no longer
)

// A side is a list as it is asked about IPv4, about IPv6 or about domains. Each has test entries of its own, and a
// health.
type side struct {
	list      *list
	what      string // "IPv6" where the list has another side; to tell why
	must      string // the name that every list has an entry for, "" if the list has none
	mustNot   string // the name that no list has an entry for
	optional  bool   // without the entry, the list is simply not asked about this family
	unchecked bool   // only asked whether it answers, once it has failed

	first chan struct{} // closed when the first check has ended
	wake  chan struct{} // holds one if the watch is to look at the fault again
	fails atomic.Int32  // look-ups in a row that failed
	out   atomic.Bool   // fault is not none

	// Guarded by Set.mu.
	fault   fault
	why     string
	until   time.Time     // not asked before then, whatever a check says
	checked time.Time     // when the last check ended
	probes  int           // how many were begun
	probing *probe        // the one under way; nil: none is
	flight  chan struct{} // closed when the check under way has ended; nil: none is
}

// take sets the fault. The caller holds Set.mu.
func (d *side) take(f fault, why string) {
	d.fault, d.why = f, why
	d.out.Store(f != none)
}

// sides makes the sides of l.
func (configured List) sides(l *list) []*side {
	make1 := func(must, mustNot, what string) *side {
		return &side{
			list: l, what: what, must: must, mustNot: mustNot, unchecked: configured.Unchecked,
			first: make(chan struct{}), wake: make(chan struct{}, 1),
		}
	}
	if configured.Kind == Domains {
		return []*side{make1("test."+l.zone, "invalid."+l.zone, "")}
	}
	v4 := func(last byte) string { return addressName(netip.AddrFrom4([4]byte{127, 0, 0, last}), l.zone) }
	v6 := func(last byte) string {
		return addressName(netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff, 12: 127, 15: last}), l.zone)
	}
	sides := make([]*side, 2)
	if configured.Family != IPv6 {
		sides[0] = make1(v4(2), v4(1), "")
	}
	if configured.Family != IPv4 {
		sides[1] = make1(v6(2), v6(1), "IPv6: ")
		sides[1].optional = configured.Family == AnyFamily && !configured.Unchecked
	}
	return sides
}

// health tells whether the list is well, and why not. A first check that has not ended leaves that open: patient says
// yes then. The caller holds Set.mu.
func (l *list) health(patient bool) (well bool, why string) {
	well = true
	for _, d := range l.sides {
		if d == nil || d.fault == none || patient && d.fault == unknown {
			continue
		}
		if why == "" {
			why = d.what + d.why
		}
		well = well && d.optional && d.fault == empty
	}
	return well, why
}

// change runs f, which changes the faults of l, and tells who wants to know. The caller holds no lock.
func (s *Set) change(l *list, f func()) {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	var before [2]fault
	for i, d := range l.sides {
		if d != nil {
			before[i] = d.fault
		}
	}
	f()
	for i, d := range l.sides {
		if d == nil || d.fault == before[i] {
			continue
		}
		select {
		case d.wake <- struct{}{}:
		default: // it has not yet seen the last change
		}
	}
	s.asked.Store(s.healthy())
	well, why := l.health(true)
	s.mu.Unlock()
	if well == l.well {
		return
	}
	l.well = well
	if well {
		why = "passed its check"
	}
	if s.cfg.Changed != nil {
		s.cfg.Changed(l.name, well, why)
	}
}

// watched reports whether the Set may take lists out, which is so once somebody brings them back.
func (s *Set) watched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started
}

// failed counts a look-up that failed, and takes the side out if it was one too many.
func (s *Set) failed(d *side, why string) {
	if int(d.fails.Add(1)) < s.cfg.Failures || d.out.Load() || !s.watched() {
		return
	}
	s.change(d.list, func() {
		if d.fault == none {
			d.take(failing, why)
		}
	})
}

// refuses takes the whole list out for a while, because it answered with a code that means no.
func (s *Set) refuses(l *list, code netip.Addr) {
	l.refused.Add(1)
	if !s.watched() {
		return
	}
	why := fmt.Sprintf("answered %v, which is a refusal", code)
	if n, ok := number(code); !ok || n < loopbackFirst || n > loopbackLast {
		why = fmt.Sprintf("answered %v, which no list does", code)
	}
	s.change(l, func() {
		until := s.cfg.Now().Add(s.cfg.Pause)
		for _, d := range l.sides {
			if d != nil {
				d.take(unwilling, why)
				d.until = later(d.until, until)
			}
		}
	})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// watch checks a side at once and again and again, sooner if it has failed, until Close.
func (s *Set) watch(d *side) {
	defer s.running.Done()
	if d.unchecked {
		close(d.first)
	} else {
		s.check(d)
	}
	timer := time.NewTimer(s.pace(d))
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-d.wake:
			// The time runs from the change on.
			timer.Reset(s.pace(d))
		case <-timer.C:
			if !d.unchecked || d.out.Load() {
				s.check(d)
			}
			timer.Reset(s.pace(d))
		}
	}
}

// pace is the time until the next check.
func (s *Set) pace(d *side) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch d.fault {
	case unknown, failing:
		return s.cfg.Retry
	case unwilling:
		return s.cfg.Pause
	}
	return s.cfg.Check
}

// check asks for the test entries of a side and sees to it that the outcome is known. If a check is under way already,
// it waits for that instead.
func (s *Set) check(d *side) {
	s.mu.Lock()
	if flight := d.flight; flight != nil {
		s.mu.Unlock()
		select {
		case <-flight:
		case <-s.ctx.Done():
		}
		return
	}
	flight := make(chan struct{})
	d.flight = flight
	s.mu.Unlock()
	found, why, code := s.test(d)
	s.concluded(d, found, why, code)
	s.mu.Lock()
	d.flight = nil
	select {
	case <-d.first:
	default:
		close(d.first)
	}
	s.mu.Unlock()
	close(flight)
}

// test asks for both test entries at once and tells what is wrong.
func (s *Set) test(d *side) (fault, string, netip.Addr) {
	var must, mustNot answer
	var both sync.WaitGroup
	both.Go(func() { must = s.ask(d.list, d.must) }) // ends with its look-up and is awaited below
	if !d.unchecked {
		mustNot = s.ask(d.list, d.mustNot)
	}
	both.Wait()
	for _, a := range []answer{mustNot, must} {
		if a.means == refused {
			return unwilling, "", a.code
		}
	}
	switch {
	case errors.Is(mustNot.err, mail.ErrNotAsked) || errors.Is(must.err, mail.ErrNotAsked):
		return unasked, "", netip.Addr{}
	case mustNot.means == listed:
		return lying, "lists " + d.mustNot + ", which no list may: it lists the world", netip.Addr{}
	case mustNot.err != nil:
		return failing, "check failed: " + mustNot.err.Error(), netip.Addr{}
	case must.err != nil:
		return failing, "check failed: " + must.err.Error(), netip.Addr{}
	case must.slow || mustNot.slow:
		return failing, "check took longer than " + s.cfg.Slow.String(), netip.Addr{}
	case must.means == notListed && !d.unchecked:
		return empty, "does not list " + d.must + ", which every list must", netip.Addr{}
	}
	return none, "", netip.Addr{}
}

// concluded draws the consequences of a check.
func (s *Set) concluded(d *side, found fault, why string, code netip.Addr) {
	if s.ctx.Err() != nil || found == unasked {
		return // what it found may only be that it was ended
	}
	now := s.cfg.Now()
	s.mu.Lock()
	d.checked = now
	// The usual case changes nothing and wakes nobody.
	same := found == none && d.fault == none || found == empty && d.fault == empty
	s.mu.Unlock()
	switch {
	case found == unwilling:
		s.refuses(d.list, code)
	case found == none && same:
		d.fails.Store(0)
	case same:
	case found == failing:
		s.failed(d, why)
		s.change(d.list, func() {
			if d.fault == unknown || d.fault == failing {
				d.take(failing, why)
			}
		})
	default:
		s.change(d.list, func() {
			if found == lying {
				d.until = later(d.until, now.Add(s.cfg.MaxTTL))
			}
			if found == none && now.Before(d.until) {
				return
			}
			if found == none {
				d.fails.Store(0)
			}
			d.take(found, why)
		})
	}
}

// vouch sees to it that a listing is not believed of a side that lists the world: it asks for something that no list
// has and nobody has asked for, so that no cache knows the answer, and does so after the listing came. It reports
// whether the side counts. Those who need it at the same time share a probe, so a flood of listed clients costs one at
// a time.
func (s *Set) vouch(d *side) bool {
	s.mu.Lock()
	need := d.probes + 1
	watched := s.started && !d.unchecked
	s.mu.Unlock()
	for watched && !d.out.Load() && s.ctx.Err() == nil {
		if p := s.probe(d); p.number >= need {
			return p.passed && !d.out.Load()
		}
	}
	return !watched && !d.out.Load()
}

// A probe is a question whose answer no list may have.
type probe struct {
	number int
	passed bool          // to be read when done is closed
	done   chan struct{} // closed when it has ended
}

// probe makes a probe, or waits for the one under way, which may have begun too early for the caller.
func (s *Set) probe(d *side) *probe {
	s.mu.Lock()
	if p := d.probing; p != nil {
		s.mu.Unlock()
		<-p.done // it is bounded, and ends with the Set
		return p
	}
	d.probes++
	p := &probe{number: d.probes, done: make(chan struct{})}
	d.probing = p
	s.mu.Unlock()
	name := d.never()
	switch a := s.ask(d.list, name); {
	case s.ctx.Err() != nil, errors.Is(a.err, mail.ErrNotAsked):
	case a.err != nil:
		s.failed(d, "does not answer: "+a.err.Error())
	case a.means == refused:
		s.refuses(d.list, a.code)
	case a.means == listed:
		s.concluded(d, lying, "lists "+name+": it lists the world", netip.Addr{})
	default:
		p.passed = true
	}
	s.mu.Lock()
	d.probing = nil
	s.mu.Unlock()
	close(p.done)
	return p
}

// never gives a name that no list has an entry for, another one each time: an address in 127.0.0.0/8 apart from the
// codes and test entries, which no client comes from, or a name below INVALID (RFC 6761 section 6.4).
func (d *side) never() string {
	r := rand.Uint32()
	host := [4]byte{127, byte(1 + r%254), byte(r >> 8), byte(r >> 16)}
	l := d.list
	switch {
	case l.kind == Domains:
		return strconv.FormatUint(uint64(r), 36) + ".invalid." + l.zone
	case d == l.sides[0]:
		return addressName(netip.AddrFrom4(host), l.zone)
	}
	return addressName(netip.AddrFrom16([16]byte{
		10: 0xff, 11: 0xff, 12: host[0], 13: host[1], 14: host[2], 15: host[3],
	}), l.zone)
}
