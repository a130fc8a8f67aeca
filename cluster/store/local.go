package store

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// The keys and values of the local store's tables. Times are what micros returns. A zero value has expired long ago, so
// that a new entry and an expired one are treated the same, and expired entries need not be removed.
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
		until int64 // when codes expire
		lock  int64 // when the lock of the caller that looks it up ends
	}
	karmaCell struct {
		score, votes float64
		at           int64
	}
	// A voteKey is a destination's vote on a client, or if ofSender on what a domain sends from it.
	voteKey struct {
		client   netip.Addr
		domain   string
		sender   string
		ofSender bool
	}
	voteCell struct {
		weight float64
		until  int64
	}
	greyKey struct {
		client netip.Prefix
		key    string
	}
	senderCell struct {
		sender string
		karmaCell
	}
	// A goodMark is a domain for which a network is known good, and until when.
	goodMark struct {
		domain string
		until  int64
	}
	greyCell struct {
		first  int64
		until  int64
		passed bool
	}
)

// A local is the store in this process. Its methods are safe for concurrent use. They take the time as an argument, so
// that all calls of a stage use the same time.
type local struct {
	began     time.Time
	halfLife  time.Duration
	rates     *table[rateKey, int64] // theoretical arrival times
	lists     *table[listKey, listCell]
	karma     *table[netip.Prefix, karmaCell]    // of addresses
	senders   *table[netip.Prefix, []senderCell] // of networks; replaced whole
	votes     *table[voteKey, voteCell]
	grey      *table[greyKey, greyCell]
	knownGood *table[netip.Prefix, []goodMark] // replaced whole
	marks     *table[string, int64]            // when it ends
	ledgers   *table[string, ledgerCell]
}

func newLocal(c Config) *local {
	return &local{
		began: c.Now(), halfLife: c.tune.halfLife,
		rates: newTable[rateKey, int64](c.tune.entries, func(k rateKey) rateKey {
			return rateKey{k.client, strings.Clone(k.group), strings.Clone(k.name)}
		}),
		lists:   newTable[listKey, listCell](c.tune.entries, nil), // the zones come from the configuration
		karma:   newTable[netip.Prefix, karmaCell](c.tune.entries, nil),
		senders: newTable[netip.Prefix, []senderCell](c.tune.entries, nil),
		votes: newTable[voteKey, voteCell](c.tune.entries, func(k voteKey) voteKey {
			return voteKey{k.client, strings.Clone(k.domain), strings.Clone(k.sender), k.ofSender}
		}),
		grey: newTable[greyKey, greyCell](c.tune.entries, func(k greyKey) greyKey {
			return greyKey{k.client, strings.Clone(k.key)}
		}),
		knownGood: newTable[netip.Prefix, []goodMark](c.tune.entries, nil),
		marks:     newTable[string, int64](c.tune.entries, strings.Clone),
		ledgers:   newTable[string, ledgerCell](c.tune.entries, strings.Clone),
	}
}

// micros returns the microseconds of the Unix epoch as they pass in this process. No time that was kept comes nearer
// or goes away where the clock of the machine is set.
func (l *local) micros(now time.Time) int64 {
	return l.began.UnixMicro() + now.Sub(l.began).Microseconds()
}

// draw draws rates and sets results. Each limit is divided by nodes. If a rate of a unit refuses, the draws of the unit
// are refunded. Until then, for about a microsecond, concurrent draws may be refused because of them.
func (l *local) draw(rates []mail.Rate, results []mail.RateResult, nodes int, now time.Time) {
	at := l.micros(now)
	for first := 0; first < len(rates); {
		last := unitEnd(rates, first)
		for i := first; i < last; i++ {
			results[i] = l.drawOne(&rates[i], measure(&rates[i], nodes), at)
		}
		if !allAllowed(results[first:last]) {
			for i := first; i < last; i++ {
				if results[i].Allowed && !rates[i].Peek {
					l.refund(&rates[i], measure(&rates[i], nodes))
				}
			}
		}
		first = last
	}
}

func keyOf(r *mail.Rate) rateKey { return rateKey{r.Client, r.Group, r.Name} }

