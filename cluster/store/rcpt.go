package store

import (
	"context"
	"slices"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// Rcpt returns the facts for a group of recipients, in at most one round trip: one script for each group of rates (one
// for all of them if Redis is no Cluster), one for the triplets of a client network, and the marks. The error is that
// of a rate out of bounds. On a Redis Cluster, if one slot refuses a rate of a unit, the draws of other slots are
// refunded within the same call. If Redis fails, the facts are those of the local store and Degraded is true. A triplet
// then passes, because it may have passed on another node.
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
	s.local.draw(q.Rates, facts.Rates, s.sharers(), now)
	for i, m := range q.Marks {
		facts.Marked[i] = s.local.marked(m, now)
	}
	for i := range q.Triplets {
		facts.Grey[i] = mail.GreylistAnswer{Passed: true}
		if !facts.Degraded {
			facts.Grey[i] = s.local.greylist(boundTriplet(q.Triplets[i]), now)
		}
	}
	return facts, nil
}

// Rates draws rates, as Rcpt does.
func (s *Store) Rates(ctx context.Context, rates []mail.Rate) ([]mail.RateResult, error) {
	facts, err := s.Rcpt(ctx, mail.RcptQuery{Rates: rates})
	return facts.Rates, err
}

// Mark sets a mark for ttl, on this node in any case. It reports whether the store has it. It is false if Redis failed:
// the other nodes then do not see the mark.
func (s *Store) Mark(ctx context.Context, key string, ttl time.Duration) (stored bool) {
	s.local.mark(key, ttl, s.cfg.Now())
	if s.redis == nil || ttl <= 0 {
		return true
	}
	return s.redis.run(ctx, []call{command(ctx, "SET", s.redis.markKey(key), 1, "PX", millis(ttl))}, nil)
}

// Marked reports which of the marks are set. all is false if Redis failed, so that marks of other nodes may be missing.
// A mark that this node set is set even if Redis does not have it any more.
func (s *Store) Marked(ctx context.Context, keys ...string) (marked []bool, all bool) {
	facts, _ := s.Rcpt(ctx, mail.RcptQuery{Marks: keys}) // only rates cause an error
	return facts.Marked, !facts.Degraded
}

// Unmark removes a mark, in Redis and on this node.
func (s *Store) Unmark(ctx context.Context, key string) {
	s.local.marks.remove(key)
	if s.redis != nil {
		s.redis.run(ctx, []call{command(ctx, "DEL", s.redis.markKey(key))}, nil)
	}
}

// A batch is a call of one script: its keys and arguments, and the elements of the query that it answers.
type batch struct {
	group string
	index []int // of the elements, one for each key
	keys  []string
	args  []any
}

// batchOf returns the batch of a group, which it appends if there is none.
func batchOf(batches []batch, group string) ([]batch, *batch) {
	i := slices.IndexFunc(batches, func(b batch) bool { return b.group == group })
	if i < 0 {
		i = len(batches)
		batches = append(batches, batch{group: group})
	}
	return batches, &batches[i]
}

// askRcpt asks Redis for all facts and reports whether it answered.
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
	if len(rates) > 1 { // a refund may follow, within the same time
		bounded, cancel := context.WithTimeout(ctx, r.timeout)
		defer cancel()
		ctx = bounded
	}
	if !r.run(ctx, calls, func(calls []call) error { return decodeRcpt(calls, rates, grey, facts) }) {
		return false
	}
	now := s.cfg.Now()
	for i, m := range q.Marks {
		facts.Marked[i] = facts.Marked[i] || s.local.marked(m, now)
	}
	if len(rates) > 1 {
		s.redis.refund(ctx, q.Rates, facts.Rates, rates)
	}
	return true
}

// decodeRcpt reads the answers to the calls of askRcpt: those of rates, of grey, and one for each mark.
func decodeRcpt(calls []call, rates, grey []batch, facts *mail.RcptFacts) error {
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
	for i := range facts.Marked {
		facts.Marked[i] = calls[len(rates)+len(grey)+i].cmd.Val() == int64(1)
	}
	return nil
}

