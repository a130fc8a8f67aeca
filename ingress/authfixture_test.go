package ingress

import (
	"crypto/sha256"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// publishKey makes a key of a domain and publishes it in a zone.
func publishKey(t testing.TB, z ingresstest.Zone, domain, selector string, a dkim.Algorithm) dkim.SigningKey {
	t.Helper()
	k, err := dkim.GenerateKey(a, 2048)
	if err != nil {
		t.Fatal(err)
	}
	record, err := dkim.KeyRecord(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	z[dkim.KeyName(selector, domain)] = []string{record}
	return dkim.SigningKey{Domain: domain, Selector: selector, Key: k}
}

// An authFixture is a fixture in which messages are judged.
type authFixture struct {
	*fixture
	zone   ingresstest.Zone
	relay  *ingresstest.Relay
	store  *ingresstest.Store // stands for one that several nodes share
	keys   auth.Keyring
	sender dkim.SigningKey // of b.example
	bank   dkim.SigningKey // of bank.example, whose policy is reject
}

// testMarkKey is of 16 octets.
var testMarkKey = []byte("sixteen octets!!")

// judge serves sessions that judge, and sign if sign is set. change comes last.
func serveAuth(t *testing.T, routes rules, relay Relay, sign bool,
	change func(*Config, *wire.Config)) *authFixture {
	t.Helper()
	z := ingresstest.Zone{
		"b.example":           {"v=spf1 ip4:127.0.0.1 -all"},
		"client.example":      {"v=spf1 -all"},
		"evil.example":        {"v=spf1 ip4:127.0.0.1 -all"},
		"list.example":        {"v=spf1 ip4:127.0.0.1 -all"},
		"bank.example":        {"v=spf1 -all"},
		"_dmarc.bank.example": {"v=DMARC1; p=reject; aspf=s; adkim=s"},
	}
	c := &authFixture{zone: z, store: &ingresstest.Store{}}
	c.relay, _ = relay.(*ingresstest.Relay)
	c.sender = publishKey(t, z, "b.example", "s", dkim.Ed25519SHA256)
	c.bank = publishKey(t, z, "bank.example", "s", dkim.Ed25519SHA256)
	a, err := auth.New(auth.Config{
		AuthservID: "mx.example.net", Resolver: z, Sealers: []string{"trusted.example"}, Lists: []string{
			"list.example"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if sign {
		seal := publishKey(t, z, "example.net", "arc", dkim.RSASHA256)
		c.keys = auth.Keyring{
			ARC: &seal,
			Relay: []dkim.SigningKey{
				publishKey(t, z, "example.net", "r", dkim.RSASHA256),
				publishKey(t, z, "example.net", "e", dkim.Ed25519SHA256),
			},
			Domains: map[string][]dkim.SigningKey{
				"example.com": {publishKey(t, z, "example.com", "d", dkim.RSASHA256)},
			},
		}
		if err := a.Use(c.keys); err != nil {
			t.Fatal(err)
		}
	}
	checker, err := spf.New(spf.Config{Resolver: z})
	if err != nil {
		t.Fatal(err)
	}
	c.fixture = serve(t, routes, relay, func(cfg *Config, wc *wire.Config) {
		m := &cfg.Message
		m.Auth, m.SPF, m.Store, m.MarkKeys = a, checker, c.store, [][]byte{testMarkKey}
		if change != nil {
			change(cfg, wc)
		}
	})
	return c
}

// signed puts a DKIM-Signature of key above header and body. Header has no empty line.
func signed(t testing.TB, key dkim.SigningKey, header, body string) string {
	t.Helper()
	s, err := dkim.NewSigner(dkim.SignConfig{Keys: []dkim.SigningKey{key}})
	if err != nil {
		t.Fatal(err)
	}
	h := dkim.NewBodyHash(dkim.Relaxed)
	_, _ = h.Write([]byte(body))
	field, err := s.Sign(nil, []byte(header+"\r\n"), dkim.Relaxed, h.Sum())
	if err != nil {
		t.Fatal(err)
	}
	return string(field) + header + "\r\n" + body
}

// send sends a message whose lines are plain, from reverse to rcpts, and wants an answer to its end.
func (c *authFixture) send(reverse, message, want string, rcpts ...string) string {
	c.t.Helper()
	c.open(reverse, rcpts...)
	c.say("DATA", "354")
	return c.say(stuff(message)+".", want)
}

func (c *authFixture) open(reverse string, rcpts ...string) {
	c.t.Helper()
	c.say("MAIL FROM:<"+reverse+">", "250")
	for _, r := range rcpts {
		c.say("RCPT TO:<"+r+">", "250")
	}
}

func stuff(plain string) string {
	if strings.HasPrefix(plain, ".") {
		plain = "." + plain
	}
	return strings.ReplaceAll(plain, "\r\n.", "\r\n..")
}

// unstuff undoes stuff, in octets that do not begin with a dot.
func unstuff(wire string) string { return strings.ReplaceAll(wire, "\r\n..", "\r\n.") }

// below splits what was delivered last into our fields, which it returns, and what stands below them, which must be
// want.
func (c *authFixture) below(want string) []dkim.Field {
	c.t.Helper()
	if len(c.relay.Got) == 0 {
		c.t.Fatal("nothing was delivered")
	}
	got := c.relay.Got[len(c.relay.Got)-1]
	octets := got.Octets
	if got.Form == mail.Stuffed {
		octets = unstuff(octets)
	}
	fields, ok := strings.CutSuffix(octets, want)
	if !ok {
		c.t.Fatalf("the message was changed: %d octets, want %d at the end of\n%.3000q", len(octets), len(want), octets)
	}
	if len(fields) > got.Delivery.Extra {
		c.t.Errorf("our fields take %d octets, upstream was told of %d", len(fields), got.Delivery.Extra)
	}
	return slices.Collect(dkim.Fields([]byte(fields)))
}

// names returns the names of fields.
func names(fields []dkim.Field) string {
	var all []string
	for _, f := range fields {
		all = append(all, string(f.Name()))
	}
	return strings.Join(all, " ")
}

const (
	sealedNames = "Received ARC-Seal ARC-Message-Signature ARC-Authentication-Results Authentication-Results " +
		"DKIM-Signature DKIM-Signature DKIM-Signature"
	// arcNames are those above a message that its author domain has signed.
	arcNames      = "Received ARC-Seal ARC-Message-Signature ARC-Authentication-Results Authentication-Results"
	unsealedNames = "Received Authentication-Results"
)

// verify verifies all signatures and the chain of what was delivered last.
func (c *authFixture) verify(wantSignatures int) {
	c.t.Helper()
	got := c.relay.Got[len(c.relay.Got)-1]
	text := got.Octets
	if got.Form == mail.Stuffed {
		text = unstuff(text)
	}
	header, body, _ := strings.Cut(text, "\r\n\r\n")
	header += "\r\n\r\n"
	v, err := dkim.NewVerifier(dkim.Config{Resolver: c.zone})
	if err != nil {
		c.t.Fatal(err)
	}
	m, err := v.Begin(c.t.Context(), []byte(header))
	if err != nil {
		c.t.Fatal(err)
	}
	m.Want(dkim.Simple)
	m.Want(dkim.Relaxed)
	_, _ = m.Write([]byte(body))
	all := m.Finish()
	for _, s := range all {
		if s.Result != dkim.Pass {
			c.t.Errorf("signature of %s/%s: %v", s.Domain, s.Selector, s.Result)
		}
	}
	if len(all) != wantSignatures {
		c.t.Errorf("%d signatures, want %d", len(all), wantSignatures)
	}
	av, err := arc.New(arc.Config{Resolver: c.zone})
	if err != nil {
		c.t.Fatal(err)
	}
	chain, err := av.Begin(c.t.Context(), []byte(header))
	if err != nil {
		c.t.Fatal(err)
	}
	r := chain.Finish(func(k dkim.Canonicalization) ([sha256.Size]byte, bool) { return m.BodyHash(k) })
	if r.CV != arc.Pass || r.Sealer != "example.net" {
		c.t.Errorf("chain: %v of %s, %s", r.CV, r.Sealer, r.Reason)
	}
}

func from(domain, rest string) string {
	return "From: <someone@" + domain +
		">\r\nTo: <info@example.com>\r\nDate: Mon, 23 Nov 2026 00:00:00 +0000\r\nMessage-ID: <1@" + domain +
		">\r\nSubject: x\r\n" + rest
}

// lines returns about n octets of body with dots.
func lines(n int) string {
	return strings.Repeat("0123456789012345678901234567890123456789\r\n.dot\r\n..dots\r\n", n/57+1)
}

// forged are results that pretend to be ours.
const forged = "Authentication-Results: mx.example.net;\r\n\tdkim=pass\r\n"
