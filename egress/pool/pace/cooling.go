package pace

import "time"

// The first and the longest time that a Site or a host is left alone after a failure.
const (
	CoolFirst = time.Second
	CoolMost  = 60 * time.Second
)

// A Backoff counts failures in a row, of a host or of a Site. The zero value has seen no failure.
type Backoff struct {
	until time.Time
	step  int
}

// Until returns when the time is over.
func (b *Backoff) Until() time.Time { return b.until }

// IsOn reports whether the time is not over.
func (b *Backoff) IsOn(now time.Time) bool { return now.Before(b.until) }

// IsStale reports whether the time has been over for so long that the failures do not count any more.
func (b *Backoff) IsStale(now time.Time) bool { return now.Sub(b.until) > CoolMost }

// Fail begins the next, longer time, unless one is on: failures within it do not count twice. chance, in [0, 1), takes
// off up to a quarter, so that nodes do not return as one.
func (b *Backoff) Fail(now time.Time, chance float64) {
	if b.IsOn(now) {
		return
	}
	d := CoolMost
	if b.step < 6 {
		d = min(CoolMost, CoolFirst<<b.step)
	}
	b.step++
	b.until = now.Add(d - time.Duration(chance*float64(d/4)))
}

// A Cooling is why and how long a Site is left alone: because it could not be reached, because it refused us, or
// because a rule suspended it. The zero value is a warm Site.
type Cooling struct {
	backoff Backoff
	kind    kind
	probing bool // a Slot is out that tries the Site
	at      Instant
	cause   error
}

// A kind is what a Cooling ends with.
type kind uint8

const (
	unreachable kind = iota // ends when the Site is reached
	refused                 // ends when the Site accepts a command of ours
	suspended               // ends when the Site takes a message that began after it
)

// IsOn reports whether the Site is cooling. Its time may be over: then it is tried by one at a time.
func (c *Cooling) IsOn() bool { return c.backoff.step > 0 }

// IsStale reports whether the cooling has been over for so long that it does not count any more.
func (c *Cooling) IsStale(now time.Time) bool { return c.backoff.IsStale(now) }

// IsRefused reports whether the Site refused us or is suspended, so that its idle connections are of no use and
// reaching it proves nothing.
func (c *Cooling) IsRefused() bool { return c.kind >= refused }

// IsSuspended reports whether only a message that is taken, or Warm, ends the cooling.
func (c *Cooling) IsSuspended() bool { return c.kind == suspended }

// Until returns when the Site may be tried. It is the zero time for a warm Site.
func (c *Cooling) Until() time.Time { return c.backoff.until }

// Cause returns why the Site was cooled last.
func (c *Cooling) Cause() error { return c.cause }

// MayOpen reports whether a connection may be opened now, and whether it is the probe of a cooling Site. There is one
// probe at a time, until EndProbe.
func (c *Cooling) MayOpen(now time.Time) (probe, ok bool) {
	if !c.IsOn() {
		return false, true
	}
	if c.backoff.IsOn(now) || c.probing {
		return false, false
	}
	c.probing = true
	return true, true
}

// EndProbe lets the next one try.
func (c *Cooling) EndProbe() { c.probing = false }

// Warm ends the cooling. A probe that is out stays one.
func (c *Cooling) Warm() {
	if c.IsOn() {
		*c = Cooling{probing: c.probing}
	}
}

// Fail begins the cooling or makes it longer, because the Site could not be reached or, with isRefusal, refused us. A
// failure of a connection that was asked for before the time began does not count twice. chance is that of
// Backoff.Fail.
func (c *Cooling) Fail(now time.Time, chance float64, cause error, isRefusal bool) {
	if c.kind == suspended && c.backoff.IsOn(now) {
		return
	}
	c.cause = cause
	if isRefusal && c.kind == unreachable {
		c.kind = refused
	}
	c.backoff.Fail(now, chance)
}

// Suspend leaves the Site alone for d from now, which is at on the Instants' clock. It returns when the time is over,
// and whether the Site was not suspended before.
func (c *Cooling) Suspend(now time.Time, at Instant, d time.Duration, cause error) (until time.Time, news bool) {
	if c.kind == suspended && c.backoff.IsOn(now) {
		return c.backoff.until, false
	}
	*c = Cooling{
		backoff: Backoff{until: now.Add(d), step: max(1, c.backoff.step)}, kind: suspended, probing: c.probing, at: at,
		cause: cause,
	}
	return c.backoff.until, true
}

// Delivered is for a message that began at begun and was taken. It ends a suspension that is older, and reports whether
// it did: a message that was on its way proves nothing.
func (c *Cooling) Delivered(begun Instant) bool {
	if c.kind != suspended || begun <= c.at {
		return false
	}
	c.Warm()
	return true
}
