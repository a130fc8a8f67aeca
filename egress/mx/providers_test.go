package mx

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

func TestTheShippedProvidersKnowTheLargeOnes(t *testing.T) {
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
		"mx1.example.com":                         "",
		"google.com":                              "",
		"evilgoogle.com":                          "",
	} {
		if got := p.provider(host); got != want {
			t.Errorf("%s: got %q, want %q", host, got, want)
		}
	}
	for _, site := range []mail.Site{"google", "microsoft365", "outlook", "yahoo", "icloud", "mx1.example.com"} {
		l := p.Limits(site)
		if l.Connections < 1 || l.Messages < 1 || l.Idle < time.Second || l.Age < l.Idle {
			t.Errorf("%s: got %+v", site, l)
		}
	}
}

func TestProvidersFiles(t *testing.T) {
	const all = "limits * connections=1 messages=2 idle=3s age=4s\n"
	for _, tt := range []struct {
		name string
		text string
		want string // the error, "" for none
	}{
		{"only the others", all, ""},
		{"comments and blank lines", "# x\n\n \t\n" + all + "site a .a.example # and why\n", ""},
		{"an empty file", "", "f:1: no limits for *"},
		{"nothing for the others", "site a .a.example\nlimits a idle=3s\n", "f:2: no limits for *"},
		{"the others lack a limit", "limits * connections=1\n", "f:1: limits of * leave something out"},
		{"a word that is neither", all + "sight a b\n", `f:2: "sight" is neither site nor limits`},
		{"a line too short", all + "site a\n", `f:2: "site" needs a name and a value`},
		{"a name with a dot", all + "site a.b .a.example\n", `f:2: "a.b" is no name: lower-case letters, digits and hyphens`},
		{"a site twice", all + "site a .a.example\nsite a .b.example\n", "f:3: site a is named already"},
		{"the others as a site", all + "site * .a.example\n", "f:2: site * is named already"},
		{"a host twice", all + "site a .a.example\nsite b x.example .a.example\n", "f:3: .a.example belongs to site a already"},
		{"a host in upper case", all + "site a .A.example\n", `f:2: ".A.example" is no host name in lower case, with or without a dot in front`},
		{"a whole top-level domain", all + "site a .com\n", `f:2: ".com" is no host name in lower case, with or without a dot in front`},
		{"limits of no site", all + "limits b idle=3s\n", "f:2: no site b"},
		{"limits twice", all + all, "f:2: limits of * stand in line 1 already"},
		{"an unknown limit", all + "site a .a.example\nlimits a colour=3\n", `f:3: "colour=3": no such limit`},
		{"a limit twice", "limits * idle=3s idle=4s\n", `f:1: "idle=4s": given twice`},
		{"a rate of nothing", "limits * message_rate=0/s\n", `f:1: "message_rate=0/s": not a number from 1 to 1000000 per s, m or h, such as 30/m`},
		{"a rate without its unit", "limits * connect_rate=5\n", `f:1: "connect_rate=5": not a number from 1 to 1000000 per s, m or h, such as 30/m`},
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

func TestASiteTakesFromTheOthersWhatItLeavesOut(t *testing.T) {
	p, err := ParseProviders("f", "site a .a.example mx.b.example\nlimits a messages=7 message_rate=30/m\nlimits * connections=1 messages=2 idle=3s age=4s connect_rate=2/s connect_burst=5\n")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Limits("a"), (Limits{Connections: 1, Messages: 7, Idle: 3 * time.Second, Age: 4 * time.Second, MessageRate: 0.5, ConnectRate: 2, ConnectBurst: 5}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := p.Limits("elsewhere"), (Limits{Connections: 1, Messages: 2, Idle: 3 * time.Second, Age: 4 * time.Second, ConnectRate: 2, ConnectBurst: 5}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for host, want := range map[string]mail.Site{"x.a.example": "a", "a.example": "", "mx.b.example": "a", "x.mx.b.example": ""} {
		if got := p.provider(host); got != want {
			t.Errorf("%s: got %q, want %q", host, got, want)
		}
	}
}

// FuzzProviders holds that an error names a line that exists, and that a file that is taken has usable limits for everybody.
func FuzzProviders(f *testing.F) {
	f.Add(shipped)
	f.Add("site a .a.example\nlimits * connections=1 messages=2 idle=3s age=4s\nlimits a idle=1h")
	f.Add("limits * idle=1s idle=2s")
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
			if l := p.Limits(site); l.Connections < 1 || l.Messages < 1 || l.Idle < time.Second || l.Age < time.Second {
				t.Fatalf("%s: %+v", site, l)
			}
		}
		if l := p.Limits("-"); l.Connections < 1 || l.Messages < 1 || l.Idle < time.Second || l.Age < time.Second {
			t.Fatalf("others: %+v", l)
		}
		for host, site := range p.sites {
			example := host
			if host[0] == '.' {
				example = "x" + host
			}
			// A longer suffix or an exact name may take the example away, but never to nobody.
			if p.provider(example) == "" {
				t.Fatalf("%s is of %s, but %s of nobody", host, site, example)
			}
		}
	})
}

// FuzzLiteral holds that an address literal is read as an address or refused, and that the name it is given reads the same.
func FuzzLiteral(f *testing.F) {
	for _, s := range []string{"[192.0.2.1]", "[IPv6:2001:db8::1]", "[ipv6:::ffff:1.2.3.4]", "[]", "[", "[IPv6:]", "[fe80::1%x]", "[x:y]"} {
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
