package srs

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

const (
	keyA = "a key of one of the nodes"
	keyB = "another key of that node."
)

// noon is a day whose stamp is JL.
var noon = time.Date(2026, time.November, 22, 12, 0, 0, 0, time.UTC)

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

// tb is the part of testing.TB that rapid has too.
type tb interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// rewriter makes a Rewriter for domain whose clock is fixed at now.
func rewriter(t tb, domain string, now time.Time, keys ...string) *Rewriter {
	t.Helper()
	c := Config{Domain: domain, Now: at(now)}
	for _, k := range keys {
		c.Keys = append(c.Keys, []byte(k))
	}
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func path(t tb, s string) mail.Path {
	t.Helper()
	p, err := mail.ParsePath(s, true)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return p
}

func forward(t tb, w *Rewriter, p mail.Path) mail.Path {
	t.Helper()
	return forwardAs(t, w, p, mail.OpensToBounces)
}

// client is a network of clients.
var client = netip.MustParsePrefix("192.0.2.0/24")

// forwardAs returns an address that opens to opens, for mail of client.
func forwardAs(t tb, w *Rewriter, p mail.Path, opens mail.Opens) mail.Path {
	t.Helper()
	out, err := w.Forward(p, opens, client)
	if err != nil {
		t.Fatalf("Forward(%s): %v", p, err)
	}
	return out
}

func reverse(t tb, w *Rewriter, p mail.Path) mail.Path {
	t.Helper()
	out, opens, err := w.Reverse(p)
	if err != nil || opens != mail.OpensToBounces {
		t.Fatalf("Reverse(%s) opens to %s: %v", p, opens, err)
	}
	return out
}

// TestForward: what is written. A change here would end every address that is in use, and make
// the nodes of a cluster disagree during an upgrade. The hashes Ufhb, FP8r and nT5S are those of Perl's Mail::SRS 0.31
// for these addresses.
func TestForward(t *testing.T) {
	w := rewriter(t, "srs.example", noon, keyA)
	long := strings.Repeat("x", 256-len("SRS0=MMMMMMMM=TT=sender.example="))
	tests := []struct {
		name, in, want, home string
	}{
		{"the null reverse-path stays", "", "", ""},
		{"a plain address becomes SRS0", "alice@sender.example",
			"SRS0=SLDBQZPI=JL=sender.example=alice@srs.example", "alice@sender.example"},
		{"case is kept and does not count", "Alice@Sender.Example",
			"SRS0=SLDBQZPI=JL=Sender.Example=Alice@srs.example", "Alice@Sender.Example"},
		{"separators in the local part are its own", "a=b+c-d==@sender.example",
			"SRS0=TZBEY64W=JL=sender.example=a=b+c-d==@srs.example", "a=b+c-d==@sender.example"},
		{"a hyphen in the domain is its own", "x@a-b.example",
			"SRS0=44S47RSW=JL=a-b.example=x@srs.example", "x@a-b.example"},
		{"a local part that needs quotes keeps them", `"a b"@sender.example`,
			`"SRS0=VAORLUA2=JL=sender.example=a b"@srs.example`, `"a b"@sender.example`},
		{"quotes and backslashes that nothing needs are kept", `"a\l\ice"@sender.example`,
			`"SRS0=SLDBQZPI=JL=sender.example=a\l\ice"@srs.example`, `"a\l\ice"@sender.example`},
		{"a quoted local part may hold an at-sign, quotes and separators", `"a@b\"=\\"@sender.example`,
			`"SRS0=24WN6BOM=JL=sender.example=a@b\"=\\"@srs.example`, `"a@b\"=\\"@sender.example`},
		{"an empty local part", `""@sender.example`,
			`"SRS0=WSK7ORGC=JL=sender.example="@srs.example`, `""@sender.example`},
		{"UTF-8", "größe@bücher.example",
			"SRS0=Z56NAMVL=JL=bücher.example=größe@srs.example", "größe@bücher.example"},
		{"an address literal needs quotes", "alice@[192.0.2.1]",
			`"SRS0=52NKB6PL=JL=[192.0.2.1]=alice"@srs.example`, "alice@[192.0.2.1]"},
		{"an address literal of IPv6", `"a b"@[IPv6:2001:db8::1]`,
			`"SRS0=X5ZI2BIK=JL=[IPv6:2001:db8::1]=a b"@srs.example`, `"a b"@[IPv6:2001:db8::1]`},
		{"quotes that nothing needs are lost behind an address literal", `"a\lice"@[192.0.2.1]`,
			`"SRS0=52NKB6PL=JL=[192.0.2.1]=a\lice"@srs.example`, "alice@[192.0.2.1]"},
		{"as long as a local part may be", long + "@sender.example",
			"SRS0=O2YY7QI7=JL=sender.example=" + long + "@srs.example", long + "@sender.example"},

		{"BATV", "prvs=1234abcd5=alice@sender.example",
			"SRS0=FEVYDPKV=JL=sender.example=prvs=1234abcd5=alice@srs.example",
			"prvs=1234abcd5=alice@sender.example"},
		{"BATV of another maker", "btv1==0123456789a==alice@sender.example",
			"SRS0=YUN2F5DX=JL=sender.example=btv1==0123456789a==alice@srs.example",
			"btv1==0123456789a==alice@sender.example"},
		{"VERP", "bounces+123-abc=hosted.example@sender.example",
			"SRS0=V73EA4IJ=JL=sender.example=bounces+123-abc=hosted.example@srs.example",
			"bounces+123-abc=hosted.example@sender.example"},
		{"separators between three names", "alice=bob=carol@sender.example",
			"SRS0=6HWWIMHX=JL=sender.example=alice=bob=carol@srs.example", "alice=bob=carol@sender.example"},
		{"a separator and no more", "=@sender.example",
			"SRS0=SRZBY4OC=JL=sender.example==@srs.example", "=@sender.example"},
		{"a tag", "alice+tag@sender.example",
			"SRS0=CZP7U6DL=JL=sender.example=alice+tag@srs.example", "alice+tag@sender.example"},
		{"as long as RFC 5321 has a local part", strings.Repeat("x", 64) + "@sender.example",
			"SRS0=2URCYUGB=JL=sender.example=" + strings.Repeat("x", 64) + "@srs.example",
			strings.Repeat("x", 64) + "@sender.example"},
		{"200 octets", strings.Repeat("x", 200) + "@sender.example",
			"SRS0=ADS4MHCY=JL=sender.example=" + strings.Repeat("x", 200) + "@srs.example",
			strings.Repeat("x", 200) + "@sender.example"},
		{"an A-label", "alice@xn--bcher-kva.example",
			"SRS0=CPWPHAWI=JL=xn--bcher-kva.example=alice@srs.example", "alice@xn--bcher-kva.example"},
		{"SRS without a digit is a name", "SRS=alice@sender.example",
			"SRS0=QCXVULZZ=JL=sender.example=SRS=alice@srs.example", "SRS=alice@sender.example"},
		{"SRS behind a name, as one large provider writes it", "x+SRS=HHHH=TT=list.example=y@m365.example",
			"SRS0=2IW2BK7Z=JL=m365.example=x+SRS=HHHH=TT=list.example=y@srs.example",
			"x+SRS=HHHH=TT=list.example=y@m365.example"},
		{"SRS behind a name that is VERP", "bounces+1=a.example+SRS=HHHH=TT=list.example=y@m365.example",
			"SRS0=VRDAVTZB=JL=m365.example=bounces+1=a.example+SRS=HHHH=TT=list.example=y@srs.example",
			"bounces+1=a.example+SRS=HHHH=TT=list.example=y@m365.example"},
		{"SRS1 of a forwarder in the middle", "SRS1=HHHH=list.example==GGGG=TT=sender.example=x@first.example",
			"SRS1=M4JU76ZDJL=list.example==GGGG=TT=sender.example=x@srs.example",
			"SRS0=GGGG=TT=sender.example=x@list.example"},

		{"SRS0 of another becomes SRS1", "SRS0=Ufhb=JL=sender.example=alice@first.example",
			"SRS1=2HE3YPRMJL=first.example==Ufhb=JL=sender.example=alice@srs.example",
			"SRS0=Ufhb=JL=sender.example=alice@first.example"},
		{"its separator + is kept, which makes =+", "SRS0+Ufhb=JL=sender.example=alice@first.example",
			"SRS1=ADQJSPPRJL=first.example=+Ufhb=JL=sender.example=alice@srs.example",
			"SRS0+Ufhb=JL=sender.example=alice@first.example"},
		{"its separator - is kept, which makes =-", "SRS0-Ufhb=JL=sender.example=alice@first.example",
			"SRS1=O4THGME5JL=first.example=-Ufhb=JL=sender.example=alice@srs.example",
			"SRS0-Ufhb=JL=sender.example=alice@first.example"},
		{"its tag in small letters comes back in capitals", "srs0=ufhb=jl=sender.example=alice@first.example",
			"SRS1=2HE3YPRMJL=first.example==ufhb=jl=sender.example=alice@srs.example",
			"SRS0=ufhb=jl=sender.example=alice@first.example"},
		{"what its maker put into SRS0 is opaque", "SRS0=12345@first.example",
			"SRS1=WHQIUS7IJL=first.example==12345@srs.example", "SRS0=12345@first.example"},
		{"SRS0 of another with quotes", `"SRS0=Ufhb=JL=sender.example=a b"@first.example`,
			`"SRS1=OTAIGY6FJL=first.example==Ufhb=JL=sender.example=a b"@srs.example`,
			`"SRS0=Ufhb=JL=sender.example=a b"@first.example`},
		{"backslashes are lost where the tag has one", `"SR\S0=U\fhb=JL=sender.example=\a b"@first.example`,
			`"SRS1=OTAIGY6FJL=first.example==Ufhb=JL=sender.example=a b"@srs.example`,
			`"SRS0=Ufhb=JL=sender.example=a b"@first.example`},
		{"SRS0 at an address literal", "SRS0=Ufhb=JL=sender.example=alice@[192.0.2.1]",
			`"SRS1=PX3VTQUZJL=[192.0.2.1]==Ufhb=JL=sender.example=alice"@srs.example`,
			"SRS0=Ufhb=JL=sender.example=alice@[192.0.2.1]"},

		{"SRS1 of another keeps the first forwarder",
			"SRS1=FP8r=first.example==Ufhb=JL=sender.example=alice@second.example",
			"SRS1=2HE3YPRMJL=first.example==Ufhb=JL=sender.example=alice@srs.example",
			"SRS0=Ufhb=JL=sender.example=alice@first.example"},
		{"SRS1 whose first separator is +", "SRS1+FP8r=first.example==Ufhb=JL=sender.example=alice@second.example",
			"SRS1=2HE3YPRMJL=first.example==Ufhb=JL=sender.example=alice@srs.example",
			"SRS0=Ufhb=JL=sender.example=alice@first.example"},
		{"SRS1 whose first separator is - and whose joint is =+",
			"srs1-nT5S=first.example=+Ufhb=JL=sender.example=alice@second.example",
			"SRS1=ADQJSPPRJL=first.example=+Ufhb=JL=sender.example=alice@srs.example",
			"SRS0+Ufhb=JL=sender.example=alice@first.example"},
		{"and kept where it has none", `"SRS0=U\fhb=JL=sender.example=\a b"@first.example`,
			`"SRS1=OTAIGY6FJL=first.example==U\fhb=JL=sender.example=\a b"@srs.example`,
			`"SRS0=U\fhb=JL=sender.example=\a b"@first.example`},
		{"SRS1 with a backslash before its joint",
			`"SRS1=FP8r=first.ex\ample==U\fhb=JL=sender.example=a b"@second.example`,
			`"SRS1=OTAIGY6FJL=first.example==Ufhb=JL=sender.example=a b"@srs.example`,
			`"SRS0=Ufhb=JL=sender.example=a b"@first.example`},

		{"SRS1 without a joint is an address like any other", "SRS1=ZrPg=5KPL=3G=sender.example=alice@second.example",
			"SRS0=TTZTEY5N=JL=second.example=SRS1=ZrPg=5KPL=3G=sender.example=alice@srs.example",
			"SRS1=ZrPg=5KPL=3G=sender.example=alice@second.example"},
		{"SRS1 without a hash too", "SRS1=first.example==Ufhb=JL=sender.example=alice@second.example",
			"SRS0=I3YLUAMM=JL=second.example=SRS1=first.example==Ufhb=JL=sender.example=alice@srs.example",
			"SRS1=first.example==Ufhb=JL=sender.example=alice@second.example"},
		{"SRS1 with nothing behind its joint too", "SRS1=FP8r=first.example==@second.example",
			"SRS0=NURS2VLP=JL=second.example=SRS1=FP8r=first.example==@srs.example",
			"SRS1=FP8r=first.example==@second.example"},
		{"SRS1 whose first forwarder is no domain too", "SRS1=FP8r=-first==x@second.example",
			"SRS0=DOMWM6X5=JL=second.example=SRS1=FP8r=-first==x@srs.example", "SRS1=FP8r=-first==x@second.example"},
		{"SRS0 and no more is a name", "SRS0=@sender.example",
			"SRS0=Z4XJKFNS=JL=sender.example=SRS0=@srs.example", "SRS0=@sender.example"},
		{"SRS0 without a separator is a name", "srs0@sender.example",
			"SRS0=C4MJF42T=JL=sender.example=srs0@srs.example", "srs0@sender.example"},
		{"a tag with the long s, which is no S, is a name", "\u017frs0=a=b@sender.example",
			"SRS0=YPVXQNCT=JL=sender.example=\u017frs0=a=b@srs.example", "\u017frs0=a=b@sender.example"},
		{"SRS2 is a name", "SRS2=a=b@sender.example",
			"SRS0=S2464VCD=JL=sender.example=SRS2=a=b@srs.example", "SRS2=a=b@sender.example"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := forward(t, w, path(t, tt.in))
			if got.String() != tt.want {
				t.Errorf("got\n%s want\n%s", got, tt.want)
			}
			if got.IsNull() {
				return
			}
			path(t, got.String())
			if home := reverse(t, w, got); home.String() != tt.home {
				t.Errorf("it opens to %s, want %s", home, tt.home)
			}
			if !ascii.Is(got.String()) {
				return
			}
			for _, changed := range []string{strings.ToLower(got.String()), strings.ToUpper(got.String())} {
				if home := reverse(t, w, path(t, changed)); !strings.EqualFold(home.String(), tt.home) {
					t.Errorf("%s opens to %s, want %s", changed, home, tt.home)
				}
			}
		})
	}
}

