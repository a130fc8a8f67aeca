package store

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

const (
	// voteHour is the time in which a destination domain has one vote on a client.
	voteHour = time.Hour
	// knownGoodKept is how long the local store keeps a known good network that Redis has, for the time when Redis does
	// not answer.
	knownGoodKept = time.Hour
	// maxGoodDomains bounds the domains for which a network is known good.
	maxGoodDomains = 16
	// maxSenders bounds the domains for which the votes on a network are kept.
	maxSenders = 16
)

var errNoClient = errors.New("store: no client address")

// Client returns the facts about a client that connects and draws its rates, in at most one round trip. The error is
// that of a query that cannot be answered: an invalid address or a rate out of bounds. If Redis fails, the facts are
// those of the local store and Degraded is true.
func (s *Store) Client(ctx context.Context, q mail.ClientQuery) (mail.Facts, error) {
	q.Addr = plain(q.Addr)
	if !q.Addr.IsValid() {
		return mail.Facts{}, errNoClient
	}
	if err := checkRates(q.Rates); err != nil {
		return mail.Facts{}, err
	}
	var facts mail.Facts
	if len(q.Rates) > 0 {
		facts.Rates = make([]mail.RateResult, len(q.Rates))
	}
	if len(q.Lists) > 0 {
		facts.Lists = make([]mail.ListAnswer, len(q.Lists))
	}
	if s.redis != nil {
		if s.askClient(ctx, q, &facts) {
			return facts, nil
		}
		facts.Degraded = true
		s.fallbacks.Add(1)
	}
	now := s.cfg.Now()
	s.local.draw(q.Rates, facts.Rates, s.sharers(), now)
	for i, list := range q.Lists {
		facts.Lists[i] = s.local.list(q.Addr, list, q.Lock, now)
	}
	facts.Address = s.local.standing(q.Addr, now)
	facts.Network = s.local.sendersOf(q.Addr, now)
	facts.KnownGood = s.local.goodDomains(q.Addr, now)
	return facts, nil
}

// askClient asks Redis for the facts that the local store does not have for certain, and keeps the answers in the local
// store. It reports whether Redis answered.
func (s *Store) askClient(ctx context.Context, q mail.ClientQuery, facts *mail.Facts) bool {
	r := s.redis
	tag := clientGroup(q.Addr)
	keys := make([]string, 0, 4+len(q.Rates))
	keys = append(keys, r.key(tag, kindLists, q.Addr.String()), r.karmaKey(tag, q.Addr), r.key(tag, kindSenders),
		r.key(tag, kindKnownGood))
	missing := s.local.cachedLists(q.Addr, q.Lists, facts.Lists, s.cfg.Now())
	args := make([]any, 0, 4+4*len(q.Rates)+len(missing))
	args = append(args, len(q.Rates), len(missing), millis(q.Lock), s.cfg.tune.halfLife.Milliseconds())
	for i := range q.Rates {
		keys = append(keys, r.rateKey(tag, &q.Rates[i]))
		args = appendRate(args, &q.Rates[i], false)
	}
	for _, i := range missing {
		args = append(args, q.Lists[i])
	}
	if !r.run(ctx, []call{eval(ctx, r.scripts.client, keys, args)}, func(calls []call) error {
		return decodeClient(calls[0].cmd.Val(), facts, missing)
	}) {
		return false
	}
	now := s.cfg.Now()
	s.local.keepLists(q.Addr, q.Lists, facts.Lists, missing, now)
	s.local.keepKarma(q.Addr, facts, now)
	for _, sender := range facts.KnownGood {
		s.local.setKnownGood(q.Addr, sender, knownGoodKept, now)
	}
	return true
}

// cachedLists sets the answers that the local store has and returns the indexes of the missing ones.
func (l *local) cachedLists(addr netip.Addr, lists []string, answers []mail.ListAnswer, now time.Time) (missing []int) {
	for i, list := range lists {
		answers[i] = l.list(addr, list, 0, now)
		if answers[i].State != mail.ListKnown {
			missing = append(missing, i)
		}
	}
	return missing
}

// keepLists keeps the answers of Redis in the local store.
func (l *local) keepLists(addr netip.Addr, lists []string, answers []mail.ListAnswer, index []int, now time.Time) {
	for _, i := range index {
		if a := answers[i]; a.State == mail.ListKnown {
			l.putList(addr, lists[i], a.Codes, a.TTL, now)
		}
	}
}

// Lists returns the answers of DNS lists on one address. The caller is to look up those whose state is ListAskedOfYou,
// and holds a lock on each for the time lock. With lock 0 it takes no locks. The error is that of an invalid address.
func (s *Store) Lists(ctx context.Context, addr netip.Addr, lists []string,
	lock time.Duration) ([]mail.ListAnswer, error) {
	addr = plain(addr)
	if !addr.IsValid() {
		return nil, errNoClient
	}
	answers := make([]mail.ListAnswer, len(lists))
	missing := s.local.cachedLists(addr, lists, answers, s.cfg.Now())
	if len(missing) == 0 {
		return answers, nil
	}
	if s.redis != nil {
		args := make([]any, 0, 1+len(missing))
		args = append(args, millis(lock))
		for _, i := range missing {
			args = append(args, lists[i])
		}
		key := s.redis.key(clientGroup(addr), kindLists, addr.String())
		if s.redis.run(ctx, []call{eval(ctx, s.redis.scripts.look, []string{key}, args)}, func(calls []call) error {
			return decodeLists(calls[0].cmd.Val(), answers, missing)
		}) {
			s.local.keepLists(addr, lists, answers, missing, s.cfg.Now())
			return answers, nil
		}
		s.fallbacks.Add(1)
	}
	now := s.cfg.Now()
	for _, i := range missing {
		answers[i] = s.local.list(addr, lists[i], lock, now)
	}
	return answers, nil
}

