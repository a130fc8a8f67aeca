package feedback

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A party is whom a moment is remembered for: a Site, or a part of its mail. Empty fields mean any.
type party struct {
	site    mail.Site
	domain  string // of the recipient
	network netip.Prefix
	reverse mail.Path
	only    bool // reverse counts, which may be null
	user    string
	port    uint16 // with network, of a Spot
}

// momentSize is how many moments are remembered, 8 octets each.
const momentSize = 1 << 14

// Moments remember a time for each party, without a lock and without allocations: the path of each message asks. A
// party may push out another one, whose time is then unknown. They are seeded, so that a client cannot choose which.
type moments struct {
	seed  maphash.Seed
	born  time.Time
	used  atomic.Bool
	table [momentSize]atomic.Uint64 // half of a hash, and tenths of a second since born
}

// tenth is the resolution of moments, which 32 bits count for 13 years.
const tenth = 100 * time.Millisecond

func newMoments(now time.Time) *moments {
	return &moments{seed: maphash.MakeSeed(), born: now.Add(-time.Hour)} // a clock that steps back stays behind it
}

func (m *moments) at(p party) (slot *atomic.Uint64, tag uint64) {
	h := maphash.Comparable(m.seed, p)
	return &m.table[h%momentSize], h &^ (1<<32 - 1)
}

// set remembers a time for p.
func (m *moments) set(p party, at time.Time) {
	if !m.used.Load() {
		m.used.Store(true)
	}
	slot, tag := m.at(p)
	value := tag | uint64(uint32(at.Sub(m.born)/tenth))
	if slot.Load() != value {
		slot.Store(value)
	}
}

// get returns the time remembered for p, and whether there is one.
func (m *moments) get(p party) (time.Time, bool) {
	if !m.used.Load() {
		return time.Time{}, false
	}
	slot, tag := m.at(p)
	value := slot.Load()
	if value == 0 || value&^(1<<32-1) != tag {
		return time.Time{}, false
	}
	return m.born.Add(time.Duration(uint32(value)) * tenth), true
}

// isWithin reports whether the time remembered for p is not before since.
func (m *moments) isWithin(p party, since time.Time) bool {
	at, ok := m.get(p)
	return ok && at.Add(tenth).After(since)
}

// Acceptances remember which recipients a Site accepted of late.
type acceptances struct {
	*moments
	latest [1 << 10]atomic.Uint64 // by Site: the domain of the last one
}

// add remembers a recipient of a domain that was accepted for a client network.
func (a *acceptances) add(site mail.Site, domain string, network netip.Prefix, now time.Time) {
	a.set(party{site: site}, now)
	a.set(party{site: site, domain: domain}, now)
	a.set(party{site: site, domain: domain, network: network}, now)
	latest, hash := a.last(site, domain)
	if before := latest.Load(); before != hash {
		latest.Store(hash)
		if before != 0 {
			a.set(party{site: site, only: true}, now) // the domain changed
		}
	}
}

func (a *acceptances) last(site mail.Site, domain string) (latest *atomic.Uint64, hash uint64) {
	hash = maphash.Comparable(a.seed, party{site: site, domain: domain})
	return &a.latest[maphash.Comparable(a.seed, party{site: site})%uint64(len(a.latest))], hash
}

// hasOther reports whether a recipient of another domain than this one was accepted since then.
func (a *acceptances) hasOther(site mail.Site, domain string, since time.Time) bool {
	latest, hash := a.last(site, domain)
	return a.isWithin(party{site: site, only: true}, since) ||
		latest.Load() != hash && a.isWithin(party{site: site}, since)
}
