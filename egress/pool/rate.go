package pool

import (
	"math"
	"time"
)

const (
	// margin is how much of Limits.Rate is used, so that a second that begins with a burst, or that the way there
	// squeezes together, stays below it.
	margin = 0.95
	// burstFor is how long nothing may have been sent and still be made up for at once: timers go off late.
	burstFor = 40 * time.Millisecond
	// leastRate is below what no Site is slowed down, in messages per second.
	leastRate = 1.0
)

// A meter admits events at a rate, by the generic cell rate algorithm: it keeps when the next one is due if all come
// evenly. The zero value has admitted nothing.
type meter struct{ due int64 } // of Pool.clock

// wait gives how long it is until another event is admitted: 0 is now. A rate of 0 admits everything.
func (m *meter) wait(now int64, rate, burst float64) time.Duration {
	if rate <= 0 {
		return 0
	}
	tolerance := int64((max(1, burst) - 1) / rate * float64(time.Second))
	return time.Duration(max(0, m.due-tolerance-now))
}

// take counts an event, admitted or not. What is over the rate is paid back by those who come later, up to a second of
// it.
func (m *meter) take(now int64, rate, burst float64) {
	if rate <= 0 {
		return
	}
	step := float64(time.Second) / rate
	most := int64(step*max(1, burst)) + int64(time.Second)
	m.due = min(max(now, m.due)+int64(step), now+most)
}

// A window counts over about the last second. The zero value has counted nothing.
type window struct {
	began, start int64 // of the counting, and of now
	now, before  float64
}

func (w *window) roll(now int64) {
	const second = int64(time.Second)
	switch age := now - w.start; {
	case w.began == 0 || age >= 2*second:
		*w = window{began: now, start: now}
	case age >= second:
		w.start += second
		w.before, w.now = w.now, 0
	}
}

func (w *window) add(now int64) {
	w.roll(now)
	w.now++
}

// drop takes back an event of now.
func (w *window) drop(now int64) {
	w.roll(now)
	w.now = max(0, w.now-1)
}

// second gives the events of the last second.
func (w *window) second(now int64) float64 {
	w.roll(now)
	return w.before*(1-float64(now-w.start)/float64(time.Second)) + w.now
}

// A slowing is a rate that a Site was slowed down to. It climbs back to what the Site had been taking, which lasts span
// and is quick at first and slow near to that; then it doubles once per span, until after doublings of these nothing is
// left of it. The zero value is none.
type slowing struct {
	from, to float64
	at, span int64
}

const doublings = 10

// rate gives the messages per second that are allowed, 0 for any number.
func (s *slowing) rate(now int64) float64 {
	if s.from == 0 {
		return 0
	}
	after := float64(now-s.at) / float64(s.span)
	switch {
	case after < 1:
		left := 1 - max(0, after)
		return s.to - (s.to-s.from)*left*left*left
	case after < 1+doublings:
		return s.to * math.Exp2(after-1)
	}
	*s = slowing{}
	return 0
}

// rate gives how many messages per second t gets, 0 for any number.
func (t *site[C]) rate(now int64) float64 {
	rate := t.limits.Rate * margin
	if slow := t.slow.rate(now); slow > 0 && (rate == 0 || slow < rate) {
		rate = slow
	}
	return rate
}

// untilMessage gives how long it is until r's message may begin.
func (t *site[C]) untilMessage(r *Request, now int64) time.Duration {
	if r.Again || t.limits.Rate == 0 && t.slow.from == 0 {
		return 0
	}
	rate := t.rate(now)
	return t.messages.wait(now, rate, rate*burstFor.Seconds())
}

// pay counts r's message.
func (t *site[C]) pay(r *Request, now int64) {
	if !r.Again {
		t.begun.add(now)
	}
	if r.Again || t.limits.Rate == 0 && t.slow.from == 0 {
		return
	}
	rate := t.rate(now)
	t.messages.take(now, rate, rate*burstFor.Seconds())
}

// open counts a session that is opened.
func (t *site[C]) open(now int64) { t.opens.take(now, t.limits.Opens, float64(t.limits.OpensAtOnce)) }

// untilOpen gives how long it is until a session may be opened.
func (t *site[C]) untilOpen(now int64) time.Duration {
	return t.opens.wait(now, t.limits.Opens, float64(t.limits.OpensAtOnce))
}

// isPaced reports whether messages wait for their time and not only for a session.
func (t *site[C]) isPaced() bool { return t.limits.Rate > 0 || t.slow.from > 0 }
