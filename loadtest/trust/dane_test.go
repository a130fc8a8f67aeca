// Package trust plays what destinations ask of TLS against name servers that sign and validate.
package trust

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/mail"
)

// zones are what the name servers hold: domains of dane.test, which is signed, of bogus.test, whose signatures are not
// those that the resolver believes, and of plain.test. {PORT} is the port of their host, {OWN} the digest of its key
// and {OTHER} another one.
var zones = []extern.Zone{
	{Name: "dane.test", Signed: true, Text: head("dane.test") + `
host A 127.0.0.1
valid MX 10 mx.valid
mx.valid A 127.0.0.1
_{PORT}._tcp.mx.valid TLSA 3 1 1 {OWN}
wrong MX 10 mx.wrong
mx.wrong A 127.0.0.1
_{PORT}._tcp.mx.wrong TLSA 3 1 1 {OTHER}
rotating MX 10 mx.rotating
mx.rotating A 127.0.0.1
_{PORT}._tcp.mx.rotating TLSA 3 1 1 {OTHER}
_{PORT}._tcp.mx.rotating TLSA 3 1 1 {OWN}
none MX 10 mx.none
mx.none A 127.0.0.1
usage0 MX 10 mx.usage0
mx.usage0 A 127.0.0.1
_{PORT}._tcp.mx.usage0 TLSA 0 1 1 {OTHER}
usage1 MX 10 mx.usage1
mx.usage1 A 127.0.0.1
_{PORT}._tcp.mx.usage1 TLSA 1 1 1 {OTHER}
end MX 10 mx.end
mx.end CNAME host
_{PORT}._tcp.host TLSA 3 1 1 {OWN}
_{PORT}._tcp.mx.end TLSA 3 1 1 {OTHER}
begin MX 10 mx.begin
mx.begin CNAME bare
bare A 127.0.0.1
_{PORT}._tcp.mx.begin TLSA 3 1 1 {OTHER}
out MX 10 mx.out
mx.out CNAME host.plain.test.
_{PORT}._tcp.mx.out TLSA 3 1 1 {OTHER}
away MX 10 mx.away.plain.test.
alone A 127.0.0.1
_{PORT}._tcp.alone TLSA 3 1 1 {OTHER}
`},
	{Name: "bogus.test", Signed: true, Bogus: true, Text: head("bogus.test") + `
any MX 10 mx.any
mx.any A 127.0.0.1
`},
	{Name: "plain.test", Text: head("plain.test") + `
host A 127.0.0.1
any MX 10 mx.any
mx.any A 127.0.0.1
_{PORT}._tcp.mx.any TLSA 3 1 1 {OTHER}
mx.away A 127.0.0.1
_{PORT}._tcp.mx.away TLSA 3 1 1 {OTHER}
`},
}

func head(zone string) string {
	return "$ORIGIN " + zone + ".\n$TTL 60\n@ SOA ns h 1 60 60 600 60\n@ NS ns\nns A 127.0.0.1\n"
}

// A world is the one host of all domains, and its name servers.
type world struct {
	host *smtptest.Server
	dns  *extern.Signed
	text strings.Replacer

	resumed atomic.Int32 // handshakes in which the host took up a TLS session of before
}

// start starts them. The host shows the certificate that OWN is of, or offers no TLS.
func start(t *testing.T, secure bool) *world {
	t.Helper()
	shown := smtptest.NewCA().Certificate("other.test")
	w := new(world)
	var b smtptest.Behaviour
	if secure {
		b.TLS = &tls.Config{Certificates: []tls.Certificate{shown}}
		b.TLS.VerifyConnection = func(s tls.ConnectionState) error {
			if s.DidResume {
				w.resumed.Add(1)
			}
			return nil
		}
	}
	w.host = smtptest.Start(t, b)
	_, port, _ := net.SplitHostPort(w.host.Addr())
	own := sha256.Sum256(shown.Leaf.RawSubjectPublicKeyInfo)
	w.text = *strings.NewReplacer("{PORT}", port, "{OWN}", hex.EncodeToString(own[:]), "{OTHER}",
		strings.Repeat("ab", sha256.Size))
	var all []extern.Zone
	for _, z := range zones {
		z.Text = w.text.Replace(z.Text)
		all = append(all, z)
	}
	w.dns = extern.StartSigned(t, all...)
	return w
}