// TestForward_Opens: what an address opens to stands in its MAC, and with a softfail the client's network in the
// address.
func TestForward_Opens(t *testing.T) {
	w := rewriter(t, "srs.example", noon, keyA)
	sender := path(t, "alice@sender.example")
	tests := []struct {
		name   string
		opens  mail.Opens
		client string
		want   string
		err    error
	}{
		{"to bounces", mail.OpensToBounces, "192.0.2.0/24", "SRS0=SLDBQZPI=JL=sender.example=alice@srs.example", nil},
		{
			"whatever the network", mail.OpensToBounces, "2001:db8::/48",
			"SRS0=SLDBQZPI=JL=sender.example=alice@srs.example", nil,
		},
		{"to reports", mail.OpensToReports, "192.0.2.0/24", "", nil},
		{"to reports, for another network", mail.OpensToReports, "2001:db8::/48", "", nil},
		{"to none", mail.OpensToNone, "192.0.2.0/24", "", ErrClosed},
	}
	seen := map[string]string{}
	for _, tt := range tests {
		got, err := w.Forward(sender, tt.opens, netip.MustParsePrefix(tt.client))
		if err != nil {
			t.Fatal(err)
		}
		if tt.want != "" && got.String() != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
		if other := seen[got.String()]; tt.want == "" && other != "" {
			t.Errorf("%s: the same as %s: %s", tt.name, other, got)
		}
		seen[got.String()] = tt.name
		home, opens, err := w.Reverse(got)
		if !errors.Is(err, tt.err) || err == nil && (home != sender || opens != tt.opens) {
			t.Errorf("%s: %s opens for %s to %s: %v", tt.name, got, home, opens, err)
		}
	}
}

