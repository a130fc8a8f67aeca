package report

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

var contact = mail.Path{Local: "reports", Domain: "relay.example"}

var origin = Origin{Organization: "Relay <& Co>", Contact: contact.String(), Generator: "millrace test"}

// message returns the event of a message that was delivered.
func message(change func(*mail.Event, *mail.Evaluation)) *mail.Event {
	v := &mail.Evaluation{
		Domain: "example.com", Author: "news.example.com", Asked: "none", SPF: true,
		Policy: &mail.DMARCPolicy{P: "reject", SP: "none", ADKIM: "r", ASPF: "s", RUA: "mailto:r@example.com"},
	}
	e := &mail.Event{
		Kind: mail.Relayed, Ends: true, Client: netip.MustParseAddr("::ffff:192.0.2.1"), Helo: "mx.sender.example",
		Reverse: mail.Path{Local: "secret-sender", Domain: "News.Example.com"},
		To:      []mail.To{{Forward: mail.Path{Local: "secret-reader", Domain: "hosted.example"}}},
		Auth: &mail.Auth{SPF: "pass", Report: v, Signers: []mail.Signer{
			{Domain: "other.example", Result: "fail", Selector: "s1"},
			{Domain: "example.com", Result: "pass", Selector: "k"},
		}},
	}
	if change != nil {
		change(e, v)
	}
	return e
}

// session returns a session that worked under MTA-STS.
func session(change func(*mail.TLSSession)) mail.TLSSession {
	s := mail.TLSSession{
		Domain: "Example.com", Host: "MX.example.com.", Addr: netip.MustParseAddr("192.0.2.9"),
		Source:    netip.MustParseAddr("198.51.100.1"),
		Terms:     "version: STSv1\r\nmode: enforce\r\nmx: *.example.com\r\nmax_age: 86400\r\n",
		TLSReport: mail.TLSReport{Policy: mail.PolicySTS},
	}
	if change != nil {
		change(&s)
	}
	return s
}

// TestCounts_See: one row for each sender, result and identifiers; what is put off is counted when it comes again; no
// address is kept.
func TestCounts_See(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewCounts(time.Now, contact)
		for range 3 {
			c.See(message(nil))
		}
		c.See(message(func(e *mail.Event, _ *mail.Evaluation) { e.Kind = mail.Deferred }))
		c.See(message(func(e *mail.Event, _ *mail.Evaluation) { e.Ends = false }))
		c.See(message(func(e *mail.Event, _ *mail.Evaluation) { e.Auth.Report = nil }))
		c.See(message(func(e *mail.Event, _ *mail.Evaluation) { e.To[0].Forward = contact }))
		c.See(message(func(e *mail.Event, v *mail.Evaluation) {
			e.Kind, e.Reason, v.SPF, v.Asked, e.Reverse = mail.Refused, "dmarc", false, "reject", mail.Path{}
		}))
		p := c.Part(DMARC, dayOf(time.Now()), "example.com")
		if p == nil || len(p.Rows) != 2 || p.Rows[0].N != 3 || p.Rows[1].N != 1 {
			t.Fatalf("got %+v", p)
		}
		text, _ := json.Marshal(p)
		if strings.Contains(string(text), "secret") {
			t.Errorf("an address is kept: %s", text)
		}
		r := p.Rows[0]
		if r.Source.String() != "192.0.2.1" || r.SPF != "news.example.com pass" || r.Envelope != "news.example.com" ||
			r.Signers != "example.com k pass\nother.example s1 fail" || r.Aligned != alignedSPF {
			t.Errorf("got %+v", r)
		}
		r = p.Rows[1]
		if r.Disposition != "reject" || r.Override != "" || r.SPF != "mx.sender.example pass" || r.Envelope != "" {
			t.Errorf("got %+v", r)
		}
	})
}

