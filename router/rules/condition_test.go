package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// at parses a time.
func at(t testing.TB, s string) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

// TestTable_Schedule: a rule that is not in force answers as if it was absent, at each moment without a new table.
func TestTable_Schedule(t *testing.T) {
	const from, until = "after=2026-12-24T18:00:00+09:00", "until=2027-01-04T00:00Z"
	const before, begin, last, end = "2026-12-24T08:59:59Z", "2026-12-24T09:00:00Z", "2027-01-03T23:59:59Z",
		"2027-01-04T00:00:00Z"
	table := mustParse(t, strings.Join([]string{
		"domain h.example subaddress=+",
		"off@h.example x@t.example enabled=no",
		"on@h.example x@t.example enabled=yes",
		"desk@h.example usual@t.example",
		"desk@h.example holiday@t.example " + from + " " + until,
		"old@h.example x@t.example " + until,
		"new@h.example x@t.example " + from,
		"away@h.example " + from + " " + until + " tempfail 450 4.2.1 Back in January",
		"away@h.example x@t.example",
		"trap@h.example drop " + until + " # and a comment",
		"/list-(.+)/@h.example $1@lists.example " + until,
		"/list-(.+)/@h.example $1@archive.example",
		"postmaster@h.example x@t.example " + from,
		"@g.example x@t.example " + until,
		"@g.example drop",
		"disabled@never.example x@t.example enabled=no",
		"@never.example enabled=no reject 550 No",
	}, "\n"))
	const none, x = "550 5.1.1 No such user here", "<x@t.example> by mx:t.example"
	for _, tt := range []struct{ rcpt, when, want string }{
		{"off@h.example", begin, none},
		{"on@h.example", begin, x},
		{"desk@h.example", before, "<usual@t.example> by mx:t.example"},
		{"desk@h.example", begin, "<holiday@t.example> by mx:t.example"},
		{"desk+tag@h.example", begin, "<holiday@t.example> by mx:t.example"},
		{"desk@h.example", last, "<holiday@t.example> by mx:t.example"},
		{"desk@h.example", end, "<usual@t.example> by mx:t.example"},
		{"old@h.example", last, x},
		{"old+tag@h.example", last, x},
		{"old@h.example", end, none},
		{"old+tag@h.example", end, none},
		{"new@h.example", before, none},
		{"new@h.example", begin, x},
		{"away@h.example", before, x},
		{"away@h.example", begin, "450 4.2.1 Back in January"},
		{"trap@h.example", last, "drop"},
		{"trap@h.example", end, none},
		{"list-a@h.example", last, "<a@lists.example> by mx:lists.example"},
		{"list-a@h.example", end, "<a@archive.example> by mx:archive.example"},
		{"postmaster@h.example", before, "<ops@elsewhere.example> by mx:elsewhere.example"},
		{"postmaster@h.example", begin, x},
		{"any@g.example", last, x},
		{"any@g.example", end, "drop"},
		{"disabled@never.example", last, "550 5.7.1 Relaying denied"},
		{"other@never.example", last, "550 5.7.1 Relaying denied"},
	} {
		got := answer(table.Route(mail.Query{Forward: parsePath(t, tt.rcpt), At: at(t, tt.when)}, nil))
		if got != tt.want {
			t.Errorf("%s at %s: %s, want %s", tt.rcpt, tt.when, got, tt.want)
		}
	}
	if table.Hosted("never.example") || table.Ours("never.example") || table.Domains() != 2 {
		t.Errorf("rules that are disabled host a domain: %d", table.Domains())
	}
	var steps Steps
	_, err := table.Route(mail.Query{Forward: parsePath(t, "off@h.example"), At: at(t, begin)}, &steps)
	if err == nil || !strings.Contains(strings.Join(steps.List, "\n"),
		"routes.txt:2 off@h.example is not in force: enabled=no") {
		t.Errorf("%q", steps.List)
	}
}

