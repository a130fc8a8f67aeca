package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// testConfig has a postmaster elsewhere and one line of credentials.
func testConfig() Config {
	return Config{
		Postmaster: mail.Path{Local: "ops", Domain: "elsewhere.example"},
		Own:        []string{"mx1.example.net", "srs.example.net"},
		Local:      []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:25"), netip.MustParseAddrPort("0.0.0.0:2525")},
		HasCredentials: func(user, host string, port uint16) bool {
			return user == "user@example.com" && host == "smart.example" && (port == 587 || port == 465)
		},
	}
}

func mustParse(t testing.TB, text string) *Table {
	t.Helper()
	table, err := Parse("routes.txt", strings.NewReader(text), testConfig())
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func parsePath(t testing.TB, s string) mail.Path {
	t.Helper()
	p, err := mail.ParsePath(s, true)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return p
}

// answer returns the result of Route on one line: "<a> <b> by nexthop", "drop" or the reply.
func answer(routes []mail.Route, err error) string {
	if err != nil {
		return mail.ReplyFor(err).String()
	}
	var all []string
	for _, r := range routes {
		if r.Action == mail.Drop {
			all = append(all, "drop")
			continue
		}
		line := ""
		for way := &r; way != nil; way = way.Else {
			for _, f := range way.Forwards {
				line += "<" + f.String() + "> "
			}
			line += "by " + way.NextHop.String()
			if way.Else != nil {
				line += " else "
			}
		}
		all = append(all, line)
	}
	return strings.Join(all, "; ")
}

const designRoutes = `domain *            dmarc=enforce                          # defaults for all hosted domains
domain example.com  subaddress=+  dmarc=enforce  require_auth=report  srs=auto  seal=auto
info@example.com        alice@mailbox.example              # a bare pattern also hosts its domain
same@example.com        a@x.example, b@X.example, a@x.example
sales@example.com       a@x.example, b@y.example           # fan-out
desk@example.com        try a@x.example, b@y.example       # failover
old@example.com         reject 550 5.1.1 Moved, write to # info@example.com
later@example.com       tempfail 451 4.2.1 Back tomorrow
bare@example.com        reject 554
trap@example.com        drop  # comment
info+vip@example.com    vip@mailbox.example
/(.+)-list/@example.com      $1@lists.example              # RE2 on the local part, anchored
/(.+)-(?-i:UP)/@example.com  $1@lists.example
/^a#b ([a-z]+)$/@example.com      ${1}x@lists.example
@example.com            catchall@mailbox.example           # catch-all
@fx.example             smtp://100.64.0.7:25               # same recipient, fixed next hop, no MX lookup
@old.example            lmtp+unix:/run/dovecot/lmtp
@six.example            smtp://[2001:db8::0:7]:2626
@sub.example            submission://user%40example.com@Smart.example:587 lend=anybody
@tls.example            smtps://user%40example.com@smart.example lend=anybody
@lm.example             lmtp://[::1]
one@literal.example     x@[192.0.2.9]
"quoted, local"@literal.example   "a b, c"@t.example
MIXED@Literal.EXAMPLE   mixed@T.example srs=never mixed=reject
größe@bücher.example    über@straße.example
alias@example.com       info@example.com
alias2@example.com      alias@example.com, other@t.example
toList@example.com      staff-list@example.com
domain empty.example
stop@only.example       reject 550 5.7.1 no
`

// TestTable_Design: the routes of the file in the design.
func TestTable_Design(t *testing.T) {
	table := mustParse(t, designRoutes)
	tests := []struct{ name, rcpt, want string }{
		{"a literal address", "info@example.com", "<alice@mailbox.example> by mx:mailbox.example"},
		{
			"case of the local part and of the domain do not count", "InFo@Example.COM",
			"<alice@mailbox.example> by mx:mailbox.example",
		},
		{"quotes do not count", `"info"@example.com`, "<alice@mailbox.example> by mx:mailbox.example"},
		{"quoted pairs do not count", `"in\fo"@example.com`, "<alice@mailbox.example> by mx:mailbox.example"},
		{"a tag is taken off", "info+news@example.com", "<alice@mailbox.example> by mx:mailbox.example"},
		{"the literal with the tag comes first", "info+vip@example.com", "<vip@mailbox.example> by mx:mailbox.example"},
		{"several tags: the longest literal", "info+vip+x@example.com", "<vip@mailbox.example> by mx:mailbox.example"},
		{
			"a fan-out within one next hop is one route, doubles left out", "same@example.com",
			"<a@x.example> <b@x.example> by mx:x.example",
		},
		{"a fan-out to two next hops", "sales@example.com", "451 4.3.0 Temporarily not deliverable"},
		{"failover", "desk@example.com", "<a@x.example> by mx:x.example else <b@y.example> by mx:y.example"},
		{
			"reject keeps its text to the end of the line", "old@example.com",
			"550 5.1.1 Moved, write to # info@example.com",
		},
		{"tempfail", "later@example.com", "451 4.2.1 Back tomorrow"},
		{"reject with a code only", "bare@example.com", "554 5.7.1 Address refused"},
		{"drop", "trap@example.com", "drop"},
		{"a regex", "staff-list@example.com", "<staff@lists.example> by mx:lists.example"},
		{
			"a regex ignores case and keeps the group's", "Staff-LIST@example.com",
			"<Staff@lists.example> by mx:lists.example",
		},
		{"(?-i) turns that off", "some-UP@example.com", "<some@lists.example> by mx:lists.example"},
		{
			"(?-i) turns that off, and here it does not match", "some-up@example.com",
			"<catchall@mailbox.example> by mx:mailbox.example",
		},
		{
			"a regex is anchored at its end", "staff-listing@example.com",
			"<catchall@mailbox.example> by mx:mailbox.example",
		},
		{"an expansion is quoted again", `"a b-list"@example.com`, `<"a b"@lists.example> by mx:lists.example`},
		{
			"a quote in an expansion is quoted again", `"a\"b-list"@example.com`,
			`<"a\"b"@lists.example> by mx:lists.example`,
		},
		{"a regex with # and a blank", `"a#b cd"@example.com`, "<cdx@lists.example> by mx:lists.example"},
		{"the catch-all", "nobody@example.com", "<catchall@mailbox.example> by mx:mailbox.example"},
		{"a fixed next hop keeps the recipient", "Any.One@fx.example", "<Any.One@fx.example> by smtp://100.64.0.7"},
		{"a unix socket", "u@old.example", "<u@old.example> by lmtp+unix:/run/dovecot/lmtp"},
		{"an IPv6 next hop", "u@six.example", "<u@six.example> by smtp://[2001:db8::7]:2626"},
		{"submission", "u@sub.example", "<u@sub.example> by submission://user%40example.com@smart.example"},
		{"smtps", "u@tls.example", "<u@tls.example> by smtps://user%40example.com@smart.example"},
		{"lmtp", "u@lm.example", "<u@lm.example> by lmtp://[::1]"},
		{"an address literal for a target", "one@literal.example", "<x@[192.0.2.9]> by mx:[192.0.2.9]"},
		{"a quoted pattern and target", `"quoted, local"@literal.example`, `<"a b, c"@t.example> by mx:t.example`},
		{"upper case in the file", "mixed@literal.example", "<mixed@t.example> by mx:t.example"},
		{"U-labels", "größe@bücher.example", "<über@xn--strae-oqa.example> by mx:xn--strae-oqa.example"},
		{
			"A-labels match U-labels", "größe@xn--bcher-kva.example",
			"<über@xn--strae-oqa.example> by mx:xn--strae-oqa.example",
		},
		{
			"A-labels in upper case", "größe@XN--BCHER-KVA.example",
			"<über@xn--strae-oqa.example> by mx:xn--strae-oqa.example",
		},
		{"U-labels in upper case", "größe@BÜCHER.example", "<über@xn--strae-oqa.example> by mx:xn--strae-oqa.example"},
		{"an alias of an alias", "alias@example.com", "<alice@mailbox.example> by mx:mailbox.example"},
		{"an alias in a fan-out", "alias2@example.com", "451 4.3.0 Temporarily not deliverable"},
		{"an alias that a regex takes", "tolist@example.com", "<staff@lists.example> by mx:lists.example"},
		{"a hosted domain without a rule", "x@empty.example", "550 5.1.1 No such user here"},
		{"a literal hosts its domain", "x@only.example", "550 5.1.1 No such user here"},
		{"a foreign domain", "x@elsewhere.example", "550 5.7.1 Relaying denied"},
		{"a subdomain of a hosted one is foreign", "x@sub.example.com", "550 5.7.1 Relaying denied"},
		{"a target's domain is foreign", "x@mailbox.example", "550 5.7.1 Relaying denied"},
		{"the bare postmaster", "Postmaster", "<ops@elsewhere.example> by mx:elsewhere.example"},
		{
			"postmaster of a hosted domain, before its catch-all", "postmaster@example.com",
			"<ops@elsewhere.example> by mx:elsewhere.example",
		},
		{"abuse of a hosted domain", "ABUSE@fx.example", "<ops@elsewhere.example> by mx:elsewhere.example"},
		{"postmaster of the hostname", "postmaster@mx1.example.net", "<ops@elsewhere.example> by mx:elsewhere.example"},
		{"abuse of the SRS domain", "abuse@SRS.example.net", "<ops@elsewhere.example> by mx:elsewhere.example"},
		{"another address at the hostname", "root@mx1.example.net", "550 5.1.1 No such user here"},
		{"postmaster of a foreign domain", "postmaster@foreign.example", "550 5.7.1 Relaying denied"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := mail.Query{Reverse: mail.Path{Local: "s", Domain: "sender.example"}, Forward: parsePath(t, tt.rcpt)}
			routes, err := table.Route(q, nil)
			if got := answer(routes, err); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			for _, r := range routes {
				if r.Reverse != q.Reverse {
					t.Errorf("reverse-path %s became %s", q.Reverse, r.Reverse)
				}
			}
			var refusal *mail.Refusal
			if err != nil && (!errors.As(err, &refusal) || refusal.Reason == "") {
				t.Errorf("%v is no refusal with a reason", err)
			}
		})
	}
	if got, want := table.Domains(), 11; got != want {
		t.Errorf("hosts %d domains, want %d", got, want)
	}
	if !table.Hosted("BÜCHER.example") || table.Hosted("mx1.example.net") || table.Hosted("mailbox.example") ||
		table.Hosted("*") {
		t.Error("Hosted is wrong")
	}
}

