package rules

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// conditionRoutes has each form of a rule that is not always in force, and what stands beside rules.
const conditionRoutes = `
domain c.example subaddress=+ tag=keep dots=ignore message_size=1MiB
domain alias.test alias_of=c.example
desk@c.example if from=@partner.example,<> network!=10.0.0.0/8 a@t.example
desk@c.example b@t.example after=2026-01-01T00:00:00+09:00
desk@c.example c@t.example
off@c.example enabled=no reject 550 5.1.1 Gone
spf@c.example if spf=pass,neutral d@t.example until=2030-01-01T00:00Z
pre-*@c.example $1@t.example
*-list@c.example if from=@*.partner.example drop
@*.c.example e@t.example
block a@spam.example
block @spam.example for=@c.example
block @*.spam.example for=desk@c.example
`

// FuzzRules: no text panics. An error names a line of the file. A table that loads answers for its own patterns, and
// names the rule.
func FuzzRules(f *testing.F) {
	f.Add(designRoutes)
	f.Add(abuseRoutes)
	f.Add("a@h.example b@h.example\nb@h.example a@h.example")
	f.Add("/\\Q/@h.example $1@t.example\n@h.example x@t.example")
	f.Add("/(((a)*)*)*/@h.example ${3}@t.example\ndomain h.example subaddress=-")
	f.Add("relay * try smtp://a, lmtp://b:1 via=socks5://[::1] client=xforward\nrelay @a.test smtps://h srs=never")
	f.Add(conditionRoutes)
	f.Add("relay   smtp@")
	f.Add("domain h.example dots=ignore subaddress=+ tag=keep message_size=64KiB\na.b@h.example x@t.example\n" +
		"ab@h.example y@t.example\ndomain g.example alias_of=h.example\nblock a@x.example for=ab@h.example")
	f.Add("@*.h.example if from=<>,@*.x.example spf!=pass drop until=2026-01-01T00:00Z\n@*.h.example x@a.h.example")
	f.Add("domain h.example\na*b*c@h.example $2.$1@t.example enabled=no\n*é@h.example if network=::/0 drop")
	f.Add("\"\\\"@,# \"@h.example \"\\\\\"@t.example , smtp://[::1]:9")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := Parse("r", strings.NewReader(text), testConfig())
		if err != nil {
			var errs *Errors
			var field *mail.FieldError
			switch {
			case errors.As(err, &errs):
				for _, e := range errs.List {
					if e.Line < 1 || e.Line > strings.Count(text, "\n")+1 || e.Reason == "" ||
						indexControl(e.Reason) >= 0 {
						t.Fatalf("%q", e)
					}
				}
			case !errors.As(err, &field):
				t.Fatal(err)
			}
			return
		}
		cfg := testConfig()
		for _, d := range table.dests {
			again := destination{nextHop: d.nextHop}
			if d.domain == "" {
				plain := d.nextHop
				plain.Proxy = ""
				again.nextHop, _ = cfg.parseNextHop(plain.String())
				again.nextHop.Proxy = d.nextHop.Proxy
			}
			if again.nextHop != d.nextHop {
				t.Fatalf("%+v is written %s and read %+v", d.nextHop, d.nextHop, again.nextHop)
			}
		}
		for _, trusted := range []bool{false, true} {
			for i := range table.rules {
				checkOwnPattern(t, table, uint32(i), trusted)
			}
		}
	})
}

// checkOwnPattern asks a table for an address that one of its rules takes.
func checkOwnPattern(t *testing.T, table *Table, number uint32, trusted bool) {
	r := &table.rules[number]
	if table.isDisabled(number) {
		return
	}
	p := mail.NewPath("some-one.else-list", strings.ReplaceAll(table.domains[r.domain].name, "*", "sub"))
	if r.flags&flagLiteral != 0 {
		p = mail.NewPath(table.localOf(r), table.domains[r.domain].name)
	}
	alone := len(table.conditions) == 0 // each address has one rule, which is always in force
	if !table.Hosted(p.Domain) {
		t.Fatalf("%s is not hosted, for all its rule %s", p.Domain, table.rule(number))
	}
	var steps Steps
	routes, err := table.Route(mail.Query{Forward: p, Trusted: trusted}, &steps)
	if len(steps.List) == 0 {
		t.Fatal("there is no step")
	}
	if err == nil && len(routes) == 0 {
		t.Fatalf("%s: neither routes nor an error", p)
	}
	if err != nil && alone && r.flags&flagLiteral != 0 &&
		mail.ReplyFor(err).String() == "550 5.1.1 No such user here" && table.replyOf(r) == "" {
		t.Fatalf("%s: its own rule does not take it", p)
	}
	for _, route := range routes {
		if alone && r.flags&flagLiteral != 0 && route.Rule != table.rule(number) &&
			!sameAddress(table, route.Rule, p) {
			t.Fatalf("%s: %s took it, not %s", p, route.Rule, table.rule(number))
		}
		checkRoute(t, route)
	}
}

