package mx

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// TestShippedProviders: the shipped providers know the large ones.
func TestShippedProviders(t *testing.T) {
	p := ShippedProviders()
	for host, want := range map[string]mail.Site{
		"gmail-smtp-in.l.google.com":              "google",
		"aspmx.l.google.com":                      "google",
		"smtp.google.com":                         "google",
		"alt1.aspmx.l.google.com":                 "google",
		"aspmx3.googlemail.com":                   "google",
		"contoso-com.mail.protection.outlook.com": "microsoft365",
		"contoso-com.o-v1.mx.microsoft":           "microsoft365",
		"outlook-com.olc.protection.outlook.com":  "outlook",
		"mta7.am0.yahoodns.net":                   "yahoo",
		"mx01.mail.icloud.com":                    "icloud",
		"mfsmax.docomo.ne.jp":                     "docomo",
		"lsean.ezweb.ne.jp":                       "au",
		"mx.softbank.ne.jp":                       "softbank",
		"mx00.emig.gmx.net":                       "gmx",
		"mx01.gmx.net":                            "gmx",
		"mxs.mail.ru":                             "mailru",
		"emx.mail.ru":                             "mailru",
		"mx0a-00148503.pphosted.com":              "proofpoint",
		"mx1-us1.ppe-hosted.com":                  "proofpoint",
		"eu-smtp-inbound-1.mimecast.com":          "mimecast",
		"d123456a.ess.barracudanetworks.com":      "barracuda",
		"d123456a.ess.de.barracudanetworks.com":   "barracuda",
		"mx2.zoho.com":                            "zoho",
		"mx.zoho.com.au":                          "zoho",
		"mx.mail.ru":                              "",
		"mx.notpphosted.com":                      "",
		"mx1.example.com":                         "",
		"google.com":                              "",
		"evilgoogle.com":                          "",
	} {
		if got := p.provider(host); got != want {
			t.Errorf("%s: got %q, want %q", host, got, want)
		}
	}
	for _, site := range []mail.Site{
		"google", "microsoft365", "outlook", "yahoo", "icloud", "docomo", "au", "softbank", "gmx", "mailru",
		"proofpoint", "mimecast", "barracuda", "zoho", "mx1.example.com",
	} {
		l := p.Limits(site)
		if l.Connections < 1 || l.Messages < 1 || l.Idle < time.Second || l.Age < l.Idle {
			t.Errorf("%s: got %+v", site, l)
		}
	}
}

