package policy_test

import (
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
	if held && !strings.Contains(end.Auth.String(), c.auth) || (end.Mode == mail.ModeHold) != held {
		t.Errorf("mode %v, found %q, want %q", end.Mode, end.Auth.String(), c.auth)
	}
	if strings.HasPrefix(c.name, "require_auth=no") && strings.Contains(end.Auth.String(), "unauthenticated") {
		t.Errorf("found %q", end.Auth.String())
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
