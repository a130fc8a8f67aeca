package policy_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/loadtest/world"
	"github.com/millrace/millrace/router/mail"
)

// The names of our fields above a message that is not signed, one whose author's own signature passes, and one that had
// none that is aligned.
const (
	namesUnsealed = "Received Authentication-Results"
	namesARC      = "Received ARC-Seal ARC-Message-Signature ARC-Authentication-Results Authentication-Results"
	// Two keys of the relay, one of the hosted domain.
	namesAll    = namesARC + " DKIM-Signature DKIM-Signature DKIM-Signature"
	notAccepted = "550 5.7.26"
	triedLater  = "451 4.7.0"
)

// A policyCase is a message and what becomes of it, whatever its size.
type policyCase struct {
	name    string
	mail    authMail // without octets
	author  string
	fields  string                           // above From
	dress   func(header, body string) string // signs it; nil leaves it unsigned
	want    string                           // what the reply begins with
	auth    string                           // is in Event.Auth of the message when it is held
	results string                           // is in our Authentication-Results field when it is held
	over    string                           // the override that is recorded
	rewrite func(header string) string       // takes the place of the header section
}

func policyCases(t testing.TB, r authRecords) []policyCase {
	signed := func(domain string) func(string, string) string {
		return func(header, body string) string { return signedBy(t, domain, header, body, dkim.Relaxed) }
	}
	replayed := func(domain string) func(string, string) string { // a good header section, another body
		return func(header, body string) string { return signedBy(t, domain, header, body+"more\r\n", dkim.Relaxed) }
	}
	lost := func(domain string) func(string, string) string {
		return func(header, body string) string {
			return strings.Replace(signedBy(t, domain, header, body, dkim.Relaxed), "s=s;", "s=lost;", 1)
		}
	}
	sealed := func(domain, results string) func(string, string) string {
		return func(header, body string) string { return chainedBy(t, r, domain, header, body, domain+"; "+results) }
	}
	const list = "List-Id: <l.esp.example>\r\nList-Post: <mailto:l@esp.example>\r\n"
	stranger := authMail{client: authStranger, reverse: "a@esp.example"}
	to := func(address string) authMail {
		return authMail{client: authStranger, reverse: "a@esp.example", to: address}
	}
	return []policyCase{
		// DMARC, p=reject.
		{
			name: "reject: neither SPF nor DKIM", mail: stranger, author: "reject.example",
			want: notAccepted + " The DMARC policy of reject.example rejects", auth: "spf=fail dkim=none dmarc=fail",
		},
		{
			name: "reject: SPF is aligned", mail: authMail{reverse: "a@reject.example"}, author: "reject.example",
			want: "250", auth: "spf=pass dkim=none dmarc=pass",
		},
		{
			name: "reject: SPF passes for another domain", mail: authMail{reverse: "a@esp.example"},
			author: "reject.example", want: notAccepted, auth: "spf=pass dkim=none dmarc=fail",
		},
		{
			name: "reject: SPF of a subdomain is aligned", mail: authMail{reverse: "a@sub.parent.example"},
			author: "parent.example", want: "250", auth: "dmarc=pass",
		},
		{
			name: "reject: DKIM is aligned", mail: stranger, author: "reject.example", dress: signed("reject.example"),
			want: "250", auth: "spf=fail dkim=pass dmarc=pass",
		},
		{
			name: "reject: DKIM of another domain", mail: stranger, author: "reject.example",
			dress: signed("esp.example"), want: notAccepted, auth: "dkim=pass dmarc=fail",
		},
		{
			name: "reject: DKIM over another body", mail: stranger, author: "reject.example",
			dress: replayed("reject.example"), want: notAccepted, auth: "dkim=fail dmarc=fail",
		},
		{
			name: "reject: a signature without a key", mail: stranger, author: "reject.example",
			dress: signed("keyless.example"), want: notAccepted, auth: "dkim=permerror dmarc=fail",
		},
		{
			name: "reject: strict alignment, a subdomain signs", mail: stranger, author: "strict.example",
			dress: signed("esp.example"), want: notAccepted, auth: "dmarc=fail",
		},
		{
			name: "reject: a subdomain by sp", mail: stranger, author: "sub.parent.example", want: notAccepted,
			auth: "dmarc=fail",
		},
		{
			name: "reject: a subdomain that does not exist by np", mail: stranger, author: "no.parent.example",
			want: notAccepted, auth: "dmarc=fail",
		},
		{
			name: "reject: p=none of the parent itself", mail: stranger, author: "parent.example", want: "250",
			auth: "dmarc=fail",
		},
		{
			name: "reject: the null sender", mail: authMail{client: authStranger, helo: "client.example"},
			author: "reject.example", want: notAccepted, auth: "dmarc=fail",
		},
		{
			name: "reject: the null sender of a host that is aligned", mail: authMail{helo: "reject.example"},
			author: "reject.example", want: "250", auth: "dmarc=pass",
		},
		// What a hosted domain wants.
		{
			name: "dmarc=report", mail: to("info@report.example"), author: "reject.example", want: "250",
			auth: "dmarc=fail", results: "dmarc=fail (p=reject",
		},
		{name: "dmarc=off", mail: to("info@off.example"), author: "reject.example", want: "250", auth: "spf=fail"},
		{name: "another domain enforces", mail: to("info@no.example"), author: "reject.example", want: notAccepted},
		{
			name: "postmaster", mail: to("postmaster@x.example"), author: "reject.example", want: "250",
			results: "dmarc=fail",
		},
		{name: "abuse", mail: to("Abuse@yes.example"), author: "reject.example", want: "250"},
		{name: "postmaster without a domain", mail: to("Postmaster"), author: "reject.example", want: "250"},
		{
			name: "a trusted client", mail: authMail{client: authTrusted, reverse: "a@esp.example"},
			author: "reject.example", want: "250",
		},
		// Other policies.
		{
			name: "none", mail: stranger, author: "none.example", want: "250", auth: "dmarc=fail",
			results: "policy.dmarc=none",
		},
		{name: "no policy", mail: stranger, author: "nothing.example", want: "250", auth: "dmarc=none"},
		{
			name: "quarantine", mail: stranger, author: "quarantine.example", want: "250", auth: "dmarc=fail",
			results: "policy.dmarc=quarantine",
		},
		{
			name: "quarantine=refuse", mail: to("info@refuse.example"), author: "quarantine.example",
			want: notAccepted + " The DMARC policy of quarantine.example quarantines",
		},
		{
			name: "quarantine=refuse and an aligned signature", mail: to("info@refuse.example"),
			author: "quarantine.example", dress: signed("quarantine.example"), want: "250",
		},
		{
			name: "t=y of reject is quarantine", mail: stranger, author: "tested.example", want: "250",
			auth: "dmarc=fail", results: "policy.dmarc=quarantine",
		},
		{
			name: "t=y of reject where quarantine is refused", mail: to("info@refuse.example"),
			author: "tested.example", want: notAccepted,
		},
		{
			name: "t=y of quarantine is none", mail: to("info@refuse.example"), author: "testedq.example", want: "250",
			results: "policy.dmarc=none",
		},
		{
			name: "pct=0 of reject counts for nothing", mail: stranger, author: "pct.example", want: notAccepted,
			auth: "dmarc=fail",
		},
		{
			name: "nor does pct=0 of quarantine", mail: to("info@refuse.example"), author: "pctq.example",
			want: notAccepted,
		},
		// What speaks for a client.
		{
			name: "fields of a list, and SPF passes for any domain", mail: authMail{reverse: "l-bounces@esp.example"},
			author: "reject.example", fields: list, want: notAccepted, auth: "dmarc=fail",
		},
		{
			name: "a list that is named, by SPF", mail: authMail{reverse: "l-bounces@list.example"},
			author: "reject.example", want: "250", auth: "dmarc=fail arc=none (list)", over: "list",
			results: "not enforced: list",
		},
		{
			name: "a list that is named, by DKIM", mail: stranger, author: "reject.example",
			dress: signed("list.example"), want: "250", auth: "dmarc=fail arc=none (list)", over: "list",
		},
		{
			name: "a list that is named, SPF fails", mail: authMail{client: authStranger, reverse: "l@list.example"},
			author: "reject.example", fields: list, want: notAccepted, auth: "dmarc=fail",
		},
		{
			name: "a list without a reverse-path", mail: authMail{helo: "list.example"}, author: "reject.example",
			fields: list, want: notAccepted,
		},
		{
			name: "a newsletter is no list", mail: authMail{reverse: "l@esp.example"}, author: "reject.example",
			fields: "List-Unsubscribe: <https://esp.example>\r\n", want: notAccepted,
		},
		{
			name: "a trusted sealer that saw it pass", mail: stranger, author: "reject.example",
			dress: sealed("sealer.example", "dmarc=pass header.from=reject.example"), want: "250",
			auth: "dmarc=fail arc=pass (trusted ARC sealer)", over: "trusted ARC sealer",
		},
		{
			name: "a trusted sealer that saw it fail", mail: stranger, author: "reject.example",
			dress: sealed("sealer.example", "dmarc=fail header.from=reject.example"), want: notAccepted,
			auth: "arc=pass",
		},
		{
			name: "a trusted sealer that saw another author pass", mail: stranger, author: "reject.example",
			dress: sealed("sealer.example", "dmarc=pass header.from=esp.example"), want: notAccepted,
		},
		{
			name: "a sealer whom nobody trusts", mail: stranger, author: "reject.example",
			dress: sealed("other.example", "dmarc=pass header.from=reject.example"), want: notAccepted,
			auth: "arc=pass",
		},
		{name: "a trusted sealer's set above another body", mail: stranger, author: "reject.example",
			dress: func(h, b string) string {
				return sealed("sealer.example", "dmarc=pass")(h, b+"more\r\n")
			}, want: notAccepted, auth: "arc=fail"},
		// Authors.
		{
			name: "several From fields, one of them forged", mail: stranger, author: "none.example",
			fields: "From: b@reject.example\r\n", want: notAccepted,
		},
		{
			name: "a From field that cannot be read in one way", mail: authMail{reverse: "a@reject.example"},
			author: "none.example", rewrite: authors("Scanner @ Home, Ltd <a@reject.example.>"), want: "250",
			auth: "dmarc=pass",
		},
		{
			name: "several authors, one of them forged", mail: authMail{reverse: "a@esp.example"},
			author: "none.example", rewrite: authors("a@esp.example, b@reject.example"), want: notAccepted,
		},
		{
			name: "several authors, none of them with a policy", mail: authMail{reverse: "a@esp.example"},
			author: "none.example", rewrite: authors("a@esp.example, b@nothing.example"), want: "250",
		},
		{
			name: "an author in an encoded word", mail: stranger, author: "none.example",
			rewrite: authors("=?utf-8?q?a=40reject.example?="), want: notAccepted,
		},
		{name: "no From field", mail: stranger, author: "none.example", rewrite: func(h string) string {
			return h[strings.Index(h, "To:"):]
		}, want: "250", auth: "dmarc=permerror"},
		{
			name: "a From field without an address", mail: stranger, author: "none.example",
			rewrite: authors("MAILER-DAEMON <>"), want: "250",
		},
		// require_auth.
		{
			name:   "require_auth=yes: nothing",
			mail:   authMail{client: authStranger, reverse: "a@nothing.example", to: "info@yes.example"},
			author: "nothing.example", want: notAccepted + " This message is not authenticated",
			auth: "unauthenticated",
		},
		{
			name: "require_auth=report: nothing", mail: authMail{client: authStranger, reverse: "a@nothing.example"},
			author: "nothing.example", want: "250", auth: "unauthenticated",
		},
		{
			name:   "require_auth=no: nothing",
			mail:   authMail{client: authStranger, reverse: "a@nothing.example", to: "info@no.example"},
			author: "nothing.example", want: "250",
		},
		{
			name: "require_auth=yes: SPF", mail: authMail{reverse: "a@esp.example", to: "info@yes.example"},
			author: "nothing.example", want: "250",
		},
		{
			name:   "require_auth=yes: SPF of HELO",
			mail:   authMail{helo: "esp.example", reverse: "a@nothing.example", to: "info@yes.example"},
			author: "nothing.example", want: "250",
		},
		{
			name: "require_auth=yes: DKIM of any domain", mail: to("info@yes.example"), author: "nothing.example",
			dress: signed("esp.example"), want: "250",
		},
		{
			name: "require_auth=yes: DKIM over another body", mail: to("info@yes.example"), author: "nothing.example",
			dress: replayed("esp.example"), want: notAccepted,
		},
		{
			name: "require_auth=yes: a trusted sealer", mail: to("info@yes.example"), author: "nothing.example",
			dress: sealed("sealer.example", "none"), want: "250",
		},
		{
			name: "require_auth=yes: the null sender", mail: authMail{client: authStranger, to: "info@yes.example"},
			author: "nothing.example", want: "250",
		},
		{
			name: "require_auth=yes: postmaster", mail: to("postmaster@yes.example"), author: "nothing.example",
			want: "250",
		},
		{name: "require_auth=yes: abuse", mail: to("abuse@yes.example"), author: "nothing.example", want: "250"},
		{
			name:   "require_auth=yes: a trusted client",
			mail:   authMail{client: authTrusted, reverse: "a@nothing.example", to: "info@yes.example"},
			author: "nothing.example", want: "250",
		},
		// DNS that says SERVFAIL.
		{name: "temperror: the policy", mail: stranger, author: "nopolicy.example", want: triedLater},
		{
			name: "temperror: the policy, for postmaster", mail: to("postmaster@x.example"), author: "nopolicy.example",
			want: "250",
		},
		{
			name: "temperror: the policy, where it is only reported", mail: to("info@report.example"),
			author: "nopolicy.example", want: "250",
		},
		{
			name: "temperror: the key", mail: stranger, author: "reject.example", dress: lost("reject.example"),
			want: triedLater,
		},
		{
			name: "temperror: the key, where SPF does", mail: authMail{reverse: "a@reject.example"},
			author: "reject.example", dress: lost("reject.example"), want: "250",
		},
		{
			name: "temperror: the key of p=none", mail: stranger, author: "none.example", dress: lost("none.example"),
			want: "250",
		},
		{name: "temperror: SPF", mail: authMail{reverse: "a@nospf.example"}, author: "nospf.example", want: triedLater},
		{
			name: "temperror: SPF, where DKIM does", mail: authMail{reverse: "a@nospf.example"},
			author: "nospf.example", dress: signed("nospf.example"), want: "250",
		},
		{
			name: "temperror: SPF of another domain", mail: authMail{reverse: "a@nospf.example"},
			author: "reject.example", want: notAccepted,
		},
		{
			name: "temperror: require_auth", mail: authMail{reverse: "a@nospf.example", to: "info@yes.example"},
			author: "nothing.example", want: triedLater,
		},
		{name: "temperror: the key of a trusted sealer", mail: stranger, author: "reject.example",
			dress: func(h, b string) string {
				return strings.ReplaceAll(sealed("sealer.example", "dmarc=pass")(h, b), "s=s;", "s=lost;")
			}, want: triedLater},
	}
}

