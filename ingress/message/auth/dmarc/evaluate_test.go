package dmarc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/ingress/world"
)

// records are policy records by domain, without "_dmarc."; one that begins with ~~ cannot be had. Several stand apart
// by a newline.
type records map[string]string

// dns is a DNS with the records. It denies the names in denied; one with ~~ before it cannot be told.
func (r records) dns(denied ...string) ingresstest.Zone {
	z := ingresstest.Zone{}
	for domain, text := range r {
		z["_dmarc."+domain] = strings.Split(text, "\n")
		if strings.HasPrefix(text, "~~") {
			z["_dmarc."+domain] = []string{ingresstest.ServFail}
		}
	}
	for _, name := range denied {
		if plain, ok := strings.CutPrefix(name, "~~"); ok {
			z[plain] = []string{ingresstest.ServFail}
		} else {
			z[plain] = []string{ingresstest.NXDomain}
		}
	}
	return z
}

// asked notes the names that were asked for.
type asked struct {
	world.Resolver
	mu    sync.Mutex
	names []string
}

func (a *asked) LookupTXT(ctx context.Context, name string) ([]string, error) {
	a.mu.Lock()
	a.names = append(a.names, name)
	a.mu.Unlock()
	return a.Resolver.LookupTXT(ctx, name)
}

// passing is what SPF found when the reverse-path's domain passed.
func passing(domain string) spf.Results {
	return spf.Results{Mail: spf.Identity{Result: spf.Pass, Domain: domain}}
}

func evaluate(t testing.TB, c Config, identity spf.Results, dkim, unknown []string, authors ...string) Result {
	t.Helper()
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	l := e.Begin(t.Context(), authors...)
	defer l.Close()
	first := l.Evaluate(t.Context(), identity, dkim, unknown...)
	again := l.Evaluate(t.Context(), identity, dkim, unknown...)
	if first.Cause == nil && first != again {
		t.Errorf("evaluated again it is %+v, not %+v", again, first)
	}
	return first
}

