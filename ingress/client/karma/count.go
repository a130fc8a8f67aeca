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

// believed reports whether that was enough. Of n networks about 64(1-(63/64)^n) have a bit of their own; up to 32 bits
// that is near enough to n, and never more.
func (v *volume) believed(c *Config, now time.Time) bool {
	if age := now.Sub(v.begun); age >= c.Window || age < 0 {
		return false
	}
	return v.took+v.before >= c.Volume && bits.OnesCount64(v.nets|v.netsOld) >= c.Networks
}

// A share counts what a client brought, lately: what is older counts less.
type share struct {
	accepted, unknown, bad float64
	at                     time.Time
}

// add counts one more.
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

func (s *share) fade(now time.Time) {
	if age := now.Sub(s.at); age > 0 {
		left := math.Exp2(-float64(age) / float64(halfTime))
		s.accepted, s.unknown, s.bad = s.accepted*left, s.unknown*left, s.bad*left
		s.at = now
	}
}

// badShare is the part of the messages that was refused as spam or by policy.
func (s *share) badShare() float64 { return part(s.bad, s.accepted) }

// unknownShare is the part of the recipients that is unknown.
func (s *share) unknownShare() float64 { return part(s.unknown, s.accepted+s.bad) }

func part(of, others float64) float64 {
	if of+others <= 0 {
		return 0
	}
	return of / (of + others)
}

// A tally is what one client brought to one destination domain, and the last vote that came of it.
type tally struct {
	share
	voted float64
	when  time.Time // of the vote; zero: none
}

// mostDomains is how many different domains a few remembers.
const mostDomains = 4

// A few is a set of up to mostDomains destination domains, by their hash.
type few struct {
	hash [mostDomains]uint64
	n    int
}

func (f *few) add(domain uint64) {
	for _, h := range f.hash[:f.n] {
		if h == domain {
			return
		}
	}
	if f.n < mostDomains {
		f.hash[f.n] = domain
		f.n++
	}
}

// A standing is what a client network did in the eyes of the believed domains.
type standing struct {
	share
	takers   few       // who took its mail since it was last known good or refused
	refusers few       // who refused it as spam
	settled  time.Time // when it was called known good or fell; zero: never
}
