package karma

import (
	"math"
	"math/bits"
	"time"
)

// halfTime is the time in which half of what a client brought is forgotten.
const halfTime = 12 * time.Hour

// A volume counts what a destination domain took, in the present half of the window and the one before it.
type volume struct {
	begun         time.Time // of the present half
	took, before  int
	nets, netsOld uint64 // a bit for each client network, by its hash
}

// add counts a message of a client network.
func (v *volume) add(network uint64, now time.Time, window time.Duration) {
	switch age := now.Sub(v.begun); {
	case age >= window || age < 0:
		*v = volume{begun: now}
	case age >= window/2:
		*v = volume{begun: now, before: v.took, netsOld: v.nets}
	}
	v.took = min(v.took+1, math.MaxInt32)
	v.nets |= 1 << (network % 64)
}

// believed reports whether that was enough. Of n networks about 64(1-(63/64)^n) have a bit of their own. Up to 32 bits
// that is near enough to n, and never more.
func (v *volume) believed(c *Config, now time.Time) bool {
	if age := now.Sub(v.begun); age >= c.tune.window || age < 0 {
		return false
	}
	return v.took+v.before >= c.Volume && bits.OnesCount64(v.nets|v.netsOld) >= c.Networks
}

// A share counts what a client brought lately: half of it is forgotten in halfTime.
type share struct {
	accepted, unknown, bad float64
	at                     time.Time
}

// add counts one message or recipient by its lesson.
func (s *share) add(l Lesson, now time.Time) {
	s.fade(now)
	switch l {
	case Accepted:
		s.accepted++
	case Unknown:
		s.unknown++
	case Policy, Spam:
		s.bad++
	}
}

// fade forgets what the time since the last call takes.
func (s *share) fade(now time.Time) {
	if age := now.Sub(s.at); age > 0 {
		left := math.Exp2(-float64(age) / float64(halfTime))
		s.accepted, s.unknown, s.bad = s.accepted*left, s.unknown*left, s.bad*left
		s.at = now
	}
}

// badPart returns the part of the messages, from 0 to 1, that was refused as spam or by policy.
func (s *share) badPart() float64 { return part(s.bad, s.accepted) }

// unknownPart returns the part of the recipients, from 0 to 1, that was unknown.
func (s *share) unknownPart() float64 { return part(s.unknown, s.accepted+s.bad) }

// part returns of as a part of the sum, 0 if both are 0.
func part(of, others float64) float64 {
	if of+others <= 0 {
		return 0
	}
	return of / (of + others)
}

// A ballotCast is the vote of a destination domain on a client in an hour.
type ballotCast struct {
	weight float64
	when   time.Time // the hour begins with its first vote; zero if there was none
}

// maxDomains is how many different domains a domainSet remembers.
const maxDomains = 4

// A domainSet is a set of up to maxDomains destination domains, by their hash.
type domainSet struct {
	hash [maxDomains]uint64
	n    int
}

// add adds a domain, unless the set is full.
func (d *domainSet) add(domain uint64) {
	for _, h := range d.hash[:d.n] {
		if h == domain {
			return
		}
	}
	if d.n < maxDomains {
		d.hash[d.n] = domain
		d.n++
	}
}

// A standing is what the believed domains did with the mail of a client network.
type standing struct {
	share
	takers   domainSet // took its mail since it was last known good or refused
	refusers domainSet // refused it as spam
	changed  time.Time // when it became known good or ceased to be early; zero: never
}

// mayChange reports whether the last standing of the network began long enough ago for the next one.
func (s *standing) mayChange(now time.Time) bool {
	return s.changed.IsZero() || now.Sub(s.changed) >= goodFor
}
