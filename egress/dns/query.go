package dns

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	wire "github.com/miekg/dns"
)

// Bounds on what one reply may say.
const (
	ednsSize   = 1232 // octets over UDP that no path fragments
	maxChain   = 8    // CNAMEs from the name asked for to the one with the records
	maxRecords = 100  // records kept of one answer
	headerSize = 12
)

// Why a packet is not the reply, or not yet.
var (
	errForeign   = errors.New("answers another question")
	errTruncated = errors.New("truncated")
	errCase      = errors.New("question in another case")
	errNoEDNS    = errors.New("EDNS0 not understood")
	errChain     = errors.New("more than 8 CNAMEs")
	errReferral  = errors.New("referral instead of an answer")
)

// A query is a question as it goes on the wire.
type query struct {
	name     string
	qtype    uint16
	edns     bool
	raw      []byte
	question []byte // the question section, which lies in raw
}

// newQuery packs the question with a random ID and, so that a forger has more to guess, in random case.
func newQuery(name string, qtype uint16, edns, ad bool) (*query, error) {
	var m wire.Msg
	m.SetQuestion(wire.Fqdn(name), qtype)
	m.AuthenticatedData = ad // asks for the AD bit without the signatures (RFC 6840 section 5.7)
	if edns {
		m.SetEdns0(ednsSize, false)
	}
	raw, err := m.Pack()
	if err != nil {
		return nil, err
	}
	labels := len(name) + 2 // a length octet for each dot, one before the first label and the root's
	if name == "." {
		labels = 1
	}
	q := &query{name: name, qtype: qtype, edns: edns, raw: raw, question: raw[headerSize : headerSize+labels+4]}
	var dice [2 + 256/8]byte
	_, _ = rand.Read(dice[:]) // never fails
	copy(raw, dice[:2])
	for i, c := range q.question[:labels] {
		// Length octets are under 64 and so never letters.
		if c >= 'a' && c <= 'z' && dice[2+i/8]>>(i%8)&1 == 1 {
			q.question[i] = c - 'a' + 'A'
		}
	}
	return q, nil
}

// fold makes q a new question in lower case, with another random ID.
func (q *query) fold() {
	_, _ = rand.Read(q.raw[:2]) // never fails
	copy(q.question, bytes.ToLower(q.question[:len(q.question)-4]))
}

// A reply is what a server said about a question: records, or why it has no records, or the name to ask next.
type reply struct {
	kind   error // nil, ErrNXDomain or ErrNoData
	mx     []MX
	ips    []netip.Addr
	texts  []string
	name   string // the name that the records, or their absence, belong to
	next   string // not "": the server left the end of a CNAME chain to us, and this is the name to ask
	cnames int    // followed
	ttl    time.Duration
	ad     bool
	size   int // octets of the records kept, about
}

// read checks that raw answers q and takes what it says. A packet that is no reply to q is errForeign, one that must be
// asked for again over TCP errTruncated or errCase; strict asks for the case to be kept, which not every server does.
func (q *query) read(raw []byte, strict bool) (reply, error) {
	if len(raw) < headerSize || !bytes.Equal(raw[:2], q.raw[:2]) || raw[2]&0xf8 != 0x80 {
		return reply{}, errForeign // too short, another ID, no response or another opcode
	}
	rcode := int(raw[3] & 0xf)
	if binary.BigEndian.Uint16(raw[4:]) != 1 {
		// A server that knows no EDNS0 may answer with its header alone.
		if rcode == wire.RcodeFormatError && len(raw) == headerSize && q.edns {
			return reply{}, errNoEDNS
		}
		return reply{}, errForeign
	}
	asked := raw[headerSize:min(len(raw), headerSize+len(q.question))]
	if !bytes.Equal(asked, q.question) {
		if !bytes.EqualFold(asked, q.question) {
			return reply{}, errForeign
		}
		if strict {
			return reply{}, errCase
		}
	}
	if raw[2]&0x02 != 0 {
		return reply{}, errTruncated
	}
	var m wire.Msg
	if err := m.Unpack(raw); err != nil {
		return reply{}, &failure{kind: ErrBadReply, cause: err}
	}
	switch m.Rcode {
	case wire.RcodeSuccess, wire.RcodeNameError:
		return q.take(&m)
	case wire.RcodeFormatError, wire.RcodeNotImplemented, wire.RcodeBadVers:
		if q.edns {
			return reply{}, errNoEDNS
		}
	}
	return reply{}, &failure{kind: ErrServer, rcode: wire.RcodeToString[m.Rcode]}
}

