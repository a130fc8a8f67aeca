package egress

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// ends sends one message and returns the first octets of the reply that it ended with.
func ends(t *testing.T, w *world, d mail.Delivery, to string) string {
	t.Helper()
	ctx := mail.Until(t.Context(), time.Now().Add(30*time.Second))
	tx, err := w.relay.Begin(ctx, d)
	if err == nil {
		defer tx.Abort()
		if err = tx.Rcpt(ctx, path(to)); err == nil {
			err = tx.Data(ctx, mail.Stuffed)
		}
	}
	if err != nil {
		return mail.ReplyFor(err).String()
	}
	return tx.Commit(ctx, octets(message))[0].Reply.String()
}

// TestCases_Destinations_DNS: MX records as they are in the field lead to a host, or to the refusal that says why not.
func TestCases_Destinations_DNS(t *testing.T) {
	var huge, many strings.Builder
	for i := range 150 {
		fmt.Fprintf(&huge, "huge.test. 60 IN MX %d h%03d-%s.huge.test.\n", i, i, strings.Repeat("x", 36))
	}
	fmt.Fprintf(&huge, "h000-%s.huge.test. 60 IN A 127.0.0.1\n", strings.Repeat("x", 36))
	for i := range 12 {
		fmt.Fprintf(&many, "many.mx.test. 60 IN A 127.0.3.%d\n", i+1)
	}
	records := `
mxcname.test. 60 IN MX 10 alias.mxcname.test.
alias.mxcname.test. 60 IN CNAME real.mxcname.test.
real.mxcname.test. 60 IN A 127.0.0.1
cname.test. 60 IN CNAME target.cname.test.
target.cname.test. 60 IN MX 10 mx.cname.test.
mx.cname.test. 60 IN A 127.0.0.1
cnamenomx.test. 60 IN CNAME host.cnamenomx.test.
host.cnamenomx.test. 60 IN A 127.0.0.1
literal.test. 60 IN MX 10 127.0.0.1.
literal2.test. 60 IN MX 10 127.0.0.1.
literal2.test. 60 IN MX 20 ok.literal2.test.
ok.literal2.test. 60 IN A 127.0.0.1
underscore.test. 60 IN MX 10 mail_1.underscore.test.
mail_1.underscore.test. 60 IN A 127.0.0.1
nullmixed.test. 60 IN MX 0 .
nullmixed.test. 60 IN MX 10 ok.nullmixed.test.
ok.nullmixed.test. 60 IN A 127.0.0.1
null10.test. 60 IN MX 10 .
nullpref.test. 60 IN MX 0 .
doubled.test. 60 IN MX 10 mx.doubled.test.doubled.test.
dead.test. 60 IN MX 1 live.dead.test.
dead.test. 60 IN MX 10 gone.dead.test.
live.dead.test. 60 IN A 127.0.0.1
dead2.test. 60 IN MX 1 gone.dead2.test.
dead2.test. 60 IN MX 10 live.dead2.test.
live.dead2.test. 60 IN A 127.0.0.1
servfail1.test. 60 IN MX 1 sf.servfail1.test.
servfail1.test. 60 IN MX 10 live.servfail1.test.
live.servfail1.test. 60 IN A 127.0.0.1
nxmx.test. 60 IN A 127.0.0.1
servmx.test. 60 IN A 127.0.0.1
nxaaaa.test. 60 IN MX 10 h.nxaaaa.test.
h.nxaaaa.test. 60 IN A 127.0.0.1
sfaaaa.test. 60 IN MX 10 h.sfaaaa.test.
h.sfaaaa.test. 60 IN A 127.0.0.1
notimpaaaa.test. 60 IN MX 10 h.notimpaaaa.test.
h.notimpaaaa.test. 60 IN A 127.0.0.1
toaaaa.test. 60 IN MX 10 h.toaaaa.test.
h.toaaaa.test. 60 IN A 127.0.0.1
aonly.test. 60 IN A 127.0.0.1
dup.test. 60 IN MX 10 h.dup.test.
dup.test. 60 IN MX 20 H.Dup.Test.
h.dup.test. 60 IN A 127.0.0.1
many.test. 60 IN MX 10 many.mx.test.
many.mx.test. 60 IN A 127.0.0.1
local.test. 60 IN MX 10 localhost.
` + huge.String() + many.String()
	s := smtptest.Start(t, smtptest.Behaviour{})
	w := newWorldOf(t, records, port(t, s), nil)
	w.dns.SetFault("sf.servfail1.test", "*", dnstest.Fault{Rcode: "SERVFAIL"})
	w.dns.SetFault("nxmx.test", "MX", dnstest.Fault{Rcode: "NXDOMAIN"})
	w.dns.SetFault("servmx.test", "MX", dnstest.Fault{Rcode: "SERVFAIL"})
	w.dns.SetFault("h.nxaaaa.test", "AAAA", dnstest.Fault{Rcode: "NXDOMAIN"})
	w.dns.SetFault("h.sfaaaa.test", "AAAA", dnstest.Fault{Rcode: "SERVFAIL"})
	w.dns.SetFault("h.notimpaaaa.test", "AAAA", dnstest.Fault{Rcode: "NOTIMP"})
	w.dns.SetFault("h.toaaaa.test", "AAAA", dnstest.Fault{Flaw: dnstest.Drop})
	for name, want := range map[string]string{
		"mxcname": "250", "cname": "250", "cnamenomx": "250", "literal": "451 4.4.4", "literal2": "250",
		"underscore": "250", "nullmixed": "250", "null10": "556 5.1.10", "nullpref": "556 5.1.10",
		"doubled": "451 4.4.4", "dead": "250", "dead2": "250", "servfail1": "250", "nxmx": "250",
		"servmx": "451 4.4.3", "nxaaaa": "250", "sfaaaa": "250", "notimpaaaa": "250", "toaaaa": "250", "aonly": "250",
		"dup": "250", "huge": "250", "many": "250", "local": "451 4.4.4",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := ends(t, w, to(name+".test"), "b@"+name+".test")
			if name == "many" && got[0] == '4' { // more addresses than an attempt tries
				got = ends(t, w, to(name+".test"), "b@"+name+".test")
			}
			if !strings.HasPrefix(got, want) {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// TestCases_Destinations_Extensions: what a host offers and says of parameters, however odd, keeps no mail from it by
// the second attempt.
func TestCases_Destinations_Extensions(t *testing.T) {
	offers := func(lines ...string) smtptest.Behaviour { return smtptest.Behaviour{Extensions: lines} }
	says := func(verb, reply string) smtptest.Behaviour {
		return smtptest.Behaviour{Answers: map[string]smtptest.Answer{verb: {Reply: reply}}}
	}
	mailWith := func(what, reply string) smtptest.Behaviour {
		return smtptest.Behaviour{Size: -1, On: func(s smtptest.Step) (smtptest.Answer, bool) {
			return smtptest.Answer{Reply: reply}, s.Verb == "MAIL" && strings.Contains(s.Line, what)
		}}
	}
	for _, c := range []struct {
		name   string
		server smtptest.Behaviour
		want   string
	}{
		{"SIZE 0", offers("SIZE 0", "8BITMIME"), "250"},
		{"SIZE alone", offers("SIZE"), "250"},
		{"SIZE twice", offers("SIZE 41943040", "SIZE 1000000"), "250"},
		{"SIZE=1000000", offers("SIZE=1000000"), "250"},
		{"SIZE -1", offers("SIZE -1"), "250"},
		{"SIZE beyond all numbers", offers("SIZE 99999999999999999999"), "250"},
		{"in lower case", offers("size 5000000", "pipelining"), "250"},
		{"MAIL 555 with SIZE", mailWith("SIZE=", "555 5.5.4 unsupported parameter"), "250"},
		{"MAIL 501 with any parameter", mailWith("> ", "501 5.5.4 syntax"), "250"},
		{"BDAT LAST 250 twice", says(smtptest.Dot, "250 chunk ok\n250 2.0.0 queued"), "250"},
		{"RCPT 251", says("RCPT", "251 2.1.5 will forward"), "250"},
		{"RCPT 252", says("RCPT", "252 2.1.5 cannot verify"), "250"},
		{"RCPT 354", says("RCPT", "354 hm"), "451 4.5.0"},
		{"RCPT 552 for too many", says("RCPT", "552 5.5.3 too many recipients"), "452 4.5.3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, _ := one(t, c.server, nil)
			got := ends(t, w, to("one.test"), "b@one.test")
			if !strings.HasPrefix(got, c.want) {
				got = ends(t, w, to("one.test"), "b@one.test")
			}
			if !strings.HasPrefix(got, c.want) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// TestCases_Destinations_LMTP: LMTP servers as they are in the field.
func TestCases_Destinations_LMTP(t *testing.T) {
	offered := []string{"PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", "CHUNKING", "VRFY"}
	says := func(verb, reply string) smtptest.Behaviour {
		return smtptest.Behaviour{Extensions: offered, Answers: map[string]smtptest.Answer{verb: {Reply: reply}}}
	}
	broken := says("STARTTLS", "220 go\nrubbish")
	broken.TLS = smtptest.NewCA().Server("mx")
	for _, c := range []struct {
		name   string
		server smtptest.Behaviour
		want   string
	}{
		{"well", says(smtptest.Dot, "250 2.0.0 <alice@hosted.example> id Saved"), "250"},
		{"TLS", smtptest.Behaviour{Extensions: offered, TLS: smtptest.NewCA().Server("mx")}, "250"},
		{"a handshake that fails", broken, "250"},
		{"over quota at the dot, for good", says(smtptest.Dot, "552 5.2.2 <alice> Quota exceeded"), "552 5.2.2"},
		{"over quota at the dot", says(smtptest.Dot, "452 4.2.2 <alice> Quota exceeded"), "452 4.2.2"},
		{"over quota at RCPT", says("RCPT", "552 5.2.2 over quota"), "552 5.2.2"},
		{"no such user", says("RCPT", "550 5.1.1 <alice> User doesn't exist: alice"), "550 5.1.1"},
		{"430 before AUTH", says("MAIL", "430 Authentication required"), "430"},
		{"530 before AUTH", says("MAIL", "530 5.7.0 Authentication required"), "451 4.7.0"},
		{"it is an SMTP server", says("LHLO", "500 5.5.1 what"), "451 4.4.1"},
		{"no extension", smtptest.Behaviour{Extensions: []string{}}, "250"},
		{"a reply in two lines", says(smtptest.Dot, "250-2.1.5 scanned\n250 2.1.5 Ok SESSIONID=<x>"), "250"},
		{"two replies for one recipient", says(smtptest.Dot, "250 2.1.5 ok\n250 2.1.5 ok"), "250"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.server.LMTP = true
			w, s := one(t, c.server, nil)
			d := to("fixed.test")
			d.NextHop = mail.NextHop{Transport: mail.LMTP, Host: "fixed.test", Port: uint16(port(t, s))}
			if got := ends(t, w, d, "b@fixed.test"); !strings.HasPrefix(got, c.want) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// TestCases_Destinations_Content: a refusal of a message's content that begins with our address in brackets passes as
// it is, and puts off no other mail for that domain.
func TestCases_Destinations_Content(t *testing.T) {
	for name, reply := range map[string]string{
		"as one large provider says it": "550-5.7.1 [127.0.0.1      19] This message looks like bulk mail that\n" +
			"550 5.7.1 nobody asked for, and was not taken.",
		"on one line":         "550 5.7.1 [127.0.0.1] This message looks like bulk mail, and was not taken.",
		"with our name there": "554 5.7.1 [relay.test] This message is spam, and was not taken.",
		"for its attachment":  "552-5.7.0 [127.0.0.1 19] This message was\n552 5.7.0 blocked for its attachment.",
	} {
		t.Run(name, func(t *testing.T) {
			w, s := one(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
				return smtptest.Answer{Reply: reply},
					s.Verb == smtptest.Dot && strings.Contains(s.Message.Reverse, "spam")
			}}, nil)
			for n := range 4 {
				d := from(n, "one.test")
				d.Reverse.Local = "spam"
				code, _, _ := strings.Cut(reply, " ")
				if got := ends(t, w, d, "b@one.test"); !strings.HasPrefix(got, code[:3]+" 5.7.") {
					t.Errorf("network %d reads %s", n, got)
				}
			}
			for n := range 20 {
				if got := ends(t, w, from(n, "one.test"), "b@one.test"); !strings.HasPrefix(got, "250") {
					t.Errorf("mail of network %d: %s", n, got)
				}
			}
			if events := w.events(); len(events) != 0 {
				t.Errorf("events: %+v", events)
			}
			if n := s.Counts().Messages; n != 20 {
				t.Errorf("%d messages were taken", n)
			}
		})
	}
}
