package score

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// FuzzHelo: for any name in EHLO the texts are fit for a reply, the score is the same for the same name in other case,
// and at most one signal of the name alone speaks.
func FuzzHelo(f *testing.F) {
	for _, s := range []string{
		"mail.example.net", "localhost", "203.0.113.9", "[203.0.113.9]", "[IPv6:2001:db8::9]", "[203.0.113.10]",
		"mx1.example.org", "a..b", "", ".",
		"пример.example", "a\r\nb", "\xff", "1.2.3", "[", "[]", "x@y", "::1%z",
	} {
		f.Add(s)
	}
	s, err := New(Config{Private: true, Hostnames: []string{"mx1.example.org"}, OwnAddrs: []netip.Addr{ours}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name string) {
		judge := func(name string) mail.Verdict {
			k := s.Connect(context.Background(), Client{Addr: client})
			defer k.Close()
			k.Helo(name)
			return k.Verdict(context.Background())
		}
		v := judge(name)
		if len(v.Reasons) > 1 {
			t.Fatalf("%q: %s", name, texts(v))
		}
		for _, r := range v.Reasons {
			if len(r.Text) > maxText || printable(r.Text, maxText) != r.Text {
				t.Errorf("%q: told %q", name, r.Text)
			}
		}
		kind, addr := classify(name)
		if addr.IsValid() != (kind == heloLiteral || kind == heloUnquoted) || addr.Is4In6() {
			t.Errorf("%q: kind %d with %s", name, kind, addr)
		}
		if kind == heloName && !strings.Contains(strings.TrimSuffix(name, "."), ".") {
			t.Errorf("%q is no full name", name)
		}
		upper, lower := strings.ToUpper(name), strings.ToLower(name)
		if back := strings.ToLower(upper); utf8.ValidString(name) && back == lower && len(upper) == len(name) {
			if other := judge(upper); other.Score != v.Score {
				t.Errorf("%q scores %v, in capitals %v", name, v.Score, other.Score)
			}
		}
	})
}

// FuzzGenericName: with any name of any address, a name that says what its host is for is never generic, nor is one
// without a digit.
func FuzzGenericName(f *testing.F) {
	f.Add("203-0-113-9.dsl.example.net", []byte{203, 0, 113, 9})
	f.Add("mail.example.net", []byte{203, 0, 113, 9})
	f.Add("2001-db8--9.example.net", netip.MustParseAddr("2001:db8::9").AsSlice())
	f.Add("dhcp.42.example.net", []byte{0, 0, 0, 0})
	f.Add("....", []byte{1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, name string, octets []byte) {
		addr, ok := netip.AddrFromSlice(octets)
		if !ok {
			return
		}
		addr = addr.Unmap()
		name = domain.Canonical(name)
		why := generic(name, addr)
		if why == "" {
			return
		}
		if !strings.ContainsAny(name, "0123456789abcdef") {
			t.Errorf("%q %s", name, why)
		}
		if strings.Count(name, ".") < 2 {
			t.Errorf("%q %s", name, why)
		}
		for _, purpose := range []string{"mail", "smtp", "static"} {
			if why := generic(purpose+"."+name, addr); why != "" {
				t.Errorf("%q %s", purpose+"."+name, why)
			}
		}
	})
}

// FuzzParseEntry: an entry of any line that is taken can be configured, finds what it names, and has printable texts.
func FuzzParseEntry(f *testing.F) {
	for _, s := range []string{
		"203.0.113.7 why", "2001:db8::/32", "helo:*.dyn.example", "domain:spam.example no", "::ffff:1.2.3.4",
		"0.0.0.0/0", "helo:**", "domain:", "x\ty", "203.0.113.7 for=score,dmarc why", "203.0.113.7 for=",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		e, err := ParseEntry(line)
		if err != nil {
			if printable(err.Error(), 500) != err.Error() {
				t.Errorf("%q: told %q", line, err)
			}
			return
		}
		if s, err := New(Config{Allow: []Entry{e}}); err != nil || s == nil || e.For > ForPlaces|ForScore|ForDMARC {
			t.Fatalf("%q: %v, for %b", line, err, e.For)
		}
		e.For = 0
		s, err := New(Config{Block: []Entry{e}})
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		k := s.Connect(context.Background(), Client{Addr: client})
		defer k.Close()
		switch {
		case e.Client != "":
			p, err := parsePrefix(e.Client)
			if err != nil {
				t.Fatal(err)
			}
			k = s.Connect(context.Background(), Client{Addr: p.Addr()})
			defer k.Close()
		case e.Helo != "":
			k.Helo(strings.ReplaceAll(strings.TrimSuffix(e.Helo, "."), "*", "x"))
		default:
			k.Mail(mail.Path{Local: "a", Domain: strings.ReplaceAll(e.Domain, "*", "x")}, nil)
		}
		v := k.Verdict(context.Background())
		blocked := false
		for _, r := range v.Reasons {
			blocked = blocked || r.Name == "block"
			if printable(r.Text, maxText) != r.Text {
				t.Errorf("%q: told %q", line, r.Text)
			}
		}
		// A name is compared without its last dot, so that a pattern which ends in one finds nothing.
		if !blocked && !strings.HasSuffix(e.Helo, ".") && !strings.HasSuffix(e.Domain, ".") {
			t.Errorf("%q finds nothing: %s", line, texts(v))
		}
	})
}
