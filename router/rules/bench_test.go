package rules

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

const million = 1_000_000

// literals writes n literal rules over the given number of domains; each forwards to one of 1000 destinations.
func literals(n, domains int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "user%07d@dom%d.example user%07d@mailbox%d.example\n", i, i%domains, i, i%1000)
	}
	return b.String()
}

func BenchmarkLoadMillion(b *testing.B) {
	for _, domains := range []int{1, 10_000, million} {
		b.Run(fmt.Sprintf("domains=%d", domains), func(b *testing.B) {
			file := filepath.Join(b.TempDir(), "routes.txt")
			size := writeLiterals(b, file, domains)
			before := heap()
			var table *Table
			for b.Loop() {
				table = nil
				var err error
				if table, err = Load([]string{file}, testConfig()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(heap()-before)/million, "octets/rule-with-its-line")
			b.ReportMetric(float64(size)/million, "octets/line")
			if table.Len() != million {
				b.Fatal(table.Len())
			}
		})
	}
}

func writeLiterals(b *testing.B, file string, domains int) int {
	text := literals(million, domains)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return len(text)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkRouteMillion(b *testing.B) {
	table := mustParse(b,
		literals(million, 10_000)+
			"@dom0.example smtp://192.0.2.9\ndomain dom1.example subaddress=+\n/(.+)-list/@dom2.example $1@t.example\n")
	for _, tt := range []struct{ name, local, domain string }{
		{"literal", "User0500000", "dom0.example"},
		{"literal in an upper-case domain", "user0500000", "DOM0.example"},
		{"literal with a tag", "user0500001+tag", "dom1.example"},
		{"catch-all", "nobody", "dom0.example"},
		{"regex", "some-list", "dom2.example"},
		{"no such user", "nobody", "dom3.example"},
		{"relaying denied", "nobody", "foreign.example"},
	} {
		b.Run(strings.ReplaceAll(tt.name, " ", "_"), func(b *testing.B) {
			q := mail.Query{Forward: mail.Path{Local: tt.local, Domain: tt.domain}}
			b.ReportAllocs()
			for b.Loop() {
				table.Route(q, nil)
			}
		})
	}
	b.Run("literals_all_over", func(b *testing.B) {
		paths := make([]mail.Path, 1<<16)
		for i := range paths {
			n := i * 7919 % million
			paths[i] = mail.Path{Local: fmt.Sprintf("user%07d", n), Domain: fmt.Sprintf("dom%d.example", n%10_000)}
		}
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if _, err := table.Route(mail.Query{Forward: paths[i&(1<<16-1)]}, nil); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
}

// TestTable_Allocations: a route by a literal or a catch-all costs one allocation.
func TestTable_Allocations(t *testing.T) {
	table := mustParse(t, literals(1000, 10)+"@dom0.example smtp://192.0.2.9\n")
	for _, p := range []mail.Path{
		{Local: "USER0000500", Domain: "Dom0.Example"}, {Local: "anyone", Domain: "dom0.example"},
	} {
		got := testing.AllocsPerRun(100, func() {
			if _, err := table.Route(mail.Query{Forward: p}, nil); err != nil {
				t.Fatal(err)
			}
		})
		if got > 1 {
			t.Errorf("<%s>: %v allocations", p, got)
		}
	}
}
