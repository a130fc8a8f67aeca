package egress

import (
	"context"
	"crypto/tls"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/mail"
)

const (
	// ticketCache bounds the hosts whose TLS tickets are kept, per policy.
	ticketCache = 4096
	// fixedCache bounds the fixed next hops whose Site is kept.
	fixedCache = 4096
	// unknownCache bounds the octets that are kept of recipients known not to exist: some 100,000 of them, or 25,000
	// with the longest names and texts.
	unknownCache = 32 << 20
	// unknownFor is how long a recipient is known not to exist (SEMANTICS C4).
	unknownFor = 5 * time.Minute
	// resetWait is how long a session is waited for that has to be reset before somebody else uses it.
	resetWait = 5 * time.Second
	budget    = 60 * time.Second
)

type (
	session = smtpclient.Client
	slot    = pool.Slot[*smtpclient.Client]
)

// A Local delivers from this node.
type Local struct {
	cfg                Config
	finder             *mx.Finder
	pool               *pool.Pool[*smtpclient.Client]
	tls                [smtpclient.Implicit + 1]*tls.Config // by policy, each with its own tickets
	classic            [smtpclient.Implicit + 1]*tls.Config // the same without post-quantum key exchange
	sources4, sources6 []netip.Addr
	fixedHops          *lru.Cache[mail.NextHop, *fixedHop]
	unknown            *lru.Cache[recipient, unknownRecipient]
	complaints         *complaints
	reactions          atomic.Pointer[feedback.Table]
}

// newLocal makes a Local. It fails as Validate does.
func newLocal(cfg Config) (*Local, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Port == 0 {
		cfg.Port = 25
	}
	if cfg.Budget == 0 {
		cfg.Budget = budget
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Reactions == nil {
		cfg.Reactions = feedback.Shipped()
	}
	if cfg.Emit == nil {
		cfg.Emit = func(mail.Event) {}
	}
	if cfg.Client.Now == nil {
		cfg.Client.Now = cfg.Now
	}
	finder, err := mx.New(mx.Config{
		Resolver: cfg.Resolver, AllowPrivate: cfg.AllowPrivate, Self: cfg.Self, SelfAddrs: cfg.SelfAddrs,
		Providers: cfg.Providers, Now: cfg.Now,
	})
	if err != nil {
		return nil, err
	}
	l := &Local{
		cfg: cfg, finder: finder, pool: pool.New[*session](cfg.Now),
		fixedHops: lru.New[mail.NextHop, *fixedHop](fixedCache),
		unknown:   lru.New[recipient, unknownRecipient](unknownCache), complaints: newComplaints(),
	}
	l.reactions.Store(cfg.Reactions)
	for policy := range l.tls {
		l.tls[policy] = tlsConfig(cfg, smtpclient.TLSPolicy(policy))
		l.classic[policy] = l.tls[policy].Clone()
		l.classic[policy].CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}
	}
	for _, a := range cfg.Sources {
		if a = a.Unmap(); a.Is4() {
			l.sources4 = append(l.sources4, a)
		} else {
			l.sources6 = append(l.sources6, a)
		}
	}
	return l, nil
}

// tlsConfig is the base for sessions under one policy. Tickets are not shared between policies: one from a session
// whose certificate nobody looked at must not stand for a verified one.
func tlsConfig(cfg Config, policy smtpclient.TLSPolicy) *tls.Config {
	c := &tls.Config{
		RootCAs:            cfg.RootCAs,
		ClientSessionCache: tls.NewLRUClientSessionCache(ticketCache),
		MinVersion:         tls.VersionTLS12,
	}
	if policy == smtpclient.Opportunistic {
		c.MinVersion = tls.VersionTLS10 // old TLS is better than the clear that would follow
	}
	return c
}

// Begin opens a transaction for d at d.NextHop: it finds the Site and a session and sends nothing. It returns by the
// deadline of ctx, or after Config.Budget where it has none. The error is a *mail.Refusal: 556 5.1.10 null MX, 550
// 5.1.2 no such domain, 554 5.4.6 the best MX host is ourselves, 451 4.4.3 DNS trouble, 451 4.4.1 no host can be
// reached, 451 4.4.5 the Site is at its cap or its rate, or is suspended, 451 4.7.5 the TLS policy is not met.
func (l *Local) Begin(ctx context.Context, d mail.Delivery) (mail.Transaction, error) {
	ctx = l.within(ctx)
	p, err := l.find(ctx, d.NextHop)
	if err != nil {
		return nil, err
	}
	return l.beginAt(ctx, p, d)
}

// find finds where a next hop leads, and refuses a Site that is suspended. Errors are *mail.Refusal.
func (l *Local) find(ctx context.Context, h mail.NextHop) (place, error) {
	ctx, s := l.span(ctx, "egress.mx")
	p, err := l.place(ctx, h)
	if err == nil {
		err = l.suspended(p.site)
	}
	end(s, err)
	return p, err
}

// beginAt is Begin where the place is known.
func (l *Local) beginAt(ctx context.Context, p place, d mail.Delivery) (mail.Transaction, error) {
	d.Site = p.site
	t := &transaction{local: l, d: d, place: p}
	if err := t.acquire(ctx); err != nil {
		return nil, err
	}
	t.slot.Park()
	return t, nil
}

// within gives ctx with a deadline, if it has none, for one call.
func (l *Local) within(ctx context.Context) context.Context {
	if _, ok := ctx.Deadline(); ok {
		return ctx
	}
	return mail.Until(ctx, time.Now().Add(l.cfg.Budget))
}

// anomaly tells the operator that a destination refuses us.
func (l *Local) anomaly(d *mail.Delivery, r *mail.Refusal, verb string) {
	l.cfg.Emit(mail.Event{
		Kind: mail.Anomaly, Time: l.cfg.Now(), Trace: d.Trace, Client: d.Client.Addr(), NextHop: d.NextHop,
		Site: d.Site,
		Host: r.Host, Verb: verb, Reply: r.Reply, Reason: "refused by destination: " + r.Reason, Cause: r,
	})
}
