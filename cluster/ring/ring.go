// Package ring says which node owns a Site, by rendezvous hashing with weights. All nodes that see the same members
// determine the same owner without communication, and a member that joins or leaves moves no more than its own share.
//
// It owns the hash and the choice among several owners. It refuses to know how members are found and whether they are
// alive: its functions are pure.
package ring

import (
	"cmp"
	"math"
	"slices"

	"github.com/millrace/millrace/router/mail"
)

// A Member is a node that may own Sites.
type Member struct {
	Name   string  // as configured; it is hashed, so that a node that comes back owns what it owned
	Weight float64 // of its share; values that are not finite and above 0 mean 1
}

// Owners returns the n owners of a Site, the first one first, and fewer if there are fewer members. The order of
// members does not matter. A member that joins only gains Sites, and one that leaves only loses its own.
func Owners(members []Member, site mail.Site, n int) []string {
	ranked := rank(members, string(site))
	names := make([]string, min(max(n, 0), len(ranked)))
	for i := range names {
		names[i] = ranked[i].name
	}
	return names
}

// Owner returns the owner of a Site for a recipient domain, "" without members. A Site with a spread above 1 has that
// many owners, and the domain chooses among them by the same rule. So a retry goes to the same owner and leaves from
// the same address of ours. Mail of a domain moves only if its owner leaves or one that ranks higher joins.
func Owner(members []Member, site mail.Site, spread int, domain string) string {
	ranked := rank(members, string(site))
	if len(ranked) == 0 {
		return ""
	}
	if spread <= 1 || len(ranked) == 1 {
		return ranked[0].name
	}
	owners := ranked[:min(spread, len(ranked))]
	best, highest := "", math.Inf(-1)
	for _, o := range owners {
		// Each owner of a spread has limit/n for any weight, so the domains are distributed evenly.
		if s := score(hash(o.name, string(site), domain), 1); s > highest || s == highest && o.name < best {
			best, highest = o.name, s
		}
	}
	return best
}

// A ranked is a member with its score for a Site.
type ranked struct {
	name  string
	score float64
}

// rank returns the members by their scores for a Site, the highest first.
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

// score returns the score of weighted rendezvous hashing for a hash: -w / ln(u), with u uniform in (0, 1). The member
// with the highest score wins. Its probability is its weight over the sum of all weights, and a change of one weight
// moves only what that member gains or loses.
func score(h uint64, weight float64) float64 {
	u := (float64(h>>11) + 0.5) / (1 << 53)
	return -weight / math.Log(u)
}

// hash returns a hash of the parts, each preceded by its length, so that different lists of parts are different texts.
// FNV-1a alone leaves the high bits of short texts similar; the finalizer of SplitMix64 spreads them.
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
