package spf

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

// Syntax of records.
func TestCheckSyntax(t *testing.T) {
	for _, c := range []struct {
		terms string
		want  error
	}{
		{"", nil},
		{"   ", nil},
		{"a mx ptr all", nil},
		{"+A -MX ~Ptr ?ALL", nil},
		{"a:example.com a:example.com/24 a:example.com//64 a:example.com/24//64 a/0 mx//128 mx/32//0", nil},
		{"a:_spf.example.com. a:1.2.3.4.c0m a:x-y.c-m", nil},
		{"ip4:192.0.2.1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ip6:::1 ip6:::ffff:192.0.2.1", nil},
		{"include:%{d} include:%{i}._spf.%{d2} exists:%{L1r+-}.%{v}.x.example ptr:%{h}", nil},
		{"redirect=x.example exp=%{d}", nil},
		{"moo.cow-far_out=man:dog/cat x= y=%{c}%{r}%{t}%%%_%-", nil},
		{"a:foo%%bar.example", nil},

		{"all:x", errTerm},
		{"all/8", errTerm},
		{"al", errTerm},
		{"-", errTerm},
		{"++all", errTerm},
		{"include", errTerm},
		{"include/x.example", errTerm},
		{"exists", errTerm},
		{"ptr/24", errTerm},
		{"ip4", errTerm},
		{"=x", errTerm},
		{"1x=y", errTerm},
		{"-redirect=x.example", errTerm},
		{"a:", errDomainEnd},
		{"a:example", errDomainEnd},
		{"a:example.1", errDomainEnd},
		{"a:1.2.3.4", errDomainEnd},
		{"a:example.-com", errDomainEnd},
		{"a:example.com-", errDomainEnd},
		{"a:example..", errDomainEnd},
		{"include:", errDomainEnd},
		{"redirect=", errDomainEnd},
		{"exp=x", errDomainEnd},
		{"a:%{d}com", errDomainEnd},
		{"a/33", errPrefix},
		{"a/", errPrefix},
		{"a/08", errPrefix},
		{"a//129", errPrefix},
		{"mx//", errPrefix},
		{"ip4:192.0.2.1/", errPrefix},
		{"ip4:192.0.2.1/33", errPrefix},
		{"ip6:2001:db8::/129", errPrefix},
		{"ip4:", errNetwork},
		{"ip4:192.0.2", errNetwork},
		{"ip4:192.0.2.01", errNetwork},
		{"ip4:2001:db8::1", errNetwork},
		{"ip6:192.0.2.1", errNetwork},
		{"ip6:fe80::1%eth0", errNetwork},
		{"redirect=x.example redirect=y.example", errTwice},
		{"exp=x.example EXP=y.example", errTwice},
		{"a:%x.example", errMacro},
		{"a:x.example%", errMacro},
		{"a:%{x}.example", errMacro},
		{"a:%{d", errMacro},
		{"a:%{d0}.example", errMacro},
		{"a:%{dr2}.example", errMacro},
		{"a:%{d*}.example", errMacro},
		{"a:%{}.example", errMacro},
		{"a:%{c}.example", errMacro},
		{"x=%{z}", errMacro},
		{"a:b\tc.example", errCharset},
		{"a:b\xc3\xbc.example", errCharset},
		{strings.Repeat("a ", maxRecord), errTooLong},
	} {
		if got := checkSyntax("v=spf1 " + c.terms); !errors.Is(got, c.want) {
			t.Errorf("%.60q: got %v, want %v", c.terms, got, c.want)
		}
	}
}

// FuzzRecord returns records to a whole check: it ends, it does not pass by accident of a panic, and what the grammar
// refuses is a permerror.
func FuzzRecord(f *testing.F) {
	for _, seed := range []string{
		"a mx ptr -all", "include:%{d2r-}.x.example ~all", "ip4:192.0.2.0/24 redirect=_x.d.example",
		"exists:%{L}%%%_.%{i}.%{v} ?all", "a:x.example/24//64 exp=%{d}", "ip6:::1/0", "a:%{", "\xff",
	} {
		f.Add(seed, "joe", "mx.example")
	}
	f.Fuzz(func(t *testing.T, terms, local, helo string) {
		record := "v=spf1 " + terms
		got := check(t, ingresstest.Zone{"d.example": {record}}, "192.0.2.1", helo,
			mail.Path{Local: local, Domain: "d.example"})
		if checkSyntax(record) != nil && got.Mail.Result != PermError {
			t.Fatalf("got %+v for a malformed record", got.Mail)
		}
		if got.Mail.Domain != "d.example" || got.Mail.Result == TempError || got.Mail.Reason == "" {
			t.Fatalf("got %+v", got.Mail)
		}
	})
}
