package egress

import (
	"cmp"
	"context"
	"hash/maphash"
	"net/netip"
	"time"

	"github.com/millrace/millrace/egress/dial"
	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/egress/tlspolicy"
	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/mail"
)

const (
	// defaultBudget is Config.Budget where that is 0.
	defaultBudget = 60 * time.Second
	// fixedCache bounds the fixed next hops whose Site is kept.
	fixedCache = 4096
)

type (
	client = smtpclient.Client
	slot   = pool.Slot[*client]
)

// resources are what all transactions of this node share. They are safe for concurrent use.
type resources struct {
	cfg      Config
	finder   *mx.Finder
	pool     *pool.Pool[*client]
	dialer   *dial.Dialer
	feedback *feedback.Observer
	marks    *feedback.Marks
	policies *tlspolicy.Policies
	fixed    *lru.Cache[mail.NextHop, *fixedSite]
	again    *rehearings
	connects *connects
	broken   *lru.Cache[brokenExtension, withoutIt] // and how sessions do without
	attempts maphash.Seed                           // of what attempts at one message have in common
}

// A fixedSite is the Site and the one host of a fixed next hop.
type fixedSite struct {
	site  mail.Site
	hosts []mx.Host
}

// newResources makes the resources of a node. It fails as Config.Validate does.
func newResources(cfg Config) (*resources, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Port == 0 {
		cfg.Port = 25
	}
	if cfg.Budget == 0 {
		cfg.Budget = defaultBudget
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
		Providers: cfg.Providers, Now: cfg.Now, Public: cfg.Public,
	})
	if err != nil {
		return nil, err
	}
	marks := feedback.NewMarks(cfg.Now)
	return &resources{
		cfg:    cfg,
		finder: finder,
		pool:   pool.New[*client](cfg.Now, cmp.Or(cfg.StreamFloor, pool.DefaultStreamFloor)),
		dialer: dial.New(dial.Config{
			Helo: cfg.Helo, Finder: finder, Marks: marks, Sources: cfg.Sources, Family: cfg.Family, Client: cfg.Client,
			MinTLS: cfg.MinTLS, Connect: cfg.Connect, Helos: cfg.Helos, Certificate: cfg.Certificate,
			Us:     smtpclient.Identity{Addrs: unmapped(cfg.Addresses), SRS: cfg.SRSDomain},
			Report: cfg.Report,
		}),
		feedback: feedback.New(cfg.Reactions, cfg.Now),
		marks:    marks,
		policies: tlspolicy.New(tlspolicy.Config{
			Resolver: cfg.Resolver, Fetch: cfg.Fetch, Load: cfg.Load, Save: cfg.Save, Now: cfg.Now, Port: cfg.Port,
		}),
		fixed:    lru.New[mail.NextHop, *fixedSite](fixedCache),
		again:    newRehearings(cfg.Now),
		connects: newConnects(cfg.Now),
		broken:   lru.New[brokenExtension, withoutIt](brokenCache),
		attempts: maphash.MakeSeed(),
	}, nil
}

// unmapped returns the addresses with IPv4 as IPv4.
func unmapped(list []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, len(list))
	for i, a := range list {
		out[i] = a.Unmap()
	}
	return out
}

// within returns ctx, with a deadline for one call if it has no deadline.
func (r *resources) within(ctx context.Context) context.Context {
	if _, ok := ctx.Deadline(); ok {
		return ctx
	}
	return mail.Until(ctx, time.Now().Add(r.cfg.Budget))
}