// authors takes another From field.
func authors(list string) func(string) string {
	return func(header string) string {
		from := strings.Index(header, "From:")
		end := from + strings.Index(header[from:], "\r\n")
		return header[:from] + "From: " + list + header[end:]
	}
}

// publishFaults has the names whose answer is SERVFAIL.
func publishFaults(t testing.TB, r authRecords, d *dnstest.Server) {
	t.Helper()
	r["nospf.example"] = "v=spf1 -all" // never told
	r["_dmarc.nospf.example"] = "v=DMARC1; p=reject"
	r[dkim.KeyName(authSelector, "nospf.example")] = r[dkim.KeyName(authSelector, "reject.example")]
	if err := d.SetZone(r.zone()); err != nil {
		t.Fatal(err)
	}
	servfail := dnstest.Fault{Rcode: "SERVFAIL"}
	d.SetFault("nospf.example", "TXT", servfail)
	d.SetFault("_dmarc.nopolicy.example", "TXT", servfail)
	for _, domain := range []string{"reject.example", "none.example", "sealer.example"} {
		d.SetFault(dkim.KeyName("lost", domain), "TXT", servfail)
	}
}

// TestAuth_Policy sends each case by DATA and by BDAT, held and streamed, to a node
// that signs and to one that does not.
func TestAuth_Policy(t *testing.T) {
	t.Parallel()
	for _, seal := range []bool{false, true} {
		t.Run(map[bool]string{false: "without keys", true: "with keys"}[seal], func(t *testing.T) {
			t.Parallel()
			n := startAuthNode(t, authSetup{seal: seal})
			publishFaults(t, n.records, n.dns)
			for i, size := range []int{200, 400 << 10} {
				for _, c := range policyCases(t, n.records) {
					c.mail.how = carriages[i]
					t.Run(fmt.Sprintf("%d octets/%s", size, c.name), func(t *testing.T) { c.check(t, n, size) })
				}
			}
			world.Violations(t, n.dest)
		})
	}
}

