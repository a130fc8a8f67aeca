package feedback

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/mail"
)

// A Phase is what failed at an address.
type Phase string

// The phases that are marked apart. What fails before MAIL is the host's own affair. What fails later a client may have
// provoked: it counts for the mail that met it until three kinds of mail have.
const (
	Opening Phase = "before MAIL"
	AtMail  Phase = "MAIL" // for the domain of the reverse-path
	AtRcpt  Phase = "RCPT" // or later; for the recipient's domain
	OurIPv6 Phase = "IPv6" // the address that we come from is refused; for the recipient's domain, at a whole Site
)

// A Spot is one address of a host, and the port that is connected to.
type Spot struct {
	Host string
	Addr netip.Addr
	Port uint16
}

// AddrPort returns the address and the port, the zero AddrPort where there is no address.
func (s Spot) AddrPort() netip.AddrPort {
	if !s.Addr.IsValid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(s.Addr, s.Port)
}

// Of tells whose mail an address is looked for, by domains in lower case.
type Of struct {
	Reverse   string // of the reverse-path as the client gave it, "" for the null one
	Recipient string
}

// Of returns whose mail s is.
func (s *Sender) Of() Of { return Of{Reverse: s.reverseDomain(), Recipient: strings.Clone(s.Domain)} }

const (
	// markFirst and markMost bound the time of a mark. It doubles with each failure, and outlasts the time between two
	// attempts of a sender.
	markFirst = 5 * time.Minute
	markMost  = time.Hour
	// markCache bounds the marks that are kept.
	markCache = 8192
)

// A markKey is what a mark is about: all mail, or that of one domain.
type markKey struct {
	spot   Spot
	phase  Phase
	domain string
	all    bool // domain does not count
}

// A mark is what is known of failures.
type mark struct {
	failed, until time.Time
	step          int
	met           []string // of a mark for all mail that is not on yet: the domains that met the failure
}

// Marks remember which addresses failed, and which worked instead, so that they are tried last, or first. They exclude
// no address. All methods are safe for concurrent use. Accepted, which the path of each message calls, takes no
// lock where nothing has failed.
type Marks struct {
	now    func() time.Time
	index  *moments // when each mark ends, to be looked at without a lock
	latest *lru.Cache[string, last]

	mu   sync.Mutex
	kept *lru.Cache[markKey, mark]
}

// A last is the address of a host that took a session when another one was to be tried first.
type last struct {
	addr  netip.Addr
	until time.Time
}

// NewMarks returns Marks of which none is set; now reads the wall clock.
func NewMarks(now func() time.Time) *Marks {
	return &Marks{
		now: now, index: newMoments(now()), latest: lru.New[string, last](markCache),
		kept: lru.New[markKey, mark](markCache),
	}
}

// party returns the key of a mark in the index.
func (k *markKey) party() party {
	return party{
		site: mail.Site(k.spot.Host), network: k.spot.network(), port: k.spot.Port, domain: k.domain,
		user: string(k.phase), only: k.all,
	}
}

// any returns the key in the index that says that an address has any mark.
func (s *Spot) any() party {
	return party{site: mail.Site(s.Host), network: s.network(), port: s.Port, user: "any"}
}

// network returns the address as a network, the zero Prefix for a unix socket.
func (s *Spot) network() netip.Prefix { return netip.PrefixFrom(s.Addr, s.Addr.BitLen()) }

// domain returns the part of the mail that a phase is marked for.
func (o *Of) domain(p Phase) string {
	switch p {
	case AtMail:
		return o.Reverse
	case AtRcpt, OurIPv6:
		return o.Recipient
	}
	return ""
}

// Failed marks an address for what failed there: twice as long as the last time, and no longer for failures while the
// mark is on.
func (m *Marks) Failed(s Spot, p Phase, by Of) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := markKey{spot: s, phase: p, all: true}
	if p == Opening {
		m.set(all)
		return
	}
	m.set(markKey{spot: s, phase: p, domain: by.domain(p)})
	e, _ := m.kept.Get(all)
	if m.now().Sub(e.failed) > markMost {
		e.met = nil
	}
	if !slices.Contains(e.met, by.domain(p)) && len(e.met) < witnesses {
		e.met = append(slices.Clip(e.met), by.domain(p))
	}
	if len(e.met) >= witnesses {
		m.kept.Put(all, e, 1)
		m.set(all)
		return
	}
	e.failed = m.now()
	m.kept.Put(all, e, 1)
}