// An identifier of the author counts, however many others come before it.
func TestEvaluate_ManyIdentifiers(t *testing.T) {
	r := records{"example.com": "v=DMARC1; p=reject", "deep.sub.test": "v=DMARC1; p=reject"}
	var others []string
	for i := range 40 {
		others = append(others, fmt.Sprintf("n%d.test", i))
	}
	for name, tt := range map[string]struct {
		author, domain string
		want           Word
	}{
		"the author domain":        {"example.com", "example.com", Pass},
		"a domain below it":        {"example.com", "mail.example.com", Pass},
		"a domain above it":        {"a.example.com", "example.com", Pass},
		"a domain that is another": {"example.com", "xexample.com", Fail},
	} {
		got := evaluate(t, Config{Resolver: r.dns()}, passing("n40.test"), append(slices.Clone(others), tt.domain),
			others, tt.author)
		if got.Result != tt.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// Results of evaluations.
func TestEvaluate(t *testing.T) {
	const rua = "; rua=mailto:r@example.com"
	late := func(domain string) spf.Results {
		return spf.Results{Mail: spf.Identity{Result: spf.TempError, Domain: domain}}
	}
	psd := records{
		"bank.example":       "v=DMARC1; p=reject; sp=quarantine; np=reject; psd=y" + rua,
		"giant.bank.example": "v=DMARC1; p=quarantine",
	}
	for _, c := range []struct {
		name    string
		records records
		author  string
		spf     spf.Results
		dkim    string
		unknown string
		want    string // result, disposition, defer
		policy  string // policy domain, tag, organization
		aligned string
	}{
		{name: "no record anywhere is none", records: records{}, author: "a.example.com", want: "none none",
			policy: "  a.example.com"},
		{name: "nothing authenticated fails", records: records{"example.com": "v=DMARC1; p=reject"},
			author: "example.com",
			want:   "fail reject", policy: "example.com p example.com"},
		{name: "quarantine is asked for", records: records{"example.com": "v=DMARC1; p=quarantine"},
			author: "example.com",
			want:   "fail quarantine", policy: "example.com p example.com"},
		{name: "a failure under none asks for nothing", records: records{"example.com": "v=DMARC1; p=none"},
			author: "example.com",
			want:   "fail none", policy: "example.com p example.com"},

		// RFC 9989 appendix B.1.1 and B.1.2
		{name: "SPF in strict alignment", records: records{"example.com": "v=DMARC1; p=reject; aspf=s"},
			author: "example.com",
			spf:    passing("example.com"), want: "pass none", policy: "example.com p example.com", aligned: "spf"},
		{name: "SPF in relaxed alignment, of the parent's reverse-path",
			records: records{"example.com": "v=DMARC1; p=reject"},
			author:  "child.example.com", spf: passing("example.com"), want: "pass none",
			policy: "example.com p example.com", aligned: "spf"},
		{name: "SPF not aligned", records: records{"example.com": "v=DMARC1; p=reject"}, author: "child.example.com",
			spf: passing("example.net"), want: "fail reject", policy: "example.com p example.com"},
		{name: "DKIM in strict alignment", records: records{"example.com": "v=DMARC1; p=reject; adkim=s"},
			author: "example.com",
			dkim:   "example.com", want: "pass none", policy: "example.com p example.com", aligned: "dkim"},
		{name: "DKIM in relaxed alignment", records: records{"example.com": "v=DMARC1; p=reject"},
			author: "child.example.com",
			dkim:   "example.com", want: "pass none", policy: "example.com p example.com", aligned: "dkim"},
		{name: "DKIM not aligned", records: records{"example.com": "v=DMARC1; p=reject"}, author: "child.example.com",
			dkim: "sample.net", want: "fail reject", policy: "example.com p example.com"},

		{name: "strict DKIM refuses the parent and relaxed SPF does not", author: "news.example.com",
			records: records{"example.com": "v=DMARC1; p=reject; adkim=s"}, dkim: "example.com",
			spf:  passing("b.example.com"),
			want: "pass none", policy: "example.com p example.com", aligned: "spf"},
		{name: "strict SPF refuses a sibling", author: "news.example.com",
			records: records{"example.com": "v=DMARC1; p=reject; aspf=s"}, spf: passing("b.example.com"),
			want: "fail reject", policy: "example.com p example.com"},
		{name: "both are named", records: records{"example.com": "v=DMARC1; p=reject"}, author: "example.com",
			dkim: "x.org mail.example.com", spf: passing("bounce.example.com"), want: "pass none",
			policy: "example.com p example.com", aligned: "spf dkim"},
		{name: "names are compared in any case", records: records{"example.com": "v=DMARC1; p=reject"},
			author: "Example.COM",
			dkim:   "EXAMPLE.com", want: "pass none", policy: "example.com p example.com", aligned: "dkim"},
		{name: "a domain that ends alike is another", records: records{"example.com": "v=DMARC1; p=reject"},
			author: "example.com",
			dkim:   "badexample.com", want: "fail reject", policy: "example.com p example.com"},
		{name: "a public suffix in common aligns nothing",
			records: records{"a.co.example": "v=DMARC1; p=reject", "b.co.example": "v=DMARC1; p=none"},
			author:  "a.co.example", dkim: "b.co.example", want: "fail reject", policy: "a.co.example p a.co.example"},
		{name: "a HELO name counts for nothing", records: records{"example.com": "v=DMARC1; p=reject"},
			author: "example.com",
			spf:    spf.Results{Helo: spf.Identity{Result: spf.Pass, Domain: "example.com"}}, want: "fail reject",
			policy: "example.com p example.com"},
		{name: "the null sender is its HELO name", records: records{"example.com": "v=DMARC1; p=reject"},
			author: "example.com",
			spf: spf.Results{
				Mail: spf.Identity{Result: spf.Pass, Domain: "mx.example.com"},
				Helo: spf.Identity{Result: spf.Pass, Domain: "mx.example.com"},
			},
			want: "pass none", policy: "example.com p example.com", aligned: "spf"},
		{name: "a softfail does not pass", records: records{"example.com": "v=DMARC1; p=reject"}, author: "example.com",
			spf: spf.Results{Mail: spf.Identity{Result: spf.SoftFail, Domain: "example.com"}}, want: "fail reject",
			policy: "example.com p example.com"},

		// RFC 9989 appendix B.4
		{name: "B.4.1, simple", author: "example.com", spf: passing("example.com"), dkim: "signing.example.com",
			records: records{"example.com": "v=DMARC1; p=reject", "signing.example.com": "v=DMARC1; p=none"},
			want:    "pass none", policy: "example.com p example.com", aligned: "spf dkim"},
		{name: "B.4.2, deep", author: "a.b.c.d.e.f.g.h.i.j.k.example.com", spf: passing("example.com"),
			dkim:    "signing.example.com",
			records: records{"example.com": "v=DMARC1; p=reject", "signing.example.com": "v=DMARC1; p=none"},
			want:    "pass none", policy: "example.com p example.com", aligned: "spf dkim"},
		{name: "B.4.3, below a public suffix domain", records: psd, author: "giant.bank.example",
			spf:  passing("mail.giant.bank.example"),
			dkim: "mail.mega.bank.example", want: "pass none", policy: "giant.bank.example p giant.bank.example",
			aligned: "spf"},
		{name: "B.4.3, its signature alone", records: psd, author: "giant.bank.example", dkim: "mail.mega.bank.example",
			want: "fail quarantine", policy: "giant.bank.example p giant.bank.example"},

		{name: "the public suffix domain's policy is for those that have none", records: psd,
			author: "mega.bank.example",
			want:   "fail quarantine", policy: "bank.example sp mega.bank.example"},
		{name: "and not for those that have one", records: psd, author: "mail.giant.bank.example",
			want: "fail quarantine", policy: "giant.bank.example p giant.bank.example"},
		{name: "np is for names that do not exist", records: psd, author: "missing.bank.example",
			want: "fail reject", policy: "bank.example np missing.bank.example"},
		{name: "whether it exists may not be known", records: psd, author: "unsure.bank.example",
			want: "temperror none defer", policy: "bank.example sp unsure.bank.example"},
		{name: "that does not matter to what passes", records: psd, author: "unsure.bank.example",
			dkim: "unsure.bank.example",
			want: "pass none", policy: "bank.example sp unsure.bank.example", aligned: "dkim"},
		{name: "the public suffix domain itself has p", records: psd, author: "bank.example",
			want: "fail reject", policy: "bank.example p bank.example"},
		{name: "nor is it aligned with those below", records: psd, author: "mega.bank.example", dkim: "bank.example",
			want: "fail quarantine", policy: "bank.example sp mega.bank.example"},
		{name: "nor they with it", records: psd, author: "bank.example", dkim: "mega.bank.example",
			want: "fail reject", policy: "bank.example p bank.example"},

		{name: "sp is for subdomains", records: records{"example.com": "v=DMARC1; p=reject; sp=none"},
			author: "a.example.com",
			want:   "fail none", policy: "example.com sp example.com"},
		{name: "and not for the domain", records: records{"example.com": "v=DMARC1; p=reject; sp=none"},
			author: "example.com",
			want:   "fail reject", policy: "example.com p example.com"},
		{name: "np without sp", records: records{"example.com": "v=DMARC1; p=none; np=reject"},
			author: "missing.example.com",
			want:   "fail reject", policy: "example.com np example.com"},
		{name: "sp serves for names that do not exist", records: records{"example.com": "v=DMARC1; p=none; sp=reject"},
			author: "missing.example.com",
			want:   "fail reject", policy: "example.com sp example.com"},
		{name: "psd=n ends the walk", author: "x.sales.example.com", dkim: "example.com",
			records: records{"sales.example.com": "v=DMARC1; p=reject; psd=n", "example.com": "v=DMARC1; p=none"},
			want:    "fail reject", policy: "sales.example.com p sales.example.com"},
		{name: "without it the shortest name is the organization", author: "x.sales.example.com", dkim: "example.com",
			records: records{"sales.example.com": "v=DMARC1; p=reject",
				"example.com": "v=DMARC1; p=none; sp=quarantine"},
			want: "pass none", policy: "example.com sp example.com", aligned: "dkim"},
		{name: "and its policy holds", author: "x.sales.example.com",
			records: records{"sales.example.com": "v=DMARC1; p=reject",
				"example.com": "v=DMARC1; p=none; sp=quarantine"},
			want: "fail quarantine", policy: "example.com sp example.com"},
		{name: "a record of one's own goes before the organization's", author: "sales.example.com",
			records: records{"sales.example.com": "v=DMARC1; p=quarantine",
				"example.com": "v=DMARC1; p=reject; sp=reject"},
			want: "fail quarantine", policy: "sales.example.com p example.com"},
		{name: "several records are none", author: "a.example.com",
			records: records{"a.example.com": "v=DMARC1; p=none\nv=DMARC1; p=none",
				"example.com": "v=DMARC1; p=reject"},
			want: "fail reject", policy: "example.com p example.com"},
		{name: "other records beside it do not count", author: "example.com",
			records: records{"example.com": "v=spf1 -all\nv=DMARC1; p=reject\nv=DMARC2; p=none"},
			want:    "fail reject", policy: "example.com p example.com"},
		{
			name: "a name of one label", records: records{}, author: "localhost", want: "none none",
			policy: "  localhost",
		},

		{name: "t=y lets off one step", records: records{"example.com": "v=DMARC1; p=reject; t=y"},
			author: "example.com",
			want:   "fail quarantine", policy: "example.com p example.com"},
		{name: "and from quarantine to nothing", records: records{"example.com": "v=DMARC1; p=quarantine; t=y"},
			author: "example.com",
			want:   "fail none", policy: "example.com p example.com"},
		{name: "pct is ignored", records: records{"example.com": "v=DMARC1; p=reject; pct=0"}, author: "example.com",
			want: "fail reject", policy: "example.com p example.com"},
		{name: "beside t=y as well", records: records{"example.com": "v=DMARC1; p=reject; pct=0; t=y"},
			author: "example.com",
			want:   "fail quarantine", policy: "example.com p example.com"},
		{name: "and beside t=n", records: records{"example.com": "v=DMARC1; p=reject; pct=0; t=n"},
			author: "example.com",
			want:   "fail reject", policy: "example.com p example.com"},

		{name: "no p and somebody to report to is none", records: records{"example.com": "v=DMARC1" + rua},
			author: "example.com",
			want:   "fail none", policy: "example.com p example.com"},
		{name: "no p and nobody is no DMARC", records: records{"example.com": "v=DMARC1; aspf=s"},
			author: "example.com",
			want:   "none none", policy: "example.com p example.com"},
		{name: "a broken sp is p=none", records: records{"example.com": "v=DMARC1; p=reject; sp=rejct" + rua},
			author: "example.com",
			want:   "fail none", policy: "example.com p example.com"},

		{name: "a record that cannot be had", records: records{"example.com": "~~SERVFAIL"}, author: "example.com",
			dkim: "mail.example.com",
			want: "temperror none defer", policy: "  "},
		{name: "nor that of the parent", records: records{"example.com": "~~SERVFAIL"}, author: "a.example.com",
			want: "temperror none defer", policy: "  "},
		{name: "the author's own signature need not wait for it", records: records{"example.com": "~~SERVFAIL"},
			author: "example.com",
			dkim:   "example.com", want: "temperror none", policy: "  ", aligned: "dkim"},
		{name: "a parent is not needed by a record and a signature of one's own", author: "a.example.com",
			dkim:    "a.example.com",
			records: records{"a.example.com": "v=DMARC1; p=reject", "example.com": "~~SERVFAIL"},
			want:    "pass none", policy: "a.example.com p ", aligned: "dkim"},
		{name: "a parent that cannot be had may align", author: "a.example.com", dkim: "b.example.com",
			records: records{"a.example.com": "v=DMARC1; p=reject", "example.com": "~~SERVFAIL"},
			want:    "temperror none defer", policy: "a.example.com p "},
		{name: "but not with a stranger", author: "a.example.com", dkim: "b.example.net",
			records: records{"a.example.com": "v=DMARC1; p=reject", "example.com": "~~SERVFAIL"},
			want:    "fail reject", policy: "a.example.com p "},
		{name: "nor does it matter under p=none", author: "a.example.com", dkim: "b.example.com",
			records: records{"a.example.com": "v=DMARC1; p=none", "example.com": "~~SERVFAIL"},
			want:    "temperror none", policy: "a.example.com p "},
		{name: "a top-level domain that cannot answer has no record",
			records: records{"example.com": "v=DMARC1; p=reject", "com": "~~SERVFAIL"},
			author:  "example.com", dkim: "mail.example.com", want: "pass none", policy: "example.com p example.com",
			aligned: "dkim"},
		{name: "a signer's record that cannot be had", author: "example.com", dkim: "mail.example.com",
			records: records{"example.com": "v=DMARC1; p=reject", "mail.example.com": "~~SERVFAIL"},
			want:    "temperror none defer", policy: "example.com p example.com"},
		{name: "SPF without an answer might have aligned", records: records{"example.com": "v=DMARC1; p=reject"},
			author: "example.com",
			spf:    late("b.example.com"), want: "temperror none defer", policy: "example.com p example.com"},
		{name: "or not", records: records{"example.com": "v=DMARC1; p=reject"}, author: "example.com",
			spf: late("example.net"), want: "fail reject", policy: "example.com p example.com"},
		{name: "another identifier settles it", records: records{"example.com": "v=DMARC1; p=reject"},
			author: "example.com",
			spf:    late("example.com"), dkim: "example.com", want: "pass none", policy: "example.com p example.com",
			aligned: "dkim"},
		{name: "a signature without a key might have aligned", records: records{"example.com": "v=DMARC1; p=reject"},
			author:  "example.com",
			unknown: "x.org example.com", want: "temperror none defer", policy: "example.com p example.com"},
		{name: "which is nothing to wait for under p=none", records: records{"example.com": "v=DMARC1; p=none"},
			author:  "example.com",
			unknown: "example.com", want: "temperror none", policy: "example.com p example.com"},
		{name: "U-labels are A-labels", records: records{"xn--bcher-kva.example": "v=DMARC1; p=reject"},
			author: "bücher.example",
			dkim:   "xn--bcher-kva.example", want: "pass none", policy: "xn--bcher-kva.example p xn--bcher-kva.example",
			aligned: "dkim"},
		{name: "no author domain", records: records{}, author: "[192.0.2.1]", want: "permerror none", policy: "  "},
	} {
		t.Run(c.name, func(t *testing.T) {
			dns := c.records.dns("missing.bank.example", "missing.example.com", "~~unsure.bank.example")
			r := evaluate(t, Config{Resolver: dns}, c.spf,
				strings.Fields(c.dkim), strings.Fields(c.unknown), c.author)
			got := r.Result.String() + " " + r.Disposition.String()
			if r.Defer {
				got += " defer"
			}
			if got != c.want || r.Aligned != c.aligned {
				t.Errorf("got %q, aligned %q, want %q, %q (%s, %v)", got, r.Aligned, c.want, c.aligned, r.Reason,
					r.Cause)
			}
			if policy := r.PolicyDomain + " " + r.Tag + " " + r.Organization; policy != c.policy {
				t.Errorf("got policy %q, want %q", policy, c.policy)
			}
		})
	}
}

// Several authors get the strictest result.
func TestEvaluate_SeveralAuthors(t *testing.T) {
	zone := records{"reject.example": "v=DMARC1; p=reject", "quarantine.example": "v=DMARC1; p=quarantine",
		"none.example": "v=DMARC1; p=none", "fault.example": "~~SERVFAIL"}
	for _, c := range []struct{ authors, dkim, want, author string }{
		{"none.example reject.example quarantine.example", "", "fail reject", "reject.example"},
		{"none.example reject.example quarantine.example", "reject.example", "fail quarantine", "quarantine.example"},
		{"none.example reject.example", "reject.example", "fail none", "none.example"},
		{"reject.example other.example", "reject.example", "none none", "other.example"},
		{"reject.example quarantine.example", "reject.example quarantine.example", "pass none", "reject.example"},
		{"quarantine.example fault.example", "", "temperror none", "fault.example"},
		{"reject.example fault.example", "", "fail reject", "reject.example"},
		{"none.example [192.0.2.1]", "none.example", "permerror none", ""},
	} {
		r := evaluate(t, Config{Resolver: zone.dns()}, spf.Results{}, strings.Fields(c.dkim), nil,
			strings.Fields(c.authors)...)
		if got := r.Result.String() + " " + r.Disposition.String(); got != c.want || r.Author != c.author {
			t.Errorf("%s signed by %q: got %s by %q, want %s by %q", c.authors, c.dkim, got, r.Author, c.want, c.author)
		}
	}
}

// TestWalk_EightNames has the example of RFC 9989 section 4.10.
func TestWalk_EightNames(t *testing.T) {
	for _, c := range []struct{ author, want string }{
		{"a.b.c.d.e.f.g.h.i.j.mail.example.com",
			"a.b.c.d.e.f.g.h.i.j.mail.example.com g.h.i.j.mail.example.com h.i.j.mail.example.com " +
				"i.j.mail.example.com j.mail.example.com mail.example.com example.com com"},
		{"a.b.c.d.e.f.example.com",
			"a.b.c.d.e.f.example.com b.c.d.e.f.example.com c.d.e.f.example.com d.e.f.example.com " +
				"e.f.example.com f.example.com example.com com"},
		{
			"b.c.d.e.f.example.com",
			"b.c.d.e.f.example.com c.d.e.f.example.com d.e.f.example.com e.f.example.com f.example.com example.com com",
		},
		{"com", "com"},
	} {
		log := &asked{Resolver: records{}.dns()}
		evaluate(t, Config{Resolver: log}, passing(c.author), []string{c.author}, nil, c.author)
		if got := strings.ReplaceAll(strings.Join(log.names, " "), "_dmarc.", ""); got != c.want {
			t.Errorf("%s: asked for\n%s, want\n%s", c.author, got, c.want)
		}
	}
}

// A public suffix record is found above labels that the walk skipped.
func TestWalk_PublicSuffix(t *testing.T) {
	// The walk skips h.g.…, the organizational domain, which lies one label below psd=y, and asks for it afterwards.
	zone := records{"g.f.e.d.c.b.a": "v=DMARC1; p=reject; sp=reject; psd=y",
		"h.g.f.e.d.c.b.a": "v=DMARC1; p=none; sp=quarantine"}
	r := evaluate(t, Config{Resolver: zone.dns()}, spf.Results{}, nil, nil, "j.i.h.g.f.e.d.c.b.a")
	if r.Organization != "h.g.f.e.d.c.b.a" || r.PolicyDomain != "h.g.f.e.d.c.b.a" || r.Disposition != Quarantine {
		t.Errorf("got %+v", r)
	}
}

// Answers are asked for once.
func TestWalk_Once(t *testing.T) {
	log := &asked{Resolver: records{"example.com": "v=DMARC1; p=reject"}.dns()}
	evaluate(t, Config{Resolver: log}, passing("bounce.example.com"), []string{"mail.example.com", "other.org"}, nil,
		"news.example.com")
	want := []string{
		"_dmarc.news.example.com", "_dmarc.example.com", "_dmarc.com", "_dmarc.bounce.example.com",
		"_dmarc.mail.example.com",
	}
	if !slices.Equal(log.names, want) {
		t.Errorf("asked for %q, want %q", log.names, want)
	}
}

// A name that is too long for its record has none.
func TestWalk_LongName(t *testing.T) {
	author := strings.Repeat("a234567890.", 22) + "example.com" // 253 octets
	log := &asked{Resolver: records{"example.com": "v=DMARC1; p=reject"}.dns()}
	r := evaluate(t, Config{Resolver: log}, spf.Results{}, nil, nil, author)
	if len(author) != maxName || r.Disposition != Reject || strings.Contains(log.names[0], author) {
		t.Errorf("%d octets: got %+v, asked %q", len(author), r, log.names)
	}
}

// No answer in time is TempError.
func TestEvaluate_Timeout(t *testing.T) {
	e, err := New(Config{Resolver: ingresstest.Blocked{}, timeout: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	l := e.Begin(t.Context(), "example.com")
	defer l.Close()
	if r := l.Evaluate(t.Context(), spf.Results{}, nil); r.Result != TempError || !r.Defer || r.Reason != reasonLate {
		t.Errorf("got %+v", r)
	}
}

// A caller may cancel its wait.
func TestEvaluate_Cancel(t *testing.T) {
	e, err := New(Config{Resolver: ingresstest.Blocked{}})
	if err != nil {
		t.Fatal(err)
	}
	l := e.Begin(t.Context(), "example.com")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := l.Evaluate(ctx, spf.Results{}, nil); r.Result != TempError || !r.Defer ||
		!errors.Is(r.Cause, context.Canceled) {
		t.Errorf("got %+v", r)
	}
	l.Close()
	l.Close()
}

func BenchmarkEvaluate(b *testing.B) {
	e, err := New(Config{Resolver: records{"example.com": "v=DMARC1; p=reject; sp=quarantine; " +
		"rua=mailto:r@example.com"}.dns()})
	if err != nil {
		b.Fatal(err)
	}
	header := []byte("To: x@example.org\r\nFrom: \"Joe Doe\" <joe@news.example.com>\r\nSubject: y\r\n\r\n")
	b.ReportAllocs()
	for b.Loop() {
		authors := ReadAuthors(header)
		l := e.Begin(b.Context(), authors.Domains...)
		if r := l.Evaluate(b.Context(), passing("bounce.example.com"),
			[]string{"example.com"}); r.Aligned != "spf dkim" {
			b.Fatal(r)
		}
		l.Close()
	}
}

// Config is checked.
func TestConfig_Validate(t *testing.T) {
	for _, c := range []Config{{}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

// Words are those of Authentication-Results fields.
func TestWord_String(t *testing.T) {
	for want, got := range map[string]string{"none": None.String(), "pass": Pass.String(), "fail": Fail.String(),
		"temperror": TempError.String(), "permerror": PermError.String(), "quarantine": Quarantine.String(),
		"reject": Reject.String()} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