// TestRow_Dispose: what was done with a message that fails, and why that is not what its domain asks for.
func TestRow_Dispose(t *testing.T) {
	by := func(asked string, overrides ...string) func(*mail.Event, *mail.Evaluation) {
		return func(e *mail.Event, v *mail.Evaluation) { v.Asked, e.Auth.Overrides = asked, overrides }
	}
	refused := func(asked, reason string) func(*mail.Event, *mail.Evaluation) {
		return func(e *mail.Event, v *mail.Evaluation) { e.Kind, e.Reason, v.Asked = mail.Refused, reason, asked }
	}
	for want, change := range map[string]func(*mail.Event, *mail.Evaluation){
		"none ":                  by("none"),
		"reject ":                refused("reject", "dmarc"),
		"reject local_policy":    refused("quarantine", "dmarc"),
		"none other":             refused("reject", "policy"),
		"none policy_test_mode":  func(_ *mail.Event, v *mail.Evaluation) { v.Policy.Testing = true },
		"none local_policy":      by("quarantine"),
		"none mailing_list":      by("reject", "list"),
		"none trusted_forwarder": by("reject", "trusted ARC sealer"),
	} {
		e := message(func(e *mail.Event, v *mail.Evaluation) { v.SPF = false; change(e, v) })
		if r := rowOf(e); r.Disposition+" "+r.Override != want {
			t.Errorf("got %s %s, want %s", r.Disposition, r.Override, want)
		}
	}
}

// TestCounts_Bounds: however many addresses and domains strangers invent, the counters take no more than their room,
// and what has none is counted.
func TestCounts_Bounds(t *testing.T) {
	c := NewCounts(time.Now, contact)
	begins := dayOf(time.Now())
	const many = 20000
	for i := range many {
		c.See(message(func(e *mail.Event, v *mail.Evaluation) {
			a := netip.MustParseAddr("2001:db8::").As16()
			a[6], a[7] = byte(i>>8), byte(i)
			e.Client = netip.AddrFrom16(a)
			if i%2 == 1 {
				v.Domain = fmt.Sprintf("d%d.example", i)
			}
		}))
	}
	k := &c.days[0].kinds[DMARC]
	if k.octets > mostOctets || len(k.domains) > mostDomains {
		t.Errorf("%d octets, %d domains", k.octets, len(k.domains))
	}
	sum := c.Unroomed(DMARC, begins)
	for name := range k.domains {
		p := c.Part(DMARC, begins, name)
		sum += p.Left
		for _, r := range p.Rows {
			sum += r.N
		}
	}
	if sum != many {
		t.Errorf("%d of %d messages are counted", sum, many)
	}
	p := c.Part(DMARC, begins, "example.com")
	m := Make(&origin, Subject{DMARC, "example.com", begins}, p, nil)
	if p.Left == 0 || !strings.Contains(string(m.Text), "more are counted without details, for want of room") {
		t.Errorf("%d are left out, and the report says %.900s", p.Left, m.Text)
	}
	c.Session(session(nil))
	if c.Part(TLS, begins, "example.com") == nil {
		t.Error("the counters of DMARC took the room of TLS")
	}
}

// TestCounts_BoundsOfTexts: the texts that strangers publish take room like all else, and one that is too long is not
// kept.
func TestCounts_BoundsOfTexts(t *testing.T) {
	const long = 3 << 10
	c := NewCounts(time.Now, contact)
	begins := dayOf(time.Now())
	c.See(message(nil))
	for i := range mostDomains {
		name := fmt.Sprintf("d%d.example", i)
		c.See(message(func(_ *mail.Event, v *mail.Evaluation) {
			v.Domain = name
			v.Policy.RUA, v.Policy.FO = "mailto:r@"+name+","+strings.Repeat("x", long), strings.Repeat("1:", 100)+"1"
		}))
		c.Session(session(func(s *mail.TLSSession) { s.Domain, s.Terms = name, strings.Repeat("x", long) }))
	}
	for k := range kinds {
		sum := 0
		for _, name := range c.Domains(k, begins) {
			p := c.Part(k, begins, name)
			if sum += len(p.Terms); p.Record != nil {
				sum += len(p.Record.RUA) + len(p.Record.FO)
			}
		}
		if of := &c.days[0].kinds[k]; sum == 0 || sum > mostOctets || sum > of.octets || of.octets > mostOctets {
			t.Errorf("the texts of %s have %d octets, and %d are counted", k, sum, of.octets)
		}
	}
	if p := c.Part(DMARC, begins, "example.com"); p.Record == nil || p.Record.RUA != "mailto:r@example.com" {
		t.Errorf("the record of example.com is %+v", p.Record)
	}

	c = NewCounts(time.Now, contact)
	c.See(message(func(_ *mail.Event, v *mail.Evaluation) { v.Policy.RUA = strings.Repeat("x", mostTerms+1) }))
	if p := c.Part(DMARC, begins, "example.com"); p.Record != nil {
		t.Errorf("a record of %d octets is kept", len(p.Record.RUA))
	}
	for _, rua := range []string{"mailto:first@example.com", "mailto:s@example.com"} {
		c.See(message(func(_ *mail.Event, v *mail.Evaluation) { v.Policy.RUA = rua }))
		if p := c.Part(DMARC, begins, "example.com"); p.Record == nil || p.Record.RUA != rua {
			t.Errorf("the record is %+v, want %s", p.Record, rua)
		}
	}
}

