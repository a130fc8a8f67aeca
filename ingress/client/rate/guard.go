package rate

import (
	"hash/maphash"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/leaf/gcra"
	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

const (
	// maxGuarded bounds the addresses and networks whose refused recipients are counted, and those whose 452s are.
	maxGuarded = 16384
	// freePutOffs is how many recipients of a network are put off to another transaction in a day before each further
	// one counts as refused.
	freePutOffs = 19
	day         = 24 * time.Hour
	// acceptedSets and acceptedWays are how many addresses with an accepted message are remembered, and in how many
	// places one may stand.
	acceptedSets = 1 << 14
	acceptedWays = 4
)

// A GuardConfig has the limits of a Guard. A zero Limit is not kept.
type GuardConfig struct {
	Client  Limit            // recipients that were refused for good, of one IPv4 address or one IPv6 /64
	Network Limit            // of its /24 or /48; it binds only addresses without an accepted message in the last day
	Now     func() time.Time // nil: time.Now
}

// Validate returns a *mail.FieldError that names the first field that cannot be kept, or nil.
func (c *GuardConfig) Validate() error {
	if reason := c.Client.Fault(); reason != "" {
		return &mail.FieldError{Field: "refused", Reason: reason}
	}
	if reason := c.Network.Fault(); reason != "" {
		return &mail.FieldError{Field: "network_refused", Reason: reason}
	}
	return nil
}

// A Guard counts, for this node alone, the recipients of clients that were refused for good, and says which clients
// named too many. It asks nothing, so it needs neither a store nor a score. Its methods are safe for concurrent use and
// wait for nothing. What an honest message calls, Refusal and Accepted, takes no lock and allocates nothing. A nil
// Guard counts nothing. Make one with NewGuard.
type Guard struct {
	cfg     GuardConfig
	began   time.Time // times are kept as what has passed since then, which no setting of the clock changes
	seed    maphash.Seed
	counts  *lru.Cache[netip.Prefix, *tally]
	putOffs *lru.Cache[netip.Prefix, *tally]
	// over has those that were over their limit when it was made, with the nanoseconds since began until which they
	// are. It is replaced whole by each new one.
	over     atomic.Pointer[map[netip.Prefix]*atomic.Int64]
	accepted [acceptedSets][acceptedWays]atomic.Uint64

	mu sync.Mutex // held while over is replaced, or a tally changes
}

// A tally is the count of one address or network. It is guarded by the Guard's lock.
type tally struct {
	refused gcra.Account
	putOffs int           // recipients that were put off, since
	since   time.Time     // the first of a day
	over    *atomic.Int64 // its entry in Guard.over; nil: it was never over its limit
}

// NewGuard makes a Guard. The error is a *mail.FieldError.
func NewGuard(c GuardConfig) (*Guard, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Guard{
		cfg: c, began: c.Now(), seed: maphash.MakeSeed(),
		counts:  lru.New[netip.Prefix, *tally](maxGuarded),
		putOffs: lru.New[netip.Prefix, *tally](maxGuarded),
	}, nil
}

// Refused counts a recipient of client that was refused for good.
func (g *Guard) Refused(client netip.Addr) {
	networks := network.Nested(client)
	if g == nil || len(networks) == 0 {
		return
	}
	g.draw(networks[0], g.cfg.Client)
	g.draw(networks[len(networks)-1], g.cfg.Network)
}

// PutOff counts a recipient of client that was put off because it needs a transaction of its own, and reports whether
// it counts as refused, as each does from the twentieth of its network in a day on: pairs of recipients tell which of
// them lead to the same place.
func (g *Guard) PutOff(client netip.Addr) (refused bool) {
	widest := network.Widest(client)
	if g == nil || !widest.IsValid() {
		return false
	}
	now := g.cfg.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	t := tallyOf(g.putOffs, widest)
	if now.Sub(t.since) >= day {
		*t = tally{since: now}
	}
	t.putOffs++
	return t.putOffs > freePutOffs
}

// Accepted notes that a next hop took a message of client.
func (g *Guard) Accepted(client netip.Addr) {
	networks := network.Nested(client)
	if g == nil || len(networks) == 0 {
		return
	}
	set, print := g.setOf(networks[0])
	oldest := &set[0]
	for i := range set {
		held := set[i].Load()
		if held>>32 == print {
			oldest = &set[i]
			break
		}
		if uint32(held) < uint32(oldest.Load()) {
			oldest = &set[i]
		}
	}
	oldest.Store(print<<32 | uint64(g.second(g.cfg.Now())))
}

// second returns a time in seconds, above zero.
func (g *Guard) second(at time.Time) uint32 { return 1 + uint32(at.Sub(g.began)/time.Second) }

// isAccepted reports whether a next hop took a message of an address in the last day.
func (g *Guard) isAccepted(address netip.Prefix, now time.Time) bool {
	set, print := g.setOf(address)
	for i := range set {
		if held := set[i].Load(); held>>32 == print {
			return int64(g.second(now))-int64(uint32(held)) < int64(day/time.Second)
		}
	}
	return false
}

// setOf returns where an address may stand among those with an accepted message, and by what it is told from others.
func (g *Guard) setOf(address netip.Prefix) (set *[acceptedWays]atomic.Uint64, print uint64) {
	octets := address.Addr().As16()
	h := maphash.Bytes(g.seed, octets[:])
	return &g.accepted[h%acceptedSets], h >> 32
}

// Refusal returns the refusal of a client that named too many recipients that were refused for good: 450 4.7.1, Reason
// "rate". It is nil if the client is within its limits. A client that is spared is not bound by the limit of its
// network.
func (g *Guard) Refusal(client netip.Addr, spared bool) *mail.Refusal {
	if g == nil {
		return nil
	}
	over := g.over.Load()
	if over == nil {
		return nil
	}
	networks := network.Nested(client)
	if len(networks) == 0 {
		return nil
	}
	now := g.cfg.Now()
	if r := refusalOf(*over, networks[0], g.cfg.Client, now.Sub(g.began)); r != nil {
		return r
	}
	r := refusalOf(*over, networks[len(networks)-1], g.cfg.Network, now.Sub(g.began))
	if r == nil || spared || g.isAccepted(networks[0], now) {
		return nil
	}
	return r
}

func refusalOf(over map[netip.Prefix]*atomic.Int64, of netip.Prefix, limit Limit, now time.Duration) *mail.Refusal {
	until := over[of]
	if until == nil {
		return nil
	}
	wait := time.Duration(until.Load()) - now
	if wait <= 0 {
		return nil
	}
	return refusal([]mail.Rate{{Client: of, Name: refused, Count: limit.Count, Per: limit.Per}},
		[]mail.RateResult{{RetryAfter: wait}}, 0)
}

// draw draws one from the limit of an address or network, and notes for how long it is over the limit by that.
func (g *Guard) draw(of netip.Prefix, limit Limit) {
	if !limit.isSet() {
		return
	}
	now, rate := g.cfg.Now(), gcra.Per(limit.Count, limit.Per)
	g.mu.Lock()
	defer g.mu.Unlock()
	t := tallyOf(g.counts, of)
	t.refused.Draw(now, rate, 1)
	until := t.refused.Until(rate)
	if !until.After(now) {
		return
	}
	if t.over == nil || (*g.over.Load())[of] != t.over {
		t.over = new(atomic.Int64)
		g.publish(of, t.over, now)
	}
	t.over.Store(int64(until.Sub(g.began)))
}

// overKept is how long one that is within its limit again stays in Guard.over: until then it comes back for nothing.
const overKept = 10 * time.Minute

// publish replaces over by a copy with one more, and without those that have been within their limits for long. The
// caller holds mu.
func (g *Guard) publish(of netip.Prefix, until *atomic.Int64, now time.Time) {
	more := make(map[netip.Prefix]*atomic.Int64)
	if over := g.over.Load(); over != nil {
		maps.Copy(more, *over)
		long := int64(now.Sub(g.began) - overKept)
		maps.DeleteFunc(more, func(_ netip.Prefix, until *atomic.Int64) bool { return until.Load() < long })
	}
	if len(more) < maxGuarded {
		more[of] = until
	}
	g.over.Store(&more)
}

// tallyOf returns the tally of an address or network, a new one if there is none. The caller holds the Guard's lock.
func tallyOf(all *lru.Cache[netip.Prefix, *tally], of netip.Prefix) *tally {
	if t, ok := all.Get(of); ok {
		return t
	}
	t := new(tally)
	all.Put(of, t, 1)
	return t
}
