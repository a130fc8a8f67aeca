// Package ring says which node owns a Site: rendezvous hashing with weights, so that all nodes that see the same
// members come to the same owner without a word, and a member that comes or goes moves no more than its own share.
//
// It owns the hash and the choice among several owners. It refuses to know how members are found and whether they live:
// it is a pure function of what it is given.
package ring

import (
	"cmp"
	"math"
	"slices"

	"github.com/millrace/millrace/router/mail"
)

// A Member is a node that may own Sites.
type Member struct {
	Name   string  // as configured: it is what is hashed, so that a node that comes back owns what it owned
	Weight float64 // of its share; 0 and what is no number mean 1
}

// Owners gives the n members that a Site belongs to, the first owner first; fewer if there are not so many. The order
// of members does not matter. A member that joins takes Sites and gives none, one that leaves gives its own and takes
// none.
func Owners(members []Member, site mail.Site, n int) []string {
	ranked := rank(members, string(site))
	names := make([]string, min(max(n, 0), len(ranked)))
	for i := range names {
		names[i] = ranked[i].name
	}
	return names
}

// Owner gives the one owner of a Site for a recipient domain, "" without members. A Site with a spread above 1 has that
// many owners, and the domain chooses among them by the same rule: a retry meets the same one, and so the same address
// of ours, and mail of a domain moves only when its own owner goes or a better one comes.
func Owner(members []Member, site mail.Site, spread int, domain string) string {
	ranked := rank(members, string(site))
	if len(ranked) == 0 {
		return ""
	}
	if spread <= 1 || len(ranked) == 1 {
		return ranked[0].name
	}
	owners := ranked[:min(spread, len(ranked))]
	best, most := "", math.Inf(-1)
	for _, o := range owners {
		// Each owner of a spread keeps limit/n, whatever its weight: so the domains are dealt out evenly.
		if s := score(hash(o.name, string(site), domain), 1); s > most || s == most && o.name < best {
			best, most = o.name, s
		}
	}
	return best
}

// A ranked member has its score for one Site.
type ranked struct {
	name  string
	score float64
}

func rank(members []Member, site string) []ranked {
	out := make([]ranked, len(members))
	for i, m := range members {
		w := m.Weight
		if !(w > 0) || math.IsInf(w, 0) {
			w = 1
		}
		out[i] = ranked{m.Name, score(hash(m.Name, site, ""), w)}
	}
	slices.SortFunc(out, func(a, b ranked) int {
		if c := cmp.Compare(b.score, a.score); c != 0 {
			return c
		}
		return cmp.Compare(a.name, b.name)
	})
	return out
}

// score makes of a hash the score of weighted rendezvous hashing: -w / ln(u), with u uniform in (0, 1). The member with
// the highest wins, each with a probability of its weight over the sum of all, and a change of one weight moves only
// what that member gains or loses.
func score(h uint64, weight float64) float64 {
	u := (float64(h>>11) + 0.5) / (1 << 53)
	return -weight / math.Log(u)
}

// hash mixes the parts with a length before each, so that no two lists of parts are one text. FNV-1a alone leaves the
// high bits of short texts alike; the finalizer of SplitMix64 spreads them.
func hash(parts ...string) uint64 {
	h := uint64(14695981039346656037)
	for _, p := range parts {
		h = (h ^ uint64(len(p))) * 1099511628211
		for i := range len(p) {
			h = (h ^ uint64(p[i])) * 1099511628211
		}
	}
	h ^= h >> 30
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 27
	h *= 0x94d049bb133111eb
	return h ^ h>>31
}
