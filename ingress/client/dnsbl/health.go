package dnsbl

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A fault is why a side of a list is not asked.
type fault uint8

const (
	noFault    fault = iota
	notChecked       // its first check has not ended
	failing          // it does not answer
	refusing         // it answers that it refuses, or the answer comes from no list
	listsWorld       // it lists what no list may
	lacksTest        // it does not list what every list must: it is not a list, or no longer

	// checkSkipped is a check that was not made because our DNS query limit was reached. It says nothing about the list
	// and is never the fault of a side.
	checkSkipped
)

// A side is a list as it is asked about IPv4, about IPv6 or about domains. Each has test entries of its own, and a
// health.
type side struct {
	list      *list
	prefix    string // of why: "IPv6: " where the list has another side, else ""
	must      string // the name that every list has an entry for
	mustNot   string // the name that no list has an entry for
	optional  bool   // without the entry, the list is not asked about this family and is well
	unchecked bool   // it is only checked whether it answers, once it has failed

	first  chan struct{} // closed when the first check has ended
	wake   chan struct{} // holds one if the watch is to look at the fault again
	fails  atomic.Int32  // look-ups in a row that failed
	faulty atomic.Bool   // fault is not noFault

	// Guarded by Set.mu.
	fault   fault
	why     string
	until   time.Time     // the side is not asked before then, whatever a check finds
	checked time.Time     // when the last check ended
	probes  int           // how many were begun
	probing *probe        // the probe under way, or nil
	flight  chan struct{} // closed when the check under way has ended; nil if no check is
}

// setFault sets the fault and its reason, in which the list has its name: a zone may hold the key of a subscriber. The
// caller holds Set.mu.
func (d *side) setFault(f fault, why string) {
	d.fault, d.why = f, strings.ReplaceAll(why, d.list.zone, d.list.name)
	d.faulty.Store(f != noFault)
}

// sides makes the sides of l.
func (configured List) sides(l *list) []*side {
	newSide := func(must, mustNot, prefix string) *side {
		return &side{
			list: l, prefix: prefix, must: must, mustNot: mustNot, unchecked: configured.Unchecked,
			first: make(chan struct{}), wake: make(chan struct{}, 1),
		}
	}
	if configured.Kind == Domains {
		return []*side{newSide("test."+l.zone, "invalid."+l.zone, "")}
	}
	v4 := func(last byte) string { return addressName(netip.AddrFrom4([4]byte{127, 0, 0, last}), l.zone) }
	v6 := func(last byte) string {
		return addressName(netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff, 12: 127, 15: last}), l.zone)
	}
	sides := make([]*side, 2)
	if configured.Family != IPv6 {
		sides[0] = newSide(v4(2), v4(1), "")
	}
	if configured.Family != IPv4 {
		sides[1] = newSide(v6(2), v6(1), "IPv6: ")
		sides[1].optional = configured.Family == AnyFamily && !configured.Unchecked
	}
	return sides
}

// health reports whether the list is well, and why not. With ignoreFirst a list is well until its first check has
// ended. The caller holds Set.mu.
func (l *list) health(ignoreFirst bool) (well bool, why string) {
	well = true
	for _, d := range l.sides {
		if d == nil || d.fault == noFault || ignoreFirst && d.fault == notChecked {
			continue
		}
		if why == "" {
			why = d.prefix + d.why
		}
		well = well && d.optional && d.fault == lacksTest
	}
	return well, why
}

// change runs f, which changes the faults of l, wakes the watches and calls Config.Changed. The caller holds no lock.
func (s *Set) change(l *list, f func()) {
	s.reporting.Lock()
	defer s.reporting.Unlock()
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
		default: // the watch has not yet seen the last change
		}
	}
	s.healthy.Store(s.findHealthy())
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

// isStarted reports whether Start was called. Only then lists are taken out, because only then a check brings them
// back.
func (s *Set) isStarted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started
}

// failed counts a look-up that failed, and takes the side out if it was one too many. A list that answered about
// another client just before stays: we are slow, or it is about one client that it does not answer.
func (s *Set) failed(d *side, why string) {
	if int(d.fails.Add(1)) < s.cfg.tune.failures || d.faulty.Load() || d.list.isAlive(s.cfg.Now()) || !s.isStarted() {
		return
	}
	s.change(d.list, func() {
		if d.fault == noFault {
			d.setFault(failing, why)
		}
	})
}

// refuses takes the whole list out for a while, because it answered with a code that means no.
func (s *Set) refuses(l *list, code netip.Addr) {
	l.refused.Add(1)
	if !s.isStarted() {
		return
	}
	why := fmt.Sprintf("answered %v, which is a refusal", code)
	if n, ok := number(code); !ok || n < loopbackFirst || n > loopbackLast {
		why = fmt.Sprintf("answered %v, which no list does", code)
	}
	s.change(l, func() {
		until := s.cfg.Now().Add(s.cfg.tune.pause)
		for _, d := range l.sides {
			if d != nil {
				d.setFault(refusing, why)
				d.until = latest(d.until, until)
			}
		}
	})
}

// latest returns the later one of two times.
func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// A checker is a Set as far as the health of its lists is concerned: it asks for their test entries.
type checker struct{ *Set }

// watch checks a side at once and again and again, sooner if it has failed, until Close.
func (s checker) watch(d *side) {
	defer s.running.Done()
	if d.unchecked {
		close(d.first)
	} else {
		s.check(d)
	}
	timer := time.NewTimer(s.untilCheck(d))
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-d.wake:
			// The time runs from the change on.
			timer.Reset(s.untilCheck(d))
		case <-timer.C:
			if !d.unchecked || d.faulty.Load() {
				s.check(d)
			}
			timer.Reset(s.untilCheck(d))
		}
	}
}