// TestTable_Conditions: a rule behind if takes mail from the senders and clients that it names.
func TestTable_Conditions(t *testing.T) {
	table := mustParse(t, strings.Join([]string{
		"domain h.example",
		"a@h.example if from=@partner.example,boss@t.example,@*.wide.example x@t.example",
		"b@h.example if from!=@partner.example reject 550 5.7.1 Partners only",
		"b@h.example x@t.example",
		"c@h.example if network=192.0.2.0/24,2001:db8::/32 x@t.example",
		"d@h.example if network!=192.0.2.7 from=<> drop",
		"e@h.example if spf=pass x@t.example",
		"e@h.example if spf=fail,softfail reject 550 5.7.23 SPF",
		"f@h.example if from=@partner.example spf!=pass reject 550 5.7.23 Forged",
		"f@h.example x@t.example",
		"g@h.example if from=@BÜCHER.example x@t.example",
		"@h.example if from=@partner.example y@t.example",
		"chain@h.example a@h.example",
	}, "\n"))
	const none, x, y = "550 5.1.1 No such user here", "<x@t.example> by mx:t.example", "<y@t.example> by mx:t.example"
	const unknown = "451 4.7.0 Authentication cannot be checked now, try again later"
	for _, tt := range []struct{ name, rcpt, from, client, spf, want string }{
		{"a domain", "a", "s@partner.example", "", "", x},
		{"a domain in capitals", "a", "s@PARTNER.example", "", "", x},
		{"not the domains below it", "a", "s@sub.partner.example", "", "", none},
		{"an address", "a", "Boss@t.example", "", "", x},
		{"another address of its domain", "a", "other@t.example", "", "", none},
		{"a domain below", "a", "s@a.b.wide.example", "", "", x},
		{"not the domain above", "a", "s@wide.example", "", "", none},
		{"nor one that ends alike", "a", "s@notwide.example", "", "", none},
		{"the null reverse-path is in no domain", "a", "", "", "", none},
		{"through an alias", "chain", "s@partner.example", "", "", x},
		{"through an alias that is not in force", "chain", "s@other.example", "", "", none},
		{"none of the senders", "b", "s@other.example", "", "", "550 5.7.1 Partners only"},
		{"one of the senders", "b", "s@partner.example", "", "", x},
		{"a client in the network", "c", "s@o.example", "192.0.2.200", "", x},
		{"a client in the network, as IPv6 writes it", "c", "s@o.example", "::ffff:192.0.2.200", "", x},
		{"a client of IPv6", "c", "s@o.example", "2001:db8::1", "", x},
		{"another client", "c", "s@o.example", "198.51.100.1", "", none},
		{"a client that is not known", "c", "s@o.example", "", "", none},
		{"both tests hold", "d", "", "192.0.2.8", "", "drop"},
		{"one of two does not", "d", "", "192.0.2.7", "", none},
		{"SPF is to be asked", "e", "s@o.example", "", "", unknown},
		{"SPF cannot be asked", "e", "s@o.example", "", "temperror", unknown},
		{"SPF passes", "e", "s@o.example", "", "pass", x},
		{"SPF softfails", "e", "s@o.example", "", "softfail", "550 5.7.23 SPF"},
		{"SPF says nothing", "e", "s@o.example", "", "none", none},
		{"SPF is not asked where another test decides", "f", "s@o.example", "", "", x},
		{"SPF is asked where it decides", "f", "s@partner.example", "", "", unknown},
		{"SPF decides", "f", "s@partner.example", "", "none", "550 5.7.23 Forged"},
		{"a U-label", "g", "s@xn--bcher-kva.example", "", "", x},
		{"a catch-all", "other", "s@partner.example", "", "", y},
		{"a catch-all behind a literal that is not in force", "e", "s@partner.example", "", "none", y},
		{"no catch-all", "other", "s@o.example", "", "", none},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := mail.Query{Forward: mail.Path{Local: tt.rcpt, Domain: "h.example"}, SPF: tt.spf}
			if tt.from != "" {
				q.Reverse = parsePath(t, tt.from)
			}
			if tt.client != "" {
				q.Addr = netip.MustParseAddr(tt.client)
			}
			_, err := table.Route(q, nil)
			if got := answer(table.Route(q, nil)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			var refusal *mail.Refusal
			needs := errors.As(err, &refusal) && refusal.Reason == mail.ReasonNeedsSPF
			if needs != (tt.want == unknown) {
				t.Errorf("needs SPF: %v", needs)
			}
		})
	}
	q := mail.Query{Forward: parsePath(t, "e@h.example"), Trusted: true}
	if got := answer(table.Route(q, nil)); got != x {
		t.Errorf("a trusted client answers for its reverse-paths: %s", got)
	}
}

