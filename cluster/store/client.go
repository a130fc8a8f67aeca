package store

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// voteHour is the time in which a destination domain has one vote on a client.
const voteHour = time.Hour

// knownAgain is how long the twin believes what Redis said of a known good network, while Redis says nothing.
const knownAgain = time.Hour

var errNoClient = errors.New("store: no client address")

// Client gives what is known of a client when it connects, in one round trip at most, and draws its rates. The error is
// that of a query that cannot be answered: an invalid address, a rate without a count. When Redis fails, the facts are
// the twin's, and Degraded says so.
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
	s.twin.draw(q.Rates, facts.Rates, s.parts(), now)
	for i, list := range q.Lists {
		facts.Lists[i] = s.twin.list(q.Addr, list, q.Lock, now)
	}
	facts.Address = s.twin.standing(whole(q.Addr), now)
	facts.Network = s.twin.standing(network(q.Addr), now)
	facts.KnownGood = s.twin.isKnown(q.Addr, now)
	return facts, nil
}

// askClient asks Redis for what the twin does not know for certain, and keeps for the twin what it says.
func (s *Store) askClient(ctx context.Context, q mail.ClientQuery, facts *mail.Facts) bool {
	r := s.redis
	tag, addr := clientGroup(q.Addr), q.Addr.String()
	keys := make([]string, 0, 4+len(q.Rates))
	keys = append(keys, r.key(tag, kindLists, addr), r.key(tag, kindKarma, addr), r.key(tag, kindKarma, "net"),
		r.key(tag, kindKnown))
	missing := s.cachedLists(q.Addr, q.Lists, facts.Lists)
	args := make([]any, 0, 4+4*len(q.Rates)+len(missing))
	args = append(args, len(q.Rates), len(missing), millis(q.Lock), s.cfg.HalfLife.Milliseconds())
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
	s.keepLists(q.Addr, q.Lists, facts.Lists, missing, now)
	s.twin.keepKarma(whole(q.Addr), facts.Address, now)
	s.twin.keepKarma(network(q.Addr), facts.Network, now)
	if facts.KnownGood {
		s.twin.setKnown(q.Addr, knownAgain, now)
	}
	return true
}

// cachedLists answers from the twin what it has and gives the indexes of what is missing.
func (s *Store) cachedLists(addr netip.Addr, lists []string, answers []mail.ListAnswer) (missing []int) {
	now := s.cfg.Now()
	for i, list := range lists {
		answers[i] = s.twin.list(addr, list, 0, now)
		if answers[i].State != mail.ListKnown {
			missing = append(missing, i)
		}
	}
	return missing
}

// keepLists keeps in the twin what Redis knew.
func (s *Store) keepLists(addr netip.Addr, lists []string, answers []mail.ListAnswer, index []int, now time.Time) {
	for _, i := range index {
		if a := answers[i]; a.State == mail.ListKnown {
			s.twin.putList(addr, lists[i], a.Codes, a.TTL, now)
		}
	}
}

// Lists gives the answers of DNS lists on one address, and those that nobody knows or looks up yet are the caller's to
// look up for as long as lock; 0 takes none. The error is that of an invalid address.
func (s *Store) Lists(ctx context.Context, addr netip.Addr, lists []string,
	lock time.Duration) ([]mail.ListAnswer, error) {
	addr = plain(addr)
	if !addr.IsValid() {
		return nil, errNoClient
	}
	answers := make([]mail.ListAnswer, len(lists))
	missing := s.cachedLists(addr, lists, answers)
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
			s.keepLists(addr, lists, answers, missing, s.cfg.Now())
			return answers, nil
		}
		s.fallbacks.Add(1)
	}
	now := s.cfg.Now()
	for _, i := range missing {
		answers[i] = s.twin.list(addr, lists[i], lock, now)
	}
	return answers, nil
}

// The times between two looks at an answer that somebody else is to bring.
const (
	firstLook = 5 * time.Millisecond
	lastLook  = 50 * time.Millisecond
)

// AwaitLists is Lists again and again, until no answer is pending, or one is the caller's to look up because who had
// promised it did not bring it, or ctx has ended. What is pending then is left pending, which is no error.
func (s *Store) AwaitLists(ctx context.Context, addr netip.Addr, lists []string,
	lock time.Duration) ([]mail.ListAnswer, error) {
	in := func(state mail.ListState) func(mail.ListAnswer) bool {
		return func(a mail.ListAnswer) bool { return a.State == state }
	}
	wait := firstLook
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
		wait = min(2*wait, lastLook)
		timer.Reset(wait)
	}
}

// PutDNSBL keeps what a list said of an address for ttl, at most 31 days, and ends the lock of the one who looked it
// up. Codes are the A records; none means not listed. A look-up that failed is not put: its lock runs out. An answer
// with a ttl of 0 or less serves no one else, but its lock ends. ctx should not end with the client: others wait for
// the answer.
func (s *Store) PutDNSBL(ctx context.Context, addr netip.Addr, list string, codes []netip.Addr, ttl time.Duration) {
	addr = plain(addr)
	if !addr.IsValid() {
		return
	}
	ttl = min(ttl, longest)
	codes = slices.Clone(codes[:min(len(codes), mostCodes)])
	s.twin.putList(addr, list, codes, ttl, s.cfg.Now())
	if s.redis == nil {
		return
	}
	key := s.redis.key(clientGroup(addr), kindLists, addr.String())
	c := eval(ctx, s.redis.scripts.put, []string{key}, []any{list, millis(ttl), encodeCodes(codes)})
	s.redis.run(ctx, []call{c}, read)
}

// Vote counts what became of a client's mail and tells whether that changed its karma: a destination domain has one
// vote per client and hour, which a second one in the hour can only make worse. Without an address, or with a weight
// that is no number, nothing is counted.
func (s *Store) Vote(ctx context.Context, v mail.Vote) (counted bool) {
	v.Client = plain(v.Client)
	if !v.Client.IsValid() || !finite(v.Weight) {
		return false
	}
	if s.redis != nil {
		tag, addr := clientGroup(v.Client), v.Client.String()
		keys := []string{
			s.redis.key(tag, kindVote, addr, v.Domain), s.redis.key(tag, kindKarma, addr),
			s.redis.key(tag, kindKarma, "net"),
		}
		args := []any{
			v.Weight, s.cfg.HalfLife.Milliseconds(), s.cfg.KarmaMost, voteHour.Milliseconds(),
			millis(20 * s.cfg.HalfLife),
		}
		if s.redis.run(ctx, []call{eval(ctx, s.redis.scripts.vote, keys, args)}, func(calls []call) error {
			counted = calls[0].cmd.Val() == int64(1)
			return nil
		}) {
			return counted
		}
		s.fallbacks.Add(1)
	}
	return s.twin.vote(v, s.cfg.Now())
}

// KnowGood marks the network of a client as known good for ttl.
func (s *Store) KnowGood(ctx context.Context, client netip.Addr, ttl time.Duration) {
	client = plain(client)
	if !client.IsValid() || ttl <= 0 {
		return
	}
	s.twin.setKnown(client, ttl, s.cfg.Now())
	if s.redis != nil {
		s.redis.run(ctx, []call{command(ctx, "SET", s.redis.key(clientGroup(client), kindKnown), 1, "PX", millis(ttl))},
			read)
	}
}

// read is for calls whose answer says nothing.
func read([]call) error { return nil }

// millis gives a time for Redis: 0 stays 0, what is less than a millisecond is one.
func millis(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return max(1, d.Milliseconds())
}
