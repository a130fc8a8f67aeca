package dns

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	wire "github.com/miekg/dns"
)

// TestNewQuery: a query is random in ID and case and asks for what was meant.
func TestNewQuery(t *testing.T) {
	ids, names := map[uint16]bool{}, map[string]bool{}
	for range 50 {
		q, err := newQuery("mail-exchanger.of.example.com", wire.TypeMX, true, true)
		if err != nil {
			t.Fatal(err)
		}
		var m wire.Msg
		if err := m.Unpack(q.raw); err != nil {
			t.Fatal(err)
		}
		opt := m.IsEdns0()
		if len(m.Question) != 1 || !m.RecursionDesired || !m.AuthenticatedData || opt == nil ||
			opt.UDPSize() != ednsSize || opt.Do() {
			t.Fatalf("got %v", &m)
		}
		if got := m.Question[0]; !strings.EqualFold(got.Name, "mail-exchanger.of.example.com.") ||
			got.Qtype != wire.TypeMX || got.Qclass != wire.ClassINET {
			t.Fatalf("got %v", got)
		}
		ids[m.Id], names[m.Question[0].Name] = true, true
	}
	if len(ids) < 40 || len(names) < 40 {
		t.Errorf("50 queries had %d IDs and %d spellings", len(ids), len(names))
	}
	q, err := newQuery(".", wire.TypeNS, false, false)
	if err != nil || !bytes.Equal(q.question, []byte{0, 0, 2, 0, 1}) {
		t.Errorf("the root: got %x, %v", q.question, err)
	}
}

// replyTo packs a reply to q after change had its way with it.
func replyTo(q *query, change func(*wire.Msg)) []byte {
	var m wire.Msg
	if err := m.Unpack(q.raw); err != nil {
		panic(err)
	}
	m.Response = true
	m.Extra = nil
	change(&m)
	raw, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return raw
}

