package rules

import (
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestTable_Aliases: every rule and option of a domain holds for its aliases.
func TestTable_Aliases(t *testing.T) {
	table := mustParse(t, strings.Join([]string{
		"domain b.example alias_of=A.example",
		"domain a.example subaddress=+ dmarc=report",
		"domain bücher.example alias_of=a.example",
		"info@a.example x@t.example",
		"/re-(.*)/@a.example $1@t.example",
		"@a.example smtp://192.0.2.9",
		"here@c.example info@b.example",
	}, "\n"))
	for rcpt, want := range map[string]string{
		"info@b.example":       "<x@t.example> by mx:t.example",
		"info+tag@B.example":   "<x@t.example> by mx:t.example",
		"info@BÜCHER.example":  "<x@t.example> by mx:t.example",
		"re-y@b.example":       "<y@t.example> by mx:t.example",
		"other@b.example":      "<other@b.example> by smtp://192.0.2.9",
		"postmaster@b.example": "<ops@elsewhere.example> by mx:elsewhere.example",
		"here@c.example":       "<x@t.example> by mx:t.example",
		"info@sub.b.example":   "550 5.7.1 Relaying denied",
	} {
		routes, err := table.Route(mail.Query{Forward: parsePath(t, rcpt)}, nil)
		if got := answer(routes, err); got != want {
			t.Errorf("%s: %s, want %s", rcpt, got, want)
		}
		if strings.HasPrefix(rcpt, "info@b") && routes[0].Policy.DMARC != mail.DMARCReport {
			t.Errorf("%s: %+v", rcpt, routes[0].Policy)
		}
	}
	if !table.Hosted("b.example") || table.Domains() != 4 ||
		!slices.Equal(table.HostedNames(9), []string{"a.example", "b.example", "c.example", "xn--bcher-kva.example"}) {
		t.Errorf("%v", table.HostedNames(9))
	}
	if len(table.Warnings()) != 0 {
		t.Errorf("%q", table.Warnings())
	}
	var steps Steps
	if _, err := table.Route(mail.Query{Forward: parsePath(t, "info@b.example")}, &steps); err != nil ||
		steps.List[0] != "b.example has the rules of a.example" {
		t.Errorf("%q", steps.List)
	}
}

// TestParse_Aliases: an alias that does not lead to a domain with rules of its own is an error.
func TestParse_Aliases(t *testing.T) {
	for _, tt := range [][2]string{
		{"domain a.example alias_of=a.example", "1:8: a.example is an alias of itself"},
		{
			"domain a.example alias_of=b.example\ndomain b.example alias_of=a.example",
			"1:8: a.example and b.example are aliases of each",
		},
		{
			"domain a.example alias_of=b.example\ndomain b.example alias_of=c.example\n@c.example drop",
			"b.example is an alias itself: write alias_of=c.example",
		},
		{"domain a.example alias_of=b.example", "b.example is not hosted here"},
		{
			"domain a.example alias_of=b.example srs=never\n@b.example drop",
			"alias_of stands alone: every option of b.example holds",
		},
		{"domain * alias_of=b.example\n@b.example drop", "alias_of stands behind one domain"},
		{"domain a.example alias_of=", "alias_of names a domain"},
		{"domain a.example alias_of=@b.example", "alias_of: write the domain without @"},
		{
			"domain a.example\ndomain a.example alias_of=b.example\n@b.example drop",
			"2:8: domain a.example was given at r:1",
		},
		{
			"domain a.example alias_of=b.example\n@b.example drop\nx@a.example y@t.example",
			"3:1: a.example is an alias of b.example (r:1), whose rules it has",
		},
		{"@b.example x@t.example alias_of=b.example", "option alias_of stands on a domain line"},
		{"domain a.example alias=b.example", "did you mean alias_of"},
		{"relay * smtp://192.0.2.9 alias_of=b.example", "option alias_of does not stand on a relay line"},
	} {
		text, want := tt[0], tt[1]
		_, err := Parse("r", strings.NewReader(text), testConfig())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestTable_Below: a pattern for all domains below another takes what no line of the domain does, the nearest first.
func TestTable_Below(t *testing.T) {
	table := mustParse(t, strings.Join([]string{
		"@*.example.com wide@t.example dmarc=off",
		"@*.deep.example.com deep@t.example until=2027-01-01T00:00Z",
		"info@shop.example.com shop@t.example",
		"domain closed.example.com",
		"@closed.example.com reject 550 5.1.1 None",
		"@*.example.net net@t.example",
		"a@here.example x@some.example.com",
	}, "\n"))
	early := at(t, "2026-12-31T23:59:59Z")
	for rcpt, want := range map[string]string{
		"a@foo.example.com":          "<wide@t.example> by mx:t.example",
		"a@FOO.Bar.example.com":      "<wide@t.example> by mx:t.example",
		"a@x.deep.example.com":       "<deep@t.example> by mx:t.example",
		"a@deep.example.com":         "<wide@t.example> by mx:t.example",
		"info@shop.example.com":      "<shop@t.example> by mx:t.example",
		"other@shop.example.com":     "<wide@t.example> by mx:t.example",
		"a@closed.example.com":       "550 5.1.1 None",
		"a@example.com":              "550 5.7.1 Relaying denied",
		"a@notexample.com":           "550 5.7.1 Relaying denied",
		"postmaster@foo.example.com": "<ops@elsewhere.example> by mx:elsewhere.example",
		"a@here.example":             "<wide@t.example> by mx:t.example",
		"root@mx1.example.net":       "550 5.1.1 No such user here",
		"root@other.example.net":     "<net@t.example> by mx:t.example",
	} {
		routes, err := table.Route(mail.Query{Forward: parsePath(t, rcpt), At: early}, nil)
		if got := answer(routes, err); got != want {
			t.Errorf("%s: %s, want %s", rcpt, got, want)
		}
	}
	q := mail.Query{Forward: parsePath(t, "a@x.deep.example.com"), At: early.AddDate(0, 0, 1)}
	if got := answer(table.Route(q, nil)); got != "<wide@t.example> by mx:t.example" {
		t.Errorf("behind a pattern that has ended: %s", got)
	}
	if !table.Hosted("foo.example.com") || table.Hosted("example.com") || !table.Hosted("X.DEEP.example.com") ||
		slices.Contains(table.HostedNames(9), "*.example.com") {
		t.Errorf("hosts %v", table.HostedNames(9))
	}
	_, err := Parse("r", strings.NewReader("@*.example.com drop\nrelay @a.example.com smtp://192.0.2.9\n"+
		"@*.EXAMPLE.com drop"), testConfig())
	if err == nil || !strings.Contains(err.Error(), "3:1: the same pattern stands at r:1") {
		t.Error(err)
	}
	_, err = Parse("r", strings.NewReader("@*.example.com drop\nrelay @a.example.com smtp://192.0.2.9"), testConfig())
	if err == nil || !strings.Contains(err.Error(), "a.example.com is hosted here") {
		t.Error(err)
	}
}

// TestTable_Dots: with dots=ignore, addresses that differ in dots are one.
func TestTable_Dots(t *testing.T) {
	table := mustParse(t, strings.Join([]string{
		"domain h.example dots=ignore subaddress=+",
		"john.doe@h.example x@t.example",
		"/some.one/@h.example y@t.example",
		"john.doe@g.example x@t.example",
	}, "\n"))
	const x, none = "<x@t.example> by mx:t.example", "550 5.1.1 No such user here"
	for rcpt, want := range map[string]string{
		"john.doe@h.example": x, "johndoe@h.example": x, "j.o.h.n.d.o.e@h.example": x, "JohnDoe+a.b@h.example": x,
		`"john..doe."@h.example`: x, "john.do@h.example": none, "johndoe@g.example": none, "john.doe@g.example": x,
		"someone@h.example": none, "some.one@h.example": "<y@t.example> by mx:t.example",
		"post.master@h.example": none, "postmaster@h.example": "<ops@elsewhere.example> by mx:elsewhere.example",
	} {
		if got := answer(table.Route(mail.Query{Forward: parsePath(t, rcpt)}, nil)); got != want {
			t.Errorf("%s: %s, want %s", rcpt, got, want)
		}
	}
	table = mustParse(t, "domain * dots=ignore\njohn.doe@h.example x@t.example\njohndoe@h.example y@t.example")
	if w := table.Warnings(); len(w) != 1 || !strings.Contains(w[0].Reason, "in another form the same pattern") {
		t.Errorf("%q", w)
	}
	_, err := Parse("r", strings.NewReader("a@h.example x@t.example dots=ignore"), testConfig())
	if err == nil || !strings.Contains(err.Error(), "option dots stands on a domain line") {
		t.Error(err)
	}
}

// TestTable_TagInNFC: a sign that is a separator in NFC alone is one, and no address with it ends the session.
func TestTable_TagInNFC(t *testing.T) {
	table := mustParse(t, "domain h.example subaddress=` tag=keep\ninfo@h.example x@t.example\n")
	for rcpt, want := range map[string]string{
		"info\u1fefa@h.example":        "<x`a@t.example> by mx:t.example",
		"info\u1fefa\u1fefb@h.example": "<x`a`b@t.example> by mx:t.example",
	} {
		if got := answer(table.Route(mail.Query{Forward: parsePath(t, rcpt)}, nil)); got != want {
			t.Errorf("%s: %s, want %s", rcpt, got, want)
		}
	}
}

// TestTable_Tag: with tag=keep, the addresses that a rule names get the tag of the recipient.
func TestTable_Tag(t *testing.T) {
	table := mustParse(t, strings.Join([]string{
		"domain h.example subaddress=+ tag=keep dots=ignore",
		"info@h.example a@t.example, b@u.example",
		"way@h.example smtp://192.0.2.9",
		"chain@h.example info@h.example",
		"kept@h.example way@h.example",
		"drop@h.example a@t.example tag=drop",
		"zoë@h.example a@t.example",
		"raw@h.example a@t.example routing=keep",
		"a+b@h.example deep@t.example",
		"trap@h.example drop",
	}, "\n"))
	long := strings.Repeat("x", 252)
	for _, tt := range [][2]string{
		{"way+News@h.example", "<way+News@h.example> by smtp://192.0.2.9"},
		{"drop+x@h.example", "<a@t.example> by mx:t.example"},
		{"kept+News@h.example", "<way+News@h.example> by smtp://192.0.2.9"},
		{"ZOE\u0308+Ä.b@h.example", "<a+Ä.b@t.example> by mx:t.example"},
		{"r.aw+X.y@h.example", "<a+X.y@t.example> by mx:t.example"},
		{"a+b+c@h.example", "<deep+c@t.example> by mx:t.example"},
		{"raw@h.example", "<a@t.example> by mx:t.example"},
		{"raw+x%y@h.example", "<a+x%y@t.example> by mx:t.example"},
		{"zoë+x%y@h.example", "550 5.1.3 Source routing in the local part is not accepted"},
		{"trap+x@h.example", "drop"},
		{"raw+a+b@h.example", "<a+a+b@t.example> by mx:t.example"},
		{"raw+@h.example", "<a+@t.example> by mx:t.example"},
		{`"raw+a b"@h.example`, `<"a+a b"@t.example> by mx:t.example`},
		{"raw+" + long + "@h.example", "<a+" + long + "@t.example> by mx:t.example"},
		{"a+b+" + long + "@h.example", "550 5.1.3 Bad destination mailbox address"},
	} {
		rcpt, want := tt[0], tt[1]
		if got := answer(table.Route(mail.Query{Forward: parsePath(t, rcpt)}, nil)); got != want {
			t.Errorf("%s: %s, want %s", rcpt, got, want)
		}
	}
	q := mail.Query{Forward: parsePath(t, "zoë+x%y@h.example"), Trusted: true}
	if got := answer(table.Route(q, nil)); got != "<a+x%y@t.example> by mx:t.example" {
		t.Errorf("a trusted client: %s", got)
	}
	for line, want := range map[string]string{
		"a@h.example x@t.example tag=keep":                   "1:1: tag=keep needs subaddress",
		"domain h.example tag=keep\na@h.example x@t.example": "1:8: tag=keep needs subaddress",
	} {
		if w := mustParse(t, line).Warnings(); len(w) != 1 || !strings.Contains(w[0].String(), want) {
			t.Errorf("%q: %q", line, w)
		}
	}
	_, err := Parse("r", strings.NewReader("@h.example x@t.example tag=keep"), testConfig())
	if err == nil || !strings.Contains(err.Error(), "option tag stands on a domain or on a literal address") {
		t.Error(err)
	}
}

// TestParse_MessageSize: a size is a number of octets with a unit.
func TestParse_MessageSize(t *testing.T) {
	for value, want := range map[string]uint32{
		"65536": 65536, "25MiB": 25 << 20, "25MB": 25e6, "64KiB": 64 << 10, "3GiB": 3 << 30, "100000B": 100000,
	} {
		table := mustParse(t, "domain h.example message_size="+value+"\na@h.example x@t.example")
		routes, err := table.Route(mail.Query{Forward: parsePath(t, "a@h.example")}, nil)
		if err != nil || routes[0].Policy.MessageSize != want {
			t.Errorf("%s: %+v, %v", value, routes, err)
		}
	}
	for _, tt := range [][2]string{
		{"", "a size is written 25MiB or 65536"},
		{"big", "a size is written"},
		{"1.5MiB", "a size is written"},
		{"-1", "a size is written"},
		{"4GiB", "above 4 GiB"},
		{"10", "below the 64 KiB"},
		{"63KiB", "below the 64 KiB"},
		{"99999999999GiB", "is written"},
	} {
		value, want := tt[0], tt[1]
		_, err := Parse("r", strings.NewReader("domain h.example message_size="+value), testConfig())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", value, err)
		}
	}
}
