package node

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

// TestPublication: a key signs until a look-up answers that its record is absent or another, and once it was seen it
// stays in use.
func TestPublication(t *testing.T) {
	newKey := func() (dkim.SigningKey, string) {
		key, err := dkim.GenerateKey(dkim.Ed25519SHA256, 0)
		if err != nil {
			t.Fatal(err)
		}
		record, err := dkim.KeyRecord(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return dkim.SigningKey{Domain: "Example.org", Selector: "s", Key: key}, "s._domainkey.example.org. 60 IN " +
			"TXT \"" +
			record + "\"\n"
	}
	ours, record := newKey()
	_, other := newKey()
	names := dnstest.Start(t, "")
	var lines []string
	p := &publication{
		wake: make(chan struct{}, 1), ring: auth.Keyring{Relay: []dkim.SigningKey{ours}}, states: map[string]keyState{},
		say: func(level slog.Level, message string, _ ...any) {
			lines = append(lines, fmt.Sprint(level, " ", message))
		},
	}
	newResolver := func() *dns.Resolver {
		r, err := dns.New(dns.Config{Servers: []string{names.Addr()}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return r
	}
	var err error
	p.auth, err = auth.New(auth.Config{AuthservID: "mx.example.org", Resolver: newResolver().Plain()})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.auth.Use(p.ring); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name, zone string
		fails      bool
		signs, all bool
		says       string
	}{
		{"a failure says nothing", "", true, true, false, ""},
		{"absent", "", false, false, false, "WARN a key does not sign until its record is in the DNS"},
		{"absent still", "", false, false, false, ""},
		{"a failure lets it not sign", "", true, false, false, ""},
		{"another key", other, false, false, false, ""},
		{"there", other + record, false, true, true, "INFO a key signs, its record is in the DNS"},
		{"gone again", "", false, true, true, ""},
	} {
		lines = nil
		if err := names.SetZone(step.zone); err != nil {
			t.Fatal(err)
		}
		names.SetFault("*", "*", dnstest.Fault{})
		if step.fails {
			names.SetFault("*", "*", dnstest.Fault{Rcode: "SERVFAIL"})
		}
		p.resolver = newResolver() // which remembers nothing
		if all := p.look(t.Context()); all != step.all || p.auth.MaySign() != step.signs ||
			strings.Join(lines, ", ") != step.says {
			t.Errorf("%s: all seen: %t, signs: %t, said %q", step.name, all, p.auth.MaySign(), lines)
		}
	}
	next, _ := newKey()
	next.Selector = "next"
	if err := p.replace(auth.Keyring{Relay: []dkim.SigningKey{ours, next}}); err != nil || len(p.wake) != 1 {
		t.Fatal(err)
	}
	if p.look(t.Context()) || len(p.published().Relay) != 1 {
		t.Errorf("of a seen and an absent key sign %v", p.published().Relay)
	}
}