// TestTable_Policy: routes have the rule, its policy and whether the recipient was rewritten.
func TestTable_Policy(t *testing.T) {
	table := mustParse(t, `domain *  seal=never quarantine=refuse
domain h.example  seal=always srs=never upstream_text=code
a@h.example  x@t.example seal=auto eightbit=refuse  # rule beats domain
b@h.example  x@t.example
c@g.example  x@t.example require_auth=yes
@g.example   lmtp://127.0.0.1 upstream_text=redact
@f.example   lmtp://127.0.0.1
d@f.example  b@h.example dmarc=off
`)
	tests := []struct {
		name, rcpt string
		rule       string
		policy     mail.DomainPolicy
		rewrote    bool
	}{
		{"a rule beats its domain, that beats domain *", "a@h.example", "routes.txt:3 a@h.example",
			mail.DomainPolicy{
				SRS: mail.SRSNever, Quarantine: mail.QuarantineRefuse, EightBit: mail.EightBitRefuse,
				UpstreamText: mail.UpstreamTextCode,
			}, true},
		{"a domain beats domain *", "b@h.example", "routes.txt:4 b@h.example",
			mail.DomainPolicy{
				SRS: mail.SRSNever, Seal: mail.SealAlways, Quarantine: mail.QuarantineRefuse,
				UpstreamText: mail.UpstreamTextCode,
			}, true},
		{"a rewritten recipient redacts by default", "c@g.example", "routes.txt:5 c@g.example",
			mail.DomainPolicy{
				Seal: mail.SealNever, Quarantine: mail.QuarantineRefuse, RequireAuth: mail.RequireAuthYes,
				UpstreamText: mail.UpstreamTextRedact,
			}, true},
		{"a rule's own upstream_text stands", "other@g.example", "routes.txt:6 @g.example",
			mail.DomainPolicy{
				Seal: mail.SealNever, Quarantine: mail.QuarantineRefuse, UpstreamText: mail.UpstreamTextRedact,
			}, false},
		{"the same recipient shows all by default", "other@f.example", "routes.txt:7 @f.example",
			mail.DomainPolicy{
				Seal: mail.SealNever, Quarantine: mail.QuarantineRefuse, UpstreamText: mail.UpstreamTextFull,
			}, false},
		{"the first rule of a chain decides", "d@f.example", "routes.txt:8 d@f.example",
			mail.DomainPolicy{
				Seal: mail.SealNever, Quarantine: mail.QuarantineRefuse, DMARC: mail.DMARCOff,
				UpstreamText: mail.UpstreamTextRedact,
			}, true},
		{"the postmaster has his domain's policy", "postmaster@h.example", "postmaster",
			mail.DomainPolicy{
				SRS: mail.SRSNever, Seal: mail.SealAlways, Quarantine: mail.QuarantineRefuse,
				UpstreamText: mail.UpstreamTextCode,
			}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			routes, err := table.Route(mail.Query{Forward: parsePath(t, tt.rcpt)}, nil)
			if err != nil || len(routes) != 1 {
				t.Fatal(routes, err)
			}
			r := routes[0]
			if got := r.Rule.String(); got != tt.rule {
				t.Errorf("rule %q, want %q", got, tt.rule)
			}
			if r.Policy != tt.policy {
				t.Errorf("policy %+v, want %+v", r.Policy, tt.policy)
			}
			if r.Rewrote != tt.rewrote {
				t.Errorf("rewrote %v", r.Rewrote)
			}
		})
	}
	if got := table.Needs().SRS.First.Line; got != 5 {
		t.Errorf("the first rule that wants SRS is line %d, want 5", got)
	}
	if got := table.Needs().Seal.First.Line; got != 3 {
		t.Errorf("the first rule that wants a seal is line %d, want 3", got)
	}
}

