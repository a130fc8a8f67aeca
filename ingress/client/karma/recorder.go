package karma

import (
	"context"
	"hash/maphash"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// expired is the shortest time that a network can be known good. It ends a standing in the store.
const expired = time.Millisecond

// voteHour is the time for which a store counts the worst vote of a domain on a client. Better ones within it need not
// be sent.
const voteHour = time.Hour

// Stats are what a Recorder has done since New.
type Stats struct {
	Seen       uint64 // Outcomes that were passed to Record
	Dropped    uint64 // of those, the ones that were forgotten for want of room or time
	Unbelieved uint64 // lessons of domains that took too little
	Exempted   uint64 // lessons about clients on the allow list or known good
	Tolerated  uint64 // refusals that are too small a share
	Votes      uint64 // votes that the store counted
	Good       uint64 // times that a network was called known good
	EndedEarly uint64 // times that a network ceased to be known good before its time
}

// counters are the Stats as they are counted.
type counters struct {
	seen, dropped, unbelieved, exempted, tolerated, votes, good, endedEarly atomic.Uint64
}

// A Recorder makes votes of Outcomes. Its methods are safe for concurrent use. Make one with New and end it with Close.
type Recorder struct {
	cfg   Config
	queue *queue
	done  chan struct{}      // closed by the worker when it ends
	abort context.CancelFunc // ends the worker and the store call that is under way
	count counters

	// The worker's own.
	seed      maphash.Seed
	domains   *table[string, volume]
	clients   *table[pair, share]
	casts     *table[ballot, ballotCast]
	standings *table[good, standing]
	filtered  filtered
	senders   map[netip.Prefix]int // that were new in standings in a day, by their widest network
	day       time.Time            // when it began
}

// A pair is a client and a destination domain.
type pair struct {
	client netip.Addr
	domain string
}

// A ballot is what a destination domain votes on: a client, and the domain for which SPF passes. Neighbours in a
// network do not inherit what is said of another sender, nor suffer for it.
type ballot struct {
	pair
	sender string
}

// A good is what may be known good: the mail of a domain for which SPF passes, from a network, or mail from it for
// which SPF passes for none. Neighbours in a network do not inherit what others of them earned.
type good struct {
	network netip.Prefix
	sender  string
}

// New makes a Recorder and starts its worker. The error is a *mail.FieldError.
func New(c Config) (*Recorder, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	ctx, abort := context.WithCancel(context.Background())
	k := &Recorder{
		cfg:       c,
		queue:     newQueue(c.tune.waiting),
		done:      make(chan struct{}),
		abort:     abort,
		seed:      maphash.MakeSeed(),
		domains:   newTable[string, volume](maxEntries / 2),
		clients:   newTable[pair, share](maxEntries / 2),
		casts:     newTable[ballot, ballotCast](maxEntries / 2),
		standings: newTable[good, standing](maxEntries / 2),
		filtered:  newFiltered(),
		senders:   make(map[netip.Prefix]int),
	}
	go k.work(ctx) // ends when the queue is closed and empty, or when ctx ends; Close awaits it
	return k, nil
}

// Record queues an Outcome and returns at once. If there is no room, the oldest one that waits is dropped and counted.
// After Close it drops o.
func (k *Recorder) Record(o Outcome) {
	k.count.seen.Add(1)
	if k.queue.put(o) {
		k.count.dropped.Add(1)
	}
}

// Stats returns the counters.
func (k *Recorder) Stats() Stats {
	n := &k.count
	return Stats{
		Seen: n.seen.Load(), Dropped: n.dropped.Load(), Unbelieved: n.unbelieved.Load(), Exempted: n.exempted.Load(),
		Tolerated: n.tolerated.Load(), Votes: n.votes.Load(), Good: n.good.Load(), EndedEarly: n.endedEarly.Load(),
	}
}

// Close learns from what waits until ctx ends, drops the rest and awaits the worker. It may be called again. The error
// is ctx's.
func (k *Recorder) Close(ctx context.Context) error {
	k.queue.close()
	select {
	case <-k.done:
		return nil
	case <-ctx.Done():
		k.abort()
		<-k.done
		return ctx.Err()
	}
}

func (k *Recorder) work(ctx context.Context) {
	defer close(k.done)
	defer k.abort()
	for ctx.Err() == nil {
		o, ok, closed := k.queue.next()
		switch {
		case ok:
			k.learn(ctx, &o)
		case closed:
			return
		default:
			select {
			case <-k.queue.wake:
			case <-ctx.Done():
			}
		}
	}
	k.count.dropped.Add(uint64(k.queue.clear()))
}

// learn judges an Outcome, votes on its client if it is a vote, and updates the standing of the client's network.
func (k *Recorder) learn(ctx context.Context, o *Outcome) {
	lesson := Judge(o)
	o.Client = o.Client.Unmap().WithZone("")
	if lesson == Nothing || !o.Client.IsValid() || o.Domain == "" {
		return
	}
	o.Domain = strings.Clone(ascii.Fold(o.Domain)) // a copy, so that the tables do not keep the whole command
	now, subnet := k.cfg.Now(), network.Of(o.Client)
	if o.Answer >= FilterRefused {
		k.learnFiltered(ctx, o, lesson, now)
		return
	}
	if !k.believes(o.Domain, subnet, lesson, now) {
		k.count.unbelieved.Add(1)
		return
	}
	if o.Allowed {
		k.count.exempted.Add(1)
		return
	}
	o.Sender = strings.Clone(o.Sender)
	of := good{subnet, o.Sender}
	s := k.standings.get(of)
	s.add(lesson, now)
	if lesson == Spam {
		s.refusers.add(maphash.String(k.seed, o.Domain))
	}
	if o.KnownGood && !k.endEarly(ctx, o, lesson, &s, now) {
		k.count.exempted.Add(1)
	} else {
		weight := k.weigh(o, lesson, now)
		k.vote(ctx, o, weight, now)
		k.promote(ctx, o, weight, &s, now)
	}
	if s.bad < 0.5 {
		s.refusers = domainSet{}
	}
	k.keep(of, s, o.KnownGood, now)
}

// keep keeps the standing of a sender, unless it is new and its network has had too many new ones in a day. One that is
// known good is kept in any case: its standing may have to end.
func (k *Recorder) keep(of good, s standing, knownGood bool, now time.Time) {
	if !k.standings.has(of) {
		if now.Sub(k.day) >= 24*time.Hour || len(k.senders) >= maxEntries {
			clear(k.senders)
			k.day = now
		}
		in := network.Widest(of.network.Addr())
		if k.senders[in] >= maxSenders && !knownGood {
			return
		}
		k.senders[in]++
	}
	k.standings.put(of, s)
}

// believes counts what a destination domain took and reports whether it may teach.
func (k *Recorder) believes(domain string, subnet netip.Prefix, lesson Lesson, now time.Time) bool {
	return k.hasVolume(k.domains, domain, subnet, lesson, now)
}

// hasVolume counts a message from a network in a table, and reports whether what stands there under a name is enough.
func (k *Recorder) hasVolume(
	in *table[string, volume], name string, subnet netip.Prefix, lesson Lesson, now time.Time,
) bool {
	v := in.get(name)
	if lesson == Accepted {
		v.add(maphash.Comparable(k.seed, subnet), now, k.cfg.tune.window)
		in.put(name, v)
	}
	return v.believed(&k.cfg, now)
}

// weigh counts what a client brought to a domain and returns the weight of the vote on it, 0 if it is not a vote.
func (k *Recorder) weigh(o *Outcome, lesson Lesson, now time.Time) float64 {
	at := pair{o.Client, o.Domain}
	t := k.clients.get(at)
	t.add(lesson, now)
	k.clients.put(at, t)
	switch {
	case lesson == Accepted:
		return weightAccepted
	case lesson == Spam && t.badPart() >= spamShare:
		return weightSpam
	case lesson == Policy && t.badPart() >= spamShare:
		return weightPolicy
	// three, of which a little is forgotten
	case lesson == Unknown && t.unknown >= 2.5 && t.unknownPart() >= unknownShare:
		return weightUnknown
	}
	k.count.tolerated.Add(1)
	return 0
}

// vote casts a vote, unless one was cast for the sender within the hour that it would not make worse. What an address
// brought is one share whatever it sends, so that a large sender is not refused for its smallest customer.
func (k *Recorder) vote(ctx context.Context, o *Outcome, weight float64, now time.Time) {
	at := ballot{pair{o.Client, o.Domain}, o.Sender}
	t := k.casts.get(at)
	if weight == 0 || !t.when.IsZero() && now.Sub(t.when) < voteHour && weight >= t.weight {
		return
	}
	if t.when.IsZero() || now.Sub(t.when) >= voteHour {
		t.when = now
	}
	t.weight = weight
	k.casts.put(at, t)
	call, cancel := context.WithTimeout(ctx, k.cfg.tune.timeout)
	defer cancel()
	if k.cfg.Store.Vote(call, mail.Vote{Client: o.Client, Domain: o.Domain, Sender: o.Sender, Weight: weight}) {
		k.count.votes.Add(1)
	}
}

// promote marks a network as known good that has earned it. A refusal that counted sets it back to no domain.
func (k *Recorder) promote(ctx context.Context, o *Outcome, weight float64, s *standing, now time.Time) {
	if weight < 0 {
		s.takers = domainSet{}
	}
	if weight <= 0 {
		return
	}
	s.takers.add(maphash.String(k.seed, o.Domain))
	if s.takers.n < goodDomains || !Good(o.Address, o.Network) || !s.mayChange(now) {
		return
	}
	s.takers, s.refusers, s.changed = domainSet{}, domainSet{}, now
	k.count.good.Add(1)
	k.knowGood(ctx, o, goodFor)
}

// endEarly ends the standing of a known good network, if several domains refuse its mail as spam and more than now and
// then, and reports whether it did. The refusal that ends it is the first one that is voted on.
func (k *Recorder) endEarly(ctx context.Context, o *Outcome, lesson Lesson, s *standing, now time.Time) bool {
	if lesson != Spam || s.refusers.n < 2 || s.bad < endAfter-0.5 || s.badPart() < spamShare {
		return false
	}
	s.takers, s.refusers, s.changed = domainSet{}, domainSet{}, now
	// Sessions that began before still call the network known good. With an empty share they do not end it again.
	s.share = share{at: now}
	k.count.endedEarly.Add(1)
	k.knowGood(ctx, o, expired)
	return true
}

func (k *Recorder) knowGood(ctx context.Context, o *Outcome, ttl time.Duration) {
	call, cancel := context.WithTimeout(ctx, k.cfg.tune.timeout)
	defer cancel()
	k.cfg.Store.KnowGood(call, o.Client, o.Sender, ttl)
}
