package policy_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// A stranger that says EHLO and MAIL again and again, and never names a recipient, makes us look up none of its names.
func TestScoreCost_NoLookupBeforeRcpt(t *testing.T) {
	client := clientAt(1)
	s := scored{zone: zen + mailServer(client)}
	w := s.world(t)
	n := world.Start(t, w)
	c := comes(t, n, client)
	says(t, c, "NOOP", "250")
	world.Await(t, "what is asked about the address", func() bool {
		return w.DNS.Count(reversed(client)+".in-addr.arpa.", "PTR").UDP > 0 &&
			w.DNS.Count(nameOf(client)+".", "A").UDP > 0
	})
	const names = 45 // as many as one connection may have without a message, RSET included
	for i := range names {
		says(t, c, fmt.Sprintf("EHLO h%d.attacker.example", i), "250")
		says(t, c, fmt.Sprintf("MAIL FROM:<a@m%d.attacker.example>", i), "250")
		says(t, c, "RSET", "250")
	}
	for i := range names {
		for _, name := range []string{"h", "m"} {
			for _, qtype := range []string{"A", "AAAA", "MX", "TXT"} {
				if asked := w.DNS.Count(fmt.Sprintf("%s%d.attacker.example.", name, i),
					qtype); asked.UDP+asked.TCP > 0 {
					t.Fatalf("%s%d was asked for its %s", name, i, qtype)
				}
			}
		}
	}
}

// A client that is over the rate of connections is told so, and its address is not looked up.
func TestScoreCost_OverTheRate(t *testing.T) {
	zone := zen
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, 113, byte(i + 1)}) }
	s := scored{zone: zone, score: "lists: [{zone: zen.example, weight: 10}]\nrates: {network: 3/1h}\n"}
	w := s.world(t)
	n := world.Start(t, w)
	const clients = 20
	for i := range clients {
		c := world.Dial(t,
			source.Config{
				Addr: n.Addr, Helo: "mx.client.example", Timeout: world.Patience,
				Proxy: source.ProxyV1(netip.AddrPortFrom(at(i), 40000), netip.MustParseAddrPort("192.0.2.1:25")),
			})
		says(t, c, "MAIL FROM:<a@client.example>", "250")
		r, err := c.Command("RCPT TO:<b@x.example>")
		if err != nil {
			t.Fatal(err)
		}
		if over := strings.HasPrefix(r.String(), "450 4.7.1"); over != (i >= 3) {
			t.Fatalf("client %d: %s", i, r)
		}
	}
	for i := range clients {
		listed := w.DNS.Count(reversed(at(i))+".zen.example.", "A")
		names := w.DNS.Count(reversed(at(i))+".in-addr.arpa.", "PTR")
		if asked := listed.UDP+names.UDP > 0; asked != (i < 3) {
			t.Errorf("client %d: %d questions to the list and %d for its names", i, listed.UDP, names.UDP)
		}
	}
}
