package dns

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	wire "github.com/miekg/dns"
)

// A Primary is a name server that is asked without recursion and changed by DNS UPDATE (RFC 2136). What passes goes
// over TCP, so that no answer has to be repeated and none can be forged from afar.
type Primary struct {
	Addr string // address and port
	Key  *TSIG  // signs questions and changes, and demands signed answers; nil: neither
	// Now is the clock that signatures are dated by; nil means time.Now.
	Now func() time.Time
}

// A Record is one record.
type Record struct {
	Name string // in lower case, without the last dot
	Type string // such as "MX"
	TTL  uint32 // in seconds
	Data string // as a zone file has it
}

// String returns the record as a line of a zone file.
func (r Record) String() string { return fmt.Sprintf("%s. %d IN %s %s", r.Name, r.TTL, r.Type, r.Data) }

// An Answer is what a Primary says.
type Answer struct {
	Rcode         string // "NOERROR", "REFUSED", ...
	Authoritative bool
	Records       []Record // of the answer section
	Authority     []Record // of the authority section: the SOA of the zone where there is no record
}

// A Change is what one RRset becomes. It is refused by the server if the RRset is not Seen any more.
type Change struct {
	Name, Type  string
	Seen        []Record // all of the RRset as it was read; empty: it must not exist
	Remove, Add []Record
}

// A RefusedError is the code by which a Primary refuses a change.
type RefusedError struct{ Rcode string }

// Error returns the code, and what it means where that is known.
func (e *RefusedError) Error() string {
	switch e.Rcode {
	case "YXDOMAIN", "YXRRSET", "NXRRSET", "NXDOMAIN":
		return "the server refuses it with " + e.Rcode + ": the zone was changed meanwhile"
	case "NOTAUTH":
		return "the server refuses it with NOTAUTH: it does not know the key or the signature, or the zone is not " +
			"its own"
	case "REFUSED":
		return "the server refuses it with REFUSED: its configuration does not allow this key or address to do that"
	}
	return "the server refuses it with " + e.Rcode
}

// errUnsigned means that an answer has no signature although the question had one.
var errUnsigned = errors.New("the answer is not signed")

// Ask asks for records.
func (p Primary) Ask(ctx context.Context, name, kind string) (Answer, error) {
	qtype := wire.StringToType[kind]
	name, ok := canonical(name)
	if !ok || qtype == 0 {
		return Answer{}, &Error{Name: name, Type: kind, Err: ErrBadName}
	}
	m := new(wire.Msg)
	m.SetQuestion(wire.Fqdn(name), qtype)
	m.RecursionDesired = false
	reply, err := p.exchange(ctx, m)
	if err != nil {
		return Answer{}, &Error{Name: name, Type: kind, Server: p.Addr, Err: ErrTimeout, Cause: err}
	}
	return Answer{
		Rcode: wire.RcodeToString[reply.Rcode], Authoritative: reply.Authoritative,
		Records: recordsOf(reply.Answer), Authority: recordsOf(reply.Ns),
	}, nil
}

// Zone returns the zone of the server that a name lies in.
func (p Primary) Zone(ctx context.Context, name string) (string, error) {
	a, err := p.Ask(ctx, name, "SOA")
	if err != nil {
		return "", err
	}
	for _, r := range append(a.Records, a.Authority...) {
		if r.Type == "SOA" && a.Authoritative {
			return r.Name, nil
		}
	}
	return "", fmt.Errorf("%s serves no zone that %s lies in (%s)", p.Addr, name, a.Rcode)
}

