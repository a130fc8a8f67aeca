package spf

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

// audited is what an audit of example.com says of a zone: its look-ups and faults.
func audited(t *testing.T, zone string) string {
	t.Helper()
	r, _ := served(t, zone)
	a := NewAudit(t.Context(), r, "Example.COM.")
	out := []string{fmt.Sprintf("%d/%d", a.Lookups, a.Void)}
	for _, f := range a.Faults {
		out = append(out, fmt.Sprintf("%d %s %s", f.Flaw, f.Domain, f.Term))
	}
	return strings.Join(out, ", ")
}

const auditedHosts = `
example.com. 60 IN A 192.0.2.1
example.com. 60 IN MX 10 h.example.com.
h.example.com. 60 IN A 192.0.2.2
i.example.com. 60 IN TXT "v=spf1 a:h.example.com -all"
`

// TestAudit: what is wrong with a record is found without a client.
func TestAudit(t *testing.T) {
	fault := func(f Flaw, name, term string) string { return fmt.Sprintf(", %d %s %s", f, name, term) }
	for _, c := range []struct{ name, record, want string }{
		{"nothing to look up", "v=spf1 ip4:192.0.2.1 -all", "0/0"},
		{"each kind of look-up", "v=spf1 a mx a:h.example.com include:i.example.com exists:%{i}.x.example.com " +
			"-all", "6/0"},
		{"a prefix beside names", "v=spf1 a/24//64 a:h.example.com/32 mx/30 -all", "3/0"},
		{"a record that redirects", "v=spf1 redirect=i.example.com", "2/0"},
		{"macros are counted and not followed", "v=spf1 include:%{d}.x.example.com a:%{i}.example.com -all", "2/0"},
		{"all pass", "v=spf1 +all", "0/0" + fault(PassAll, "example.com", "+all")},
		{"all pass by a network", "v=spf1 ip6:::/0 -all", "0/0" + fault(PassAll, "example.com", "ip6:::/0")},
		{"all of one family pass beside a name", "v=spf1 a:h.example.com//0 -all",
			"1/0" + fault(PassAll, "example.com", "a:h.example.com//0")},
		{"a network is refused to none", "v=spf1 -ip4:0.0.0.0/0 ~all", "0/0"},
		{"a network of half the world", "v=spf1 ip4:128.0.0.0/1 " +
			"-all", "0/0" + fault(Wide, "example.com", "ip4:128.0.0.0/1")},
		{"no end", "v=spf1 ip4:192.0.2.1", "0/0" + fault(NoEnd, "example.com", "")},
		{"an end that says nothing", "v=spf1 ?all", "0/0" + fault(NoEnd, "example.com", "?all")},
		{"a term behind the end", "v=spf1 -all a", "0/0" + fault(AfterAll, "example.com", "a")},
		{"itself", "v=spf1 include:EXAMPLE.com -all", "1/0" + fault(Loop, "example.com", "include:EXAMPLE.com")},
		{"nothing there", "v=spf1 include:gone.example.com -all",
			"1/0" + fault(Dead, "example.com", "include:gone.example.com")},
		{"two that find nothing", "v=spf1 a:x.example.com mx:y.example.com -all",
			"2/2" + fault(Void, "example.com", "a:x.example.com") + fault(Void, "example.com", "mx:y.example.com")},
		{"a term that cannot be read", "v=spf1 a ip4:192.0.2.300 " +
			"-all", "0/0" + fault(Syntax, "example.com", "ip4:192.0.2.300")},
		{"the names of addresses", "v=spf1 ptr -all", "1/0" + fault(Discouraged, "example.com", "ptr")},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := audited(t, `example.com. 60 IN TXT "`+c.record+`"`+auditedHosts)
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// TestMerge: what passed by one of the records passes by the merged one.
func TestMerge(t *testing.T) {
	for _, c := range []struct {
		records []string
		want    string
	}{
		{[]string{"v=spf1 a -all", "v=spf1 mx -all"}, "v=spf1 a mx -all"},
		{[]string{"v=spf1 a -all", "v=spf1 A ~all"}, "v=spf1 a ~all"},
		{[]string{"V=SPF1 a ~all", "v=spf1 mx -all"}, "v=spf1 a mx ~all"},
		{[]string{"v=spf1 redirect=x.example", "v=spf1 +all"}, "v=spf1 include:x.example ~all"},
		{[]string{"v=spf1", "v=spf1  ip4:192.0.2.1"}, "v=spf1 ip4:192.0.2.1 ~all"},
	} {
		if got := Merge(c.records); got != c.want {
			t.Errorf("%q: got %s, want %s", c.records, got, c.want)
		}
	}
}

// FuzzAudit checks that an audit of any record ends, that a merged record can be read, and that it lets pass all that
// the records let pass.
func FuzzAudit(f *testing.F) {
	f.Add("v=spf1 a mx include:example.com -all", "v=spf1 redirect=%{d}")
	f.Add("v=spf1 ip4:192.0.2.0/24 a/0//0", "v=spf1 ip6:2001:db8::/32 +all")
	f.Add("v=spf1 a:a.example/24//64 exists:%{l}.x", `"v=spf1 -all"`)
	f.Fuzz(func(t *testing.T, one, other string) {
		zone := ingresstest.TXT(func(_ context.Context, name string) ([]string, error) {
			if name == "example.com" {
				return []string{one}, nil
			}
			return []string{other}, nil
		})
		a := NewAudit(t.Context(), zone, "example.com")
		if a.Lookups > 100*maxAudited || len(a.Tree) > 3*maxAudited {
			t.Fatalf("%d look-ups, %d lines", a.Lookups, len(a.Tree))
		}
		records := slices.DeleteFunc([]string{one, other}, func(r string) bool {
			return !isRecord(r) ||
				checkSyntax(r) != nil
		})
		if len(records) == 0 {
			return
		}
		merged := Merge(records)
		if !isRecord(merged) || checkSyntax(merged) != nil && len(merged) <= maxRecord {
			t.Fatalf("%q merged is %q", records, merged)
		}
	})
}

// TestMerge_Passes compares what clients get by the merged record with what they get by each of the records.
func TestMerge_Passes(t *testing.T) {
	records := []string{"v=spf1 ip4:192.0.2.0/28 -all", "v=spf1 ip4:198.51.100.7 redirect=more.example"}
	zone := func(record string) ingresstest.Zone {
		return ingresstest.Zone{
			"TXT example.com": {record}, "TXT more.example": {"v=spf1 ip4:203.0.113.9 -all"},
		}
	}
	result := func(record, client string) Result {
		c, err := New(Config{Resolver: zone(record)})
		if err != nil {
			t.Fatal(err)
		}
		k := c.Begin(t.Context(), netip.MustParseAddr(client), "", mail.Path{Local: "a", Domain: "example.com"})
		defer k.Close()
		return k.Results(t.Context()).Mail.Result
	}
	for client, want := range map[string]Result{
		"192.0.2.3": Pass, "198.51.100.7": Pass, "203.0.113.9": Pass, "192.0.2.30": Fail,
	} {
		single := result(records[0], client) == Pass || result(records[1], client) == Pass
		merged := result(strings.Replace(Merge(records), "~all", "-all", 1), client)
		if merged != want || single != (want == Pass) {
			t.Errorf("%s: got %v, one of them passes: %t, want %v", client, merged, single, want)
		}
	}
}