// TestParse_Errors: wrong lines are named with their reason.
func TestParse_Errors(t *testing.T) {
	tests := []struct{ name, line, want string }{
		{"no target", "a@h.example", "a pattern without a target"},
		{"a comment for a target", "a@h.example # x@t.example", "a pattern without a target"},
		{"a pattern without a domain", "postmaster x@t.example", `"postmaster" has no domain`},
		{"a malformed pattern", "a..b@h.example x@t.example", "two dots in a row"},
		{"a malformed domain", "@-h.example x@t.example", "not a domain name"},
		{"a domain IDNA refuses", "@xn--0.example x@t.example", "not a domain name that IDNA knows"},
		{"two patterns", "a@h.example, b@h.example x@t.example", "followed by a comma"},
		{"a malformed target", "a@h.example x@@t.example", `"x@@t.example" has two at-signs`},
		{"a target without a domain", "a@h.example alice", `"alice" has no domain`},
		{"a target that is a domain", "a@h.example @t.example", "no target"},
		{"targets without a comma", "a@h.example x@t.example y@t.example", "targets are separated by commas"},
		{"a comma at the end", "a@h.example x@t.example,", "a target is missing"},
		{"a comma at the start", "a@h.example ,x@t.example", "a target is missing"},
		{"a comma before a comment", "a@h.example x@t.example, # y", "a target is missing"},
		{"try with one target", "a@h.example try x@t.example", "try needs two targets"},
		{"drop with more", "a@h.example drop it", "after drop"},
		{"reject with 4yz", "a@h.example reject 450 no", "reject needs a reply code 5yz"},
		{"tempfail with 5yz", "a@h.example tempfail 550 no", "tempfail needs a reply code 4yz"},
		{"reject without a code", "a@h.example reject no", "reject needs a reply code 5yz"},
		{"reject with a longer code", "a@h.example reject 5500 no", "reject needs a reply code 5yz"},
		{"tempfail with 421", "a@h.example tempfail 421 no", "421 closes the connection"},
		{
			"an enhanced code of another class", "a@h.example reject 550 4.1.1 no",
			"the class of 4.1.1 is not that of 550",
		},
		{"an enhanced code that is none", "a@h.example reject 550 5.1111.1 no", "no enhanced status code"},
		{"reply text that is not ASCII", "a@h.example reject 550 Größe", "ASCII"},
		{"an unknown option", "a@h.example x@t.example colour=red", `unknown option "colour"`},
		{"an unknown value", "a@h.example x@t.example srs=maybe", "it is one of auto, always, never"},
		{"an option twice", "a@h.example x@t.example srs=auto srs=auto", "given twice"},
		{"an option in upper case", "a@h.example x@t.example SRS=auto", "unknown option"},
		{"a subaddress of two characters", "domain h.example subaddress=+-", "no value"},
		{"a letter for a subaddress", "domain h.example subaddress=x", "no value"},
		{"subaddress on a catch-all", "@g.example x@t.example subaddress=+", "subaddress stands on"},
		{"routing on a domain", "domain h.example routing=keep", "routing stands on a rule only"},
		{"routing on domain *", "domain * routing=keep", "routing stands on a rule only"},
		{"routing with another value", "a@h.example x@t.example routing=drop", "it is one of keep"},
		{"domain without a name", "domain", "domain without a name"},
		{"domain with an address", "domain a@h.example", "a domain, not an address"},
		{"a group in a domain", "/(a)/@h.example x@$1.example", "local part only"},
		{"a group for the whole domain", "/(a)/@h.example x@$1", "local part only"},
		{"a group in a next hop", "/(a)/@h.example smtp://$1.example", "local part only"},
		{"a group in a port", "/(a)/@h.example smtp://x.example:$1", "local part only"},
		{"a group in a socket", "/(a)/@h.example lmtp+unix:/run/$1", "local part only"},
		{"a group in a user", "/(a)/@h.example smtps://$1@x.example", "local part only"},
		{"a group beyond the last", "/(a)/@h.example $2@t.example", `no group "2"`},
		{"group 0", "/(a)/@h.example $0@t.example", `no group "0"`},
		{"a group before a digit", "/(a)/@h.example $12@t.example", "write ${1} before a digit"},
		{"a group without an end", "/(a)/@h.example ${1@t.example", "${ without }"},
		{"a group by name", "/(?P<x>a)/@h.example ${x}@t.example", `no group "x"`},
		{"a group without a regex", "a@h.example $1@t.example", "no group"},
		{"a group in a catch-all", "@g.example $1@t.example", "no group"},
		{"a regex without an end", "/abc x@t.example", "a regex ends in /@"},
		{"a regex RE2 refuses", "/(a/@h.example x@t.example", "missing closing )"},
		{"a regex that would leave its anchors", "/a)|(b/@h.example x@t.example", "unexpected )"},
		{"a look-ahead", "/(?=a)/@h.example x@t.example", "RE2 has no look-ahead"},
		{"a regex that would be too large", "/((a{1000}){1000}){1000}/@h.example x@t.example", "regex"},
		{"a regex whose domain is not hosted", "/a/@nowhere.example x@t.example", "a regex hosts no domain"},
		{"an unknown scheme", "@g.example http://t.example", `unknown scheme "http"`},
		{"no scheme", "@g.example t.example:25", "a host is written smtp://t.example:25"},
		{"no host", "@g.example smtp://", "no host name"},
		{"a port that is none", "@g.example smtp://t.example:smtp", "a port is"},
		{"port 0", "@g.example smtp://t.example:0", "a port is"},
		{"port 65536", "@g.example smtp://t.example:65536", "a port is"},
		{"a path", "@g.example smtp://t.example/x", "no host name"},
		{"IPv6 without brackets", "@g.example smtp://2001:db8::1", "in brackets"},
		{"IPv4 in brackets", "@g.example smtp://[192.0.2.1]", "IPv6 address"},
		{"a zone", "@g.example smtp://[fe80::1%25eth0]", "IPv6 address"},
		{"a relative socket", "@g.example lmtp+unix:run/lmtp", "begins with a slash"},
		{"a user in clear", "@g.example smtp://u@t.example", "under smtps:// and submission:// only"},
		{"submission without a user", "@g.example submission://smart.example", "submission needs a user"},
		{"a password", "@g.example smtps://u:p@smart.example", "a password belongs"},
		{"a user without credentials", "@g.example smtps://other@smart.example", "no line for"},
		{"a user at another port", "@g.example smtps://user%40example.com@smart.example:4650", "no line for"},
		{"a broken percent-encoding", "@g.example smtps://user%4@smart.example", "percent-encoding"},
		{"a user that is lent to strangers", "@g.example smtps://user%40example.com@smart.example", "lend=anybody"},
		{
			"a user that is lent to strangers, by submission",
			"a@h.example submission://user%40example.com@smart.example", `under the account "user@example.com"`,
		},
		{
			"a user behind another target",
			"a@h.example x@t.example, smtps://user%40example.com@smart.example", "lend=anybody",
		},
		{"a user of a regex", "/a+/@h.example smtps://user%40example.com@smart.example", "lend=anybody"},
		{
			"a user of a failover", "a@h.example try x@t.example, smtps://user%40example.com@smart.example",
			"lend=anybody",
		},
		{"lend on a domain", "domain h.example lend=anybody", "lend stands on a rule only"},
		{"lend on domain *", "domain * lend=anybody", "lend stands on a rule only"},
		{"complaints of a kind", "a@h.example x@t.example complaints=abuse", "it is one of no, yes"},
		{"a filter of a kind", "a@h.example x@t.example filter=maybe", "it is one of on, report, off"},
		{"lend to somebody else", "a@h.example x@t.example lend=me", "it is one of anybody"},
		{"a control character", "a@h.example x@t.example\x00", "control character"},
		{"an escape in a reply", "a@h.example reject 550 \x1b[2J", "control character"},
		{"invalid UTF-8", "\xff@h.example x@t.example", "not UTF-8"},
		{"a long line", "a@h.example reject 550 " + strings.Repeat("x", MaxLine), "longer than"},
		{"too many targets", "a@h.example x@t0.example" + many(MaxTargets), "more than 100 targets"},
		{"an alias of itself", "a@h.example a@h.example", "the aliases loop"},
		{"a catch-all of itself", "@g.example x@g.example", "the aliases loop"},
		{"a target that no rule takes", "a@h.example nobody@h.example", "no rule takes it"},
		{"a target that is our hostname", "a@h.example root@mx1.example.net", "no rule takes it"},
		{"a next hop that is this node", "@g.example smtp://192.0.2.1", "is this node itself"},
		{"a next hop that is this node by loopback", "@g.example smtp://127.0.0.1:2525", "is this node itself"},
		{"an address literal that is this node", "a@h.example x@[192.0.2.1]", "is this node itself"},
		{"a next hop that is our hostname", "@g.example smtp://MX1.example.net", "is this node itself"},
		{"two equal literals", "ONE@h.example x@t.example", "the same pattern stands at routes.txt:2"},
		{"two equal literals, quoted", `"o\ne"@H.example x@t.example`, "the same pattern stands at routes.txt:2"},
		{"two equal catch-alls", "@H.example x@t.example", "the same pattern stands at routes.txt:3"},
		{"two equal regexes", "/two/@h.EXAMPLE x@t.example", "the same pattern stands at routes.txt:4"},
		{"two equal domain lines", "domain H.example", "was given at routes.txt:1"},
	}
	const before = "domain h.example dmarc=off\none@h.example x@t.example\n@h.example drop\n/two/@h.example drop\n"
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := before + tt.line + "\n"
			if strings.Contains(tt.want, "no rule takes") || strings.HasPrefix(tt.name, "two equal domain") {
				text = strings.Replace(text, "@h.example drop\n", "@k.example drop\n", 1)
			}
			_, err := Parse("routes.txt", strings.NewReader(text), testConfig())
			var errs *Errors
			if !errors.As(err, &errs) || len(errs.List) == 0 {
				t.Fatalf("got %v", err)
			}
			if word := goWords.FindString(err.Error()); word != "" {
				t.Errorf("got %v: %q is no word of an administrator", err, word)
			}
			last := errs.List[len(errs.List)-1]
			if last.File != "routes.txt" || last.Line != 5 || !strings.Contains(last.Reason, tt.want) {
				t.Errorf("got %v, want routes.txt:5: ...%s...", last, tt.want)
			}
		})
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ", x%d@t%d.example", i, i)
	}
	return b.String()
}
