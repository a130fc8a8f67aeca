package egress

import (
	"context"
	"time"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/router/mail"
)

// A Relay is what mail is handed to. In a cluster it asks which node owns the Site and begins there; else it delivers
// from this node. All methods are safe for concurrent use.
type Relay struct{ local *Local }

// NewRelay makes a Relay and starts the closing of idle sessions. It fails as Config.Validate does. Shutdown must be
// called to end it.
func NewRelay(cfg Config) (*Relay, error) {
	r, err := newResources(cfg)
	if err != nil {
		return nil, err
	}
	r.pool.Start()
	return &Relay{&Local{r}}, nil
}

// Local returns the part that delivers from this node and never hands mail on to another.
func (r *Relay) Local() *Local { return r.local }

// UseSites replaces the Providers and the Reactions from now on; neither may be nil. Sessions that are open stay; those
// over a lower limit are closed as they are given back.
func (r *Relay) UseSites(p *mx.Providers, t *feedback.Table) {
	r.local.finder.Use(p)
	r.local.feedback.Use(t)
}

// Begin opens a transaction for d at the node that owns its Site, or here if that is this node or cannot be reached;
// see Local.Begin. Where this node owns the Site and reaches no host of it, the next one in the ring is asked.
func (r *Relay) Begin(ctx context.Context, d mail.Delivery) (mail.Transaction, error) {
	l := r.local
	ctx = l.within(ctx)
	at, err := l.find(ctx, &d)
	if err != nil {
		return nil, err
	}
	if l.cfg.Cluster != nil && !d.NextHop.IsLocal() {
		if node, self := l.cfg.Cluster.Owner(at.site, d.RecipientDomain); !self {
			d.Site = at.site
			d.Settle(ctx) // the owner is told it with all else
			d.TLS.Least = uint8(at.demands.Highest(at.hosts))
			return handOver(ctx, l, node, at, d)
		}
		at.spare = nextNode
	}
	t := newTransaction(l.resources, at, d)
	if err := t.acquire(ctx); err != nil {
		if isWaivable(&at, &d, err) {
			return &waiting{relay: r, d: d, refused: err}, nil
		}
		return handOn(ctx, l, at, d, err)
	}
	t.slot.Park()
	t.d.Settle(ctx) // the session may go to another client meanwhile
	return t, nil
}

// maxSites bounds the Sites that Sessions yields one by one.
const maxSites = 100

// Sessions are those with one Site, or with several.
type Sessions struct {
	Site    mail.Site // "" for several
	Open    int       // those that are being opened included
	Idle    int       // of these
	Waiting int       // transactions that wait for one
	Chosen  bool      // strangers alone chose the Site
}

// Sessions yields the sessions of each Site that has any. Those with most of them come first; of more than 100 Sites
// the rest is added up in the last yield, under the Site "". It ends when yield returns false. It takes the pool's
// lock, so it is for now and then.
func (r *Relay) Sessions(yield func(Sessions) bool) {
	for _, c := range r.local.pool.Sites(maxSites) {
		if !yield(Sessions{c.Site, c.Lent + c.Idle, c.Idle, c.Waiting, c.Chosen}) {
			return
		}
	}
}

// SiteStates counts the Sites that mail is held back from. It takes the pool's lock, so it is for now and then.
func (r *Relay) SiteStates() pool.States { return r.local.pool.States() }

// Cooling returns the Sites that were not reached, refused us or are suspended, and have not been since, in no order.
func (r *Relay) Cooling() []mail.Site { return r.local.pool.Cooling() }

// Adaptations yields how the replies of each Site limit this node: how many sessions and messages per second it gets, 0
// where nothing limits it, and until when it is suspended, the zero Time if it is not. It ends when yield returns
// false. It takes the pool's lock, so it is for now and then.
func (r *Relay) Adaptations(yield func(site mail.Site, sessions int, rate float64, suspended time.Time) bool) {
	for _, a := range r.local.pool.Adaptations() {
		if !yield(a.Site, a.Sessions, a.Rate, a.Suspended) {
			return
		}
	}
}

// TLSFallbacks returns how many sessions were tried with a classic ClientHello, and how many in clear, because TLS had
// just failed there.
func (r *Relay) TLSFallbacks() (classic, clear uint64) { return r.local.dialer.TLSFallbacks() }

// Resume ends the suspension of a Site, and its cooling at this node.
func (r *Relay) Resume(site mail.Site) {
	r.local.pool.Resume(site)
	if c := r.local.cfg.Cluster; c != nil {
		c.Resume(site)
	}
}

// EndIdle ends the session that has been idle for longest, because its descriptor is needed.
func (r *Relay) EndIdle() { r.local.pool.EndIdle() }

// Yield is to be called when the members of the cluster have changed, or what Cluster.Share returns: sessions with
// Sites that are not ours any more, and those over what is now our share, are closed as soon as they are idle. It does
// not wait for that.
func (r *Relay) Yield(ours func(mail.Site) bool) { r.local.pool.Yield(ours, r.local.limits) }

// Abort is for a drain whose time is up, right behind the end of the contexts that were given to transactions: the
// waits of a session for its destination heed their deadlines alone. Each of these waits ends, of transactions that are
// used and of those that are aborted, as that of a lost connection does: 451 4.4.2, not in doubt. A Commit that has
// begun is left alone and keeps to its own deadline; one that has not fails and sends nothing. Begin fails from now on
// as after Shutdown, which is to be called all the same. Abort waits for nothing and may be called at any time, also
// again.
func (r *Relay) Abort() { r.local.pool.Abort() }

// Shutdown closes idle sessions with QUIT and waits until the others were given back, or ctx ends. Begin fails with 451
// 4.3.2 from now on.
func (r *Relay) Shutdown(ctx context.Context) error {
	err := r.local.pool.Shutdown(ctx)
	r.local.policies.Close()
	return err
}
