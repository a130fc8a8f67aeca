package srs

import (
	"bytes"
	"errors"
	"testing"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// FuzzReverse: no path panics, and one that opens is what Forward writes on the day of its stamp for what it opens to,
// but for case and quotes.
func FuzzReverse(f *testing.F) {
	w := rewriter(f, "srs.example", noon, keyB, keyA)
	for _, s := range []string{
		"SRS0=SLDBQZPI=JL=sender.example=alice", "srs0=sldbqzpi=jl=sender.example=alice",
		`"SRS0=VAORLUA2=JL=sender.example=a b"`,
		`"\SRS0\=VAORLUA2=JL=sender.example=\a b"`, `"SRS0=52NKB6PL=JL=[192.0.2.1]=alice"`,
		"SRS0=WSK7ORGC=JL=sender.example=",
		"SRS1=2HE3YPRMJL=first.example==Ufhb=JL=sender.example=alice",
		"SRS1=ADQJSPPRJL=first.example=+Ufhb=JL=sender.example=alice",
		"SRS1=FP8r=first.example==Ufhb=JL=sender.example=alice", "SRS1=ZrPg=5KPL=3G=sender.example=alice", "SRS0=",
		"SRS1-", "srs0", `"`, `"\`, "",
		"SRS0=Z56NAMVL=JL=bücher.example=größe", "SRS0=SLDBQZPI=JLAAAAA=sender.example=alice",
	} {
		f.Add(s)
	}
	for _, opens := range []mail.Opens{mail.OpensToReports, mail.OpensToNone} {
		for _, s := range senders {
			f.Add(forwardAs(f, w, path(f, s), opens).Local)
		}
	}
	f.Fuzz(func(t *testing.T, local string) {
		given := mail.Path{Local: local, Domain: "srs.example"}
		home, opens, err := w.Reverse(given)
		if err != nil {
			if home != (mail.Path{}) || opens != mail.OpensToNone {
				t.Fatalf("%s, %s and %v", home, opens, err)
			}
			return
		}
		p, err := mail.ParsePath(given.String(), true)
		if err != nil || p != given {
			return // Reverse only sees parsed paths
		}
		if again, err := mail.ParsePath(home.String(), true); err != nil || again != home {
			t.Fatalf("%s opens to %s, which is no path: %v", given, home, err)
		}
		a, _ := readAddress(given.LocalPart(), w.today())
		for _, k := range []string{keyA, keyB} {
			day := rewriter(t, "srs.example", noon.AddDate(0, 0, int(a.day-w.today())), k)
			if made, err := day.write(home, opens, a.network); err == nil &&
				ascii.EqualFold(made.LocalPart(), given.LocalPart()) {
				return
			}
		}
		t.Fatalf("%s opens to %s, from which it was not made", given, home)
	})
}

// FuzzForward: no path panics. What is written is a path, and opens to the same mailbox if that is not SRS itself.
func FuzzForward(f *testing.F) {
	w := rewriter(f, "srs.example", noon, keyA)
	for _, s := range []string{
		"alice@sender.example", `"a b"@sender.example`, `""@sender.example`, "größe@bücher.example", "a@[192.0.2.1]",
		"a@[IPv6:2001:db8::1]",
		"SRS0+Ufhb=JL=sender.example=alice@first.example",
		"SRS1+FP8r=first.example=-Ufhb=JL=sender.example=alice@second.example",
		`"SR\S1=FP8r=first.ex\ample==U\fhb=JL=sender.example=a b"@second.example`,
		"SRS1=ZrPg=5KPL=3G=sender.example=alice@second.example",
		"SRS1=AAAA=srs.example==BBBB=JL=x.example=y@second.example", "x@srs.example", "Postmaster", "",
		`"SRS1=FP8r=[192.0.2.1]==a b"@second.example`,
	} {
		f.Add(s, byte(mail.OpensToBounces))
		f.Add(s, byte(mail.OpensToReports))
	}
	f.Fuzz(func(t *testing.T, s string, kind byte) {
		p, err := mail.ParsePath(s, true)
		if err != nil {
			return
		}
		opens := mail.Opens(kind % 3)
		out, err := w.Forward(p, opens, client)
		if errors.Is(err, ErrTooLong) || errors.Is(err, ErrSyntax) && p.Domain == "" {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if again, err := mail.ParsePath(out.String(), true); err != nil || again != out {
			t.Fatalf("%s is written for %s, which is no path: %v", out, p, err)
		}
		tag, _ := cutTag(p.LocalPart())
		if p.IsNull() || ascii.EqualFold(p.Domain, w.domain) {
			if out != p {
				t.Fatalf("%s is written for %s", out, p)
			}
			return
		}
		if !ascii.EqualFold(out.Domain, w.domain) {
			t.Fatalf("%s lies elsewhere", out)
		}
		home, got, err := w.Reverse(out)
		if opens == mail.OpensToNone && errors.Is(err, ErrClosed) {
			return
		}
		if tag == srs1 && err != nil {
			return // it names us as its first forwarder, and is not ours
		}
		if err != nil || got != opens {
			t.Fatalf("%s opens to %s, not %s: %v", out, got, opens, err)
		}
		if tag == 0 && (home.Domain != p.Domain || home.LocalPart() != p.LocalPart()) {
			t.Fatalf("%s opens to %s, want %s", out, home, p)
		}
		if tag == 0 && p.Domain[0] != '[' && home != p {
			t.Fatalf("%s opens to %s, not octet for octet to %s", out, home, p)
		}
	})
}

// FuzzParseKeys: an error names a line of the file, and the keys can be used.
func FuzzParseKeys(f *testing.F) {
	f.Add([]byte("# new\r\n" + keyB + "\r\n\r\n" + keyA))
	f.Add([]byte(keyA + "\n" + keyA))
	f.Add([]byte("\ufeff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := ParseKeys(bytes.NewReader(data))
		if err == nil {
			if err := (Config{Domain: "srs.example", Keys: keys}).Validate(); err != nil {
				t.Fatal(err)
			}
			return
		}
		var wrong *mail.LineErrors
		if !errors.As(err, &wrong) {
			t.Fatal(err)
		}
		for _, e := range wrong.List {
			if e.Line < 1 || e.Line > bytes.Count(data, []byte("\n"))+1 {
				t.Fatal(err)
			}
		}
	})
}