// drawOne draws one rate, or looks if it peeks. As in lua/gcra.lua no arrival is further ahead than a draw can have
// moved it.
func (l *local) drawOne(r *mail.Rate, g gauge, now int64) mail.RateResult {
	most := now + g.burst
	if r.Happened {
		most += max(g.burst, maxAhead*g.cost)
	}
	if r.Peek {
		return rateResult(max(now, min(l.rates.get(keyOf(r)), most)) + g.cost - g.burst - now)
	}
	arrival, part := l.rates.hold(keyOf(r))
	defer part.mu.Unlock()
	moved := max(now, min(*arrival, most)) + g.cost
	if r.Happened {
		*arrival = min(moved, most)
		return rateResult(0)
	}
	if wait := moved - g.burst - now; wait > 0 {
		return rateResult(wait)
	}
	*arrival = moved
	return rateResult(0)
}

// refund takes back a draw.
func (l *local) refund(r *mail.Rate, g gauge) {
	arrival, part := l.rates.hold(keyOf(r))
	defer part.mu.Unlock()
	*arrival = max(0, *arrival-g.cost)
}

// list returns the answer of a list on addr. If there is none and lock is above 0, it takes the lock for the caller or
// returns ListPending.
func (l *local) list(addr netip.Addr, list string, lock time.Duration, now time.Time) mail.ListAnswer {
	at, key := l.micros(now), listKey{addr, list}
	cell := l.lists.get(key)
	if cell.until > at {
		return mail.ListAnswer{
			State: mail.ListKnown, Codes: cell.codes, TTL: time.Duration(cell.until-at) * time.Microsecond,
		}
	}
	if lock <= 0 {
		return mail.ListAnswer{}
	}
	held, part := l.lists.hold(key)
	defer part.mu.Unlock()
	if held.until > at { // it was put in between
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

// putList keeps an answer for ttl and ends the lock.
func (l *local) putList(addr netip.Addr, list string, codes []netip.Addr, ttl time.Duration, now time.Time) {
	l.lists.put(listKey{addr, list}, listCell{codes: codes, until: l.micros(now) + ttl.Microseconds()})
}

// standing returns the karma of an address now.
func (l *local) standing(addr netip.Addr, now time.Time) mail.Karma {
	return l.fade(l.karma.get(owner(addr)), l.micros(now))
}

// sendersOf returns the karma of what a network sends now.
func (l *local) sendersOf(addr netip.Addr, now time.Time) (senders mail.Senders) {
	cells := l.senders.get(network.Of(addr))
	if len(cells) > 0 {
		senders = make(mail.Senders, 0, len(cells))
	}
	for _, c := range cells {
		senders = append(senders, mail.SenderKarma{Sender: c.sender, Karma: l.fade(c.karmaCell, l.micros(now))})
	}
	return senders
}

// fade returns what karma is worth at a time.
func (l *local) fade(c karmaCell, at int64) mail.Karma {
	if c.votes == 0 {
		return mail.Karma{}
	}
	left := math.Exp2(-float64(max(0, at-c.at)) / float64(l.halfLife.Microseconds()))
	return mail.Karma{Score: c.score * left, Votes: c.votes * left}
}

// keepKarma keeps the karma that Redis returned, for the time when Redis does not answer.
func (l *local) keepKarma(addr netip.Addr, facts *mail.Facts, now time.Time) {
	at := l.micros(now)
	if k := facts.Address; k.Votes == 0 {
		l.karma.remove(owner(addr))
	} else {
		l.karma.put(owner(addr), karmaCell{k.Score, k.Votes, at})
	}
	if len(facts.Network) == 0 {
		l.senders.remove(network.Of(addr))
		return
	}
	cells := make([]senderCell, len(facts.Network))
	for i, k := range facts.Network {
		cells[i] = senderCell{k.Sender, karmaCell{k.Score, k.Votes, at}}
	}
	l.senders.put(network.Of(addr), cells)
}

// vote counts v for the address, and for what the sender sends from its network, and reports whether it changed karma;
// lua/vote.lua is the same in Redis. A destination's later vote within the hour counts only if its weight is less:
// otherwise one good message would hide all spam after it.
func (l *local) vote(v mail.Vote, now time.Time) (counted bool) {
	at := l.micros(now)
	if change, ok := l.castVote(voteKey{client: v.Client, domain: v.Domain}, v.Weight, at); ok {
		cell, part := l.karma.hold(owner(v.Client))
		*cell = l.count(*cell, change, at)
		part.mu.Unlock()
		counted = true
	}
	key := voteKey{client: v.Client, domain: v.Domain, sender: v.Sender, ofSender: true}
	if change, ok := l.castVote(key, v.Weight, at); ok {
		l.countSender(v, change, at)
		counted = true
	}
	return counted
}

// count returns karma with the change of a vote.
func (l *local) count(c karmaCell, change mail.Karma, at int64) karmaCell {
	k := l.fade(c, at)
	return karmaCell{max(-maxKarma, min(maxKarma, k.Score+change.Score)), k.Votes + change.Votes, at}
}

// countSender counts the change of a vote for what a sender sends from the client's network. The sender with the fewest
// votes makes room, so that many new names push out no other that has been voted on for long.
func (l *local) countSender(v mail.Vote, change mail.Karma, at int64) {
	cells, part := l.senders.hold(network.Of(v.Client))
	defer part.mu.Unlock()
	kept := slices.Clone(*cells)
	i := slices.IndexFunc(kept, func(c senderCell) bool { return c.sender == v.Sender })
	switch {
	case i >= 0:
	case len(kept) < maxSenders:
		i, kept = len(kept), append(kept, senderCell{sender: strings.Clone(v.Sender)})
	default:
		i = 0
		for other := range kept {
			if l.fade(kept[other].karmaCell, at).Votes < l.fade(kept[i].karmaCell, at).Votes {
				i = other
			}
		}
		kept[i] = senderCell{sender: strings.Clone(v.Sender)}
	}
	kept[i].karmaCell = l.count(kept[i].karmaCell, change, at)
	*cells = kept
}

// castVote stores the vote of a destination and returns what it changes. ok is false if it does not count.
func (l *local) castVote(key voteKey, weight float64, at int64) (change mail.Karma, ok bool) {
	cell, part := l.votes.hold(key)
	defer part.mu.Unlock()
	if cell.until <= at {
		*cell = voteCell{weight, at + voteHour.Microseconds()}
		return mail.Karma{Score: weight, Votes: 1}, true
	}
	if weight >= cell.weight {
		return mail.Karma{}, false
	}
	change.Score, cell.weight = weight-cell.weight, weight
	return change, true
}

// greylist returns the answer to a triplet; lua/grey.lua is the same in Redis.
func (l *local) greylist(g mail.Triplet, now time.Time) mail.GreylistAnswer {
	at := l.micros(now)
	key := greyKey{key: g.Group + g.Key}
	if g.Group == "" {
		key.client = network.Of(g.Client)
	}
	var cell *greyCell
	if g.Peek {
		seen := l.grey.get(key)
		cell = &seen
	} else {
		held, part := l.grey.hold(key)
		defer part.mu.Unlock()
		cell = held
	}
	if cell.until <= at {
		*cell = greyCell{first: at, until: at + g.Window.Microseconds()}
	}
	if wait := cell.first + g.Delay.Microseconds() - at; wait > 0 && !cell.passed {
		return mail.GreylistAnswer{Wait: time.Duration(wait) * time.Microsecond}
	}
	cell.passed, cell.until = true, at+g.Keep.Microseconds()
	return mail.GreylistAnswer{Passed: true}
}

// setKnownGood marks the network of a client as known good for ttl, for mail of a domain; lua/know.lua is the same in
// Redis.
func (l *local) setKnownGood(client netip.Addr, domain string, ttl time.Duration, now time.Time) {
	at := l.micros(now)
	marks, part := l.knownGood.hold(network.Of(client))
	defer part.mu.Unlock()
	kept := []goodMark{{domain, at + ttl.Microseconds()}}
	for _, m := range *marks {
		if m.until > at && m.domain != domain {
			kept = append(kept, m)
		}
	}
	slices.SortFunc(kept[1:], func(a, b goodMark) int { return cmp.Compare(b.until, a.until) })
	*marks = kept[:min(len(kept), maxGoodDomains)]
}

// goodDomains returns the domains for which the network of a client is known good.
func (l *local) goodDomains(client netip.Addr, now time.Time) (domains []string) {
	at := l.micros(now)
	for _, m := range l.knownGood.get(network.Of(client)) {
		if m.until > at {
			domains = append(domains, m.domain)
		}
	}
	return domains
}

func (l *local) mark(key string, ttl time.Duration, now time.Time) {
	l.marks.put(key, l.micros(now)+ttl.Microseconds())
}

func (l *local) marked(key string, now time.Time) bool { return l.marks.get(key) > l.micros(now) }

// size returns the sums of the tables' sizes.
func (l *local) size() (held int, evicted uint64) {
	for _, size := range [...]func() (int, uint64){
		l.rates.size, l.lists.size, l.karma.size, l.senders.size, l.votes.size, l.grey.size, l.knownGood.size,
		l.marks.size, l.ledgers.size,
	} {
		h, e := size()
		held, evicted = held+h, evicted+e
	}
	return held, evicted
}