func (c *policyCase) check(t *testing.T, n *authNode, size int) {
	header, body := authHeader(c.author, c.fields), authBody(size)
	if c.rewrite != nil {
		header = c.rewrite(header)
	}
	if c.dress != nil {
		header = c.dress(header, body)
	}
	before := len(n.dest.Messages())
	p := c.mail
	p.octets = header + "\r\n" + body
	reply := n.send(t, p)
	if !strings.HasPrefix(reply.String(), c.want) {
		t.Fatalf("%s, want %s", reply, c.want)
	}
	end, anomalies := n.event(t, reply)
	stored := n.dest.Messages()[before:]
	if accepted := reply.Class() == 2; accepted != (len(stored) == 1) || len(stored) > 1 {
		t.Fatalf("%s, and the destination stored %d", reply, len(stored))
	}
	if got := slices.ContainsFunc(anomalies, func(a string) bool {
		return a == "authentication overridden: "+c.over
	}); got != (c.over != "") {
		t.Errorf("anomalies %q, want the override %q", anomalies, c.over)
	}
	held := size < 1000
	if held && !strings.Contains(end.Auth, c.auth) || (end.Mode == mail.ModeHold) != held {
		t.Errorf("mode %v, found %q, want %q", end.Mode, end.Auth, c.auth)
	}
	if strings.HasPrefix(c.name, "require_auth=no") && strings.Contains(end.Auth, "unauthenticated") {
		t.Errorf("found %q", end.Auth)
	}
	if len(stored) == 0 {
		return
	}
	fields := ourFields(t, stored[0].Octets, p.octets)
	if got := fieldBody(fields, "Authentication-Results"); held && !strings.Contains(got, c.results) {
		t.Errorf("results %q, want %q", got, c.results)
	}
}