// TestForward_Unchanged: addresses that need no rewriting are returned unchanged.
func TestForward_Unchanged(t *testing.T) {
	w := rewriter(t, "srs.example", noon, keyA)
	own := forward(t, w, path(t, "alice@sender.example"))
	second := rewriter(t, "second.example", noon, keyB)
	plus := strings.Replace(forward(t, second, own).Local, "SRS1=", "SRS1+", 1)
	tests := []struct {
		name string
		in   mail.Path
		want string
	}{
		{"at our own domain, in any case", path(t, "x@SRS.example"), "x@SRS.example"},
		{"our own SRS0", own, own.String()},
		{"our own SRS0 that came back as SRS1", forward(t, second, own), own.String()},
		{
			"our own SRS0 that came back as SRS1 with another separator",
			mail.Path{Local: plus, Domain: "second.example"}, own.String(),
		},
		{
			"what another says we made, which Reverse will see",
			path(t, "SRS1=AAAA=srs.example==BBBB=JL=x.example=y@second.example"),
			"SRS0=BBBB=JL=x.example=y@srs.example",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := forward(t, w, tt.in); got.String() != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestForward_Errors(t *testing.T) {
	w := rewriter(t, "srs.example", noon, keyA)
	over := func(n int) string { return strings.Repeat("x", n) }
	tests := []struct {
		name string
		in   mail.Path
		want error
	}{
		{"postmaster without a domain", mail.Path{Local: "Postmaster"}, ErrSyntax},
		{"a domain that is none", mail.Path{Local: "a", Domain: "b=c"}, ErrSyntax},
		{
			"SRS0 of 257 octets", path(t, over(257-len("SRS0=MMMMMMMM=TT=sender.example="))+"@sender.example"),
			ErrTooLong,
		},
		{
			"SRS0 of 257 octets with its quotes",
			path(t, `"`+over(257-len(`"SRS0=MMMMMMMM=TT=sender.example="`))+`"@sender.example`), ErrTooLong,
		},
		{
			"SRS0 of 257 octets with quotes for an address literal",
			path(t, over(257-len(`"SRS0=MMMMMMMM=TT=[192.0.2.1]="`))+"@[192.0.2.1]"), ErrTooLong,
		},
		{
			"SRS1 of 257 octets", path(t, "SRS0="+over(257-len("SRS1=MMMMMMMMTT=first.example=="))+"@first.example"),
			ErrTooLong,
		},
		{"a long domain", path(t, "a@"+strings.Repeat("x.", 120)+"example"), ErrTooLong},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := w.Forward(tt.in, mail.OpensToBounces, client)
			if !errors.Is(err, tt.want) || got != (mail.Path{}) {
				t.Errorf("got %s, %v, want %v", got, err, tt.want)
			}
		})
	}
	for _, s := range []string{
		over(256-len("SRS0=MMMMMMMM=TT=sender.example=")) + "@sender.example",
		`"` + over(256-len(`"SRS0=MMMMMMMM=TT=sender.example="`)) + `"@sender.example`,
		over(256-len(`"SRS0=MMMMMMMM=TT=[192.0.2.1]="`)) + "@[192.0.2.1]",
		"SRS0=" + over(256-len("SRS1=MMMMMMMMTT=first.example==")) + "@first.example",
	} {
		if got := forward(t, w, path(t, s)); len(got.Local) != mail.MaxLocal {
			t.Errorf("%s has %d octets, want %d", got, len(got.Local), mail.MaxLocal)
		}
	}
}

func TestReverse_Errors(t *testing.T) {
	w := rewriter(t, "srs.example", noon, keyA)
	tests := []struct {
		name, in string
		want     error
	}{
		{"an address elsewhere", "SRS0=SLDBQZPI=JL=sender.example=alice@srs2.example", ErrNotSRS},
		{"the null path", "", ErrNotSRS},
		{"postmaster without a domain", "postmaster", ErrNotSRS},
		{"postmaster of the domain", "postmaster@srs.example", ErrNotSRS},
		{"an empty local part", `""@srs.example`, ErrNotSRS},
		{"a tag without a separator", "srs0@srs.example", ErrNotSRS},
		{"another tag", "SRS2=SLDBQZPI=JL=sender.example=alice@srs.example", ErrNotSRS},
		{"a tag and no more", "SRS0=@srs.example", ErrSyntax},
		{"the tag of SRS1 and no more", "SRS1=@srs.example", ErrSyntax},
		{"no hash", "SRS0=JL=sender.example=alice@srs.example", ErrSyntax},
		{"a hash of four letters, as others write it", "SRS0=SLDB=JL=sender.example=alice@srs.example", ErrSyntax},
		{"a longer hash", "SRS0=SLDBQZPIA=JL=sender.example=alice@srs.example", ErrSyntax},
		{"a first separator that is not ours", "SRS0+SLDBQZPI=JL=sender.example=alice@srs.example", ErrSyntax},
		{
			"a stamp with a letter that is none of base 32", "SRS0=SLDBQZPI=J1=sender.example=alice@srs.example",
			ErrSyntax,
		},
		{"no stamp", "SRS0=SLDBQZPI=sender.example=alice@srs.example", ErrSyntax},
		{"a stamp of one letter", "SRS0=SLDBQZPI=J=sender.example=alice@srs.example", ErrSyntax},
		{"no domain", "SRS0=SLDBQZPI=JL==alice@srs.example", ErrSyntax},
		{"no local part", "SRS0=SLDBQZPI=JL=sender.example@srs.example", ErrSyntax},
		{"an end behind the stamp", "SRS0=SLDBQZPI=JL=@srs.example", ErrSyntax},
		{"another hash", "SRS0=SLDBQZPA=JL=sender.example=alice@srs.example", ErrBadMAC},
		{"another day", "SRS0=SLDBQZPI=JK=sender.example=alice@srs.example", ErrBadMAC},
		{"another day, long ago", "SRS0=SLDBQZPI=AA=sender.example=alice@srs.example", ErrBadMAC},
		{"another domain", "SRS0=SLDBQZPI=JL=other.example=alice@srs.example", ErrBadMAC},
		{"a tag put behind it", "SRS0=SLDBQZPI=JL=sender.example=alice+x@srs.example", ErrBadMAC},
		{"BATV put before it", "prvs=1234abcd5=SRS0=SLDBQZPI=JL=sender.example=alice@srs.example", ErrNotSRS},
		{"another local part", "SRS0=SLDBQZPI=JL=sender.example=bob@srs.example", ErrBadMAC},
		{"an empty local part with the hash of another", "SRS0=SLDBQZPI=JL=sender.example=@srs.example", ErrBadMAC},
		{
			"octets moved from the local part to the domain", "SRS0=SLDBQZPI=JL=sender.examplea=lice@srs.example",
			ErrBadMAC,
		},
		{
			"SRS1 in the form that others write", "SRS1=FP8r=first.example==Ufhb=JL=sender.example=alice@srs.example",
			ErrSyntax,
		},
		{"SRS1 without its joint", "SRS1=2HE3YPRMJL=first.example=Ufhb=JL=sender.example=alice@srs.example", ErrSyntax},
		{"SRS1 with nothing behind its joint", "SRS1=2HE3YPRMJL=first.example==@srs.example", ErrSyntax},
		{
			"SRS1 with another joint", "SRS1=2HE3YPRMJL=first.example=+Ufhb=JL=sender.example=alice@srs.example",
			ErrBadMAC,
		},
		{
			"SRS1 with one separator more", "SRS1=2HE3YPRMJL=first.example===Ufhb=JL=sender.example=alice@srs.example",
			ErrBadMAC,
		},
		{
			"SRS1 with another first separator",
			"SRS1-2HE3YPRMJL=first.example==Ufhb=JL=sender.example=alice@srs.example", ErrSyntax,
		},
		{
			"SRS1 with another first forwarder",
			"SRS1=2HE3YPRMJL=other.example==Ufhb=JL=sender.example=alice@srs.example", ErrBadMAC,
		},
		{"SRS1 without a first forwarder", "SRS1=2HE3YPRMJL===Ufhb=JL=sender.example=alice@srs.example", ErrSyntax},
		{"SRS1 that opens to something else than SRS0", "SRS1=2HE3YPRMJL=first.example=alice@srs.example", ErrSyntax},
		{"SRS1 read as SRS0", "SRS0=2HE3YPRM=JL=first.example==Ufhb=JL=sender.example=alice@srs.example", ErrBadMAC},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, _, err := w.Reverse(path(t, tt.in)); !errors.Is(err, tt.want) || got != (mail.Path{}) {
				t.Errorf("got %q, %v, want %v", got, err, tt.want)
			}
		})
	}
}

