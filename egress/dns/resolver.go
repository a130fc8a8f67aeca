// Package dns is the relay's only resolver: a caching stub that asks recursive servers and keeps what net.Resolver
// throws away: the TTL, the AD bit and the difference between a name that does not exist, a name without
// records of the type and a server that failed.
//
// It owns the question on the wire, the check of the reply, the caches and the choice of a server. It refuses to know
// what the records are for: MX rules, address policy, SPF and DNS lists are its callers'. It does no recursion and no
// DNSSEC validation of its own.
//
// Invariants: a reply is believed only if its ID and its whole question section are those that were asked; one question
// is on the wire once, however many callers wait for it; a caller that leaves takes nothing from the others; memory
// is bounded by the size of the cache and Concurrency; a cache hit allocates nothing.
package dns

import (
	"cmp"
	"context"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	wire "github.com/miekg/dns"

	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/mail"
)

// A Config says which servers to ask and how much to ask of them. The zero Config is usable.
type Config struct {
	// Servers are recursive servers, "address:port" each, in order of preference. Without any, those of
	// /etc/resolv.conf are asked, read once by New, and 127.0.0.1:53 if that names no server.
	Servers []string
	// TrustAD says that the servers validate and that the path to them cannot be tampered with, so that their AD bit
	// means something (RFC 4035 section 4.9.3). Without it Meta.AD is never set.
	TrustAD bool
	// Concurrency bounds the queries that are on the wire at once; 0 means 256. Names that we chose have half of them,
	// and names that strangers chose the other. At most eight times as many questions may be open, and what is asked
	// beyond that fails at once with ErrBusy.
	Concurrency int
	// Now reads the wall clock that TTLs run by; nil means time.Now.
	Now func() time.Time
	// Observe is told how long a query to a server took, and why it brought no answer. It must not block; nil disables
	// it.
	Observe func(took time.Duration, err error)

	tune tuning
}

// A tuning holds what only tests of this package set. A field that is 0 takes the constant of its name.
type tuning struct {
	timeout   time.Duration
	attempts  int
	cacheSize int
	staleFor  time.Duration // negative: no stale answer is used
}

const (
	// defaultTimeout is how long one query waits for its reply.
	defaultTimeout = 2 * time.Second
	// defaultAttempts is how many queries a question may cost over all servers. The same question repeated over TCP or
	// without EDNS0 does not count. A question never takes longer than defaultAttempts times defaultTimeout.
	defaultAttempts = 4
	// defaultCacheSize bounds the number of answers kept. An answer larger than 512 octets counts for more.
	defaultCacheSize = 1 << 16
	// defaultStaleFor is how long after its expiry an answer may still be used when no server can be reached (RFC
	// 8767).
	defaultStaleFor    = 24 * time.Hour
	defaultConcurrency = 256

	// maxTTL is the longest that an answer is believed whatever its TTL. A TTL of 0 is honoured: the callers that wait
	// get the answer, and it is not kept.
	maxTTL = 24 * time.Hour
	// negativeMaxTTL is the same for "no such name" and "no such record".
	negativeMaxTTL = 5 * time.Minute
	// failureTTL is how long a failure is remembered: RFC 9520 section 3.2 demands at least a second.
	failureTTL = 5 * time.Second
	// staleTTL is how long a stale answer is used before the servers are tried again (RFC 8767 section 4).
	staleTTL = 30 * time.Second
	// staleAfter is how long a caller waits for the servers while a stale answer is at hand: the client response timer
	// of RFC 8767 section 5.
	staleAfter = 1800 * time.Millisecond
	// familyWait is how long a caller that has addresses of one family waits for the other. A zone whose server never
	// answers AAAA is common, and must not cost every message the whole time-out.
	familyWait = 500 * time.Millisecond
	// queueFactor times Concurrency is how many questions may be open.
	queueFactor = 8
)

// Validate returns a *mail.FieldError that names the first field that makes no sense, or nil.
func (c Config) Validate() error {
	for i, s := range c.Servers {
		if a, err := netip.ParseAddrPort(s); err != nil || a.Port() == 0 || a.Addr().IsUnspecified() {
			return &mail.FieldError{
				Field:  "servers[" + strconv.Itoa(i) + "]",
				Reason: strconv.Quote(s) + " is not an IP address and a port",
			}
		}
	}
	if c.Concurrency < 0 {
		return &mail.FieldError{Field: "concurrency", Reason: "is negative"}
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.tune.timeout = cmp.Or(c.tune.timeout, defaultTimeout)
	c.tune.attempts = cmp.Or(c.tune.attempts, defaultAttempts)
	c.tune.cacheSize = cmp.Or(c.tune.cacheSize, defaultCacheSize)
	c.tune.staleFor = cmp.Or(c.tune.staleFor, defaultStaleFor)
	c.Concurrency = cmp.Or(c.Concurrency, defaultConcurrency)
	if len(c.Servers) == 0 {
		c.Servers = systemServers("/etc/resolv.conf")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Observe == nil {
		c.Observe = func(time.Duration, error) {}
	}
	return c
}

// systemServers reads the nameserver lines of a resolv.conf. What is no IP address is left out.
func systemServers(path string) []string {
	var servers []string
	if c, err := wire.ClientConfigFromFile(path); err == nil {
		for _, s := range c.Servers {
			if a, err := netip.ParseAddr(s); err == nil {
				servers = append(servers, netip.AddrPortFrom(a, 53).String())
			}
		}
	}
	if len(servers) == 0 {
		servers = []string{"127.0.0.1:53"}
	}
	return servers
}

// A Resolver answers questions about names. All methods are safe for concurrent use.
type Resolver struct {
	cfg     Config
	began   time.Time
	servers []*server
	cache   *lru.Cache[key, *answer]
	lanes   lanes

	ctx    context.Context // ends when Close is called
	cancel context.CancelFunc
	flying sync.WaitGroup // the goroutines of flights

	mu      sync.Mutex // guards flights and closed, and is taken before the locks of cache
	flights map[key]*flight
	closed  bool

	stats struct{ hits, misses, stale, udp, tcp, failed atomic.Uint64 }
}

type key struct {
	name  string // canonical: lower case, no last dot
	qtype uint16
}

// New makes a Resolver. It fails as Validate does and touches no network. Close must be called to end it.
func New(c Config) (*Resolver, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	r := &Resolver{
		cfg:     c,
		began:   c.Now(),
		cache:   lru.New[key, *answer](c.tune.cacheSize),
		flights: make(map[key]*flight),
	}
	for _, addr := range c.Servers {
		r.servers = append(r.servers, &server{addr: addr})
	}
	r.lanes.init(c.Concurrency)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// Close ends all queries and waits for them. A caller that waits for an answer gets ErrClosed, and so does every later
// question that the cache cannot answer.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.lanes.close()
	r.cancel()
	r.flying.Wait()
}

// Stats are totals since the start.
type Stats struct {
	Hits   uint64 // questions answered from the cache
	Misses uint64 // questions that had to ask or to wait for a server
	Stale  uint64 // questions for which a stale answer was used, because no server could be reached
	UDP    uint64 // queries sent over UDP
	TCP    uint64 // queries sent over TCP
	Failed uint64 // queries without a usable reply
	Cached int    // answers in the cache now
}

// Stats returns the totals.
func (r *Resolver) Stats() Stats {
	s := &r.stats
	return Stats{
		Hits: s.hits.Load(), Misses: s.misses.Load(), Stale: s.stale.Load(),
		UDP: s.udp.Load(), TCP: s.tcp.Load(), Failed: s.failed.Load(),
		Cached: r.cache.Len(),
	}
}