func TestParseProviders(t *testing.T) {
	const all = "limits * connections=1 messages=2 idle=3s age=4s\n"
	for _, tt := range []struct {
		name string
		text string
		want string // the error, "" if it is read
	}{
		{"only the others", all, ""},
		{"comments and blank lines", "# x\n\n \t\n" + all + "site a .a.example # and why\n", ""},
		{"an empty file", "", "f:1: no limits for *"},
		{"nothing for the others", "site a .a.example\nlimits a idle=3s\n", "f:2: no limits for *"},
		{"the others lack a limit", "limits * connections=1\n", "f:1: limits of * leave something out"},
		{"a word that is neither", all + "sight a b\n", `f:2: "sight" is none of site, limits and arc`},
		{"a line too short", all + "site a\n", `f:2: "site" needs a name and a value`},
		{
			"a name with a dot", all + "site a.b .a.example\n",
			`f:2: "a.b" is no name: lower-case letters, digits and hyphens`,
		},
		{"a site twice", all + "site a .a.example\nsite a .b.example\n", "f:3: site a is named already"},
		{"the others as a site", all + "site * .a.example\n", "f:2: site * is named already"},
		{
			"a host twice", all + "site a .a.example\nsite b x.example .a.example\n",
			"f:3: .a.example belongs to site a already",
		},
		{
			"a host in upper case", all + "site a .A.example\n",
			`f:2: ".A.example" is no host name in lower case, with or without a dot in front`,
		},
		{
			"a whole top-level domain", all + "site a .com\n",
			`f:2: ".com" is no host name in lower case, with or without a dot in front`,
		},
		{"limits of no site", all + "limits b idle=3s\n", "f:2: no site b"},
		{
			"limits of hosts",
			all + "limits mx2.a.example,mx1.a.example idle=3s\nlimits [192.0.2.1] idle=3s\nlimits localhost. idle=3s\n",
			"",
		},
		{
			"limits of next hops",
			all +
				"limits lmtp://store.example:24 idle=3s\nlimits lmtp+unix:/run/x idle=3s\nlimits " +
				"smtp://[2001:db8::1]:26 idle=3s\n", "",
		},
		{
			"limits of the same hosts",
			all + "limits a.example,b.example idle=3s\nlimits b.example,a.example idle=3s\n",
			"f:3: limits of a.example,b.example stand in line 2 already",
		},
		{
			"limits of a host of a site", all + "site a .a.example\nlimits mx.a.example idle=3s\n",
			"f:3: mx.a.example is of site a",
		},
		{
			"limits of a host in upper case", all + "limits Mx.a.example idle=3s\n",
			`f:2: "Mx.a.example" names no Site: want a site of this file, host names in lower case with commas, ` +
				`or a next hop`,
		},
		{
			"limits of no literal", all + "limits [192.0.2] idle=3s\n",
			`f:2: "[192.0.2]" is no address literal, such as [192.0.2.1] or [IPv6:2001:db8::1]`,
		},
		{
			"limits of no next hop", all + "limits ftp://a.example idle=3s\n",
			`f:2: "ftp://a.example" is no next hop: want smtp://HOST:PORT, smtps://, submission://, lmtp:// ` +
				`or lmtp+unix:/PATH`,
		},
		{
			"limits of a next hop with a path", all + "limits smtp://a.example/x idle=3s\n",
			`f:2: "smtp://a.example/x" is no next hop: want smtp://HOST:PORT, smtps://, submission://, lmtp:// ` +
				`or lmtp+unix:/PATH`,
		},
		{
			"limits of no socket", all + "limits lmtp+unix:x idle=3s\n",
			`f:2: "lmtp+unix:x": the path of a socket begins with a slash`,
		},
		{
			"limits of no digest", all + "limits a.example,+31,12 idle=3s\n",
			`f:2: "a.example,+31,12" names no Site: see millrace cluster status`,
		},
		{
			"no spread", all + "site a .a.example\nlimits a spread=0\n",
			`f:3: "spread=0": not a number from 1 to 1000000`,
		},
		{
			"more owners than connections", all + "site a .a.example\nlimits a connections=2 spread=3\n",
			`f:3: "spread=3": each owner needs a connection, and there are 2`,
		},
		{
			"more owners than connections of the others", "limits * connections=2 messages=2 idle=3s age=4s spread=3\n",
			`f:1: "spread=3": each owner needs a connection, and there are 2`,
		},
		{"limits twice", all + all, "f:2: limits of * stand in line 1 already"},
		{
			"without what is no extension", "limits * without=CHUNKING,STARTTLS\n",
			`f:1: "without=CHUNKING,STARTTLS": "STARTTLS" is none of CHUNKING, PIPELINING, 8BITMIME, SMTPUTF8 and SIZE`,
		},
		{"without twice", "limits * without=SIZE without=SIZE\n", `f:1: "without=SIZE": given twice`},
		{
			"an unknown limit", all + "site a .a.example\nlimits a colour=3\n",
			`f:3: "colour=3": no such limit; there are connections, messages, idle, age, message_rate, connect_rate, ` +
				"connect_burst, spread and without",
		},
		{"a limit twice", "limits * idle=3s idle=4s\n", `f:1: "idle=4s": given twice`},
		{
			"a rate of nothing", "limits * message_rate=0/s\n",
			`f:1: "message_rate=0/s": not a number from 1 to 1000000 per s, m or h, such as 30/m`,
		},
		{
			"a rate without its unit", "limits * connect_rate=5\n",
			`f:1: "connect_rate=5": not a number from 1 to 1000000 per s, m or h, such as 30/m`,
		},
		{"a number of nothing", "limits * connections=0\n", `f:1: "connections=0": not a number from 1 to 1000000`},
		{"a limit without value", "limits * messages\n", `f:1: "messages": not a number from 1 to 1000000`},
		{"a duration without unit", "limits * idle=3\n", `f:1: "idle=3": not a duration from 1s to 24h`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseProviders("f", tt.text)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

// TestParseProviders_AllLines: each word of each line that is wrong is told with its place.
func TestParseProviders_AllLines(t *testing.T) {
	_, err := ParseProviders("f", "sites a .a.example\n# x\nsite B .b.example  B.example\nlimits c messages=1\n"+
		"limits * connections=0 messages=2 idle=3 age=4s\n")
	var wrong *mail.LineErrors
	if !errors.As(err, &wrong) {
		t.Fatal(err)
	}
	var got []string
	for _, e := range wrong.List {
		got = append(got, fmt.Sprintf("%d:%d", e.Line, e.Column))
	}
	if want := "1:1 3:6 3:20 4:1 5:10 5:35"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %s\n%v", got, want, err)
	}
}

// TestProviders_Limits: a Site takes from the others what it leaves out.
func TestProviders_Limits(t *testing.T) {
	p, err := ParseProviders("f",
		"site a .a.example mx.b.example\nlimits a messages=7 message_rate=30/m\nlimits * connections=1 messages=2 "+
			"idle=3s age=4s connect_rate=2/s connect_burst=5 spread=1\n")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Limits("a"), (Limits{
		Connections: 1, Messages: 7, Idle: 3 * time.Second, Age: 4 * time.Second, MessageRate: 0.5, ConnectRate: 2,
		ConnectBurst: 5, Spread: 1,
	}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := p.Limits("elsewhere"), (Limits{
		Connections: 1, Messages: 2, Idle: 3 * time.Second, Age: 4 * time.Second, ConnectRate: 2, ConnectBurst: 5,
		Spread: 1,
	}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for host, want := range map[string]mail.Site{
		"x.a.example": "a", "a.example": "", "mx.b.example": "a", "x.mx.b.example": "",
	} {
		if got := p.provider(host); got != want {
			t.Errorf("%s: got %q, want %q", host, got, want)
		}
	}
}

// TestProviders_Over: a sites file goes over what is shipped.
func TestProviders_Over(t *testing.T) {
	base, err := ParseProviders("f",
		"site a .a.example\nsite b .b.example\nlimits a messages=7\nlimits b connections=9\nlimits * connections=5 "+
			"messages=2 idle=3s age=4s\n")
	if err != nil {
		t.Fatal(err)
	}
	over, err := base.Over("g",
		"limits * connections=6\nsite c mx.a.example .c.example\nsite a .more.example\nlimits c message_rate=50/s "+
			"spread=3\nlimits a idle=9s\n"+
			"limits mx2.d.example,mx1.d.example connections=1\nlimits lmtp://store.example:24 connections=40\n")
	if err != nil {
		t.Fatal(err)
	}
	others := Limits{Connections: 6, Messages: 2, Idle: 3 * time.Second, Age: 4 * time.Second, Spread: 1}
	with := func(change func(*Limits)) Limits {
		l := others
		change(&l)
		return l
	}
	for site, want := range map[mail.Site]Limits{
		"a":                           with(func(l *Limits) { l.Idle = 9 * time.Second }), // and not its messages
		"b":                           with(func(l *Limits) { l.Connections = 9 }),
		"c":                           with(func(l *Limits) { l.MessageRate, l.Spread = 50, 3 }),
		"mx1.d.example,mx2.d.example": with(func(l *Limits) { l.Connections = 1 }),
		"lmtp://store.example":        with(func(l *Limits) { l.Connections = 40 }),
		"elsewhere":                   others,
	} {
		if got := over.Limits(site); got != want {
			t.Errorf("%s: got %+v, want %+v", site, got, want)
		}
	}
	for host, want := range map[string][2]mail.Site{
		"mx.a.example": {"a", "c"}, "x.a.example": {"a", "a"}, "x.more.example": {"", "a"}, "x.b.example": {"b", "b"},
	} {
		if got := [2]mail.Site{base.provider(host), over.provider(host)}; got != want {
			t.Errorf("%s: got %q, want %q", host, got, want)
		}
	}
	if got := base.Limits("a"); got.Messages != 7 || got.Connections != 5 {
		t.Errorf("the base was changed: %+v", got)
	}
	for text, want := range map[string]string{
		"limits d idle=3s":                  "g:1: no site d",
		"\nlimits x.b.example idle=3s":      "g:2: x.b.example is of site b",
		"limits b idle=3s\nlimits b age=9s": "g:2: limits of b stand in line 1 already",
	} {
		if _, err := base.Over("g", text); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

// TestProviders_Name: a Site is called as the Finder calls it.
func TestProviders_Name(t *testing.T) {
	p := ShippedProviders()
	for s, want := range map[string]mail.Site{
		"google":                     "google",
		"b.example,a.example":        "a.example,b.example",
		"localhost.":                 "localhost.",
		"[IPv6:2001:DB8::1]":         "[IPv6:2001:db8::1]",
		"smtp://Store.Example:25":    "smtp://store.example",
		"submission://u@h.example":   "submission://h.example",
		"lmtp+unix:/run//dovecot/l":  "lmtp+unix:/run/dovecot/l",
		"smtp://[2001:db8:0::1]:587": "smtp://[2001:db8::1]:587",
	} {
		if got, err := p.Name(s); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", s, got, err, want)
		}
	}
	if _, err := p.Name("gogle"); err == nil {
		t.Error("there is no such site")
	}
}

// FuzzProviders holds that an error names a line that exists, and that a file that is taken has usable limits for
// everybody.
func FuzzProviders(f *testing.F) {
	f.Add(shipped)
	f.Add("site a .a.example\nlimits * connections=1 messages=2 idle=3s age=4s\nlimits a idle=1h")
	f.Add("limits * idle=1s idle=2s")
	f.Add("limits * connections=3 messages=2 idle=3s age=4s spread=3\nlimits b.example,a.example " +
		"connections=1\nlimits lmtp://[::1]:24 messages=1\nlimits [192.0.2.1] idle=5s")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseProviders("f", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f:") {
				t.Fatalf("no line: %v", err)
			}
			return
		}
		for site := range p.limits {
			if l := p.Limits(site); l.Connections < 1 || l.Messages < 1 || l.Idle < time.Second ||
				l.Age < time.Second || l.Spread < 1 || l.Spread > l.Connections {
				t.Fatalf("%s: %+v", site, l)
			}
		}
		if l := p.Limits("-"); l.Connections < 1 || l.Messages < 1 || l.Idle < time.Second || l.Age < time.Second {
			t.Fatalf("others: %+v", l)
		}
		for site := range p.limits {
			if again, err := p.Name(string(site)); err != nil || again != site {
				t.Fatalf("%s is called %s, %v", site, again, err)
			}
		}
		for host, site := range p.sites {
			example := host
			if host[0] == '.' {
				example = "x" + host
			}
			// A longer suffix or an exact name may move the example to another site, but it always has one.
			if p.provider(example) == "" {
				t.Fatalf("%s is of %s, but %s of none", host, site, example)
			}
		}
	})
}

// FuzzLiteral holds that an address literal is read as an address or refused, and that the name it is given reads the
// same.
func FuzzLiteral(f *testing.F) {
	for _, s := range []string{
		"[192.0.2.1]", "[IPv6:2001:db8::1]", "[ipv6:::ffff:1.2.3.4]", "[]", "[", "[IPv6:]", "[fe80::1%x]", "[x:y]",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseLiteral(s)
		if err != nil {
			return
		}
		name := "[" + a.String() + "]"
		if a.Is6() {
			name = "[IPv6:" + a.String() + "]"
		}
		if b, err := parseLiteral(name); err != nil || b != a || a.Is4In6() || a.Zone() != "" {
			t.Fatalf("%q is %v, and %q is %v, %v", s, a, name, b, err)
		}
	})
}