// TestReverse_ChangedOnTheWay: changes of case and quotes by servers on the way do no harm.
func TestReverse_ChangedOnTheWay(t *testing.T) {
	w := rewriter(t, "srs.example", noon, keyA)
	tests := []struct {
		name, in, change, home string
	}{
		{"small letters", "Alice@Sender.Example",
			"srs0=sldbqzpi=jl=sender.example=alice@srs.example", "alice@sender.example"},
		{"capitals", "Alice@Sender.Example",
			"SRS0=SLDBQZPI=JL=SENDER.EXAMPLE=ALICE@SRS.EXAMPLE", "ALICE@SENDER.EXAMPLE"},
		{"SRS1 in small letters", "SRS0+Ufhb=JL=sender.example=alice@first.example",
			"srs1=adqjspprjl=first.example=+ufhb=jl=sender.example=alice@srs.example",
			"SRS0+ufhb=jl=sender.example=alice@first.example"},
		{"quotes put around it", "alice@sender.example",
			`"SRS0=SLDBQZPI=JL=sender.example=alice"@srs.example`, `"alice"@sender.example`},
		{"quotes and backslashes taken away", `"a\l\ice"@sender.example`,
			"SRS0=SLDBQZPI=JL=sender.example=alice@srs.example", "alice@sender.example"},
		{"quotes taken away that the sender needs", `""@sender.example`,
			`SRS0=WSK7ORGC=JL=sender.example=@srs.example`, `""@sender.example`},
		{"backslashes put into the tag", `"a b"@sender.example`,
			`"\SRS0\=VAORLUA2=JL=sender.example=\a b"@srs.example`, `"a b"@sender.example`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			made := forward(t, w, path(t, tt.in))
			changed := path(t, tt.change)
			if !strings.EqualFold(changed.LocalPart(), made.LocalPart()) {
				t.Fatalf("the test changed more: %s was %s", changed, made)
			}
			if home := reverse(t, w, changed); home.String() != tt.home {
				t.Errorf("got %s, want %s", home, tt.home)
			}
		})
	}
}

