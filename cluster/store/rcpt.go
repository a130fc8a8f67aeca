package store

import (
	"context"
	"slices"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// Rcpt gives what is known for a group of recipients, in one round trip at most: one script for each group of rates
// (all of them in one where Redis is no Cluster), one for the triplets of a client network, and the marks. The error is
// that of a rate that cannot be kept. On a Redis Cluster, what one slot drew for a unit that another slot refused is
// missing until it is given back, within the same call. When Redis fails, the facts are the twin's and Degraded says
// so; a triplet passes then, because it may have passed elsewhere.
func (s *Store) Rcpt(ctx context.Context, q mail.RcptQuery) (mail.RcptFacts, error) {
	if err := checkRates(q.Rates); err != nil {
		return mail.RcptFacts{}, err
	}
	facts := mail.RcptFacts{}
	if len(q.Rates) > 0 {
		facts.Rates = make([]mail.RateResult, len(q.Rates))
	}
	if len(q.Marks) > 0 {
		facts.Marked = make([]bool, len(q.Marks))
	}
	if len(q.Triplets) > 0 {
		facts.Grey = make([]mail.GreylistAnswer, len(q.Triplets))
	}
	if s.redis != nil {
		if s.askRcpt(ctx, q, &facts) {
			return facts, nil
		}
		facts.Degraded = true
		s.fallbacks.Add(1)
	}
	now := s.cfg.Now()
	s.twin.draw(q.Rates, facts.Rates, s.parts(), now)
	for i, m := range q.Marks {
		facts.Marked[i] = s.twin.marked(m, now)
	}
	for i := range q.Triplets {
		facts.Grey[i] = mail.GreylistAnswer{Passed: true}
		if !facts.Degraded {
			facts.Grey[i] = s.twin.greyed(boundTriplet(q.Triplets[i]), now)
		}
	}
	return facts, nil
}

// Rates draws rates, as Rcpt does.
func (s *Store) Rates(ctx context.Context, rates []mail.Rate) ([]mail.RateResult, error) {
	facts, err := s.Rcpt(ctx, mail.RcptQuery{Rates: rates})
	return facts.Rates, err
}

// Mark sets a mark for ttl, on this node in any case. It tells whether the store has it: false says that Redis failed,
// and that the other nodes do not see it.
func (s *Store) Mark(ctx context.Context, key string, ttl time.Duration) (stored bool) {
	s.twin.mark(key, ttl, s.cfg.Now())
	if s.redis == nil || ttl <= 0 {
		return true
	}
	return s.redis.run(ctx, []call{command(ctx, "SET", s.redis.markKey(key), 1, "PX", millis(ttl))}, read)
}

// Marked tells which of the marks stand, and whether that is all that the store knows: false says that Redis failed. A
// mark that this node set stands even if Redis has lost it.
func (s *Store) Marked(ctx context.Context, keys ...string) (marked []bool, all bool) {
	facts, _ := s.Rcpt(ctx, mail.RcptQuery{Marks: keys}) // only rates can be wrong
	return facts.Marked, !facts.Degraded
}

// Unmark ends a mark, in Redis and on this node.
func (s *Store) Unmark(ctx context.Context, key string) {
	s.twin.marks.remove(key)
	if s.redis != nil {
		s.redis.run(ctx, []call{command(ctx, "DEL", s.redis.markKey(key))}, read)
	}
}

// A batch is what one script is called with, and which parts of the query it answers.
type batch struct {
	group string
	index []int
	keys  []string
	args  []any
}

// batchOf finds or makes the batch of a group.
func batchOf(batches []batch, group string) ([]batch, *batch) {
	i := slices.IndexFunc(batches, func(b batch) bool { return b.group == group })
	if i < 0 {
		i = len(batches)
		batches = append(batches, batch{group: group})
	}
	return batches, &batches[i]
}

func (s *Store) askRcpt(ctx context.Context, q mail.RcptQuery, facts *mail.RcptFacts) bool {
	r := s.redis
	rates, grey := r.rateBatches(q.Rates), r.greyBatches(q.Triplets)
	calls := make([]call, 0, len(rates)+len(grey)+len(q.Marks))
	for _, b := range rates {
		calls = append(calls, eval(ctx, r.scripts.rates, b.keys, b.args))
	}
	for _, b := range grey {
		calls = append(calls, eval(ctx, r.scripts.grey, b.keys, b.args))
	}
	for _, m := range q.Marks {
		calls = append(calls, command(ctx, "EXISTS", r.markKey(m)))
	}
	if len(calls) == 0 {
		return true
	}
	if len(rates) > 1 { // a refund has what is left of the time
		bounded, cancel := context.WithTimeout(ctx, r.timeout)
		defer cancel()
		ctx = bounded
	}
	if !r.run(ctx, calls, func(calls []call) error {
		for i, b := range rates {
			results := make([]mail.RateResult, len(b.index))
			if err := decodeRates(calls[i].cmd.Val(), results); err != nil {
				return err
			}
			for j, at := range b.index {
				facts.Rates[at] = results[j]
			}
		}
		for i, b := range grey {
			greyed, err := decodeGrey(calls[len(rates)+i].cmd.Val(), len(b.index))
			if err != nil {
				return err
			}
			for j, at := range b.index {
				facts.Grey[at] = greyed[j]
			}
		}
		for i := range q.Marks {
			facts.Marked[i] = calls[len(rates)+len(grey)+i].cmd.Val() == int64(1)
		}
		return nil
	}) {
		return false
	}
	now := s.cfg.Now()
	for i, m := range q.Marks {
		facts.Marked[i] = facts.Marked[i] || s.twin.marked(m, now)
	}
	if len(rates) > 1 {
		s.refund(ctx, q.Rates, facts.Rates, rates)
	}
	return true
}

// refund gives back what a unit drew in one slot of a Redis Cluster while another slot refused: no script runs in two.
func (s *Store) refund(ctx context.Context, rates []mail.Rate, results []mail.RateResult, batches []batch) {
	spoilt := make([]bool, len(rates)) // one of the unit was refused
	for first := 0; first < len(rates); {
		last := unitEnd(rates, first)
		if !allAllowed(results[first:last]) {
			for i := first; i < last; i++ {
				spoilt[i] = true
			}
		}
		first = last
	}
	var calls []call
	for _, b := range batches {
		var keys []string
		var args []any
		for j, i := range b.index {
			if spoilt[i] && !rates[i].Peek && drawn(b, rates, results, i) {
				keys = append(keys, b.keys[j])
				args = appendRate(args, &rates[i], true)
			}
		}
		if len(keys) > 0 {
			calls = append(calls, eval(ctx, s.redis.scripts.rates, keys, args))
		}
	}
	if len(calls) > 0 {
		s.redis.refunds.Add(1)
		s.redis.run(ctx, calls, read)
	}
}

// drawn tells whether the part of rates[i]'s unit that lies in b was drawn.
func drawn(b batch, rates []mail.Rate, results []mail.RateResult, i int) bool {
	return !slices.ContainsFunc(b.index, func(j int) bool {
		return rates[j].Unit == rates[i].Unit && !results[j].Allowed
	})
}

// rateBatches sorts rates by where they lie. Where Redis is no Cluster, that is one place.
func (s *shared) rateBatches(rates []mail.Rate) []batch {
	var batches []batch
	for i := range rates {
		tag := rateGroup(&rates[i])
		place := ""
		if s.clustered {
			place = tag
		}
		var b *batch
		batches, b = batchOf(batches, place)
		b.index = append(b.index, i)
		b.keys = append(b.keys, s.rateKey(tag, &rates[i]))
		b.args = appendRate(b.args, &rates[i], false)
	}
	return batches
}

// greyBatches sorts triplets by client network.
func (s *shared) greyBatches(triplets []mail.Triplet) []batch {
	var batches []batch
	for i, t := range triplets {
		t = boundTriplet(t)
		tag := clientGroup(t.Client)
		var b *batch
		batches, b = batchOf(batches, tag)
		b.index = append(b.index, i)
		b.keys = append(b.keys, s.key(tag, kindGrey, t.Key))
		b.args = append(b.args, millis(t.Delay), max(1, millis(t.Window)), max(1, millis(t.Keep)))
	}
	return batches
}

// boundTriplet gives t with its client in one form and its times within bounds.
func boundTriplet(t mail.Triplet) mail.Triplet {
	t.Client = plain(t.Client)
	t.Delay, t.Window, t.Keep = min(t.Delay, longest), min(t.Window, 12*longest), min(t.Keep, 12*longest)
	return t
}

// rateGroup gives the group that the counter of r lies in.
func rateGroup(r *mail.Rate) string {
	if r.Group == "" && r.Client.IsValid() {
		return clientGroup(r.Client.Addr())
	}
	return group(r.Group)
}

// rateKey gives the key of r's counter, which lies in group tag.
func (s *shared) rateKey(tag string, r *mail.Rate) string {
	if r.Client.IsValid() {
		return s.key(tag, kindRate, r.Client.String(), r.Name)
	}
	return s.key(tag, kindRate, "", r.Name)
}

func (s *shared) markKey(mark string) string { return s.key(group(mark), kindMark) }

// appendRate gives the arguments of draw in gcra.lua for r, or those that give back what it drew.
func appendRate(args []any, r *mail.Rate, back bool) []any {
	g := measure(r, 1)
	peek := 0
	if r.Peek {
		peek = 1
	}
	if back {
		return append(args, r.Unit, g.burst, -g.cost, 0)
	}
	return append(args, r.Unit, g.burst, g.cost, peek)
}
