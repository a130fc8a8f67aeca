package egress

import (
	"context"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/router/mail"
)

// A Relay is what mail is handed to. In a cluster it asks who owns the Site and begins there; else it delivers from
// this node.
type Relay struct {
	local     *Local
	placement Placement // nil: this node is alone
	remote    Remote
}

// NewRelay makes a Relay and starts the closing of idle sessions. It fails as Config.Validate does. Shutdown must be
// called to end it.
func NewRelay(cfg Config) (*Relay, error) {
	local, err := newLocal(cfg)
	if err != nil {
		return nil, err
	}
	local.pool.Start()
	return &Relay{local: local, placement: cfg.Placement, remote: cfg.Remote}, nil
}

// Local is the part that delivers from this node and never hands mail on to another.
func (r *Relay) Local() *Local { return r.local }

// UseSites takes other Providers and Reactions from now on, which both must be there. Sessions that are open stay;
// those over a lower limit are closed as they are given back.
func (r *Relay) UseSites(p *mx.Providers, t *feedback.Table) {
	r.local.finder.Use(p)
	r.local.reactions.Store(t)
}

// Begin opens a transaction for d at the node that owns its Site, or here if that is this one or cannot be had; see
// Local.Begin.
func (r *Relay) Begin(ctx context.Context, d mail.Delivery) (mail.Transaction, error) {
	if r.placement == nil || isHere(d.NextHop) {
		return r.local.Begin(ctx, d)
	}
	ctx = r.local.within(ctx)
	p, err := r.local.find(ctx, d.NextHop)
	if err != nil {
		return nil, err
	}
	d.Site = p.site
	node, self := r.placement.Owner(p.site, d.RecipientDomain)
	if self {
		return r.local.beginAt(ctx, p, d)
	}
	tx, err := r.remote.Begin(ctx, node, d)
	if err == nil {
		return &placed{relay: r, d: d, place: p, node: node, tx: tx}, nil
	}
	if lost, _ := lostPeer(err); !lost {
		return nil, err
	}
	r.tellLost(&d, node, lostHere, err)
	return r.local.beginAt(ctx, p, d)
}

// What becomes of a message whose owner was lost.
const (
	lostHere  = "peer lost, delivered from here"
	lostThere = "peer lost, handed to another"
)

// tellLost tells the operator that a message goes another way because its owner was lost.
func (r *Relay) tellLost(d *mail.Delivery, node, reason string, cause error) {
	r.local.cfg.Emit(mail.Event{
		Kind: mail.Anomaly, Time: r.local.cfg.Now(), Trace: d.Trace, NextHop: d.NextHop, Site: d.Site, Host: node,
		Reason: reason, Cause: cause,
	})
}

// sitesTold bounds the Sites that Sessions tells of one by one.
const sitesTold = 100

// Sessions yields, for each Site that has any, how many sessions are open (those being opened included), how many of
// these are idle, and how many transactions wait for one. Those with most of them come first; of more than 100 Sites
// the rest is added up in the last yield, under the Site "". It ends when yield gives false. It takes the pool's lock,
// so it is for now and then.
func (r *Relay) Sessions(yield func(site mail.Site, open, idle, waiting int) bool) {
	for _, c := range r.local.pool.Sites(sitesTold) {
		if !yield(c.Site, c.Lent+c.Idle, c.Idle, c.Waiting) {
			return
		}
	}
}

// Yield is to be called when the members of the cluster have changed, or Config.Share has: sessions with Sites that are
// not ours any more, and those over what is now our share, are closed as soon as they are idle. It does not wait for
// that.
func (r *Relay) Yield(ours func(mail.Site) bool) { r.local.pool.Yield(ours, r.local.limits) }

// Cut is for a drain whose time is up, right behind the end of the contexts that were given to transactions: the waits
// of a session for its destination heed their deadlines alone. Each of these waits ends, of transactions that are used
// and of those that are aborted, as that of a lost connection does: 451 4.4.2, not in doubt. A Commit that has begun is
// left alone and keeps to its own deadline; one that has not fails and sends nothing. Begin fails from now on as after
// Shutdown, which is to be called all the same. Cut waits for nothing and may be called at any time, also again.
func (r *Relay) Cut() { r.local.pool.Abort() }

// Shutdown closes idle sessions with QUIT and waits until the others were given back, or ctx ends. Begin fails with 451
// 4.3.2 from now on.
func (r *Relay) Shutdown(ctx context.Context) error { return r.local.pool.Shutdown(ctx) }
