package ring

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/router/mail"
)

func members(n int) []Member {
	out := make([]Member, n)
	for i := range out {
		out[i] = Member{Name: fmt.Sprintf("mx%d", i+1)}
	}
	return out
}

func site(i int) mail.Site { return mail.Site(fmt.Sprintf("mx.site%d.example", i)) }

// drawn returns a random set of members.
func drawn(t *rapid.T) []Member {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z][a-z0-9-]{0,8}`), 1, 9, rapid.ID[string]).Draw(t,
		"names")
	out := make([]Member, len(names))
	for i, n := range names {
		out[i] = Member{Name: n, Weight: float64(rapid.IntRange(0, 4).Draw(t, "weight"))}
	}
	return out
}

// The order of members does not matter.
func TestOwner_Order(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := drawn(t)
		b := rapid.Permutation(a).Draw(t, "permuted")
		s, domain, spread := mail.Site(rapid.String().Draw(t, "site")), rapid.String().Draw(t,
			"domain"), rapid.IntRange(-1, 12).Draw(t, "spread")
		if !slices.Equal(Owners(a, s, spread), Owners(b, s, spread)) ||
			Owner(a, s, spread, domain) != Owner(b, s, spread, domain) {
			t.Fatal("another order has other owners")
		}
	})
}

// A member that joins only gains Sites, and one that leaves only loses its own.
func TestOwners_JoinAndLeave(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		with := drawn(t)
		if len(with) < 2 {
			t.Skip("no member would be left")
		}
		without := with[1:]
		s := mail.Site(rapid.String().Draw(t, "site"))
		before, after := Owners(with, s, len(with)), Owners(without, s, len(with))
		before = slices.DeleteFunc(before, func(n string) bool { return n == with[0].Name })
		if !slices.Equal(before, after) {
			t.Fatalf("the order of the others changed: %v, %v", before, after)
		}
	})
}

// A higher weight never loses a Site.
func TestOwner_HigherWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawn(t)
		s := mail.Site(rapid.String().Draw(t, "site"))
		before := Owner(m, s, 1, "")
		m[0].Weight = max(m[0].Weight, 1) + float64(rapid.IntRange(1, 5).Draw(t, "more"))
		if after := Owner(m, s, 1, ""); after != before && after != m[0].Name {
			t.Fatalf("%s had it, %s gained weight, %s has it", before, m[0].Name, after)
		}
	})
}

// A domain stays with its owner while that is one of the owners.
func TestOwner_Domain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawn(t)
		s, domain := mail.Site(rapid.String().Draw(t, "site")), rapid.String().Draw(t, "domain")
		spread := rapid.IntRange(2, 4).Draw(t, "spread")
		owner := Owner(m, s, spread, domain)
		if !slices.Contains(Owners(m, s, spread), owner) {
			t.Fatalf("%s is none of the owners", owner)
		}
		for i := range m {
			if m[i].Name == owner {
				continue
			}
			rest := slices.Delete(slices.Clone(m), i, i+1)
			left := Owners(rest, s, spread)
			if len(left) >= spread && len(m) > spread && !slices.Contains(Owners(m, s, spread), m[i].Name) {
				if got := Owner(rest, s, spread, domain); got != owner {
					t.Fatalf("%s left, which was no owner, and the domain went from %s to %s", m[i].Name, owner, got)
				}
			}
		}
	})
}

// Sites are distributed by weight: the shares of 20,000 Sites are within five standard deviations of the weights.
func TestOwner_Weights(t *testing.T) {
	m := members(5)
	m[4].Weight = 2
	const sites = 20000
	got := map[string]int{}
	for i := range sites {
		got[Owner(m, site(i), 1, "")]++
	}
	for _, member := range m {
		w := max(member.Weight, 1) / 6
		off := math.Abs(float64(got[member.Name])-sites*w) / math.Sqrt(sites*w*(1-w))
		if off > 5 {
			t.Errorf("%s has %d of %d Sites, %.1f standard deviations off its share", member.Name, got[member.Name],
				sites, off)
		}
	}
}

// The domains of a Site with a spread are distributed evenly.
func TestOwner_Spread(t *testing.T) {
	m := members(5)
	const domains = 9000
	got := map[string]int{}
	for i := range domains {
		got[Owner(m, "google", 3, fmt.Sprintf("d%d.example", i))]++
	}
	if len(got) != 3 {
		t.Fatalf("owners: %v", got)
	}
	for name, n := range got {
		if off := math.Abs(float64(n)-domains/3.) / math.Sqrt(domains*2./9); off > 5 {
			t.Errorf("%s has %d of %d domains", name, n, domains)
		}
	}
}

// The hash is the same in all versions of the program and on all machines: a change would move every Site.
func TestOwner_StableHash(t *testing.T) {
	m := members(4)
	want := []string{"mx4", "mx1", "mx2", "mx1", "mx4", "mx4", "mx3", "mx3"}
	var got []string
	for i := range want {
		got = append(got, Owner(m, site(i), 1, ""))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Without members there is no owner.
func TestOwner_NoMembers(t *testing.T) {
	if got := Owner(nil, "a", 1, ""); got != "" {
		t.Errorf("got %q", got)
	}
	if got := Owners(nil, "a", 3); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

// A weight that is not finite and above 0 is 1.
func TestOwner_InvalidWeight(t *testing.T) {
	for _, w := range []float64{math.NaN(), math.Inf(1), -3, 0} {
		m := members(3)
		for i := range 50 {
			want := Owner(m, site(i), 1, "")
			m[1].Weight = w
			if got := Owner(m, site(i), 1, ""); got != want {
				t.Errorf("weight %v moved a Site from %s to %s", w, want, got)
			}
			m[1].Weight = 0
		}
	}
}

func BenchmarkOwner(b *testing.B) {
	m := members(8)
	b.ReportAllocs()
	for b.Loop() {
		Owner(m, "google", 3, "d.example")
	}
}
