package rules

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// relayRoutes hosts h.example and sends what trusted clients write to others by way of several hosts.
const relayRoutes = `domain h.example
info@h.example       alice@t.example
far@h.example        bob@lan.example
kept@h.example       smtp://192.0.2.9
relay @lan.example   smtp://192.0.2.20
relay @Bücher.example lmtp://192.0.2.21
relay @two.example   try submission://user%40example.com@smart.example, smtp://192.0.2.22   srs=always seal=never
relay *              submission://user%40example.com@smart.example   upstream_text=code eightbit=refuse
`

// listed is the next hop of a listener.
var listed = mail.NextHop{Transport: mail.SMTP, Host: "192.0.2.30"}

// TestTable_Relay: mail of trusted clients goes by the relay line of its domain, then by the next hop of its listener,
// then by the line for all; what is ours goes by its own lines.
func TestTable_Relay(t *testing.T) {
	const smart, line = "submission://user%40example.com@smart.example", "routes.txt:"
	with, without := mustParse(t, relayRoutes), mustParse(t, "domain h.example\nrelay @lan.example smtp://192.0.2.20\n")
	for _, tt := range []struct {
		name  string
		table *Table
		to    string
		via   mail.NextHop
		want  string
		rule  string
	}{
		{"by its domain", with, "a@lan.example", mail.NextHop{}, "by smtp://192.0.2.20", line + "5 relay @lan.example"},
		{"in another case", with, "a@LAN.Example", mail.NextHop{}, "by smtp://192.0.2.20",
			line + "5 relay @lan.example"},
		{"by its domain before the listener", with, "a@lan.example", listed, "by smtp://192.0.2.20",
			line + "5 relay @lan.example"},
		{"a name with two forms", with, "a@xn--bcher-kva.example", mail.NextHop{}, "by lmtp://192.0.2.21",
			line + "6 relay @Bücher.example"},
		{"a domain below it", with, "a@x.lan.example", mail.NextHop{}, "by " + smart, line + "8 relay *"},
		{"in turn", with, "a@two.example", mail.NextHop{}, "by " + smart + " else <a@two.example> by smtp://192.0.2.22",
			line + "7 relay @two.example"},
		{"all others", with, "a@gmail.example", mail.NextHop{}, "by " + smart, line + "8 relay *"},
		{"an address literal", with, "a@[192.0.2.77]", mail.NextHop{}, "by " + smart, line + "8 relay *"},
		{"the listener before the line for all", with, "a@gmail.example", listed, "by smtp://192.0.2.30", "relay_via"},
		{"the listener without a line for all", without, "a@gmail.example", listed, "by smtp://192.0.2.30",
			"relay_via"},
		{"neither", without, "a@gmail.example", mail.NextHop{}, "by mx:gmail.example", "trusted relay"},
		{"a hosted domain", with, "kept@h.example", listed, "by smtp://192.0.2.9", line + "4 kept@h.example"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := mail.Query{
				Forward: parsePath(t, tt.to), Reverse: parsePath(t, "me@h.example"), Trusted: true, Via: tt.via,
			}
			var steps Steps
			routes, err := tt.table.Route(q, &steps)
			want := "<" + q.Forward.String() + "> " + tt.want
			if got := answer(routes, err); got != want || routes[0].Rule.String() != tt.rule {
				t.Fatalf("got %s by %s, want %s by %s", got, routes[0].Rule, want, tt.rule)
			}
			if routes[0].Rewrote || routes[0].Reverse != q.Reverse || len(steps.List) == 0 {
				t.Errorf("%+v, after %q", routes[0], steps.List)
			}
		})
	}
}