// TestAuth_TimeoutOfDNS has name servers that do not answer at all.
func TestAuth_TimeoutOfDNS(t *testing.T) {
	t.Parallel()
	n := startAuthNode(t, authSetup{})
	n.records["silent.example"] = "v=spf1 -all" // never told
	n.records["_dmarc.silent.example"] = "v=DMARC1; p=reject"
	if err := n.dns.SetZone(n.records.zone()); err != nil {
		t.Fatal(err)
	}
	silence := dnstest.Fault{Flaw: dnstest.Drop}
	n.dns.SetFault("_dmarc.mute.example", "TXT", silence)
	n.dns.SetFault("silent.example", "TXT", silence)
	n.dns.SetFault(dkim.KeyName("lost", "reject.example"), "TXT", silence)
	header := strings.Replace(signedBy(t, "reject.example", authHeader("reject.example"), "", dkim.Relaxed), "s=s;",
		"s=lost;", 1)
	for _, c := range []struct {
		name string
		p    authMail
	}{
		{
			"the policy",
			authMail{client: authStranger, reverse: "a@esp.example", octets: authHeader("mute.example") + "\r\n"},
		},
		{"SPF", authMail{reverse: "a@silent.example", octets: authHeader("silent.example") + "\r\n"}},
		{"the key", authMail{client: authStranger, reverse: "a@esp.example", octets: header + "\r\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if r := n.send(t, c.p); !strings.HasPrefix(r.String(), triedLater) {
				t.Errorf("got %s", r)
			}
			if got := n.dest.Counts().Messages; got != 0 {
				t.Errorf("%d messages stored", got)
			}
		})
	}
}