// TestParse_Conditions: what is wrong with conditions is named, at its column.
func TestParse_Conditions(t *testing.T) {
	for _, tt := range [][2]string{
		{"a@h.example if", "1:13: if needs a test behind it"},
		{"a@h.example if x@t.example", "1:16: if needs a test behind it"},
		{"a@h.example if fron=@x.example x@t.example", `1:16: if has no test "fron"; did you mean from`},
		{"a@h.example if helo=x x@t.example", `1:16: if has no test "helo"; the tests are from, network, spf`},
		{"a@h.example if from=x.example x@t.example", `1:16: from: "x.example" is a domain: write @x.example for all`},
		{"a@h.example if from=*@x.example x@t.example", `a star is not a wildcard here: write @ and the domain`},
		{"a@h.example if from= x@t.example", "from: a sender is missing"},
		{"a@h.example if network=10.0.0.1/8 x@t.example", `"10.0.0.1/8" has bits behind its length: write 10.0.0.0/8`},
		{"a@h.example if network=here x@t.example", `"here" is neither a network such as 192.0.2.0/24 nor an IP`},
		{"a@h.example if spf=passed x@t.example", `spf has no result "passed"`},
		{"a@h.example if spf=temperror x@t.example", "mail is put off while the result is not known"},
		{"a@h.example if spf=pass", "a pattern without a target"},
		{"a@h.example if spf=pass enabled=no x@t.example", "enabled stands in front of if"},
		{
			"a@h.example x@t.example after=2026-12-24",
			"1:25: option after has no value \"2026-12-24\": a time is written after=2026-12-24T00:00:00Z, or " +
				"with +09:00",
		},
		{"a@h.example x@t.example until=tomorrow", "a time is written until=2026-12-24T18:00:00Z"},
		{"a@h.example x@t.example until=1969-01-01T00:00Z", "is before 1970"},
		{"a@h.example x@t.example enabled=maybe", "it is one of yes, no"},
		{"a@h.example x@t.example enbled=no", "did you mean enabled"},
		{"a@h.example enabled=no x@t.example enabled=no", "and not at both places"},
		{"a@h.example x@t.example after=2027-01-01T00:00Z until=2026-01-01T00:00Z", "would end before it begins"},
		{"a@h.example drop srs=never", "unexpected \"srs=never\" after drop"},
		{"a@h.example drop enabled=no srs=never", "behind drop stand enabled, after and until alone"},
		{"domain h.example enabled=no", "option enabled stands on a rule only"},
		{"domain h.example after=2027-01-01T00:00Z", "option after stands on a rule only"},
		{"relay * smtp://192.0.2.9 enabled=no", "option enabled does not stand on a relay line"},
		{"a@h.example if spf=pass x@t.example", "a rule that is not always in force hosts no domain: h.example needs"},
		{"a@h.example x@t.example until=2027-01-01T00:00Z", "a rule that is not always in force hosts no domain"},
		{"a@h.example x@t.example\na@h.example if spf=pass y@t.example\nA@h.example if SPF=pass z@t.example", "if has"},
		{
			"a@h.example x@t.example\na@h.example if spf=pass y@t.example\nA@h.example if spf=pass z@t.example",
			"3:1: the same pattern stands at r:2",
		},
		{
			"a@h.example x@t.example\na@h.example enabled=no y@t.example\nA@h.example z@t.example enabled=no",
			"3:1: the same pattern stands at r:2",
		},
		{
			"@h.example if spf=pass x@t.example\n@h.example y@t.example\n@h.example z@t.example",
			"3:1: the same pattern stands at r:2",
		},
		{
			"@h.example x@t.example\n/a/@h.example if spf=pass y@t.example\n/A/@h.example if spf=pass drop",
			"3:1: the same pattern stands at r:2",
		},
	} {
		line, want := tt[0], tt[1]
		_, err := Parse("r", strings.NewReader(line), testConfig())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
	}
}

