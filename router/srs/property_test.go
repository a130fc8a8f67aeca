package srs

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// locals draws local parts in their wire form: dot-strings, quoted strings with what only these may hold, tags.
func locals() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringMatching(`[a-zA-Z0-9=+_/{}%!-]{1,20}(\.[a-z=+-]{1,8}){0,2}`),
		rapid.StringMatching(`[a-zß-ÿ一-三=]{1,12}`),
		rapid.StringMatching(`"([a-z=+@<> .]|\\["\\a-z =]){0,20}"`),
		rapid.StringMatching(`(?i:srs0)[=+-][0-9A-Za-z+/]{0,5}=[A-Z2-7]{0,2}=[a-z]{1,4}\.example=[a-z=+-]{0,5}`),
		rapid.StringMatching(`(?i:srs1)[=+-][0-9A-Za-z]{0,5}=[a-z]{1,4}\.example=[=+-]?[0-9A-Za-z]{0,4}=`+
			`[A-Z2-7]{2}=[a-z]{1,4}\.example=[a-z=+-]{1,5}`),
		rapid.StringMatching(`"(\\)?[sS]RS[01][=+-](\\)?[0-9A-Za-z]{4}=[a-z]{1,4}\.exam(\\)?ple=[=+-]?(\\)?`+
			`[0-9A-Za-z]{4}=[ a-z\\]{0,6} "`),
	)
}

func paths() *rapid.Generator[mail.Path] {
	domains := rapid.OneOf(
		rapid.StringMatching(`[a-zA-Z0-9]{1,8}(-[a-z0-9]{1,4})?(\.[a-z]{1,8}){1,3}`),
		rapid.StringMatching(`[a-zü]{1,8}\.example`),
		rapid.SampledFrom([]string{"[192.0.2.1]", "[IPv6:2001:db8::1]", "a", "srs.example.com", "_x.example"}),
	)
	return rapid.Custom(func(t *rapid.T) mail.Path {
		p, err := mail.ParsePath(locals().Draw(t, "local")+"@"+domains.Draw(t, "domain"), true)
		if err != nil || p.IsNull() {
			t.Skip()
		}
		return p
	})
}

func kinds() *rapid.Generator[mail.Opens] {
	return rapid.SampledFrom([]mail.Opens{mail.OpensToNone, mail.OpensToReports, mail.OpensToBounces})
}

func days() *rapid.Generator[time.Time] {
	return rapid.Map(rapid.Int64Range(0, 40000*24*3600), func(s int64) time.Time { return time.Unix(s, 0) })
}

var srs1Form = regexp.MustCompile(`(?s)^[sS][rR][sS]1[=+-][^=]+=([^=]+)=([=+-].+)$`)

// homes returns what a rewritten p opens to, by other means than the package's.
func homes(p mail.Path) mail.Path {
	text := p.LocalPart()
	if m := srs1Form.FindStringSubmatch(text); m != nil && mail.IsDomain(m[1]) {
		return mail.NewPath("SRS0"+m[2], m[1])
	}
	if regexp.MustCompile(`(?s)^[sS][rR][sS]0[=+-].`).MatchString(text) {
		return mail.NewPath("SRS0"+text[4:], p.Domain)
	}
	return mail.NewPath(text, p.Domain)
}