// untilCheck returns the time until the next check.
func (s checker) untilCheck(d *side) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch d.fault {
	case notChecked, failing:
		return s.cfg.tune.retry
	case refusing:
		return s.cfg.tune.pause
	}
	return s.cfg.tune.check
}

// check asks for the test entries of a side and applies the outcome. If a check is under way already, it waits for that
// instead.
func (s checker) check(d *side) {
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
	s.apply(d, found, why, code)
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

// test asks for both test entries at once and returns what is wrong, why, and the code of a refusal.
func (s checker) test(d *side) (fault, string, netip.Addr) {
	var must, mustNot answer
	var both sync.WaitGroup
	both.Go(func() { must = s.ask(s.ownAsking(), d.list, d.must) }) // ends with its look-up and is awaited below
	if !d.unchecked {
		mustNot = s.ask(s.ownAsking(), d.list, d.mustNot)
	}
	both.Wait()
	for _, a := range []answer{mustNot, must} {
		if a.means == refused {
			return refusing, "", a.code
		}
	}
	switch {
	case errors.Is(mustNot.err, mail.ErrNotAsked) || errors.Is(must.err, mail.ErrNotAsked):
		return checkSkipped, "", netip.Addr{}
	case mustNot.means == listed:
		return listsWorld, "lists " + d.mustNot + ", which no list may: it lists the world", netip.Addr{}
	case mustNot.err != nil:
		return failing, "check failed: " + mustNot.err.Error(), netip.Addr{}
	case must.err != nil:
		return failing, "check failed: " + must.err.Error(), netip.Addr{}
	case must.slow || mustNot.slow:
		return failing, "check took longer than " + s.cfg.tune.slow.String(), netip.Addr{}
	case must.means == notListed && !d.unchecked:
		return lacksTest, "does not list " + d.must + ", which every list must", netip.Addr{}
	}
	return noFault, "", netip.Addr{}
}

// ownAsking is the context of one question that is no client's.
func (s checker) ownAsking() *mail.Asking {
	return &mail.Asking{Context: s.ctx, Rank: mail.RankOurs, Turn: new(mail.Turn)}
}

// apply sets the fault that a check found, unless the check says nothing.
func (s checker) apply(d *side, found fault, why string, code netip.Addr) {
	if s.ctx.Err() != nil || found == checkSkipped {
		return // after Close a failure may only mean that the check was ended
	}
	now := s.cfg.Now()
	s.mu.Lock()
	d.checked = now
	// The usual case changes nothing and wakes no watch.
	same := found == noFault && d.fault == noFault || found == lacksTest && d.fault == lacksTest
	s.mu.Unlock()
	switch {
	case found == refusing:
		s.refuses(d.list, code)
	case found == noFault && same:
		d.fails.Store(0)
	case same:
	case found == failing && d.list.isAlive(now): // a list that answers clients may have been slow this once, or we
	case found == failing:
		s.failed(d, why)
		s.change(d.list, func() {
			if d.fault == notChecked || d.fault == failing {
				d.setFault(failing, why)
			}
		})
	default:
		s.change(d.list, func() {
			if found == listsWorld {
				d.until = latest(d.until, now.Add(s.cfg.tune.maxTTL))
			}
			if found == noFault && now.Before(d.until) {
				return
			}
			if found == noFault {
				d.fails.Store(0)
			}
			d.setFault(found, why)
		})
	}
}

// confirmListing returns the probe that says whether a listing of the side counts: not if the side lists the world. It
// asks for a name that no list has and that was never asked for, so that no cache has the answer, and it does so after
// the listing came. Callers at the same time share a probe, so a flood of listed clients costs one probe at a time.
func (s checker) confirmListing(d *side) probe {
	s.mu.Lock()
	need := d.probes + 1
	probed := s.started && !d.unchecked
	s.mu.Unlock()
	for probed && !d.faulty.Load() && s.ctx.Err() == nil {
		if p := s.probe(d); p.number >= need {
			return probe{passed: p.passed && !d.faulty.Load(), err: p.err}
		}
	}
	return probe{passed: !probed && !d.faulty.Load()}
}

// A probe is one question whose name no list may have.
type probe struct {
	number int
	passed bool          // to be read when done is closed, as err is
	err    error         // why it is not known whether it passes; nil if it is known
	done   chan struct{} // closed when it has ended
}

// probe makes a probe, or waits for the one under way, which may have begun too early for the caller.
func (s checker) probe(d *side) *probe {
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
	name := d.unlistedName()
	switch a := s.ask(s.ownAsking(), d.list, name); {
	case s.ctx.Err() != nil:
	case errors.Is(a.err, mail.ErrNotAsked):
		p.err = a.err
	case a.err != nil:
		p.err = a.err
		s.failed(d, "does not answer: "+a.err.Error())
	case a.means == refused:
		s.refuses(d.list, a.code)
	case a.means == listed:
		s.apply(d, listsWorld, "lists "+name+": it lists the world", netip.Addr{})
	default:
		p.passed = true
	}
	s.mu.Lock()
	d.probing = nil
	s.mu.Unlock()
	close(p.done)
	return p
}

// unlistedName returns a name that no list has an entry for, another one each time: an address in 127.0.0.0/8 apart
// from the codes and test entries, which no client comes from, or a name below INVALID (RFC 6761 section 6.4).
func (d *side) unlistedName() string {
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