// TestRewriter_ThreeForwarders: with any number of forwarders, a bounce needs two steps.
func TestRewriter_ThreeForwarders(t *testing.T) {
	for _, sender := range []string{
		"Alice@sender.example", `"a b=c"@sender.example`, "größe@bücher.example", "a+b=c@sender.example",
		"a@[192.0.2.1]",
	} {
		a := rewriter(t, "a.example", noon, keyA)
		b := rewriter(t, "b.example", noon, keyB)
		c := rewriter(t, "c.example", noon, "the key of the third of them")
		atA := forward(t, a, path(t, sender))
		atB := forward(t, b, atA)
		atC := forward(t, c, atB)
		if len(atC.String()) != len(atB.String()) {
			t.Errorf("%s grew to %s", atB, atC)
		}
		back := reverse(t, c, atC)
		if back != atA {
			t.Errorf("%s opens to %s, want %s", atC, back, atA)
		}
		if back := reverse(t, b, atB); back != atA {
			t.Errorf("%s opens to %s, want %s", atB, back, atA)
		}
		if home := reverse(t, a, back); home.String() != sender {
			t.Errorf("%s opens to %s, want %s", back, home, sender)
		}
	}
}

// TestRewriter_Concurrency: many callers share a Rewriter.
func TestRewriter_Concurrency(t *testing.T) {
	w := rewriter(t, "srs.example", noon, keyA, keyB)
	var wg sync.WaitGroup
	defer wg.Wait()
	for range 8 {
		wg.Go(func() { // ends after its rounds
			for range 200 {
				for _, sender := range senders {
					p, _ := mail.ParsePath(sender, true)
					out, err := w.Forward(p, mail.OpensToBounces, client)
					if err != nil {
						t.Error(err)
						return
					}
					if home, _, err := w.Reverse(out); home != p || err != nil {
						t.Errorf("%s opens to %s, %v", out, home, err)
						return
					}
				}
			}
		})
	}
}