// TestRewriter_RoundTrip: what Forward writes is a valid path at the domain, and opens to the sender.
func TestRewriter_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, made := paths().Draw(t, "path"), days().Draw(t, "made")
		opens := rapid.SampledFrom([]mail.Opens{mail.OpensToReports, mail.OpensToBounces}).Draw(t, "opens")
		out, err := rewriter(t, "srs.example", made, keyA).Forward(p, opens, client)
		if errors.Is(err, ErrTooLong) {
			t.Skip()
		}
		if err != nil {
			t.Fatal(err)
		}
		if again, err := mail.ParsePath(out.String(), true); err != nil || again != out || out.Domain != "srs.example" {
			t.Fatalf("%s is written, which is no path: %v", out, err)
		}
		if p.IsASCII() && !out.IsASCII() {
			t.Fatalf("%s is not ASCII", out)
		}
		later := made.Add(time.Duration(rapid.Int64Range(-int64(day), int64(10*day)).Draw(t, "later")))
		home, got, err := rewriter(t, "srs.example", later, keyB, keyA).Reverse(out)
		if err != nil || got != opens {
			t.Fatalf("%s opens to %s, not %s: %v", out, got, opens, err)
		}
		if want := homes(p); home.Domain != want.Domain || home.LocalPart() != want.LocalPart() {
			t.Fatalf("%s opens to %s, want %s", out, home, want)
		}
		exact := homes(p).LocalPart() == p.LocalPart() && !strings.Contains(p.Local, `\`) && p.Domain[0] != '['
		if exact && home != p {
			t.Fatalf("%s opens to %s, not octet for octet to %s", out, home, p)
		}
		lowered := mail.Path{Local: ascii.Fold(out.Local), Domain: "SRS.Example"}
		small, got, err := rewriter(t, "srs.example", later, keyB, keyA).Reverse(lowered)
		if err != nil || got != opens {
			t.Fatalf("%s opens to %s: %v", lowered, got, err)
		}
		if !ascii.EqualFold(small.LocalPart(), home.LocalPart()) || !ascii.EqualFold(small.Domain, home.Domain) {
			t.Fatalf("%s opens to %s, want %s", lowered, small, home)
		}
	})
}

// TestReverse_AnyChange: an address with one octet replaced, removed or added is refused, but for case and quotes.
func TestReverse_AnyChange(t *testing.T) {
	w := rewriter(t, "srs.example", noon, keyA)
	rapid.Check(t, func(t *rapid.T) {
		out, err := w.Forward(paths().Draw(t, "path"), kinds().Draw(t, "opens"), client)
		if err != nil {
			t.Skip()
		}
		i := rapid.IntRange(0, len(out.Local)-1).Draw(t, "at")
		with := string(rapid.OneOf(rapid.SampledFrom([]byte("=+-.@\"\\ aA2")), rapid.Byte()).Draw(t, "octet"))
		with = with[:1]
		var changed string
		switch rapid.IntRange(0, 2).Draw(t, "how") {
		case 0:
			changed = out.Local[:i] + with + out.Local[i+1:]
		case 1:
			changed = out.Local[:i] + out.Local[i+1:]
		case 2:
			changed = out.Local[:i] + with + out.Local[i:]
		}
		p := mail.Path{Local: changed, Domain: out.Domain}
		if ascii.EqualFold(p.LocalPart(), out.LocalPart()) {
			t.Skip()
		}
		if home, _, err := w.Reverse(p); err == nil || home != (mail.Path{}) {
			t.Fatalf("%s, made of %s, opens to %s", p, out, home)
		}
	})
}

// TestReverse_EveryOctet: every octet in the position of every octet of an address of each kind.
func TestReverse_EveryOctet(t *testing.T) {
	w := rewriter(t, "srs.example", noon, keyA)
	for i, s := range append(slices.Concat(senders, senders, senders), `"a b\"="@sender.example`) {
		out := forwardAs(t, w, path(t, s), mail.Opens(i/len(senders)%3))
		for i := range len(out.Local) {
			for c := range 256 {
				p := mail.Path{Local: out.Local[:i] + string([]byte{byte(c)}) + out.Local[i+1:], Domain: out.Domain}
				if ascii.EqualFold(p.LocalPart(), out.LocalPart()) {
					continue
				}
				if home, _, err := w.Reverse(p); err == nil {
					t.Fatalf("%q, made of %s, opens to %s", p, out, home)
				}
			}
		}
	}
}

// TestReverse_Kinds: no change of the form makes an address of one kind open as one of another.
func TestReverse_Kinds(t *testing.T) {
	w := rewriter(t, "srs.example", noon, keyA)
	rapid.Check(t, func(t *rapid.T) {
		p := paths().Draw(t, "path")
		made := map[mail.Opens]mail.Path{}
		for _, opens := range []mail.Opens{mail.OpensToNone, mail.OpensToReports, mail.OpensToBounces} {
			var err error
			if made[opens], err = w.Forward(p, opens, client); err != nil {
				t.Skip()
			}
		}
		bounces, reports, none := made[mail.OpensToBounces], made[mail.OpensToReports], made[mail.OpensToNone]
		if homes(p).Domain == "srs.example" || bounces == reports {
			t.Skip() // it is no address that was written here
		}
		if _, _, err := w.Reverse(none); !errors.Is(err, ErrClosed) || bounces == none {
			t.Fatalf("%s: %v", none, err)
		}
		at := strings.Index(ascii.Fold(reports.Local), "srs") + tagSize + macSize + stampSize
		if ascii.EqualFold(reports.Local[at-macSize-stampSize-tagSize+3:][:1], "0") {
			at++
		}
		plain := mail.Path{Local: reports.Local[:at] + reports.Local[at+networkSize:], Domain: reports.Domain}
		if home, _, err := w.Reverse(plain); !errors.Is(err, ErrBadMAC) {
			t.Fatalf("%s without its network opens to %s: %v", reports, home, err)
		}
		for _, p := range []mail.Path{bounces, none} {
			p.Local = p.Local[:at] + reports.Local[at:at+networkSize] + p.Local[at:]
			if home, _, err := w.Reverse(p); !errors.Is(err, ErrBadMAC) {
				t.Fatalf("%s with a network opens to %s: %v", p, home, err)
			}
		}
	})
}