// The waits of AwaitLists between two calls of Lists: the first one, which doubles up to the last one.
const (
	firstWait = 5 * time.Millisecond
	lastWait  = 50 * time.Millisecond
)

// AwaitLists calls Lists until no answer is pending, or until the caller is to look one up because the lock of another
// caller ended without an answer, or until ctx is done. Answers that are pending then stay pending, which is no error.
func (s *Store) AwaitLists(ctx context.Context, addr netip.Addr, lists []string,
	lock time.Duration) ([]mail.ListAnswer, error) {
	in := func(state mail.ListState) func(mail.ListAnswer) bool {
		return func(a mail.ListAnswer) bool { return a.State == state }
	}
	wait := firstWait
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		answers, err := s.Lists(ctx, addr, lists, lock)
		if err != nil || !slices.ContainsFunc(answers, in(mail.ListPending)) ||
			slices.ContainsFunc(answers, in(mail.ListAskedOfYou)) {
			return answers, err
		}
		select {
		case <-ctx.Done():
			return answers, nil
		case <-timer.C:
		}
		wait = min(2*wait, lastWait)
		timer.Reset(wait)
	}
}

// PutDNSBL keeps the answer of a list on an address for ttl, at most 31 days, and ends the lock on it. codes are the A
// records, empty for an address that is not listed. A look-up that failed is not put, so that its lock expires. With a
// ttl of 0 or less no other caller gets the answer, but its lock ends. ctx should not end with the client, because
// others wait for the answer.
func (s *Store) PutDNSBL(ctx context.Context, addr netip.Addr, list string, codes []netip.Addr, ttl time.Duration) {
	addr = plain(addr)
	if !addr.IsValid() {
		return
	}
	ttl = min(ttl, maxPer)
	codes = slices.Clone(codes[:min(len(codes), maxCodes)])
	s.local.putList(addr, list, codes, ttl, s.cfg.Now())
	if s.redis == nil {
		return
	}
	key := s.redis.key(clientGroup(addr), kindLists, addr.String())
	c := eval(ctx, s.redis.scripts.put, []string{key}, []any{list, millis(ttl), encodeCodes(codes)})
	s.redis.run(ctx, []call{c}, nil)
}

// Vote counts a vote on a client and reports whether it changed karma: that of the address, or that of its network for
// the sender. A destination domain has one vote per client and hour on the address, and one for each sender. A second
// vote in the hour counts only if its weight is less. Of a network 16 senders at most are kept. A vote without an
// address, for what is no domain, or with a weight that is not finite is not counted.
func (s *Store) Vote(ctx context.Context, v mail.Vote) (counted bool) {
	v.Client = plain(v.Client)
	if !v.Client.IsValid() || !finite(v.Weight) || len(v.Sender) > domain.MaxName {
		return false
	}
	if s.redis != nil {
		tag, addr := clientGroup(v.Client), v.Client.String()
		keys := []string{
			s.redis.key(tag, kindVote, addr, v.Domain), s.redis.karmaKey(tag, v.Client),
			s.redis.key(tag, kindSenderVote, addr, v.Domain, v.Sender), s.redis.key(tag, kindSenders),
		}
		args := []any{
			v.Weight, s.cfg.tune.halfLife.Milliseconds(), maxKarma, voteHour.Milliseconds(),
			millis(20 * s.cfg.tune.halfLife), v.Sender, maxSenders,
		}
		if s.redis.run(ctx, []call{eval(ctx, s.redis.scripts.vote, keys, args)}, func(calls []call) error {
			counted = calls[0].cmd.Val() == int64(1)
			return nil
		}) {
			return counted
		}
		s.fallbacks.Add(1)
	}
	return s.local.vote(v, s.cfg.Now())
}

// KnowGood marks the network of a client as known good for ttl, for mail of a domain for which SPF passes, or of none
// if that is "". Of a network 16 domains at most are kept.
func (s *Store) KnowGood(ctx context.Context, client netip.Addr, sender string, ttl time.Duration) {
	client = plain(client)
	if !client.IsValid() || ttl <= 0 {
		return
	}
	sender = strings.Clone(sender)
	s.local.setKnownGood(client, sender, ttl, s.cfg.Now())
	if s.redis != nil {
		keys := []string{s.redis.key(clientGroup(client), kindKnownGood)}
		c := eval(ctx, s.redis.scripts.know, keys, []any{sender, millis(ttl), maxGoodDomains})
		s.redis.run(ctx, []call{c}, nil)
	}
}

// millis returns a duration in milliseconds for Redis. A positive duration is at least 1, a negative one is 0.
func millis(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return max(1, d.Milliseconds())
}
