package rules

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/router/mail"
)

// abuseRoutes has each kind of rule that could keep what the client sent.
const abuseRoutes = `domain h.example subaddress=-
info@h.example            alice@t.example
/(.+)-list/@h.example     $1@t.example
/raw\.(.*)/@h.example     $1@t.example
/get(.*)/@h.example       x$1@t.example
/kept\.(.*)/@h.example    $1@t.example routing=keep
@fx.example               smtp://192.0.2.9
pre%set@pre.example       smtp://192.0.2.9
ok%ok@pre.example         smtp://192.0.2.9 routing=keep
@keep.example             smtp://192.0.2.9 routing=keep
@fwd.example              box@t.example
chain@h.example           fixed@fx.example
/c\.(.*)/@h.example       $1@fx.example
`

// TestTable_Tricks: tricks in addresses do not relay.
func TestTable_Tricks(t *testing.T) {
	table := mustParse(t, abuseRoutes)
	const (
		routed   = "550 5.1.3 Source routing in the local part is not accepted"
		relaying = "550 5.7.1 Relaying denied"
		unknown  = "550 5.1.1 No such user here"
	)
	tests := []struct{ name, rcpt, want string }{
		{"a foreign domain", "victim@evil.example", relaying},
		{"the percent hack to a fixed next hop", "victim%evil.example@fx.example", routed},
		{"a percent alone", "50%@fx.example", routed},
		{"a bang path", "evil.example!victim@fx.example", routed},
		{"a quoted address", `"victim@evil.example"@fx.example`, routed},
		{"a quoted percent", `"victim%evil.example"@fx.example`, routed},
		{"a quoted bang path", `"evil.example!victim"@fx.example`, routed},
		{"an @ behind a backslash", `"victim\@evil.example"@fx.example`, routed},
		{"a percent behind a backslash", `"victim\%evil.example"@fx.example`, routed},
		{"a dash at the start", "-oQ/tmp@fx.example", routed},
		{"a quoted dash at the start", `"-oQ/tmp"@fx.example`, routed},
		{"a dash behind a backslash", `"\-oQ"@fx.example`, routed},
		{"a pipe at the start", "|/bin/sh@fx.example", routed},
		{"a quoted pipe with blanks", `"| /bin/sh -c id"@fx.example`, routed},
		{"a slash at the start", "/etc/passwd@fx.example", routed},
		{"a quoted slash", `"/etc/passwd"@fx.example`, routed},
		{"mixed hacks", "a!b%c@fx.example", routed},
		{"a full-width percent", "victim％evil.example@fx.example", routed},
		{"a small percent", "victim﹪evil.example@fx.example", routed},
		{"a full-width at-sign", "victim＠evil.example@fx.example", routed},
		{"a small at-sign", "victim﹫evil.example@fx.example", routed},
		{"a full-width bang path", "evil.example！victim@fx.example", routed},
		{"two bangs in one sign", "evil.example‼victim@fx.example", routed},
		{"a full-width dash at the start", "－oQ@fx.example", routed},
		{"a full-width pipe at the start", "｜sh@fx.example", routed},
		{"a full-width slash at the start", "／etc@fx.example", routed},
		{"a quoted full-width percent", `"victim％evil.example"@fx.example`, routed},
		{"a name in Japanese is an ordinary name", "受付@fx.example", "<受付@fx.example> by smtp://192.0.2.9"},
		{"full-width letters are an ordinary name", "ａｂｃ@fx.example", "<ａｂｃ@fx.example> by smtp://192.0.2.9"},
		{"an @ at the end", `"victim@"@fx.example`, routed},
		{"an @ at the start", `"@evil.example:victim"@fx.example`, routed},
		{"two percents", "a%b%c@fx.example", routed},
		{"a dash inside is an ordinary name", "first-last@fx.example", "<first-last@fx.example> by smtp://192.0.2.9"},
		{"a slash inside is an ordinary name", "g=x/s=y@fx.example", "<g=x/s=y@fx.example> by smtp://192.0.2.9"},
		{"a source route is dropped", "@evil.example:user@fx.example", "<user@fx.example> by smtp://192.0.2.9"},
		{"a source route through us to elsewhere", "@fx.example:victim@evil.example", relaying},
		{"two hops of a source route", "@fx.example,@h.example:victim@evil.example", relaying},
		{"a blank in quotes stays in its quotes", `"a b"@fx.example`, `<"a b"@fx.example> by smtp://192.0.2.9`},
		{
			"an angle bracket stays in its quotes", `"a> ORCPT=<b"@fx.example`,
			`<"a> ORCPT=<b"@fx.example> by smtp://192.0.2.9`,
		},
		{"a comma in an expansion is quoted", `"a,b-list"@h.example`, `<"a,b"@t.example> by mx:t.example`},
		{"an @ in an expansion", `"victim@evil.example-list"@h.example`, routed},
		{"a percent in an expansion", "victim%evil.example-list@h.example", routed},
		{"a full-width percent in an expansion", "victim％evil.example-list@h.example", routed},
		{"a full-width dash that only the expansion begins with", "raw.－f@h.example", routed},
		{"a bang in an expansion", "evil.example!victim-list@h.example", routed},
		{"a dash that only the expansion begins with", "raw.-f@h.example", routed},
		{"a pipe that only the expansion begins with", `"raw.|sh"@h.example`, routed},
		{"a slash that only the expansion begins with", "raw./etc@h.example", routed},
		{"an at-sign that only the expansion begins with", `"raw.@evil.example"@h.example`, routed},
		{
			"a group behind the template's own text may begin with a dash", "get-x@h.example",
			"<x-x@t.example> by mx:t.example",
		},
		{"an expansion to nothing", "raw.@h.example", ""},
		{"an expansion to nothing, quoted", `"raw."@h.example`, "550 5.1.3 Bad destination mailbox address"},
		{"a dollar in a group is not expanded again", "raw.$1@h.example", "<$1@t.example> by mx:t.example"},
		{"braces in a group are not expanded again", "raw.${1}@h.example", "<${1}@t.example> by mx:t.example"},
		{"routing=keep on a regex", "kept.a%b@h.example", "<a%b@t.example> by mx:t.example"},
		{"routing=keep on a catch-all", "a%b@keep.example", "<a%b@keep.example> by smtp://192.0.2.9"},
		{"routing=keep on a literal", "ok%ok@pre.example", "<ok%ok@pre.example> by smtp://192.0.2.9"},
		{"a literal that reads as a route, without routing=keep", "pre%set@pre.example", routed},
		{
			"a catch-all with a target of its own keeps nothing", "victim%evil.example@fwd.example",
			"<box@t.example> by mx:t.example",
		},
		{
			"a chain to a fixed next hop with the rule's own local part", "chain@h.example",
			"<fixed@fx.example> by smtp://192.0.2.9",
		},
		{"a chain to a fixed next hop with the client's percent", "c.a%b@h.example", routed},
		{"a chain to a fixed next hop with the client's dash", "c.-f@h.example", routed},
		{
			"a chain to a fixed next hop with the client's name", "c.bob@h.example",
			"<bob@fx.example> by smtp://192.0.2.9",
		},
		{"a tag that is a route keeps nothing", "info-a%b@h.example", "<alice@t.example> by mx:t.example"},
		{"a hosted domain as a prefix", "victim@h.example.evil.example", relaying},
		{"a hosted domain as a suffix", "victim@evilh.example", relaying},
		{"an address literal", "victim@[192.0.2.1]", relaying},
		{"an address literal of loopback", "victim@[127.0.0.1]", relaying},
		{"an IPv6 literal", "victim@[IPv6:::1]", relaying},
		{"a numeric domain", "victim@2130706433", relaying},
		{"a domain with an underscore", "victim@_h.example", relaying},
		{"a fullwidth hosted domain is the hosted domain", "nobody@ｈ.example", unknown},
		{"a Cyrillic look-alike is foreign", "victim@һ.example", relaying},
		{"an A-label of nothing", "victim@xn--0.example", relaying},
		{"a percent to a domain without a catch-all", "victim%evil.example@h.example", unknown},
		{"postmaster with a route", "postmaster%evil.example@h.example", unknown},
		{
			"a quoted postmaster is the postmaster", `"postmaster"@h.example`,
			"<ops@elsewhere.example> by mx:elsewhere.example",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := mail.ParsePath(tt.rcpt, true)
			if tt.want == "" {
				if err == nil {
					t.Fatal("it parses")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := answer(table.Route(mail.Query{Forward: p}, nil)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestTable_Trusted: trusted clients relay anywhere.
func TestTable_Trusted(t *testing.T) {
	table := mustParse(t, abuseRoutes)
	for rcpt, want := range map[string]string{
		"Bob@Foreign.example":  "<Bob@Foreign.example> by mx:foreign.example",
		"x@bücher.example":     "<x@bücher.example> by mx:xn--bcher-kva.example",
		"x@[192.0.2.77]":       "<x@[192.0.2.77]> by mx:[192.0.2.77]",
		"a%b@fx.example":       "<a%b@fx.example> by smtp://192.0.2.9",
		"a%b-list@h.example":   "<a%b@t.example> by mx:t.example",
		"nobody@h.example":     "550 5.1.1 No such user here",
		"x@ä_.example":         "550 5.1.2 Not a domain name",
		"root@mx1.example.net": "550 5.1.1 No such user here",
	} {
		routes, err := table.Route(mail.Query{Forward: parsePath(t, rcpt), Trusted: true}, nil)
		if got := answer(routes, err); got != want {
			t.Errorf("%s: got %s, want %s", rcpt, got, want)
		}
		if strings.Contains(rcpt, "oreign") && (routes[0].Rule.Pattern != "trusted relay" || routes[0].Rewrote) {
			t.Errorf("%+v", routes[0])
		}
	}
	if _, err := table.Route(mail.Query{Trusted: true}, nil); mail.ReplyFor(err).Code != 550 {
		t.Errorf("the null path: %v", err)
	}
}

// TestTable_RefusalRule: a refusal names its rule.
func TestTable_RefusalRule(t *testing.T) {
	table := mustParse(t,
		"a@h.example reject 550 5.7.1 no\n@fx.example smtp://192.0.2.9\nb@h.example x@t.example, y@u.example\n"+
			"c@h.example x@l.example, y@l.example\n@l.example lmtp://192.0.2.9")
	for rcpt, want := range map[string]struct{ rule, reason string }{
		"a@h.example":    {"routes.txt:1 a@h.example", ReasonRule},
		"a%b@fx.example": {"routes.txt:2 @fx.example", ReasonRouted},
		"b@h.example":    {"routes.txt:3 b@h.example", ReasonSeveral},
		"c@h.example":    {"routes.txt:4 c@h.example", ReasonSeveral},
	} {
		_, err := table.Route(mail.Query{Forward: parsePath(t, rcpt)}, nil)
		var refusal *mail.Refusal
		var named interface{ MailRule() mail.Rule }
		if !errors.As(err, &refusal) || refusal.Reason != want.reason || !errors.As(err, &named) ||
			named.MailRule().String() != want.rule {
			t.Errorf("%s: %v", rcpt, err)
		}
	}
}

// drawRoutes draws a rules file from the grammar over few names, so that lines meet. Not every file it draws loads.
func drawRoutes(rt *rapid.T) string {
	local := rapid.SampledFrom([]string{"a", "b", "a+b", "Info", `"q q"`, "x%y", "postmaster"})
	ours := rapid.SampledFrom([]string{"h1.example", "H2.example", "bücher.example"})
	theirs := rapid.SampledFrom([]string{"t1.example", "T2.example", "straße.example", "[192.0.2.8]"})
	options := rapid.SampledFrom([]string{"", " routing=keep", " srs=never # note", " subaddress=+"})
	address := rapid.Custom(func(rt *rapid.T) string {
		if rapid.IntRange(0, 4).Draw(rt, "alias") == 0 {
			return local.Draw(rt, "local") + "@" + ours.Draw(rt, "ours")
		}
		return local.Draw(rt, "local") + "@" + theirs.Draw(rt, "theirs")
	})
	nextHop := rapid.SampledFrom([]string{
		"smtp://192.0.2.9", "lmtp://s1.example:2424", "lmtp+unix:/run/x",
		"smtps://user%40example.com@smart.example lend=anybody",
	})
	target := rapid.Custom(func(rt *rapid.T) string {
		switch rapid.IntRange(0, 7).Draw(rt, "kind") {
		case 0:
			return nextHop.Draw(rt, "hop")
		case 1:
			return address.Draw(rt, "one") + ", " + address.Draw(rt, "two")
		case 2:
			return "drop"
		case 3:
			return "reject 550 5.1.1 no"
		case 4:
			return "try " + address.Draw(rt, "one") + "," + nextHop.Draw(rt, "two")
		}
		return address.Draw(rt, "address") + options.Draw(rt, "options")
	})
	line := rapid.Custom(func(rt *rapid.T) string {
		switch rapid.IntRange(0, 5).Draw(rt, "line") {
		case 5:
			to := rapid.SampledFrom([]string{"*", "@t1.example", "@evil.example", "@bücher.example"})
			return "relay " + to.Draw(rt, "relay") + " smtp://relay.example"
		case 0:
			return "@" + ours.Draw(rt, "ours") + " " + target.Draw(rt, "target")
		case 1:
			return "domain " + ours.Draw(rt, "ours") + " subaddress=+"
		case 2:
			re := rapid.SampledFrom([]string{
				"(.*)", "(.+)-list", "([^@]+)(%|@)(.*)", "x(.*)|(y.*)", "(?s:.)(.*)",
			}).Draw(rt, "regex")
			to := rapid.SampledFrom([]string{"$1", "${1}x", "x$1", "p-$1.q", "$1$1"}).Draw(rt, "template")
			domain := theirs.Draw(rt, "theirs")
			if rapid.Bool().Draw(rt, "alias") {
				domain = ours.Draw(rt, "ours")
			}
			return "/" + re + "/@" + ours.Draw(rt, "ours") + " " + to + "@" + domain + options.Draw(rt, "options")
		}
		return local.Draw(rt, "local") + "@" + ours.Draw(rt, "ours") + " " + target.Draw(rt, "target")
	})
	return strings.Join(rapid.SliceOfN(line, 1, 6).Draw(rt, "lines"), "\n")
}

// drawRecipient draws what a client may try.
func drawRecipient(rt *rapid.T) mail.Path {
	piece := rapid.SampledFrom([]string{
		"a", "b", "info", "x", "+", "%", "!", "@", "-list", "-", "/", "|", `"`, `\`, "$1", "evil.example", "q q", ".",
		"y", "ß",
	})
	local := strings.Join(rapid.SliceOfN(piece, 1, 6).Draw(rt, "local"), "")
	domain := rapid.SampledFrom([]string{
		"h1.example", "h2.EXAMPLE", "xn--bcher-kva.example", "bücher.example", "t1.example", "evil.example",
		"[192.0.2.8]", "s1.example", "smart.example",
	})
	return mail.NewPath(local, domain.Draw(rt, "domain"))
}

// TestTable_OpenRelay: with any file and any recipient of an untrusted client, mail goes to hosts that the
// file names, or to the postmaster.
func TestTable_OpenRelay(t *testing.T) {
	loaded, routed := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		text := drawRoutes(rt)
		table, err := Parse("r", strings.NewReader(text), testConfig())
		if err != nil {
			return
		}
		loaded++
		ours := map[string]bool{"h1.example": true, "h2.example": true, "xn--bcher-kva.example": true}
		allowed := map[string]bool{"elsewhere.example": true} // the postmaster's
		for written, host := range map[string]string{
			"t1.example": "t1.example", "t2.example": "t2.example", "straße.example": "xn--strae-oqa.example",
			"[192.0.2.8]": "[192.0.2.8]",
			"192.0.2.9":   "192.0.2.9", "s1.example": "s1.example", "/run/x": "/run/x",
			"smart.example": "smart.example",
		} {
			if strings.Contains(strings.ToLower(text), written) {
				allowed[host] = true
			}
		}
		for name := range ours { // a domain that the file names as a target and does not host is foreign too
			if !table.Hosted(name) {
				allowed[name] = true
			}
		}
		for range 8 {
			p := drawRecipient(rt)
			routes, err := table.Route(mail.Query{Forward: p, Via: mail.NextHop{Host: "relay.example"}}, nil)
			if err != nil {
				var refusal *mail.Refusal
				if !errors.As(err, &refusal) || refusal.Reply.Class() < 4 {
					rt.Fatalf("%v", err)
				}
				continue
			}
			routed++
			for _, r := range routes {
				if why := relays(r, ours, allowed, strings.Contains(text, "routing=keep")); r.Action == mail.Forward &&
					why != "" {
					rt.Fatalf("%s\n<%s>: %s: %s", text, p, answer(routes, nil), why)
				}
			}
		}
	})
	t.Logf("%d files loaded, %d recipients routed", loaded, routed)
	if loaded == 0 || routed == 0 {
		t.Errorf("%d files loaded, %d recipients routed", loaded, routed)
	}
}

// relays returns what is wrong with a route, or "".
func relays(r mail.Route, ours, allowed map[string]bool, keep bool) string {
	if !allowed[r.NextHop.Host] {
		return "the next hop stands nowhere in the file"
	}
	for _, f := range r.Forwards {
		host, _ := canonicalDomain(f.Domain)
		fixed := r.NextHop.Transport != mail.MX
		if !allowed[host] && !(fixed && ours[host]) {
			return fmt.Sprintf("the domain of <%s> stands nowhere in the file", f)
		}
		if !fixed && host != r.NextHop.Host {
			return fmt.Sprintf("<%s> is not the next hop's", f)
		}
		if again, err := mail.ParsePath(f.String(), true); err != nil || again != f {
			return fmt.Sprintf("<%s> does not stand on the wire as it is meant", f)
		}
		if local := f.LocalPart(); !keep && local != "x%y" && looksRouted(local) {
			return fmt.Sprintf("<%s> reads as a route", f)
		}
	}
	return ""
}