// TestLoad_Conditions: at load, rules with conditions are not followed, and loops of those without are still found.
func TestLoad_Conditions(t *testing.T) {
	mustParse(t, "domain h.example\na@h.example b@h.example\nb@h.example if spf=pass x@t.example")
	mustParse(t, "domain h.example\na@h.example nowhere@h.example enabled=no\nb@h.example b@h.example enabled=no")
	table := mustParse(t, "domain h.example\na@h.example b@h.example\nb@h.example c@t.example\n"+
		"b@h.example if from=<> a@h.example")
	got := answer(table.Route(mail.Query{Forward: parsePath(t, "a@h.example")}, nil))
	if got != "554 5.4.6 Alias loop" {
		t.Errorf("a loop by a condition: %s", got)
	}
	_, err := Parse("r", strings.NewReader("domain h.example\nops@h.example if spf=pass x@t.example"),
		Config{Postmaster: mail.Path{Local: "ops", Domain: "h.example"}})
	if err == nil || !strings.Contains(err.Error(), "at all times") {
		t.Errorf("a postmaster that is not always there: %v", err)
	}
	if need := mustParse(t, "domain h.example srs=never seal=never\na@h.example x@t.example srs=always enabled=no").
		Needs(); need.SRS.Rules != 0 {
		t.Errorf("a rule that is disabled wants %+v", need)
	}
}

// TestTable_UnknownLabels: a label that IDNA does not know is no way around a condition about the domains above it.
func TestTable_UnknownLabels(t *testing.T) {
	table := mustParse(t, "domain h.example\na@h.example if from=@*.bulk.example reject 550 5.7.1 No\n"+
		"a@h.example x@t.example\nb@h.example if from=@bulk.example reject 550 5.7.1 No\nb@h.example x@t.example\n")
	const x, no = "<x@t.example> by mx:t.example", "550 5.7.1 No"
	for _, tt := range [][3]string{
		{"s@xn--0.bulk.example", "a@h.example", no},
		{"s@a.xn--0.b.bulk.example", "a@h.example", no},
		{"s@xn--0\uff0eBULK\uff61example", "a@h.example", no},
		{"s@xn--0.bulk.example", "b@h.example", x},
		{"s@xn--0.notbulk.example", "a@h.example", x},
		{"s@bulk.xn--0", "a@h.example", x},
	} {
		q := mail.Query{Reverse: parsePath(t, tt[0]), Forward: parsePath(t, tt[1])}
		if got := answer(table.Route(q, nil)); got != tt[2] {
			t.Errorf("%s to %s: %s, want %s", tt[0], tt[1], got, tt[2])
		}
	}
}

// TestParse_Over: a line whose time is over has a warning from that second on, and so has a size that the node does not
// take. Without a clock and a size there is none.
func TestParse_Over(t *testing.T) {
	const text = "domain h.example message_size=2MiB\na@h.example drop until=2026-01-01T00:00:00Z\n"
	cfg := testConfig()
	for _, tt := range []struct {
		now  string
		most int64
		want string
	}{
		{"", 0, "[]"},
		{"2025-12-31T23:59:59Z", 2 << 20, "[]"},
		{
			"2026-01-01T00:00:00Z", 0,
			`[r:2:18: "until=2026-01-01T00:00:00Z" is over: the line is as if it were not there]`,
		},
		{
			"", 1 << 20,
			`[r:1:18: "message_size=2MiB" is above limits.message_size of the configuration, ` +
				"which holds for all messages]",
		},
	} {
		if cfg.Now, cfg.MessageSize = nil, tt.most; tt.now != "" {
			now, ok := Time(tt.now)
			if !ok {
				t.Fatal(tt.now)
			}
			cfg.Now = func() time.Time { return now }
		}
		table, err := Parse("r", strings.NewReader(text), cfg)
		if err != nil || fmt.Sprint(table.Warnings()) != tt.want {
			t.Errorf("%s, %d: got %v, %v, want %s", tt.now, tt.most, table.Warnings(), err, tt.want)
		}
	}
}
