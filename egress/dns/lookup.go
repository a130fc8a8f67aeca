package dns

import (
	"context"
	"net/netip"
	"time"

	wire "github.com/miekg/dns"
)

// An MX is one mail exchanger of a domain (RFC 1035 section 3.3.9). Host is in lower case without the last dot, except
// for the root, which is "." (RFC 7505 says what that means). A host name in a reply may hold anything a DNS name may,
// escaped as in a master file: its user must check that it is a host name.
type MX struct {
	Host string
	Pref uint16
}

// A Family is an address family to ask for.
type Family uint8

// The two families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// A Meta says how much an answer, or the lack of one, is worth.
type Meta struct {
	// Name is the name that has the records, after all CNAMEs; "" when nothing was learnt.
	Name string
	// TTL is the smallest of the records and CNAMEs on the way, after the caps of Config; for a negative answer that of
	// its SOA (RFC 2308 section 5), and 0 if it came without one. For a failure it is how long the failure is
	// remembered.
	TTL time.Duration
	// Expires is when the answer, read from the cache now or later, is no longer believed.
	Expires time.Time
	// AD says that a validating server vouched for the whole answer; never set without Config.TrustAD.
	AD bool
	// Stale says that the answer had expired and was used because no server could be reached (RFC 8767).
	Stale bool
	// Partial says that only one address family is known, because the other's look-up failed or was too slow.
	Partial bool
}

// LookupMX returns the MX records of name by preference, those of equal preference by name, at most 100. The slice is
// shared and must not be changed. The error is an *Error.
func (r *Resolver) LookupMX(ctx context.Context, name string) ([]MX, Meta, error) {
	a, err := r.lookup(ctx, name, wire.TypeMX)
	return a.mx, a.meta, err
}

// LookupTXT returns the TXT records of name, the strings of each joined as RFC 7208 section 3.3 and RFC 6376 section
// 3.6.2.2 demand, at most 100. The slice is shared and must not be changed. The error is an *Error.
func (r *Resolver) LookupTXT(ctx context.Context, name string) ([]string, Meta, error) {
	a, err := r.lookup(ctx, name, wire.TypeTXT)
	return a.texts, a.meta, err
}

// LookupIP returns the addresses of name in one family, in the server's order, at most 100. The slice is shared and
// must not be changed. The error is an *Error.
func (r *Resolver) LookupIP(ctx context.Context, name string, family Family) ([]netip.Addr, Meta, error) {
	a, err := r.lookup(ctx, name, family.qtype())
	return a.ips, a.meta, err
}

// LookupPTR returns the names that addr maps to, in lower case without the last dot, at most 100. The slice is shared
// and must not be changed. Nothing says that they map back. The error is an *Error.
func (r *Resolver) LookupPTR(ctx context.Context, addr netip.Addr) ([]string, Meta, error) {
	name, err := wire.ReverseAddr(addr.Unmap().WithZone("").String())
	if err != nil {
		return nil, Meta{}, &Error{Name: addr.String(), Type: "PTR", Err: ErrBadName}
	}
	a, err := r.lookup(ctx, name, wire.TypePTR)
	return a.texts, a.meta, err
}

// LookupData returns the data of records of a type that has no method of its own, such as "NS", "DS" or "TLSA", as a
// zone file has it, at most 100. The slice is shared and must not be changed. The error is an *Error.
func (r *Resolver) LookupData(ctx context.Context, name, kind string) ([]string, Meta, error) {
	qtype, ok := wire.StringToType[kind]
	if !ok {
		return nil, Meta{}, &Error{Name: name, Type: kind, Err: ErrBadName}
	}
	a, err := r.lookup(ctx, name, qtype)
	return a.texts, a.meta, err
}

// ReverseName returns the name whose PTR record names addr, with its last dot.
func ReverseName(addr netip.Addr) string {
	name, _ := wire.ReverseAddr(addr.Unmap().WithZone("").String()) // fails for what is no address
	return name
}

// Addrs are the addresses of a name in both families. The slices are shared and must not be changed.
type Addrs struct {
	V6, V4 []netip.Addr
}

