package store

import (
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// The keys and values of the twin's tables. Moments are microseconds of the Unix epoch; a zero value is one that ended
// long ago, which is what makes expiry lazy: it is nobody's work.
type (
	rateKey struct {
		client      netip.Prefix
		group, name string
	}
	listKey struct {
		addr netip.Addr
		list string
	}
	listCell struct {
		codes []netip.Addr
		until int64 // of codes
		lock  int64 // until when somebody looks it up
	}
	karmaCell struct {
		score, votes float64
		at           int64
	}
	voteKey struct {
		client netip.Addr
		domain string
	}
	voteCell struct {
		weight float64
		until  int64
	}
	greyKey struct {
		client netip.Prefix
		key    string
	}
	greyCell struct {
		first  int64
		until  int64
		passed bool
	}
)

// A twin keeps in this process what Redis would. Its methods are safe for concurrent use and take the time as an
// argument, so that a stage has one.
type twin struct {
	halfLife time.Duration
	most     float64
	rates    *table[rateKey, int64] // theoretical arrival times
	lists    *table[listKey, listCell]
	karma    *table[netip.Prefix, karmaCell]
	votes    *table[voteKey, voteCell]
	grey     *table[greyKey, greyCell]
	known    *table[netip.Prefix, int64] // until when
	marks    *table[string, int64]       // until when
}

func newTwin(c Config) *twin {
	return &twin{
		halfLife: c.HalfLife,
		most:     c.KarmaMost,
		rates: newTable[rateKey, int64](c.Entries, func(k rateKey) rateKey {
			return rateKey{k.client, strings.Clone(k.group), strings.Clone(k.name)}
		}),
		lists: newTable[listKey, listCell](c.Entries, nil), // the zones come from the configuration
		karma: newTable[netip.Prefix, karmaCell](c.Entries, nil),
		votes: newTable[voteKey, voteCell](c.Entries, func(k voteKey) voteKey {
			return voteKey{k.client, strings.Clone(k.domain)}
		}),
		grey: newTable[greyKey, greyCell](c.Entries, func(k greyKey) greyKey {
			return greyKey{k.client, strings.Clone(k.key)}
		}),
		known: newTable[netip.Prefix, int64](c.Entries, nil),
		marks: newTable[string, int64](c.Entries, strings.Clone),
	}
}

// draw answers rates, by a node's part of each limit if nodes is above 1. What a unit drew before one of it refused is
// given back; meanwhile, for less than a microsecond or so, others may find that missing.
func (t *twin) draw(rates []mail.Rate, results []mail.RateResult, nodes int, now time.Time) {
	at := now.UnixMicro()
	for first := 0; first < len(rates); {
		last := unitEnd(rates, first)
		for i := first; i < last; i++ {
			results[i] = t.take(&rates[i], measure(&rates[i], nodes), at)
		}
		if !allAllowed(results[first:last]) {
			for i := first; i < last; i++ {
				if results[i].Allowed && !rates[i].Peek {
					t.giveBack(&rates[i], measure(&rates[i], nodes))
				}
			}
		}
		first = last
	}
}

func keyOf(r *mail.Rate) rateKey { return rateKey{r.Client, r.Group, r.Name} }

func (t *twin) take(r *mail.Rate, g gauge, now int64) mail.RateResult {
	if r.Peek {
		return waiting(max(now, t.rates.get(keyOf(r))) + g.cost - g.burst - now)
	}
	arrival, part := t.rates.hold(keyOf(r))
	defer part.mu.Unlock()
	moved := max(now, *arrival) + g.cost
	if wait := moved - g.burst - now; wait > 0 {
		return waiting(wait)
	}
	*arrival = moved
	return waiting(0)
}

func (t *twin) giveBack(r *mail.Rate, g gauge) {
	arrival, part := t.rates.hold(keyOf(r))
	defer part.mu.Unlock()
	*arrival = max(0, *arrival-g.cost)
}

// list answers what is known of addr on a list, and takes the lock for the caller unless lock is 0.
func (t *twin) list(addr netip.Addr, list string, lock time.Duration, now time.Time) mail.ListAnswer {
	at, key := now.UnixMicro(), listKey{addr, list}
	cell := t.lists.get(key)
	if cell.until > at {
		return mail.ListAnswer{
			State: mail.ListKnown, Codes: cell.codes, TTL: time.Duration(cell.until-at) * time.Microsecond,
		}
	}
	if lock <= 0 {
		return mail.ListAnswer{}
	}
	held, part := t.lists.hold(key)
	defer part.mu.Unlock()
	if held.until > at { // came in between
		return mail.ListAnswer{
			State: mail.ListKnown, Codes: held.codes, TTL: time.Duration(held.until-at) * time.Microsecond,
		}
	}
	if held.lock > at {
		return mail.ListAnswer{State: mail.ListPending}
	}
	held.lock = at + lock.Microseconds()
	return mail.ListAnswer{State: mail.ListAskedOfYou}
}

// putList keeps an answer and ends the lock.
func (t *twin) putList(addr netip.Addr, list string, codes []netip.Addr, ttl time.Duration, now time.Time) {
	t.lists.put(listKey{addr, list}, listCell{codes: codes, until: now.UnixMicro() + ttl.Microseconds()})
}

// whole is the prefix that stands for one address.
func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// standing gives what karma is worth now.
func (t *twin) standing(p netip.Prefix, now time.Time) mail.Karma {
	return t.fade(t.karma.get(p), now.UnixMicro())
}

func (t *twin) fade(c karmaCell, at int64) mail.Karma {
	if c.votes == 0 {
		return mail.Karma{}
	}
	left := math.Exp2(-float64(max(0, at-c.at)) / float64(t.halfLife.Microseconds()))
	return mail.Karma{Score: c.score * left, Votes: c.votes * left}
}

// keepKarma remembers what Redis said, for the time when it says nothing.
func (t *twin) keepKarma(p netip.Prefix, k mail.Karma, now time.Time) {
	if k.Votes == 0 {
		t.karma.remove(p)
		return
	}
	t.karma.put(p, karmaCell{k.Score, k.Votes, now.UnixMicro()})
}

// vote counts v and tells whether it changed anything. A destination that votes again within the hour can only make its
// vote worse: else one good message would cover for all the spam behind it.
func (t *twin) vote(v mail.Vote, now time.Time) bool {
	at := now.UnixMicro()
	before, first := t.cast(v, at)
	if !first && v.Weight >= before {
		return false
	}
	for _, p := range [...]netip.Prefix{whole(v.Client), network(v.Client)} {
		cell, part := t.karma.hold(p)
		k := t.fade(*cell, at)
		k.Score = max(-t.most, min(t.most, k.Score+v.Weight-before))
		if first {
			k.Votes++
		}
		*cell = karmaCell{k.Score, k.Votes, at}
		part.mu.Unlock()
	}
	return true
}

// cast notes the vote of a destination and gives the one of this hour before it, 0 if it is the first.
func (t *twin) cast(v mail.Vote, at int64) (before float64, first bool) {
	cell, part := t.votes.hold(voteKey{v.Client, v.Domain})
	defer part.mu.Unlock()
	if cell.until <= at {
		*cell = voteCell{v.Weight, at + voteHour.Microseconds()}
		return 0, true
	}
	before = cell.weight
	cell.weight = min(before, v.Weight)
	return before, false
}

// greyed answers a triplet.
func (t *twin) greyed(g mail.Triplet, now time.Time) mail.GreylistAnswer {
	at := now.UnixMicro()
	cell, part := t.grey.hold(greyKey{network(g.Client), g.Key})
	defer part.mu.Unlock()
	if cell.until <= at {
		*cell = greyCell{first: at, until: at + g.Window.Microseconds()}
	}
	if wait := cell.first + g.Delay.Microseconds() - at; wait > 0 && !cell.passed {
		return mail.GreylistAnswer{Wait: time.Duration(wait) * time.Microsecond}
	}
	cell.passed, cell.until = true, at+g.Keep.Microseconds()
	return mail.GreylistAnswer{Passed: true}
}

// setKnown marks the network of a client as known good until ttl is over.
func (t *twin) setKnown(client netip.Addr, ttl time.Duration, now time.Time) {
	t.known.put(network(client), now.UnixMicro()+ttl.Microseconds())
}

func (t *twin) isKnown(client netip.Addr, now time.Time) bool {
	return t.known.get(network(client)) > now.UnixMicro()
}

func (t *twin) mark(key string, ttl time.Duration, now time.Time) {
	t.marks.put(key, now.UnixMicro()+ttl.Microseconds())
}

func (t *twin) marked(key string, now time.Time) bool { return t.marks.get(key) > now.UnixMicro() }

// size sums up the tables.
func (t *twin) size() (held int, evicted uint64) {
	for _, size := range [...]func() (int, uint64){
		t.rates.size, t.lists.size, t.karma.size, t.votes.size, t.grey.size, t.known.size, t.marks.size,
	} {
		h, e := size()
		held, evicted = held+h, evicted+e
	}
	return held, evicted
}