// TestTable_RelayPolicy: mail of trusted clients keeps its reverse-path and is signed, unless the line says otherwise.
func TestTable_RelayPolicy(t *testing.T) {
	table := mustParse(t, relayRoutes+"relay @auto.example smtp://192.0.2.23 srs=auto seal=auto upstream_text=redact\n")
	plain := mail.DomainPolicy{SRS: mail.SRSNever, Seal: mail.SealAlways, UpstreamText: mail.UpstreamTextFull}
	two, all, auto := plain, plain, plain
	two.SRS, two.Seal = mail.SRSAlways, mail.SealNever
	all.UpstreamText, all.EightBit = mail.UpstreamTextCode, mail.EightBitRefuse
	auto.UpstreamText = mail.UpstreamTextRedact
	for to, want := range map[string]mail.DomainPolicy{
		"lan.example": plain, "two.example": two, "other.example": all, "auto.example": auto,
	} {
		routes, err := table.Route(mail.Query{Forward: parsePath(t, "a@"+to), Trusted: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for r := &routes[0]; r != nil; r = r.Else {
			if r.Policy != want {
				t.Errorf("%s by %s: %+v, want %+v", to, r.NextHop, r.Policy, want)
			}
		}
	}
}

// TestTable_RelayStranger: a relay line, and the next hop of a listener, are never for a client that is not trusted:
// not by the name, not behind an alias, and not for what goes to MX hosts for other reasons.
func TestTable_RelayStranger(t *testing.T) {
	table := mustParse(t, relayRoutes)
	relays := map[string]bool{"192.0.2.20": true, "192.0.2.21": true, "192.0.2.22": true, "smart.example": true,
		"192.0.2.30": true}
	for to, want := range map[string]string{
		"a@lan.example":              "550 5.7.1 Relaying denied",
		"a@bücher.example":           "550 5.7.1 Relaying denied",
		"a@two.example":              "550 5.7.1 Relaying denied",
		"a@gmail.example":            "550 5.7.1 Relaying denied",
		"a@[192.0.2.20]":             "550 5.7.1 Relaying denied",
		"a@*":                        "550 5.7.1 Relaying denied",
		"a%lan.example@h.example":    "550 5.1.1 No such user here",
		"far@h.example":              "<bob@lan.example> by mx:lan.example",
		"info@h.example":             "<alice@t.example> by mx:t.example",
		"postmaster@h.example":       "<ops@elsewhere.example> by mx:elsewhere.example",
		"kept%lan.example@h.example": "550 5.1.1 No such user here",
	} {
		local, domain, _ := cutAt(to)
		routes, err := table.Route(mail.Query{Forward: mail.NewPath(local, domain), Via: listed}, nil)
		if got := answer(routes, err); got != want {
			t.Errorf("%s: got %s, want %s", to, got, want)
		}
		for _, r := range routes {
			if relays[r.NextHop.Host] {
				t.Errorf("%s: a stranger's mail goes by %s", to, r.NextHop)
			}
		}
	}
	routes, err := table.Direct(mail.Query{Forward: parsePath(t, "a@lan.example"), Trusted: true, Via: listed})
	if got := answer(routes, err); got != "<a@lan.example> by mx:lan.example" {
		t.Errorf("directly: %s", got)
	}
}

// TestTable_RelayFacts: relay lines are rules, name fixed next hops and host nothing.
func TestTable_RelayFacts(t *testing.T) {
	table := mustParse(t, "# one\nrelay * smtp://192.0.2.20\nrelay @a.example smtp://192.0.2.21 srs=always\n")
	if table.Len() != 2 || table.Domains() != 0 || table.Hosted("a.example") || table.Ours("a.example") {
		t.Errorf("%d rules, %d domains", table.Len(), table.Domains())
	}
	if !table.HasNextHop(mail.NextHop{Transport: mail.SMTP, Host: "192.0.2.20"}) {
		t.Error("its next hop is unknown")
	}
	if n := table.Needs().Trusted; n.Rules != 2 || n.First.String() != "routes.txt:2 relay *" || n.Column != 7 {
		t.Errorf("%+v", n)
	}
	if n := table.Needs().SRS; n.Rules != 1 || n.First.Line != 3 {
		t.Errorf("%+v", n)
	}
	if w := table.Warnings(); len(w) != 0 {
		t.Errorf("%v", w)
	}
}

// TestTable_RelayMistakes: what is wrong with a relay line is said with its place.
func TestTable_RelayMistakes(t *testing.T) {
	for line, want := range map[string]string{
		"relay":                                           "1:1: relay without a domain",
		"relay # all":                                     "1:1: relay without a domain",
		"relay smtp://192.0.2.9":                          "1:7: behind relay stands * or @ and a domain, not",
		"relay a@x.example smtp://192.0.2.9":              "1:7: behind relay stands * or @ and a domain, and not",
		"relay @*.example smtp://192.0.2.9":               "1:7: no line is for all domains below another",
		"relay @a..example smtp://h":                      "1:7: domain \"a..example\": not a domain name",
		"relay @ smtp://h":                                "1:7: domain \"\": not a domain name",
		"relay *":                                         "a next hop is missing, such as submission://",
		"relay * a@x.example":                             "1:9: a relay line has next hops alone, and \"a@x.ex",
		"relay * drop":                                    "1:9: a relay line has next hops alone, and \"drop\"",
		"relay * smtp://h, smtp://i":                      "1:9: several next hops of a relay line are used",
		"relay * try smtp://h":                            "1:13: try needs two targets at least",
		"relay * try smtp://h,":                           "a next hop is missing",
		"relay * submission://x@smart.example":            "there is no line for \"x\" in the credentials file",
		"relay * smtp://user%40example.com@smart.example": "a user is authenticated under smtps:// and submission://",
		"relay * smtp://192.0.2.1":                        "1:7: the next hop smtp://192.0.2.1 is this node itself",
		"relay * smtp://mx1.example.net":                  "1:7: the next hop smtp://mx1.example.net is this",
		"relay @mx1.example.net smtp://h":                 "1:7: mx1.example.net is this system's own name",
		"relay * smtp://h dmarc=off":                      "1:18: option dmarc does not stand on a relay line",
		"relay * smtp://h lend=anybody":                   "1:18: option lend does not stand on a relay line",
		"relay * smtp://h srs=perhaps":                    "1:18: ",
		"relay * smtp://h\nrelay * smtp://i":              "2:7: relay * was given at r:1",
		"Relay * smtp://h":                                "write relay in small letters",
		"relay @h.example smtp://h\ndomain h.example":     "1:7: h.example is hosted here: its own lines take its mail",
	} {
		_, err := Parse("r", strings.NewReader(line), testConfig())
		var all *Errors
		if !errors.As(err, &all) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", line, err, want)
		}
	}
}

// TestParseNextHop: a next hop of the configuration is read as one of a rule is.
func TestParseNextHop(t *testing.T) {
	cfg := testConfig()
	for s, want := range map[string]string{
		"submission://user%40example.com@smart.example": "",
		"submission://x@smart.example":                  `next hop "submission://x@smart.example": there is no line`,
		"a@x.example":                                   `next hop "a@x.example": it begins with smtp://`,
		"smtp://MX1.example.net":                        "the next hop smtp://mx1.example.net is this node itself",
		"smtp://192.0.2.1":                              "the next hop smtp://192.0.2.1 is this node itself",
		"smtp://192.0.2.1:2526":                         "",
	} {
		if _, why := ParseNextHop(s, &cfg); !strings.HasPrefix(why, want) || want == "" && why != "" {
			t.Errorf("%q: %s, want %s", s, why, want)
		}
	}
}