// LookupAddrs asks for both families at once. The error is nil if there is any address; Meta.Partial then says whether
// one family is missing for another reason than a definite answer: it failed, or came more than half a second after the
// other. Without any address a failure goes before a definite answer, because it is not known what the failed question
// would have brought. The error is an *Error. Of Meta, Expires and TTL are the smaller of what was learnt, leaving a
// failed family out if there are addresses of the other.
func (r *Resolver) LookupAddrs(ctx context.Context, name string) (Addrs, Meta, error) {
	w6, err := r.begin(ctx, name, wire.TypeAAAA)
	if err != nil {
		return Addrs{}, Meta{}, err
	}
	defer r.leave(&w6)
	w4, err := r.begin(ctx, name, wire.TypeA)
	defer r.leave(&w4)
	if err != nil && w6.answer == nil {
		return Addrs{}, Meta{}, err
	}
	err4 := err
	var err6 error
	if w6.answer == nil || w4.answer == nil && err4 == nil {
		r.awaitBoth(ctx, &w6, &w4)
	}
	err6 = r.settle(ctx, &w6)
	if err4 == nil {
		err4 = r.settle(ctx, &w4)
	}
	return both(w6, w4, err6, err4)
}

// awaitBoth waits for two flights, for the second only a while once the first has brought addresses.
func (r *Resolver) awaitBoth(ctx context.Context, w6, w4 *wait) {
	patience := time.Duration(-1)
	if w6.stale != nil || w4.stale != nil {
		patience = staleAfter
	}
	if w6.found() || w4.found() {
		patience = familyWait
	}
	t := time.NewTimer(max(patience, 0))
	defer t.Stop()
	var late <-chan time.Time
	if patience >= 0 {
		late = t.C
	}
	done6, done4 := w6.landing(), w4.landing()
	for done6 != nil || done4 != nil {
		var came *wait
		select {
		case <-done6:
			came, done6 = w6, nil
		case <-done4:
			came, done4 = w4, nil
		case <-late:
			return
		case <-ctx.Done():
			return
		}
		came.answer = came.flight.answer
		if came.found() {
			t.Reset(familyWait)
			late = t.C
		}
	}
}

func (w *wait) found() bool { return w.answer != nil && w.answer.err == nil }

// landing is closed when the flight's answer is there; it is nil if there is nothing to wait for.
func (w *wait) landing() <-chan struct{} {
	if w.answer != nil || w.flight == nil {
		return nil
	}
	return w.flight.done
}

func both(w6, w4 wait, err6, err4 error) (Addrs, Meta, error) {
	var m6, m4 Meta
	var found Addrs
	if w6.answer != nil {
		found.V6, m6 = w6.answer.ips, w6.answer.meta
	}
	if w4.answer != nil {
		found.V4, m4 = w4.answer.ips, w4.answer.meta
	}
	m := m4
	switch {
	case err6 == nil && err4 == nil, NotFound(err6) && NotFound(err4):
		m = m4.and(m6)
	case err6 == nil && NotFound(err4):
		m = m6.without(m4)
	case err4 == nil && NotFound(err6):
		m = m4.without(m6)
	case err6 == nil:
		m, m.Partial = m6, true
	case err4 == nil:
		m.Partial = true
	case Temporary(err6):
		return found, m6, err6
	default:
		return found, m4, err4
	}
	if err6 == nil || err4 == nil {
		return found, m, nil
	}
	return found, m, err4
}

// without is the Meta of addresses of one family and the definite absence of the other. An absence that must not be
// kept, for want of a SOA, does not shorten the life of the addresses: forwarders that leave the SOA out are common,
// and then no name with one family could ever be kept.
func (m Meta) without(absence Meta) Meta {
	if absence.TTL == 0 {
		absence.Expires = m.Expires
	}
	return m.and(absence)
}

// and is the Meta of two answers taken together.
func (m Meta) and(o Meta) Meta {
	if o.Expires.Before(m.Expires) {
		m.Expires, m.TTL = o.Expires, o.TTL
	}
	m.AD = m.AD && o.AD
	m.Stale = m.Stale || o.Stale
	return m
}

func (f Family) qtype() uint16 {
	if f == IPv6 {
		return wire.TypeAAAA
	}
	return wire.TypeA
}

func (k key) typeName() string { return wire.TypeToString[k.qtype] }