func records(text ...string) []wire.RR {
	var rrs []wire.RR
	for _, s := range text {
		rr, err := wire.NewRR(s)
		if err != nil {
			panic(err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

// TestQuery_Read: what a reply means.
func TestQuery_Read(t *testing.T) {
	const soa = "example.com. 900 IN SOA a. b. 1 2 3 4 60"
	for _, tt := range []struct {
		name   string
		change func(*wire.Msg)
		want   error
		kind   error
		next   string
		ttl    int
		hosts  int
	}{
		{"records", func(m *wire.Msg) { m.Answer = records("example.com. 300 IN MX 1 a.") }, nil, nil, "", 300, 1},
		{"records of other owners, types and classes do not count", func(m *wire.Msg) {
			m.Answer = records("example.com. 300 IN MX 1 a.", "example.org. 1 IN MX 1 b.",
				"example.com. 1 IN A 192.0.2.1", "example.com. 1 CH MX 1 c.")
		}, nil, nil, "", 300, 1},
		{"a TTL with the top bit set is 0", func(m *wire.Msg) {
			m.Answer = records("example.com. 4294967295 IN MX 1 a.")
		}, nil, nil, "", 0, 1},
		{"no such record, with the SOA's minimum", func(m *wire.Msg) {
			m.Ns = records(soa)
		}, nil, ErrNoData, "", 60, 0},
		{"no such record without SOA is not to be kept", func(m *wire.Msg) {}, nil, ErrNoData, "", 0, 0},
		{"no such domain", func(m *wire.Msg) {
			m.Rcode, m.Ns = wire.RcodeNameError, records(soa)
		}, nil, ErrNXDomain, "", 60, 0},
		{"a CNAME whose target has no such record", func(m *wire.Msg) {
			m.Answer, m.Ns = records("example.com. 300 IN CNAME a.example.com."), records(soa)
		}, nil, ErrNoData, "", 60, 0},
		{"a CNAME left to us", func(m *wire.Msg) {
			m.Answer = records("example.com. 300 IN CNAME A.example.com.")
		}, nil, nil, "a.example.com", 300, 0},
		{"a CNAME to what is no name", func(m *wire.Msg) {
			m.Answer = records(`example.com. 300 IN CNAME a\.b.example.com.`)
		}, ErrBadReply, nil, "", 0, 0},
		{"CNAMEs in any order", func(m *wire.Msg) {
			m.Answer = records("b. 300 IN MX 1 mx.", "a. 20 IN CNAME b.", "example.com. 30 IN CNAME a.")
		}, nil, nil, "", 20, 1},
		{"records of a name said not to exist", func(m *wire.Msg) {
			m.Rcode, m.Answer = wire.RcodeNameError, records("example.com. 300 IN MX 1 a.")
		}, ErrBadReply, nil, "", 0, 0},
		{"a referral", func(m *wire.Msg) { m.Ns = records("com. 300 IN NS a.") }, ErrServer, nil, "", 0, 0},
		{"SERVFAIL", func(m *wire.Msg) { m.Rcode = wire.RcodeServerFailure }, ErrServer, nil, "", 0, 0},
		{"FORMERR to EDNS0", func(m *wire.Msg) { m.Rcode = wire.RcodeFormatError }, errNoEDNS, nil, "", 0, 0},
		{"truncated", func(m *wire.Msg) { m.Truncated = true }, errTruncated, nil, "", 0, 0},
		{"another case", func(m *wire.Msg) { m.Question[0].Name = flip(m.Question[0].Name) }, errCase, nil, "", 0, 0},
		{"another name", func(m *wire.Msg) { m.Question[0].Name = "example.org." }, errForeign, nil, "", 0, 0},
		{"another type", func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeA }, errForeign, nil, "", 0, 0},
		{"another class", func(m *wire.Msg) { m.Question[0].Qclass = wire.ClassCHAOS }, errForeign, nil, "", 0, 0},
		{"another ID", func(m *wire.Msg) { m.Id++ }, errForeign, nil, "", 0, 0},
		{"another opcode", func(m *wire.Msg) { m.Opcode = wire.OpcodeNotify }, errForeign, nil, "", 0, 0},
		{"no response", func(m *wire.Msg) { m.Response = false }, errForeign, nil, "", 0, 0},
		{"no question", func(m *wire.Msg) { m.Question = nil }, errForeign, nil, "", 0, 0},
		{"no question and FORMERR", func(m *wire.Msg) {
			m.Question, m.Rcode = nil, wire.RcodeFormatError
		}, errNoEDNS, nil, "", 0, 0},
		{"two questions", func(m *wire.Msg) {
			m.Question = append(m.Question, m.Question[0])
		}, errForeign, nil, "", 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q, err := newQuery("example.com", wire.TypeMX, true, false)
			if err != nil {
				t.Fatal(err)
			}
			got, err := q.read(replyTo(q, tt.change), true)
			var f *failure
			if errors.As(err, &f) {
				err = f.kind
			}
			if !errors.Is(err, tt.want) || !errors.Is(got.kind, tt.kind) || got.next != tt.next ||
				len(got.mx) != tt.hosts {
				t.Errorf("got %+v, %v", got, err)
			}
			if err == nil && int(got.ttl.Seconds()) != tt.ttl {
				t.Errorf("got TTL %v, want %d s", got.ttl, tt.ttl)
			}
		})
	}
}

// flip returns name with its first letter in the other case.
func flip(name string) string {
	b := []byte(name)
	b[0] ^= 'a' - 'A'
	return string(b)
}

// FuzzReply holds that a packet is believed only if it repeats the question, and that what is believed is bounded.
func FuzzReply(f *testing.F) {
	fixed := func(qtype uint16) *query {
		q, err := newQuery("example.com", qtype, true, false)
		if err != nil {
			panic(err)
		}
		copy(q.raw, "\x12\x34")
		copy(q.question, "\x07example\x03com")
		return q
	}
	types := []uint16{wire.TypeMX, wire.TypeA, wire.TypeAAAA, wire.TypeTXT, wire.TypePTR}
	for i, qtype := range types {
		for _, text := range []string{
			"example.com. 300 IN MX 10 mx.example.com.", "example.com. 300 IN A 192.0.2.1",
			"example.com. 300 IN AAAA 2001:db8::1",
			`example.com. 300 IN TXT "v=spf1 \"\200" "-all"`, "example.com. 300 IN PTR mx.example.com.",
			"example.com. 300 IN CNAME a.example.com.",
		} {
			f.Add(uint8(i), replyTo(fixed(qtype), func(m *wire.Msg) {
				m.Answer = records(text, "a.example.com. 1 IN CNAME example.com.")
			}))
		}
		f.Add(uint8(i), replyTo(fixed(qtype), func(m *wire.Msg) {
			m.Rcode, m.Ns = wire.RcodeNameError, records("com. 300 IN SOA a. b. 1 2 3 4 5")
		}))
	}
	f.Add(uint8(0), []byte("\x12\x34\x81\x01\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, kind uint8, raw []byte) {
		q := fixed(types[int(kind)%len(types)])
		before := slices.Clone(raw)
		got, err := q.read(raw, kind%2 == 0)
		if !bytes.Equal(raw, before) {
			t.Fatal("the packet was changed")
		}
		if err != nil {
			if n := len(got.mx) + len(got.ips) + len(got.texts); n > 0 {
				t.Fatalf("%d records and the error %v", n, err)
			}
			return
		}
		if !bytes.EqualFold(raw[headerSize:headerSize+len(q.question)], q.question) ||
			!bytes.Equal(raw[:2], q.raw[:2]) {
			t.Fatal("a reply to another question was believed")
		}
		n := len(got.mx) + len(got.ips) + len(got.texts)
		if n > maxRecords || got.cnames > maxChain || got.ttl < 0 || got.ttl > longest {
			t.Fatalf("out of bounds: %d records, %d CNAMEs, TTL %v", n, got.cnames, got.ttl)
		}
		if (n > 0) != (got.kind == nil && got.next == "") {
			t.Fatalf("%d records, next %q, kind %v", n, got.next, got.kind)
		}
		if got.next != "" {
			if name, ok := canonical(got.next); !ok || name != got.next {
				t.Fatalf("%q is to be asked next", got.next)
			}
		}
		if !slices.IsSortedFunc(got.mx, func(a, b MX) int { return int(a.Pref) - int(b.Pref) }) {
			t.Fatal("MX records are not in order")
		}
	})
}

// FuzzName holds that canonical is idempotent and that what it admits makes a question with exactly that name.
func FuzzName(f *testing.F) {
	for _, s := range []string{
		"example.com", "EXAMPLE.com.", ".", "", "..", "a..b", `a\.b`, "_dmarc.x", strings.Repeat("a.", 126) + "a",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, ok := canonical(s)
		if !ok {
			return
		}
		if again, ok := canonical(name); !ok || again != name {
			t.Fatalf("%q became %q and then %q", s, name, again)
		}
		q, err := newQuery(name, wire.TypeA, true, false)
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		var m wire.Msg
		if err := m.Unpack(q.raw); err != nil || len(m.Question) != 1 {
			t.Fatalf("%q: %v", name, err)
		}
		if end := len(q.raw) - 11; len(q.question) != end-headerSize {
			t.Fatalf("%q: the question has %d octets, want %d", name, len(q.question), end-headerSize)
		}
	})
}
