package pace

import "time"

const (
	// GrowEvery is how many messages a Site must take before it gets one more connection than it was reduced to.
	GrowEvery = 10
	// BelievedFor is how long a number of connections that was too many is not tried again.
	BelievedFor = 10 * time.Minute
)

// A SessionCap is the number of connections that a Site gets after it said "too many connections". The zero value
// reduces nothing.
type SessionCap struct {
	Allowed int // connections; 0 means as many as the limit says
	Most    int // this many were open, and one more was too many

	until Instant // how long Most is believed
	at    Instant // when it was reduced last
	good  int     // messages taken since Allowed was changed
}

// Of returns how many of a limit of n connections are allowed.
func (c *SessionCap) Of(n int) int {
	if c.Allowed == 0 {
		return n
	}
	return min(n, c.Allowed)
}

// Holds reports whether the number that was too many is still believed.
func (c *SessionCap) Holds(now Instant) bool { return c.Allowed > 0 && now < c.until }

// Reduce is for a Site that has refused a connection, which was asked for at begun, while open others were open. Half
// as many are allowed from then on, but not fewer than least, unless fewer were before. It reports whether that is
// news: a refusal of one that was asked for before the last reduction changes nothing.
func (c *SessionCap) Reduce(now, begun Instant, open, least int) (news bool) {
	if begun <= c.at {
		return false
	}
	allowed := max(1, open/2)
	if allowed < least {
		if allowed = least; c.Allowed > 0 {
			allowed = min(least, c.Allowed)
		}
	}
	*c = SessionCap{Allowed: allowed, Most: max(allowed, open), until: now + Instant(BelievedFor), at: now}
	return true
}

// Opened is for another connection that was opened, after which open are: one that was being opened while the Site
// refused another may yet have been taken.
func (c *SessionCap) Opened(open int) {
	if c.Allowed > 0 && open > c.Most {
		c.Most, c.Allowed = open, max(c.Allowed, open/2)
	}
}

// Delivered counts a message that a Site with a limit of n connections took. One more connection is allowed for some
// of these, up to Most, and beyond Most after ten minutes.
func (c *SessionCap) Delivered(now Instant, n int) {
	if c.Allowed == 0 {
		return
	}
	if c.good++; c.good < GrowEvery || c.Allowed >= c.Most && now < c.until {
		return
	}
	c.good = 0
	if c.Allowed++; c.Allowed >= n {
		*c = SessionCap{at: c.at}
	}
}