// set begins or renews one mark. It needs the lock.
func (m *Marks) set(k markKey) {
	now := m.now()
	e, _ := m.kept.Get(k)
	e.failed = now
	if !now.Before(e.until) {
		if now.Sub(e.until) > markMost {
			e.step = 0
		}
		e.until = now.Add(min(markMost, markFirst<<e.step))
		e.step = min(e.step+1, 6)
	}
	m.kept.Put(k, e, 1)
	m.index.set(k.party(), e.until)
	m.index.set(k.spot.any(), e.until)
}

// Opened ends the mark of an address for what failed before MAIL, because a session was opened there.
func (m *Marks) Opened(s Spot) { m.worked(s, Opening, Of{}) }

// Accepted ends the marks of an address for MAIL and RCPT, because both were just accepted there.
func (m *Marks) Accepted(s Spot, by *Sender) {
	until, ok := m.index.get(s.any())
	if !ok || m.now().Sub(until) > markMost {
		return
	}
	of := by.Of()
	m.worked(s, AtMail, of)
	m.worked(s, AtRcpt, of)
}

func (m *Marks) worked(s Spot, p Phase, by Of) {
	keys := [...]markKey{{spot: s, phase: p, all: true}, {spot: s, phase: p, domain: by.domain(p)}}
	marked := false
	for i := range keys {
		until, ok := m.index.get(keys[i].party())
		marked = marked || ok && until.After(m.index.born)
	}
	if !marked {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range keys {
		m.kept.Delete(keys[i])
		m.index.set(keys[i].party(), m.index.born)
	}
}

// FailedAt returns when an address failed last for what counts for such mail, and reports whether it is marked.
func (m *Marks) FailedAt(s Spot, of Of) (at time.Time, marked bool) {
	for _, p := range [...]Phase{Opening, AtMail, AtRcpt} {
		if t, ok := m.failedAt(s, p, of); ok {
			marked = true
			if t.After(at) {
				at = t
			}
		}
	}
	return at, marked
}

// RefusesIPv6 reports whether a Site refused our IPv6 address for such mail, and when.
func (m *Marks) RefusesIPv6(site mail.Site, of Of) (at time.Time, refuses bool) {
	return m.failedAt(Spot{Host: string(site)}, OurIPv6, of)
}

// AvoidsIPv6 reports whether the Site of s refused our IPv6 address for mail like it. The path of each message calls
// it.
func (m *Marks) AvoidsIPv6(s *Sender) bool {
	at := Spot{Host: string(s.Site)}
	until, ok := m.index.get(at.any())
	if !ok || m.now().After(until) {
		return false
	}
	_, refuses := m.RefusesIPv6(s.Site, s.Of())
	return refuses
}

// RefusedIPv6 marks a Site because it refused our IPv6 address.
func (m *Marks) RefusedIPv6(site mail.Site, by Of) { m.Failed(Spot{Host: string(site)}, OurIPv6, by) }

func (m *Marks) failedAt(s Spot, p Phase, of Of) (at time.Time, marked bool) {
	now := m.now()
	for _, k := range [...]markKey{{spot: s, phase: p, all: true}, {spot: s, phase: p, domain: of.domain(p)}} {
		until, ok := m.index.get(k.party())
		if !ok || !now.Before(until) {
			continue
		}
		m.mu.Lock()
		e, ok := m.kept.Get(k)
		m.mu.Unlock()
		if ok && now.Before(e.until) {
			marked = true
			if e.failed.After(at) {
				at = e.failed
			}
		}
	}
	return at, marked
}

// Took notes which address of a host took a session. first says that it was the first to be tried.
func (m *Marks) Took(s Spot, first bool) {
	now := m.now()
	if first {
		if l, ok := m.latest.Get(s.Host); !ok || l.addr == s.Addr || now.After(l.until) {
			return
		}
	}
	m.latest.Put(s.Host, last{addr: s.Addr, until: now.Add(markMost)}, 1)
}

// Latest returns the address of a host that took a session last when another one was to be tried first, within the last
// hour, else the zero Addr.
func (m *Marks) Latest(host string) netip.Addr {
	l, ok := m.latest.Get(host)
	if !ok || m.now().After(l.until) {
		return netip.Addr{}
	}
	return l.addr
}
