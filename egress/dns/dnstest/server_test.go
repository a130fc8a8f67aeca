package dnstest

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const text = `
$ORIGIN example.com.
$TTL 300
@       IN SOA ns root 1 3600 600 86400 77
@       IN MX 10 mx
mx      IN A 192.0.2.1
deep.er IN A 192.0.2.2
alias   IN CNAME mx
*.wild  IN A 127.0.0.2
big     IN TXT "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
`

func ask1(t *testing.T, s *Server, network, name string, qtype uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	c := dns.Client{Net: network, Timeout: 5 * time.Second}
	reply, _, err := c.Exchange(m, s.Addr())
	if err != nil {
		t.Fatalf("%s over %s: %v", name, network, err)
	}
	return reply
}

// TestServer_Transports: the zone is served over both transports.
func TestServer_Transports(t *testing.T) {
	s := Start(t, text)
	for _, tt := range []struct {
		name    string
		asked   string
		qtype   uint16
		rcode   int
		answers int
		minimum uint32 // of the SOA in a negative answer
	}{
		{"a record", "example.com.", dns.TypeMX, 0, 1, 0},
		{"in any case", "EXAMPLE.com.", dns.TypeMX, 0, 1, 0},
		{"a CNAME and its target", "alias.example.com.", dns.TypeA, 0, 2, 0},
		{"the CNAME itself", "alias.example.com.", dns.TypeCNAME, 0, 1, 0},
		{"no such record, with the zone's SOA", "mx.example.com.", dns.TypeMX, 0, 0, 77},
		{"a name with only children exists", "er.example.com.", dns.TypeA, 0, 0, 77},
		{"no such name", "nx.example.com.", dns.TypeA, dns.RcodeNameError, 0, 77},
		{"no such name under no SOA", "nx.elsewhere.", dns.TypeA, dns.RcodeNameError, 0, 60},
		{"a wildcard", "1.2.3.4.wild.example.com.", dns.TypeA, 0, 1, 0},
		{"the wildcard's parent is not covered", "wild.example.com.", dns.TypeA, 0, 0, 77},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(tt.name+" over "+network, func(t *testing.T) {
				got := ask1(t, s, network, tt.asked, tt.qtype)
				if got.Rcode != tt.rcode || len(got.Answer) != tt.answers {
					t.Fatalf("got %v", got)
				}
				if tt.minimum > 0 && (len(got.Ns) != 1 || got.Ns[0].(*dns.SOA).Minttl != tt.minimum) {
					t.Errorf("got authority %v, want a SOA with minimum %d", got.Ns, tt.minimum)
				}
			})
		}
	}
	if got := s.Count("EXAMPLE.COM", "MX"); got != (Count{2, 2}) {
		t.Errorf("counted %+v", got)
	}
}

// TestServer_SetZone: the zone is swapped while running.
func TestServer_SetZone(t *testing.T) {
	s := Start(t, text)
	if err := s.SetZone("other. 300 IN A 192.0.2.1\n"); err != nil {
		t.Fatal(err)
	}
	if got := ask1(t, s, "udp", "other.", dns.TypeA); len(got.Answer) != 1 {
		t.Errorf("got %v", got)
	}
	if err := s.SetZone("nonsense"); err == nil || !strings.Contains(err.Error(), "line: 1") {
		t.Errorf("a zone that does not parse: got %v", err)
	}
	if got := ask1(t, s, "udp", "other.", dns.TypeA); len(got.Answer) != 1 {
		t.Errorf("after a zone that does not parse: got %v", got)
	}
	if _, err := Listen("127.0.0.1:0", "nonsense"); err == nil {
		t.Error("Listen took a zone that does not parse")
	}
}

// TestServer_SetFault: faults stand for their question only and run out.
func TestServer_SetFault(t *testing.T) {
	s := Start(t, text)
	s.SetFault("mx.example.com", "A", Fault{Rcode: "SERVFAIL", Times: 2})
	s.SetFault("*", "MX", Fault{Flaw: Truncate})
	var got []int
	for range 3 {
		got = append(got, ask1(t, s, "udp", "mx.example.com.", dns.TypeA).Rcode)
	}
	if !slices.Equal(got, []int{2, 2, 0}) {
		t.Errorf("got rcodes %v", got)
	}
	if m := ask1(t, s, "udp", "example.com.", dns.TypeMX); !m.Truncated || len(m.Answer) != 0 {
		t.Errorf("got %v", m)
	}
	if m := ask1(t, s, "tcp", "example.com.", dns.TypeMX); m.Truncated || len(m.Answer) != 1 {
		t.Errorf("got %v", m)
	}
	s.SetFault("*", "MX", Fault{})
	if m := ask1(t, s, "udp", "example.com.", dns.TypeMX); m.Truncated {
		t.Errorf("got %v", m)
	}
}

// TestServer_Close: Close drops held answers.
func TestServer_Close(t *testing.T) {
	s, err := Listen("127.0.0.1:0", text)
	if err != nil {
		t.Fatal(err)
	}
	s.SetFault("*", "*", Fault{Until: make(chan struct{})})
	s.SetFault("mx.example.com", "*", Fault{Delay: time.Hour})
	for _, name := range []string{"example.com.", "mx.example.com."} {
		conn, err := net.Dial("udp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		m := new(dns.Msg)
		m.SetQuestion(name, dns.TypeA)
		raw, _ := m.Pack()
		if _, err := conn.Write(raw); err != nil {
			t.Fatal(err)
		}
		s.Await(name, "A", 1)
	}
	s.Close()
	s.Close()
}
