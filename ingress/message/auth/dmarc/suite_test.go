package dmarc

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/spf"
)

var (
	recordLine  = regexp.MustCompile(`(?m)^_dmarc\.(\S+)\.\s+\d+\s+IN\s+TXT\s+\( "(.*)" \)`)
	resultsPart = regexp.MustCompile(`(?ms)^Authentication-Results: .*?(^Received-SPF|^\S+:)`)
	dmarcPart   = regexp.MustCompile(`(?m)^ +dmarc=(\w+)(?: policy\.published-domain-policy=(\w+).*` +
		` policy\.evaluated-disposition=(\w+).* header\.from=([^\s;]+))?`)
	spfPart  = regexp.MustCompile(`(?m)^ +spf=(\w+) smtp\.mailfrom=(\S+) smtp\.helo=([^\s;]+)`)
	dkimPart = regexp.MustCompile(`(?m)^ +dkim=pass .*header\.d=([^\s;]+)`)
)

// TestEvaluate_AuthenticationMilter returns what its results say of SPF and DKIM to Evaluate and expects what they say
// of DMARC. Three things differ: two From fields are two results there and the stricter of them here; it says a
// published policy of none where there is no record; and its reader finds no address behind a quoted string that is
// folded over blank lines, which RFC 5322 section 4.2 allows in obsolete syntax.
func TestEvaluate_AuthenticationMilter(t *testing.T) {
	dir := ingresstest.Shared(t, "suites", "dmarc", "authentication_milter")
	text := ingresstest.Read(t, dir, "zonefile")
	zone := records{}
	for _, line := range recordLine.FindAllStringSubmatch(string(text), -1) {
		zone[line[1]] = line[2]
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.eml"))
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		message := strings.ReplaceAll(string(text), "\r\n", "\n")
		results := resultsPart.FindStringIndex(message)
		if results == nil || !dmarcPart.MatchString(message[results[0]:results[1]]) ||
			!strings.Contains(message, "dmarc=") {
			continue
		}
		part := message[results[0]:results[1]]
		if !spfPart.MatchString(part) {
			continue // nothing is said of SPF, so it cannot be mapped
		}
		ran++
		t.Run(filepath.Base(file), func(t *testing.T) {
			judge(t, zone, part, strings.ReplaceAll(message[results[0]:], "\n", "\r\n"))
		})
	}
	if ran < 40 {
		t.Errorf("only %d messages could be mapped", ran)
	}
}

func judge(t *testing.T, zone records, part, header string) {
	want := dmarcPart.FindAllStringSubmatch(part, -1)
	authors := ReadAuthors(dkim.Section([]byte(header)))
	if len(want) > 1 {
		for _, one := range want {
			if authors.Form != Ambiguous || one[4] != "" && !slices.Contains(authors.Domains, one[4]) {
				t.Errorf("got authors %+v, want %q among them", authors, one[4])
			}
		}
		return
	}
	if want[0][1] == "permerror" {
		if !slices.Contains(authors.Domains, "example.com") {
			t.Errorf("got authors %+v, want that behind the folded quotes", authors)
		}
		return
	}
	if !slices.Equal(authors.Domains, want[0][4:]) {
		t.Fatalf("got authors %+v, want %q", authors, want[0][4])
	}
	domain := authors.Domains[0]
	words := map[string]spf.Result{"pass": spf.Pass, "fail": spf.Fail, "softfail": spf.SoftFail, "none": spf.None}
	identity := spf.Identity{}
	if m := spfPart.FindStringSubmatch(part); m != nil {
		_, from, ok := strings.Cut(m[2], "@")
		if !ok {
			from = m[3] // the null reverse-path
		}
		identity = spf.Identity{Result: words[m[1]], Domain: from}
	}
	var signers []string
	for _, m := range dkimPart.FindAllStringSubmatch(part, -1) {
		signers = append(signers, m[1])
	}
	r := evaluate(t, Config{Resolver: zone.dns()}, spf.Results{Mail: identity}, signers, nil, domain)
	policy := r.Policy
	if policy == "" {
		policy = "none"
	}
	if r.Result.String() != want[0][1] || policy != want[0][2] || r.Disposition.String() != want[0][3] {
		t.Errorf("got %v p=%s d=%v, want %q", r.Result, policy, r.Disposition, want[0][1:])
	}
}
