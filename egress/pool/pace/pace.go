// Package pace says how much one Site gets and why it gets less: the rates of messages and of new connections, the
// number of connections after "too many", the rate after "too fast", and the time for which a Site that fails or
// refuses is left alone.
//
// It owns the arithmetic. It refuses to know locks, clocks, timers, queues and connections: all types are plain values
// that the caller guards, and the time is an argument of every method that depends on it.
//
// Invariants: a rate is never exceeded within a second, margin included; what is counted is never negative; a Site is
// never held to less than one connection or one message a second; a complaint about what began before the last
// reaction changes nothing.
package pace

import (
	"math"
	"time"
)

// An Instant is a time in nanoseconds of the caller's clock, which begins above zero. Zero means never.
type Instant int64

const second = Instant(time.Second)

// seconds returns a difference of two Instants in seconds.
func (i Instant) seconds() float64 { return float64(i) / float64(second) }

const (
	// margin is how much of a message rate is used, so that a second that begins with a burst, or that the network
	// squeezes together, stays below it.
	margin = 0.95
	// burstFor is how long nothing may have been sent and still be made up for at once: timers fire late.
	burstFor = 40 * time.Millisecond
	// LeastRate is the rate below which no Site is slowed down, in messages per second.
	LeastRate = 1.0
	// Settle is how long after it was slowed down a Site's complaints are about what came before.
	Settle = time.Second
)

// A meter admits events at a rate, by the generic cell rate algorithm: it keeps when the next one is due if all come
// evenly. The zero value has admitted nothing.
type meter struct{ due Instant }

// wait returns how long it is until another event is admitted: 0 is now. A rate of 0 admits everything.
func (m *meter) wait(now Instant, perSecond, burst float64) time.Duration {
	if perSecond <= 0 {
		return 0
	}
	tolerance := Instant((max(1, burst) - 1) / perSecond * float64(second))
	return time.Duration(max(0, m.due-tolerance-now))
}

// take counts an event, admitted or not. What is over the rate is paid back by later events, up to a second of it.
func (m *meter) take(now Instant, perSecond, burst float64) {
	if perSecond <= 0 {
		return
	}
	step := float64(second) / perSecond
	most := Instant(step*max(1, burst)) + second
	m.due = min(max(now, m.due)+Instant(step), now+most)
}

// Opens paces the connections that are opened. The zero value has opened no connection.
type Opens struct{ meter meter }

// Until returns how long it is until a connection may be opened, with perSecond of them in the long run and atOnce one
// after another. A perSecond of 0 allows any number.
func (o *Opens) Until(now Instant, perSecond float64, atOnce int) time.Duration {
	return o.meter.wait(now, perSecond, float64(atOnce))
}

// Take counts a connection that is opened.
func (o *Opens) Take(now Instant, perSecond float64, atOnce int) {
	o.meter.take(now, perSecond, float64(atOnce))
}

// Messages paces the messages to one Site: by a limit, which is an argument in messages per second and 0 for any
// number, and by the rate that complaints have slowed the Site down to. The zero value has sent nothing and is not
// slowed down.
type Messages struct {
	meter meter
	begun window // messages that did, and were not complained of
	slow  slowing
}

// PerSecond returns the rate that holds now, 0 for any number.
func (m *Messages) PerSecond(now Instant, limit float64) float64 {
	perSecond := limit * margin
	if slow := m.slow.perSecond(now); slow > 0 && (perSecond == 0 || slow < perSecond) {
		perSecond = slow
	}
	return perSecond
}

// Slowed returns the rate that complaints have slowed the Site down to, 0 if it is not slowed down.
func (m *Messages) Slowed(now Instant) float64 { return m.slow.perSecond(now) }

// IsPaced reports whether messages wait for their time, and not only for a connection.
func (m *Messages) IsPaced(limit float64) bool { return limit > 0 || m.slow.from > 0 }

// Until returns how long it is until a message may begin.
func (m *Messages) Until(now Instant, limit float64) time.Duration {
	if !m.IsPaced(limit) {
		return 0
	}
	perSecond := m.PerSecond(now, limit)
	return m.meter.wait(now, perSecond, perSecond*burstFor.Seconds())
}

// Take counts a message that begins.
func (m *Messages) Take(now Instant, limit float64) {
	m.begun.add(now)
	if !m.IsPaced(limit) {
		return
	}
	perSecond := m.PerSecond(now, limit)
	m.meter.take(now, perSecond, perSecond*burstFor.Seconds())
}

// Slow is for a complaint about the rate, in the reply to a message that began at begun. It takes percent off the
// messages that began in the last second and were not complained of; that grows back in span, see slowing. It returns
// the rate that holds now. A complaint about a message that began before the last one, or that comes within a second
// of it, is no news and changes nothing.
//
// The messages that were taken would be the wrong base: a Site complains at MAIL, long before it took the first of a
// burst.
func (m *Messages) Slow(
	now, begun Instant, limit float64, percent int, span time.Duration,
) (perSecond float64, news bool) {
	m.begun.drop(now)
	if m.slow.from > 0 && (begun <= m.slow.at || now-m.slow.at < Instant(Settle)) {
		return m.PerSecond(now, limit), false
	}
	took := m.begun.second(now)
	if m.slow.from > 0 && m.begun.before > 0 {
		// A Site that counts by the second takes two seconds' messages around the end of one.
		took = min(took, m.begun.before)
	}
	if perSecond := m.PerSecond(now, limit); perSecond > 0 {
		// What is over a rate is paid back, so that few may have begun of late though the Site takes more.
		took = min(perSecond, max(took, perSecond/2))
	}
	took = max(took, LeastRate)
	m.slow = slowing{
		from: max(LeastRate, took*float64(100-percent)/100), to: took, at: now, span: max(1, Instant(span)),
	}
	return m.slow.from, true
}

// A window counts over about the last second. The zero value has counted nothing.
type window struct {
	began, start Instant // of the counting, and of now
	now, before  float64
}

func (w *window) roll(now Instant) {
	switch age := now - w.start; {
	case w.began == 0 || age >= 2*second:
		*w = window{began: now, start: now}
	case age >= second:
		w.start += second
		w.before, w.now = w.now, 0
	}
}

func (w *window) add(now Instant) {
	w.roll(now)
	w.now++
}

// drop takes back an event of now.
func (w *window) drop(now Instant) {
	w.roll(now)
	w.now = max(0, w.now-1)
}

// second returns the events of the last second.
func (w *window) second(now Instant) float64 {
	w.roll(now)
	return w.before*(1-(now-w.start).seconds()) + w.now
}

// A slowing is a rate that a Site was slowed down to. It climbs back to what the Site had been taking, which lasts span
// and is quick at first and slow near to that; then it doubles once per span, and after doublings of these it ends. The
// zero value slows nothing down.
type slowing struct {
	from, to float64
	at, span Instant
}

const doublings = 10

// perSecond returns the messages per second that are allowed, 0 for any number. A slowing that is over becomes zero.
func (s *slowing) perSecond(now Instant) float64 {
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