// Update makes changes of a zone, all or none. An error is a *RefusedError where the server refuses them.
func (p Primary) Update(ctx context.Context, zone string, changes []Change) error {
	m := new(wire.Msg)
	m.SetUpdate(wire.Fqdn(zone))
	for _, c := range changes {
		seen, err := parsed(c.Seen)
		if err != nil {
			return err
		}
		remove, err := parsed(c.Remove)
		if err != nil {
			return err
		}
		add, err := parsed(c.Add)
		if err != nil {
			return err
		}
		if len(seen) > 0 {
			m.Used(seen)
		} else {
			m.RRsetNotUsed([]wire.RR{&wire.ANY{Hdr: wire.RR_Header{
				Name: wire.Fqdn(c.Name), Rrtype: wire.StringToType[c.Type],
			}}})
		}
		if len(remove) > 0 {
			m.Remove(remove)
		}
		if len(add) > 0 {
			m.Insert(add)
		}
	}
	reply, err := p.exchange(ctx, m)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", p.Addr, err)
	case reply.Rcode != wire.RcodeSuccess:
		return &RefusedError{wire.RcodeToString[reply.Rcode]}
	}
	return nil
}

// exchange sends a message and reads the answer. One without a signature is believed only where none is demanded, or
// where it refuses.
func (p Primary) exchange(ctx context.Context, m *wire.Msg) (*wire.Msg, error) {
	now := time.Now
	if p.Now != nil {
		now = p.Now
	}
	client := &wire.Client{Net: "tcp", Timeout: 2 * defaultTimeout}
	if p.Key != nil {
		client.TsigSecret = map[string]string{p.Key.name: p.Key.secret}
		m.SetTsig(p.Key.name, p.Key.algorithm, uint16(tsigFudge/time.Second), now().Unix())
	}
	reply, _, err := client.ExchangeContext(ctx, m, p.Addr)
	switch {
	case err != nil && reply != nil && reply.Rcode == wire.RcodeNotAuth:
		return reply, nil // what it says of the key is not signed by it
	case err != nil:
		return nil, err
	case p.Key != nil && reply.IsTsig() == nil && reply.Rcode == wire.RcodeSuccess:
		return nil, errUnsigned
	}
	return reply, nil
}

// recordsOf returns records as they are shown. What carries the message itself is none.
func recordsOf(rrs []wire.RR) []Record {
	var out []Record
	for _, rr := range rrs {
		h := rr.Header()
		if h.Rrtype == wire.TypeOPT || h.Rrtype == wire.TypeTSIG || h.Rdlength == 0 {
			continue
		}
		out = append(out, Record{
			Name: cleaned(h.Name), Type: wire.TypeToString[h.Rrtype], TTL: h.Ttl, Data: dataOf(rr),
		})
	}
	return out
}

// dataOf returns the data of a record as a zone file has it.
func dataOf(rr wire.RR) string { return strings.TrimPrefix(rr.String(), rr.Header().String()) }

// Text returns the text of a TXT record, its strings joined, and "" for another type.
func (r Record) Text() string {
	rrs, err := parsed([]Record{r})
	if err != nil {
		return ""
	}
	if txt, ok := rrs[0].(*wire.TXT); ok {
		return unescaped(txt.Txt)
	}
	return ""
}

// parsed returns records as the library has them.
func parsed(records []Record) ([]wire.RR, error) {
	var out []wire.RR
	for _, r := range records {
		rr, err := wire.NewRR(r.String())
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s %s: %w", r.Name, r.Type, err)
		case rr == nil:
			return nil, fmt.Errorf("%s %s: no record", r.Name, r.Type)
		}
		out = append(out, rr)
	}
	return out, nil
}

// Delegated reports whether a DS record fits a key of a zone, both as LookupData returns them.
func Delegated(zone string, ds, keys []string) bool {
	records := func(kind string, data []string) (out []wire.RR) {
		for _, one := range data {
			if rrs, err := parsed([]Record{{Name: zone, Type: kind, Data: one}}); err == nil {
				out = append(out, rrs...)
			}
		}
		return out
	}
	for _, rr := range records("DS", ds) {
		want, ok := rr.(*wire.DS)
		if !ok {
			continue
		}
		for _, rr := range records("DNSKEY", keys) {
			if key, ok := rr.(*wire.DNSKEY); ok {
				got := key.ToDS(want.DigestType)
				if got != nil && got.KeyTag == want.KeyTag && strings.EqualFold(got.Digest, want.Digest) {
					return true
				}
			}
		}
	}
	return false
}