// take follows the CNAMEs of the answer section and collects the records at their end.
func (q *query) take(m *wire.Msg) (reply, error) {
	got := reply{name: q.name, ad: m.AuthenticatedData, ttl: longest}
	for got.collect(m.Answer, q.qtype) == 0 {
		alias := aliasOf(m.Answer, got.name)
		if alias == nil {
			return q.nothing(m, got)
		}
		if got.cnames++; got.cnames > maxChain {
			return reply{}, &failure{kind: ErrBadReply, cause: errChain}
		}
		got.lower(alias.Hdr.Ttl)
		got.name = cleaned(alias.Target)
	}
	if m.Rcode == wire.RcodeNameError {
		return reply{}, &failure{kind: ErrBadReply, cause: errors.New("records of a name said not to exist")}
	}
	slices.SortStableFunc(got.mx, func(a, b MX) int {
		if a.Pref != b.Pref {
			return int(a.Pref) - int(b.Pref)
		}
		return strings.Compare(a.Host, b.Host)
	})
	got.mx = got.mx[:min(len(got.mx), maxRecords)]
	return got, nil
}

// nothing returns what a reply without records means (RFC 2308 section 2).
func (q *query) nothing(m *wire.Msg, got reply) (reply, error) {
	var soa *wire.SOA
	referral := false
	for _, rr := range m.Ns {
		switch rr := rr.(type) {
		case *wire.SOA:
			soa = rr
		case *wire.NS:
			referral = true
		}
	}
	switch {
	case m.Rcode == wire.RcodeNameError:
		got.kind = ErrNXDomain
	case soa == nil && got.cnames > 0:
		if _, ok := canonical(got.name); !ok {
			return reply{}, &failure{kind: ErrBadReply, cause: errors.New("CNAME to what is no name")}
		}
		got.next = got.name
		return got, nil
	case soa == nil && referral:
		return reply{}, &failure{kind: ErrServer, cause: errReferral}
	default:
		got.kind = ErrNoData
	}
	if soa == nil {
		got.ttl = 0 // RFC 2308 section 5: not to be cached
		return got, nil
	}
	got.lower(soa.Hdr.Ttl)
	got.lower(soa.Minttl)
	return got, nil
}

// longest is the largest TTL there is (RFC 2181 section 8).
const longest = (1<<31 - 1) * time.Second

// lower takes a record's TTL into account. One with the top bit set counts as 0 (RFC 2181 section 8).
func (got *reply) lower(ttl uint32) {
	if ttl > 1<<31-1 {
		ttl = 0
	}
	got.ttl = min(got.ttl, time.Duration(ttl)*time.Second)
}

// aliasOf returns the CNAME of name, nil if there is no CNAME.
func aliasOf(rrs []wire.RR, name string) *wire.CNAME {
	for _, rr := range rrs {
		if alias, ok := rr.(*wire.CNAME); ok && alias.Hdr.Class == wire.ClassINET && owns(rr, name) {
			return alias
		}
	}
	return nil
}

// owns reports whether rr is a record of name.
func owns(rr wire.RR, name string) bool {
	owner := rr.Header().Name
	if name != "." {
		owner = strings.TrimSuffix(owner, ".")
	}
	return strings.EqualFold(owner, name)
}

// collect takes the records of qtype that belong to got.name, and returns how many there are.
func (got *reply) collect(rrs []wire.RR, qtype uint16) int {
	n := 0
	for _, rr := range rrs {
		h := rr.Header()
		if h.Rrtype != qtype || h.Class != wire.ClassINET || h.Rdlength == 0 || !owns(rr, got.name) {
			continue
		}
		// MX records are sorted before the rest is dropped, so that the best are kept.
		if n++; n > maxRecords && qtype != wire.TypeMX {
			break
		}
		got.lower(h.Ttl)
		got.keep(rr)
	}
	return n
}

// keep adds the data of one record.
func (got *reply) keep(rr wire.RR) {
	switch rr := rr.(type) {
	case *wire.MX:
		got.mx = append(got.mx, MX{Host: cleaned(rr.Mx), Pref: rr.Preference})
		got.size += len(rr.Mx) + 18
	case *wire.A:
		if a, ok := netip.AddrFromSlice(rr.A.To4()); ok {
			got.ips = append(got.ips, a)
			got.size += 24
		}
	case *wire.AAAA:
		if a, ok := netip.AddrFromSlice(rr.AAAA.To16()); ok {
			got.ips = append(got.ips, a)
			got.size += 24
		}
	case *wire.TXT:
		text := unescaped(rr.Txt)
		got.texts = append(got.texts, text)
		got.size += len(text) + 16
	case *wire.PTR:
		got.texts = append(got.texts, cleaned(rr.Ptr))
		got.size += len(rr.Ptr) + 16
	default:
		text := dataOf(rr)
		got.texts = append(got.texts, text)
		got.size += len(text) + 16
	}
}