// sameAddress reports whether the pattern of a rule is an address that stands for the same mailbox as p.
func sameAddress(t *Table, rule mail.Rule, p mail.Path) bool {
	other, err := mail.ParsePath(rule.Pattern, true)
	if err != nil {
		return false
	}
	id, _ := t.domain(p.Domain)
	a, ok := linker{t: t}.literalOf(id, p.LocalPart())
	b, ok2 := linker{t: t}.literalOf(id, other.LocalPart())
	return ok && ok2 && a == b
}

func (t *Table) replyOf(r *rule) string {
	if r.action == reply {
		return t.replies[r.first].String()
	}
	return ""
}

// checkRoute checks what the relay relies on in a route.
func checkRoute(t *testing.T, route mail.Route) {
	if route.Action == mail.Drop {
		if route.NextHop != (mail.NextHop{}) || route.Forwards != nil {
			t.Fatalf("a drop with a next hop: %+v", route)
		}
		return
	}
	if route.NextHop.Host == "" || len(route.Forwards) == 0 || len(route.Forwards) > MaxTargets {
		t.Fatalf("%+v", route)
	}
	for _, f := range route.Forwards {
		if again, err := mail.ParsePath(f.String(), true); err != nil || again != f {
			t.Fatalf("<%s> does not stand on the wire as it is meant: %v", f, err)
		}
	}
}

// FuzzRoute: for any recipient there is an answer that the relay can use. It is the same in any case of the domain. The
// mail of an untrusted client goes to the hosts of the file only.
func FuzzRoute(f *testing.F) {
	for _, s := range []string{
		"info@example.com", "a-list@example.com", `"a b-list"@example.com`, "Postmaster", "x@fx.example",
		"größe@BÜCHER.example", "x@[IPv6:::1]", "alias2@example.com", "a%b@six.example", "kept.a@h.example",
		"c.x@h.example",
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	for _, s := range []string{
		"desk+tag@c.example", "x@sub.c.example", "pre-x@c.example", "de.sk@alias.test", "off@c.example",
		"spf@c.example",
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	table, err := Parse("r", strings.NewReader(designRoutes+abuseRoutesWithout("@fx.example")+conditionRoutes),
		testConfig())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string, trusted bool) {
		p, err := mail.ParsePath(s, true)
		if err != nil {
			return
		}
		for _, result := range []string{"", "pass", "fail", "temperror"} {
			q := mail.Query{Reverse: p, Forward: p, SPF: result, Trusted: trusted}
			routes, err := table.Route(q, nil)
			if err == nil && len(routes) == 0 {
				t.Fatalf("<%s>: neither routes nor an error", p)
			}
			for _, route := range routes {
				checkRoute(t, route)
			}
		}
		routes, err := table.Route(mail.Query{Forward: p, Trusted: trusted}, nil)
		var refusal *mail.Refusal
		if err != nil && (!errors.As(err, &refusal) || refusal.Reason == "" || refusal.Reply.Class() < 4) {
			t.Fatal(err)
		}
		for _, route := range routes {
			checkRoute(t, route)
			if _, foreign := table.domain(p.Domain); !foreign && !trusted && !p.IsPostmaster() {
				t.Fatalf("<%s> is relayed: %+v", p, route)
			}
		}
		upper := mail.Path{Local: p.Local, Domain: strings.ToUpper(p.Domain)}
		if !strings.EqualFold(upper.Domain, p.Domain) || !ascii.Is(p.Domain) {
			return
		}
		other, err2 := table.Route(mail.Query{Forward: upper, Trusted: trusted}, nil)
		if (err == nil) != (err2 == nil) || len(routes) != len(other) {
			t.Fatalf("<%s>: %s, <%s>: %s", p, answer(routes, err), upper, answer(other, err2))
		}
	})
}

func abuseRoutesWithout(prefix string) string {
	var kept []string
	for _, line := range strings.Split(abuseRoutes, "\n") {
		if !strings.HasPrefix(line, prefix) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}
