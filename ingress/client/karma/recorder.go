package karma

import (
	"context"
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// over is the shortest time that a network can be known good: how the store is told that it no longer is.
const over = time.Millisecond

// voteHour is the time for which a store counts the worst vote of a domain on a client. Others within it need not be
// sent.
const voteHour = time.Hour

// Stats are what a Recorder has done since New.
type Stats struct {
	Seen       uint64 // Outcomes given to See
	Dropped    uint64 // of those, the ones forgotten for want of room or time
	Unbelieved uint64 // lessons of domains that took too little
	Exempted   uint64 // lessons about clients on the allow list or known good
	Tolerated  uint64 // refusals that are too small a share
	Votes      uint64 // votes that the store counted
	Good       uint64 // times that a network was called known good
	Fallen     uint64 // times that one ceased to be before its time
}

// A Recorder makes votes of Outcomes. Its methods are safe for concurrent use. Make one with New and end it with Close.
type Recorder struct {
	cfg Config

	mu     sync.Mutex // of what follows, held for a copy only
	ring   []Outcome
	first  int
	held   int
	closed bool

	wake chan struct{} // has room for one; a token says that the ring may hold something, or that closed is set
	done chan struct{} // closed by the worker when it ends
	cut  context.CancelFunc

	seen, dropped, unbelieved, exempted, tolerated, votes, good, fallen atomic.Uint64

	// The worker's own.
	seed      maphash.Seed
	domains   *table[string, volume]
	clients   *table[pair, tally]
	standings *table[netip.Prefix, standing]
}

// A pair is a client and a destination domain.
type pair struct {
	client netip.Addr
	domain string
}

// New makes a Recorder and starts its worker. The error is a *mail.FieldError.
func New(c Config) (*Recorder, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.defaults()
	ctx, cut := context.WithCancel(context.Background())
	k := &Recorder{
		cfg:       c,
		ring:      make([]Outcome, c.Queue),
		wake:      make(chan struct{}, 1),
		done:      make(chan struct{}),
		cut:       cut,
		seed:      maphash.MakeSeed(),
		domains:   newTable[string, volume]((c.Entries + 1) / 2),
		clients:   newTable[pair, tally]((c.Entries + 1) / 2),
		standings: newTable[netip.Prefix, standing]((c.Entries + 1) / 2),
	}
	go k.work(ctx) // ends when closed is set and the ring is empty, or when ctx ends; Close awaits it
	return k, nil
}

// See takes an Outcome and returns at once. If there is no room, the oldest one that waits is forgotten and counted.
// After Close nothing is taken.
func (k *Recorder) See(o Outcome) {
	k.seen.Add(1)
	k.mu.Lock()
	switch {
	case k.closed:
		k.mu.Unlock()
		k.dropped.Add(1)
		return
	case k.held == len(k.ring):
		k.first = (k.first + 1) % len(k.ring)
		k.held--
		k.dropped.Add(1)
	}
	k.ring[(k.first+k.held)%len(k.ring)] = o
	k.held++
	k.mu.Unlock()
	k.nudge()
}

// nudge wakes the worker, now or when it next waits.
func (k *Recorder) nudge() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Stats gives the counters.
func (k *Recorder) Stats() Stats {
	return Stats{
		Seen: k.seen.Load(), Dropped: k.dropped.Load(), Unbelieved: k.unbelieved.Load(), Exempted: k.exempted.Load(),
		Tolerated: k.tolerated.Load(), Votes: k.votes.Load(), Good: k.good.Load(), Fallen: k.fallen.Load(),
	}
}

// Close casts the votes that wait until ctx ends, forgets the rest and awaits the worker. It may be called again. The
// error is ctx's.
func (k *Recorder) Close(ctx context.Context) error {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.nudge()
	select {
	case <-k.done:
		return nil
	case <-ctx.Done():
		k.cut()
		<-k.done
		return ctx.Err()
	}
}

func (k *Recorder) work(ctx context.Context) {
	defer close(k.done)
	defer k.cut()
	for ctx.Err() == nil {
		o, ok, closed := k.next()
		switch {
		case ok:
			k.learn(ctx, &o)
		case closed:
			return
		default:
			select {
			case <-k.wake:
			case <-ctx.Done():
			}
		}
	}
	k.mu.Lock()
	k.dropped.Add(uint64(k.held))
	k.held = 0
	k.mu.Unlock()
}

// next takes the oldest Outcome, if there is one.
func (k *Recorder) next() (o Outcome, ok, closed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held == 0 {
		return Outcome{}, false, k.closed
	}
	o = k.ring[k.first]
	k.ring[k.first] = Outcome{} // its text is not kept
	k.first = (k.first + 1) % len(k.ring)
	k.held--
	return o, true, k.closed
}

// learn makes of an Outcome what is to be made of it.
func (k *Recorder) learn(ctx context.Context, o *Outcome) {
	lesson := Judge(o)
	o.Client = o.Client.Unmap().WithZone("")
	if lesson == Nothing || !o.Client.IsValid() || o.Domain == "" {
		return
	}
	o.Domain = strings.Clone(ascii.Fold(o.Domain)) // the tables keep it, and not the command that it stood in
	now, subnet := k.cfg.Now(), network.Of(o.Client)
	if !k.believes(o.Domain, subnet, lesson, now) {
		k.unbelieved.Add(1)
		return
	}
	if o.Allowed || k.cfg.Exempt(o.Client) {
		k.exempted.Add(1)
		return
	}
	s := k.standings.get(subnet)
	s.add(lesson, now)
	if lesson == Spam {
		s.refusers.add(maphash.String(k.seed, o.Domain))
	}
	if o.Known && !k.falls(ctx, o, lesson, &s, now) {
		k.exempted.Add(1)
	} else {
		weight := k.weigh(o, lesson, now)
		k.vote(ctx, o, weight, now)
		k.rise(ctx, o, weight, &s, now)
	}
	if s.bad < 0.5 {
		s.refusers = few{}
	}
	k.standings.put(subnet, s)
}

// believes counts what a destination domain took and tells whether it may teach.
func (k *Recorder) believes(domain string, subnet netip.Prefix, lesson Lesson, now time.Time) bool {
	v := k.domains.get(domain)
	if lesson == Accepted {
		v.add(maphash.Comparable(k.seed, subnet), now, k.cfg.Window)
		k.domains.put(domain, v)
	}
	return v.believed(&k.cfg, now)
}

// weigh counts what a client brought to a domain and gives the weight of the vote on it, 0 for none.
func (k *Recorder) weigh(o *Outcome, lesson Lesson, now time.Time) float64 {
	at := pair{o.Client, o.Domain}
	t := k.clients.get(at)
	t.add(lesson, now)
	k.clients.put(at, t)
	w := &k.cfg.Weights
	switch {
	case lesson == Accepted:
		return w.Accepted
	case lesson == Spam && t.badShare() >= k.cfg.SpamShare:
		return w.Spam
	case lesson == Policy && t.badShare() >= k.cfg.SpamShare:
		return w.Policy
	// three, of which a little is forgotten
	case lesson == Unknown && t.unknown >= 2.5 && t.unknownShare() >= k.cfg.UnknownShare:
		return w.Unknown
	}
	k.tolerated.Add(1)
	return 0
}

// vote casts a vote, unless one was cast within the hour that it would not make worse.
func (k *Recorder) vote(ctx context.Context, o *Outcome, weight float64, now time.Time) {
	at := pair{o.Client, o.Domain}
	t := k.clients.get(at)
	if weight == 0 || !t.when.IsZero() && now.Sub(t.when) < voteHour && weight >= t.voted {
		return
	}
	if t.when.IsZero() || now.Sub(t.when) >= voteHour {
		t.when = now // the hour begins with its first vote
	}
	t.voted = weight
	k.clients.put(at, t)
	call, cancel := context.WithTimeout(ctx, k.cfg.Timeout)
	defer cancel()
	if k.cfg.Store.Vote(call, mail.Vote{Client: o.Client, Domain: o.Domain, Weight: weight}) {
		k.votes.Add(1)
	}
}

// rise calls a network known good that has earned it. A refusal that counted sets it back to the first domain.
func (k *Recorder) rise(ctx context.Context, o *Outcome, weight float64, s *standing, now time.Time) {
	if weight < 0 {
		s.takers = few{}
	}
	if weight <= 0 {
		return
	}
	s.takers.add(maphash.String(k.seed, o.Domain))
	if s.takers.n < k.cfg.GoodDomains || !Good(o.Address, o.Network) || !k.unsettled(s, now) {
		return
	}
	s.takers, s.refusers, s.settled = few{}, few{}, now
	k.good.Add(1)
	k.knowGood(ctx, o.Client, k.cfg.GoodFor)
}

// unsettled tells whether the last standing of a network is long enough ago.
func (k *Recorder) unsettled(s *standing, now time.Time) bool {
	return s.settled.IsZero() || now.Sub(s.settled) >= k.cfg.GoodFor
}

// falls ends the standing of a known good network whose mail is refused as spam by several domains, and not only now
// and then. The refusal that ends it is the first one that is voted on.
func (k *Recorder) falls(ctx context.Context, o *Outcome, lesson Lesson, s *standing, now time.Time) bool {
	if lesson != Spam || s.refusers.n < 2 || s.bad < float64(k.cfg.FallAfter)-0.5 || s.badShare() < k.cfg.SpamShare {
		return false
	}
	s.takers, s.refusers, s.settled = few{}, few{}, now
	s.share = share{at: now} // sessions that began before still call it known good: they do not end it again at once
	k.fallen.Add(1)
	k.knowGood(ctx, o.Client, over)
	return true
}

func (k *Recorder) knowGood(ctx context.Context, client netip.Addr, ttl time.Duration) {
	call, cancel := context.WithTimeout(ctx, k.cfg.Timeout)
	defer cancel()
	k.cfg.Store.KnowGood(call, client, ttl)
}