// refund refunds the draws of a unit in one slot of a Redis Cluster if another slot refused, because no script can run
// on two slots.
func (s *shared) refund(ctx context.Context, rates []mail.Rate, results []mail.RateResult, batches []batch) {
	refused := make([]bool, len(rates)) // a rate of the unit was refused
	for first := 0; first < len(rates); {
		last := unitEnd(rates, first)
		if !allAllowed(results[first:last]) {
			for i := first; i < last; i++ {
				refused[i] = true
			}
		}
		first = last
	}
	var calls []call
	for _, b := range batches {
		var keys []string
		var args []any
		for j, i := range b.index {
			if refused[i] && !rates[i].Peek && drawn(b, rates, results, i) {
				keys = append(keys, b.keys[j])
				args = appendRate(args, &rates[i], true)
			}
		}
		if len(keys) > 0 {
			calls = append(calls, eval(ctx, s.scripts.rates, keys, args))
		}
	}
	if len(calls) > 0 {
		s.counters.refunds.Add(1)
		s.run(ctx, calls, nil)
	}
}

// drawn reports whether the rates of rates[i]'s unit that are in b were drawn.
func drawn(b batch, rates []mail.Rate, results []mail.RateResult, i int) bool {
	return !slices.ContainsFunc(b.index, func(j int) bool {
		return rates[j].Unit == rates[i].Unit && !results[j].Allowed
	})
}

// rateBatches returns the batches of rates: one for each group, or a single one if Redis is no Cluster.
func (s *shared) rateBatches(rates []mail.Rate) []batch {
	var batches []batch
	for i := range rates {
		tag := rateGroup(&rates[i])
		slot := ""
		if s.clustered {
			slot = tag
		}
		var b *batch
		batches, b = batchOf(batches, slot)
		b.index = append(b.index, i)
		b.keys = append(b.keys, s.rateKey(tag, &rates[i]))
		b.args = appendRate(b.args, &rates[i], false)
	}
	return batches
}

// greyBatches returns the batches of triplets, one for each client network or proved domain.
func (s *shared) greyBatches(triplets []mail.Triplet) []batch {
	var batches []batch
	for i, t := range triplets {
		t = boundTriplet(t)
		tag := ""
		if t.Group != "" {
			tag = group(t.Group)
		} else {
			tag = clientGroup(t.Client)
		}
		var b *batch
		batches, b = batchOf(batches, tag)
		b.index = append(b.index, i)
		b.keys = append(b.keys, s.key(tag, kindGrey, t.Key))
		b.args = append(b.args, millis(t.Delay), max(1, millis(t.Window)), max(1, millis(t.Keep)), flag(t.Peek))
	}
	return batches
}

// boundTriplet returns t with its client in its one form and its times within bounds.
func boundTriplet(t mail.Triplet) mail.Triplet {
	t.Client = plain(t.Client)
	t.Delay, t.Window, t.Keep = min(t.Delay, maxPer), min(t.Window, 12*maxPer), min(t.Keep, 12*maxPer)
	return t
}

// rateGroup returns the group of r's counter.
func rateGroup(r *mail.Rate) string {
	if r.Group == "" && r.Client.IsValid() {
		return clientGroup(r.Client.Addr())
	}
	return group(r.Group)
}

// rateKey returns the key of r's counter, which is in the group tag.
func (s *shared) rateKey(tag string, r *mail.Rate) string {
	if r.Client.IsValid() {
		return s.key(tag, kindRate, r.Client.String(), r.Name)
	}
	return s.key(tag, kindRate, "", r.Name)
}

func (s *shared) markKey(mark string) string { return s.key(group(mark), kindMark) }

// appendRate appends the arguments of draw in gcra.lua for r, or with back those that refund it.
func appendRate(args []any, r *mail.Rate, back bool) []any {
	g := measure(r, 1)
	if back {
		return append(args, r.Unit, g.burst, -g.cost, 0)
	}
	how := flag(r.Peek)
	if r.Happened {
		how += 2
	}
	return append(args, r.Unit, g.burst, g.cost, how)
}

// flag returns a bool as scripts have it.
func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