// relay returns a relay that asks the name servers, and trusts what they say of signatures or not. Each message has a
// session of its own.
func (w *world) relay(t *testing.T, trust bool) *egress.Relay {
	t.Helper()
	resolver, err := dns.New(dns.Config{Servers: []string{w.dns.Addr}, TrustAD: trust})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(resolver.Close)
	_, port, _ := net.SplitHostPort(w.host.Addr())
	var n uint16
	fmt.Sscan(port, &n)
	alone, err := mx.ParseProviders("test", "limits * connections=20 messages=1 idle=30s age=10m\n")
	if err != nil {
		t.Fatal(err)
	}
	r, err := egress.NewRelay(egress.Config{
		Helo: "relay.test", Port: n, Resolver: resolver, AllowPrivate: true, Providers: alone,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

// send sends a message to a domain and returns the answer and how it went.
func send(t *testing.T, r *egress.Relay, domain string) (string, mail.Taken) {
	t.Helper()
	leg := new(mail.Leg)
	tx, err := r.Begin(t.Context(), mail.Delivery{
		NextHop: mail.NextHop{Transport: mail.MX, Host: domain}, Reverse: mail.Path{Local: "a", Domain: "client.test"},
		RecipientDomain: domain, Leg: leg,
	})
	if err == nil {
		err = tx.Rcpt(t.Context(), mail.Path{Local: "b", Domain: domain})
	}
	if err == nil {
		err = tx.Data(t.Context(), mail.Stuffed)
	}
	if err != nil {
		if tx != nil {
			tx.Abort()
		}
		return mail.ReplyFor(err).String()[:9], leg.Session
	}
	out := tx.Commit(t.Context(), mail.Octets{Segments: net.Buffers{[]byte("Subject: x\r\n\r\nx\r\n")}})
	return out[0].Reply.String()[:9], leg.Session
}

// TestDANE: what Knot has signed, or not, and Unbound says of it decides what the host has to show.
func TestDANE(t *testing.T) {
	secure := start(t, true)
	trusting, careless := secure.relay(t, true), secure.relay(t, false)
	clear := start(t, false)
	inClear := clear.relay(t, true)
	unusable := mail.TLSReport{Policy: mail.PolicyTLSA, Result: mail.TLSARecordsInvalid}
	const taken, put, dns = "250 2.0.0", "451 4.7.5", "451 4.4.3"
	for _, c := range []struct {
		domain             string
		trusting, careless string
		clear              string
		report             mail.TLSReport
	}{
		{"valid.dane.test", taken, taken, put, mail.TLSReport{Policy: mail.PolicyTLSA}},
		{"wrong.dane.test", put, taken, put, mail.TLSReport{}},
		{"rotating.dane.test", taken, taken, put, mail.TLSReport{Policy: mail.PolicyTLSA}},
		{"none.dane.test", taken, taken, taken, mail.TLSReport{}},
		{"usage0.dane.test", taken, taken, put, unusable},
		{"usage1.dane.test", taken, taken, put, unusable},
		{"end.dane.test", taken, taken, put, mail.TLSReport{Policy: mail.PolicyTLSA}},
		{"begin.dane.test", put, taken, put, mail.TLSReport{}},
		{"out.dane.test", put, taken, put, mail.TLSReport{}},
		{"away.dane.test", taken, taken, taken, mail.TLSReport{}},
		{"alone.dane.test", put, taken, put, mail.TLSReport{}},
		{"any.plain.test", taken, taken, taken, mail.TLSReport{}},
		{"any.bogus.test", dns, dns, dns, mail.TLSReport{}},
	} {
		got, session := send(t, trusting, c.domain)
		if got != c.trusting || session.Report != c.report {
			t.Errorf("%s: got %s and %+v, want %s and %+v", c.domain, got, session.Report, c.trusting, c.report)
		}
		if got, _ := send(t, careless, c.domain); got != c.careless {
			t.Errorf("%s, AD not trusted: got %s, want %s", c.domain, got, c.careless)
		}
		if got, _ := send(t, inClear, c.domain); got != c.clear {
			t.Errorf("%s, no TLS: got %s, want %s", c.domain, got, c.clear)
		}
	}
	// A TLS session is resumed, and so it is when the record that named the certificate is withdrawn: what it showed
	// then is not what is asked for now.
	for _, domain := range []string{"rotating.dane.test", "valid.dane.test"} {
		before := secure.resumed.Load()
		got, session := send(t, trusting, domain)
		if got != taken || session.Kind != mail.SessionResumed || secure.resumed.Load() == before {
			t.Fatalf("%s, before the rotation: got %s in a session that is %s", domain, got, session.Kind)
		}
	}
	text := strings.Replace(zones[0].Text, "_{PORT}._tcp.mx.rotating TLSA 3 1 1 {OWN}\n", "", 1)
	text = strings.Replace(text, "SOA ns h 1 ", "SOA ns h 2 ", 1)
	secure.dns.Change(t, "dane.test", secure.text.Replace(text))
	before := secure.resumed.Load()
	if got, _ := send(t, trusting, "rotating.dane.test"); got != put || secure.resumed.Load() == before {
		t.Errorf("behind the rotation: got %s, and %d sessions were resumed", got, secure.resumed.Load()-before)
	}
	got, session := send(t, trusting, "valid.dane.test")
	if got != taken || session.Kind != mail.SessionResumed {
		t.Errorf("beside the rotation: got %s in a session that is %s", got, session.Kind)
	}
}