// forgeries are fields that a reader could take for ours, and are cut; look-alikes are not ours, and stay.
var (
	forgeries = []string{
		"Authentication-Results: mx.relay.example; dkim=pass header.d=bank.example\r\n",
		"AUTHENTICATION-RESULTS:MX.Relay.EXAMPLE 1;\r\n\tspf=pass\r\n",
		"Authentication-Results: (a (nested) comment)\r\n \"mx.relay.example\"; dmarc=pass\r\n",
		"Authentication-Results : mx.relay.example; dmarc=pass\r\n",
		"authentication-results:\r\n mx.relay.example\r\n ; dmarc=pass\r\n",
	}
	lookAlikes = []string{
		"Authentication-Results: mx.relay.example.net; dkim=pass\r\n",
		"Authentication-Results: other.example; dkim=pass reason=\"as mx.relay.example said\"\r\n",
		"X-Authentication-Results: mx.relay.example; dkim=pass\r\n",
		"..Authentication-Results: mx.relay.example; dkim=pass\r\n",
	}
)

// TestAuth_ForgedResults sends forged fields at the top, in the middle and at the end of a header
// section, in every mode and carriage, and compares each octet below our fields.
func TestAuth_ForgedResults(t *testing.T) {
	t.Parallel()
	n := startAuthNode(t, authSetup{seal: true, config: "redis: {url: \"" + world.StartRedis(t).URL() + "\"}"})
	for _, m := range []struct {
		name   string
		size   int
		signer string
		mode   mail.Mode
		names  string
	}{
		{"held in a slab", 3000, "none.example", mail.ModeHold, namesARC},
		{"held in several", 200 << 10, "none.example", mail.ModeHold, namesARC},
		{"held, not aligned", 3000, "esp.example", mail.ModeHold, namesAll},
		{"foretold", 700 << 10, "none.example", mail.ModePredict, namesARC},
		{"streamed", 700 << 10, "", mail.ModeStream, namesUnsealed},
	} {
		for _, how := range carriages {
			t.Run(m.name+" by "+how.name, func(t *testing.T) {
				body := authBody(m.size) + "Authentication-Results: mx.relay.example; in=the body\r\n"
				kept := lookAlikes[0] + authHeader("none.example") + strings.Join(lookAlikes[1:], "")
				forged := strings.Join(forgeries[:2], "") + lookAlikes[0] + forgeries[2] + authHeader("none.example") +
					forgeries[3] +
					strings.Join(lookAlikes[1:], "") + forgeries[4]
				if m.signer != "" {
					signature, _ := strings.CutSuffix(signedBy(t, m.signer, kept, body, dkim.Relaxed), kept)
					kept, forged = signature+kept, forgeries[0]+signature+forged
				}
				before := len(n.dest.Messages())
				reply := n.send(t, authMail{reverse: "a@none.example", octets: forged + "\r\n" + body, how: how})
				stored := n.dest.Messages()[before:]
				if reply.Class() != 2 || len(stored) != 1 {
					t.Fatalf("%s, %d stored", reply, len(stored))
				}
				fields := ourFields(t, stored[0].Octets, kept+"\r\n"+body)
				if got := fieldNames(fields); got != m.names {
					t.Errorf("our fields are %s", got)
				}
				if end, _ := n.event(t, reply); end.Mode != m.mode {
					t.Errorf("mode %v", end.Mode)
				}
				if with := map[bool]string{
					true: "with ESMTPS id", false: "with ESMTP id",
				}[how.starttls]; !strings.Contains(fieldBody(fields, "Received"), with) {
					t.Errorf("no %q in %s", with, fieldBody(fields, "Received"))
				}
				checkSealed(t, n.records, stored[0].Octets, m.names)
			})
		}
	}
	world.Violations(t, n.dest)
}