// TestCounts_Allocations: nothing is allocated for a row that is there, nor without counters.
func TestCounts_Allocations(t *testing.T) {
	c := NewCounts(time.Now, contact)
	e := message(nil)
	s := session(func(s *mail.TLSSession) { s.Domain, s.Host = "example.com", "mx.example.com" })
	c.See(e)
	c.Session(s)
	if n := testing.AllocsPerRun(100, func() { c.Session(s) }); n != 0 {
		t.Errorf("a session allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { (*Counts)(nil).See(e); (*Counts)(nil).Session(s) }); n != 0 {
		t.Errorf("without counters %v allocations", n)
	}
}

// TestMake_TLS: the report is that of RFC 8460 section 4.4.
func TestMake_TLS(t *testing.T) {
	c := NewCounts(time.Now, contact)
	for range 5 {
		c.Session(session(nil))
	}
	c.Session(session(func(s *mail.TLSSession) { s.Result = mail.TLSExpired }))
	c.Session(session(func(s *mail.TLSSession) { s.Policy, s.Result = mail.NoTLSPolicy, mail.TLSNotOffered }))
	begins := int64(1767225600) // 2026-01-01
	m := Make(&origin, Subject{TLS, "example.com", begins}, c.Part(TLS, dayOf(time.Now()), "example.com"), nil)
	const want = `{
  "organization-name": "Relay \u003c\u0026 Co\u003e",
  "date-range": {
    "start-datetime": "2026-01-01T00:00:00Z",
    "end-datetime": "2026-01-01T23:59:59Z"
  },
  "contact-info": "reports@relay.example",
  "report-id": "2026-01-01-tls-example.com@relay.example",
  "policies": [
    {
      "policy": {
        "policy-type": "sts",
        "policy-string": [
          "version: STSv1",
          "mode: enforce",
          "mx: *.example.com",
          "max_age: 86400"
        ],
        "policy-domain": "example.com",
        "mx-host": [
          "*.example.com"
        ]
      },
      "summary": {
        "total-successful-session-count": 5,
        "total-failure-session-count": 1
      },
      "failure-details": [
        {
          "result-type": "certificate-expired",
          "sending-mta-ip": "198.51.100.1",
          "receiving-mx-hostname": "mx.example.com",
          "receiving-ip": "192.0.2.9",
          "failed-session-count": 1
        }
      ]
    },
    {
      "policy": {
        "policy-type": "no-policy-found",
        "policy-domain": "example.com"
      },
      "summary": {
        "total-successful-session-count": 0,
        "total-failure-session-count": 1
      },
      "failure-details": [
        {
          "result-type": "starttls-not-supported",
          "sending-mta-ip": "198.51.100.1",
          "receiving-mx-hostname": "mx.example.com",
          "receiving-ip": "192.0.2.9",
          "failed-session-count": 1
        }
      ]
    }
  ]
}
`
	if got := string(m.Text); got != want {
		t.Errorf("got %s", got)
	}
	if Make(&origin, Subject{TLS, "a.example", begins}, nil, nil) != nil {
		t.Error("a report of nothing")
	}
}

// TestMake_DMARC: the report is that of RFC 9990 appendix A.
func TestMake_DMARC(t *testing.T) {
	c := NewCounts(time.Now, contact)
	for range 7 {
		c.See(message(nil))
	}
	c.See(message(func(e *mail.Event, v *mail.Evaluation) { v.SPF, v.Asked = false, "quarantine" }))
	s := Subject{DMARC, "example.com", 1767225600}
	m := Make(&origin, s, c.Part(DMARC, dayOf(time.Now()), "example.com"), []string{"partial: <why>"})
	const want = `<?xml version="1.0" encoding="UTF-8"?>
<feedback xmlns="urn:ietf:params:xml:ns:dmarc-2.0">
  <version>1.0</version>
  <report_metadata>
    <org_name>Relay &lt;&amp; Co&gt;</org_name>
    <email>reports@relay.example</email>
    <report_id>2026-01-01-dmarc-example.com@relay.example</report_id>
    <date_range>
      <begin>1767225600</begin>
      <end>1767311999</end>
    </date_range>
    <error>partial: &lt;why&gt;</error>
    <generator>millrace test</generator>
  </report_metadata>
  <policy_published>
    <domain>example.com</domain>
    <discovery_method>treewalk</discovery_method>
    <adkim>r</adkim>
    <aspf>s</aspf>
    <p>reject</p>
    <sp>none</sp>
    <testing>n</testing>
  </policy_published>
  <record>
    <row>
      <source_ip>192.0.2.1</source_ip>
      <count>7</count>
      <policy_evaluated>
        <disposition>none</disposition>
        <dkim>fail</dkim>
        <spf>pass</spf>
      </policy_evaluated>
    </row>
    <identifiers>
      <header_from>news.example.com</header_from>
      <envelope_from>news.example.com</envelope_from>
    </identifiers>
    <auth_results>
      <dkim>
        <domain>example.com</domain>
        <selector>k</selector>
        <result>pass</result>
      </dkim>
      <dkim>
        <domain>other.example</domain>
        <selector>s1</selector>
        <result>fail</result>
      </dkim>
      <spf>
        <domain>news.example.com</domain>
        <scope>mfrom</scope>
        <result>pass</result>
      </spf>
    </auth_results>
  </record>
`
	if got := string(m.Text); !strings.HasPrefix(got, want) || strings.Count(got, "<record>") != 2 ||
		!strings.Contains(got, "<reason>\n          <type>local_policy</type>") {
		t.Errorf("got %s", got)
	}
}

// TestParseReaders: addresses, and for TLS URLs; a size may stand behind them.
func TestParseReaders(t *testing.T) {
	for value, want := range map[string]string{
		"mailto:a@b.example":                        "a@b.example 0",
		"mailto:a@b.example!10m, mailto:c@d.e!1K":   "a@b.example 10485760, c@d.e 1024",
		"mailto:a%2Bb@b.example?subject=x":          "a+b@b.example 0",
		"MAILTO:a@b.example":                        "a@b.example 0",
		"mailto:a@b.example!0":                      "",
		"mailto:a@b.example!99999999999t":           "",
		"mailto:a@b.example!10mm":                   "",
		"mailto:a@b.example,mailto:a@b.example":     "a@b.example 0",
		"mailto:a@[192.0.2.1]":                      "",
		"mailto:a":                                  "",
		"mailto:a@b\r\nBcc: c@d.e":                  "",
		"mailto:a%0d%0aBcc:%20c@d.e":                "",
		"https://r.example/tls":                     "https://r.example/tls 0",
		"https://u:p@r.example/":                    "",
		"http://r.example/":                         "",
		"ftp://r.example/, , x, mailto:a@b.example": "a@b.example 0",
		"mailto:a@x.e,mailto:b@x.e,mailto:c@x.e,mailto:d@x.e,mailto:e@x.e": "a@x.e 0, b@x.e 0, c@x.e 0, d@x.e 0",
	} {
		var got []string
		for _, r := range ParseReaders(TLS, value) {
			to := r.URI
			if !r.To.IsNull() {
				to = r.To.String()
			}
			got = append(got, fmt.Sprint(to, " ", r.Most))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
	if len(ParseReaders(DMARC, "https://r.example/")) != 0 {
		t.Error("a URL reads reports on DMARC")
	}
}

// FuzzReaders: what is read of a record can stand in a letter and in a command.
func FuzzReaders(f *testing.F) {
	for _, s := range []string{
		"mailto:a@b.example!10m,https://r.example/x", "mailto:%22a b%22@c.d", "!,!", "mailto:a@b%0d%0a",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		all := ParseReaders(TLS, value)
		if len(all) > mostReaders {
			t.Fatalf("%d readers", len(all))
		}
		for _, r := range all {
			text := r.To.String()
			if r.Most < 0 || strings.ContainsFunc(text+r.host(), func(c rune) bool { return c < ' ' || c > '~' }) {
				t.Fatalf("%q has %+v", value, r)
			}
		}
	})
}

// FuzzTags: a record has the tags that stand in it.
func FuzzTags(f *testing.F) {
	f.Add("v=TLSRPTv1; rua=mailto:a@b.c")
	f.Add("v=DMARC1;;=;rua")
	f.Fuzz(func(t *testing.T, text string) {
		all, ok := tags(text, "DMARC1")
		if ok && all["v"] != "DMARC1" {
			t.Fatalf("%q has %v", text, all)
		}
		for _, value := range all {
			if !strings.Contains(text, value) {
				t.Fatalf("%q has %q", text, value)
			}
		}
	})
}

// A zone is a DNS by names; "!" is a server that does not answer.
type zone map[string]string

func (z zone) lookup() Lookup {
	return Lookup{
		TXT: func(_ context.Context, name string) ([]string, error) {
			switch text, ok := z[name]; {
			case !ok:
				return nil, nil
			case text == "!":
				return nil, errUnknown
			default:
				return strings.Split(text, "|"), nil
			}
		},
		Organization: func(_ context.Context, name string) (string, error) {
			labels := strings.Split(name, ".")
			return strings.Join(labels[max(0, len(labels)-2):], "."), nil
		},
	}
}

// TestLookup_DMARC: a reader of another organization is told only where it says so, and may name another address of its
// own (RFC 9990 section 4).
func TestLookup_DMARC(t *testing.T) {
	const elsewhere = "mailto:a@reader.example"
	long := "mailto:a@" + strings.Repeat("a234567890.", 21) + "e"
	const at = "a.example.com._report._dmarc.reader.example"
	for _, tt := range []struct {
		name, text, rua string
		want            string
	}{
		{"its own", "", "mailto:a@example.com", "mailto:a@example.com"},
		{"below the organization", "", "mailto:a@b.example.com", "mailto:a@b.example.com"},
		{"without consent", "", elsewhere, "not " + elsewhere},
		{"with consent", "v=DMARC1", elsewhere, elsewhere},
		{"with consent among others", "x|v=DMARC1;", elsewhere + "!5m", elsewhere},
		{"another record", "v=DMARC2", elsewhere, "not " + elsewhere},
		{"another address", "v=DMARC1; rua=mailto:b@reader.example", elsewhere, "mailto:b@reader.example"},
		{"another host", "v=DMARC1; rua=mailto:b@victim.example", elsewhere, "not " + elsewhere},
		{"two", "v=DMARC1", "mailto:a@example.com," + elsewhere, "mailto:a@example.com " + elsewhere},
		{"not known now", "!", elsewhere, "error"},
		{"a name too long", "", long, "not " + long},
	} {
		t.Run(tt.name, func(t *testing.T) {
			z := zone{}
			if tt.text != "" {
				z[at] = tt.text
			}
			l := z.lookup()
			may, not, err := l.dmarcReaders(t.Context(), "a.example.com", tt.rua)
			var got []string
			for _, r := range may {
				got = append(got, r.URI)
			}
			for _, r := range not {
				got = append(got, "not "+r.URI)
			}
			if err != nil {
				got = []string{"error"}
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestLookup_TLS: one record names the readers, and two name none.
func TestLookup_TLS(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "v=TLSRPTv1; rua=mailto:a@b.example,https://b.example/": 2, "v=TLSRPTv2; rua=mailto:a@b.example": 0,
		"v=TLSRPTv1;rua=mailto:a@b.example|v=TLSRPTv1;rua=mailto:a@b.example": 0,
		"x|v=TLSRPTv1;rua=mailto:a@b.example":                                 1,
	} {
		z := zone{"_smtp._tls.example.com": text}
		l := z.lookup()
		if got, err := l.tlsReaders(t.Context(), "example.com"); len(got) != want || err != nil {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}