// checkSealed verifies our signatures where names has them, and every other signature.
func checkSealed(t testing.TB, keys authRecords, octets []byte, names string) {
	t.Helper()
	j := judgeArrived(t, keys, octets)
	for domain, passes := range j.dkim {
		if !passes {
			t.Errorf("the signature of %s fails", domain)
		}
	}
	if got := j.arc.CV.String() == "pass"; got != strings.Contains(names, "ARC-Seal") {
		t.Errorf("arc=%v: %s", j.arc.CV, j.arc.Reason)
	}
	if got := j.dkim["relay.example"] && j.dkim["x.example"]; got != strings.Contains(names, "DKIM-Signature") {
		t.Errorf("signatures by %v", j.dkim)
	}
}

// TestAuth_FoldedFirstLine has the line that would continue our lowest field below an empty one.
func TestAuth_FoldedFirstLine(t *testing.T) {
	t.Parallel()
	n := startAuthNode(t, authSetup{seal: true})
	for _, how := range carriages {
		for _, first := range []string{" ", "\t", " ; dmarc=pass"} {
			for _, size := range []int{100, 400 << 10} {
				r := n.send(t,
					authMail{
						reverse: "a@none.example",
						octets:  first + "\r\n" + authHeader("none.example") + "\r\n" + authBody(size), how: how,
					})
				if !strings.HasPrefix(r.String(), "250") {
					t.Errorf("%s, %q first, %d octets: %s", how.name, first, size, r)
				}
				all := n.dest.Messages()
				header, text, _ := bytes.Cut(all[len(all)-1].Octets, []byte("\r\n\r\n"))
				if !bytes.HasPrefix(text, []byte(first+"\r\n")) || bytes.Contains(header, []byte("dmarc=pass")) {
					t.Errorf("%s, %q first, %d octets: it is not parted from %q", how.name, first, size, header)
				}
			}
		}
	}
}

// TestAuth_RecipientsKeptApart has a client that sends for two domains at once.
func TestAuth_RecipientsKeptApart(t *testing.T) {
	t.Parallel()
	n := startAuthNode(t, authSetup{dest: smtptest.Start(t, smtptest.Behaviour{})})
	s := world.Dial(t, authSource(n.Addr, authStranger))
	r, ok, err := s.Envelope(authMessage("a@esp.example", "info@x.example", "info@report.example", "info@yes.example"))
	if err != nil || !ok {
		t.Fatal(err, ok)
	}
	for i, want := range []string{"250", "452 4.5.3", "452 4.5.3"} {
		if !strings.HasPrefix(r.Rcpt[i].String(), want) {
			t.Errorf("recipient %d: %s, want %s", i, r.Rcpt[i], want)
		}
	}
}
