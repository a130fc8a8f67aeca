package egress

import (
	"cmp"
	"context"

	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/egress/tlspolicy"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// A destination is where a next hop leads: a Site, its hosts in the order to try them, and what a session must have.
type destination struct {
	site   mail.Site
	hosts  []mx.Host
	limits pool.Limits
	way    pool.Way
	fixed  bool // the administrator wrote the host down

	demands tlspolicy.Demands

	spare spare // who tries where no host can be reached from here
}

// hostNames returns the names of the hosts.
func (at *destination) hostNames() []string {
	names := make([]string, len(at.hosts))
	for i, h := range at.hosts {
		names[i] = h.Name
	}
	return names
}

// A spare is who tries where no host can be reached from here.
type spare uint8

// The spares. The zero value is none.
const (
	asker    spare = iota + 1 // the node that has the client
	nextNode                  // the node that the Site would belong to without this one, if there is one
)

// askingFor returns ctx for the look-ups of a delivery. The names of a next hop that the client chose stand in the
// share of its network, like all that it chose.
func askingFor(ctx context.Context, d *mail.Delivery) context.Context {
	if !d.Chosen {
		return ctx
	}
	a := mail.AskAs(ctx, mail.RankChosen)
	if a.Questions == nil { // it came from another node
		a.Questions = &mail.Questions{Client: network.Widest(d.Client.Addr())}
	}
	return &a
}

// find finds where the next hop of d leads, and refuses a Site that is suspended. Errors are *mail.Refusal.
func (r *resources) find(ctx context.Context, d *mail.Delivery) (destination, error) {
	ctx = askingFor(ctx, d)
	step := d.Leg.Enter(mail.StepMX)
	h := d.NextHop
	policy, demands := r.demands(h)
	at := destination{demands: demands, way: pool.Way{
		Transport: h.Transport, Port: r.port(h), TLS: uint8(policy), User: h.User, Helo: r.cfg.Helo, Proxy: h.Proxy,
	}}
	if o := d.Origin; o != nil {
		at.way.Client = o.By
	}
	at.demands.Waived = d.TLS.Waived && !d.Params.RequireTLS
	// What ends on this machine needs no TLS, and behind LMTP there is no host to demand it of.
	at.demands.Required = d.Params.RequireTLS && h.Transport != mail.LMTPUnix
	at.demands.Last = h.Transport == mail.LMTP
	var err error
	if h.Transport == mail.MX {
		var set mx.Set
		set, err = r.finder.Hosts(ctx, h.Host)
		at.site, at.hosts = set.Site, set.Hosts
		if err == nil && policy != smtpclient.None {
			at.demands.Policy = r.policies.Of(ctx, h.Host, &set)
		}
	} else {
		f := r.fixedSite(h)
		at.fixed, at.site, at.hosts = true, f.site, f.hosts
	}
	if err == nil {
		at.limits = r.limits(at.site)
		err = r.suspended(at.site)
	}
	d.Leg.Leave(step, err)
	return at, err
}

// limits returns the caps of a Site: this node's share of what the providers' file says.
func (r *resources) limits(site mail.Site) pool.Limits {
	listed, over := r.finder.Limits(site), r.cfg.tune.limits[site]
	sessions := cmp.Or(over.Sessions, listed.Connections, pool.Generic().Sessions)
	share := 1.0
	if r.cfg.Cluster != nil {
		share = r.cfg.Cluster.Share(site)
		sessions = max(1, int(float64(sessions)*share))
	}
	return pool.Limits{
		Sessions: sessions,
		Rate:     share * cmp.Or(over.Rate, listed.MessageRate),
		Opens:    share * cmp.Or(over.Opens, listed.ConnectRate),

		OpensAtOnce: max(1, int(share*float64(cmp.Or(over.OpensAtOnce, listed.ConnectBurst)))),

		Messages: cmp.Or(over.Messages, listed.Messages),
		Age:      cmp.Or(over.Age, listed.Age),
		Idle:     cmp.Or(over.Idle, listed.Idle),
	}
}

// suspended returns the Refusal for a Site that the cluster suspended, nil for any other. What this node suspended by
// itself the pool knows.
func (r *resources) suspended(site mail.Site) error {
	if r.cfg.Cluster == nil {
		return nil
	}
	if until, reason, ok := r.cfg.Cluster.Suspended(site); ok {
		return suspendedUntil(until, site, reason)
	}
	return nil
}

// FixedSite returns the Site of a fixed next hop: its own name without the user and the proxy. Identities and ways are
// kept apart by their Way.
func FixedSite(h mail.NextHop) mail.Site {
	h.User, h.Proxy = "", ""
	return mail.Site(h.String())
}

// fixedSite returns the Site and the host of a fixed next hop.
func (r *resources) fixedSite(h mail.NextHop) *fixedSite {
	h.User, h.Proxy = "", ""
	if f, ok := r.fixed.Get(h); ok {
		return f
	}
	f := &fixedSite{site: FixedSite(h), hosts: []mx.Host{{Name: h.Host}}}
	r.fixed.Put(h, f, 1)
	return f
}

func (r *resources) port(h mail.NextHop) uint16 {
	if h.Port != 0 {
		return h.Port
	}
	switch h.Transport {
	case mail.MX:
		return r.cfg.Port
	case mail.SMTPS:
		return 465
	case mail.Submission:
		return 587
	case mail.LMTP:
		return 24
	case mail.LMTPUnix:
		return 0
	}
	return 25
}

// demands returns how TLS is begun with h, and what its hosts have to show. A next hop whose authorities are written
// down has to show a certificate of theirs.
func (r *resources) demands(h mail.NextHop) (smtpclient.TLSPolicy, tlspolicy.Demands) {
	policy := r.policy(h)
	host := h.Host
	if h.Transport == mail.MX {
		host = ""
	}
	authorities, pinned := r.authorities(host)
	if pinned && policy <= smtpclient.Opportunistic {
		policy = smtpclient.Required
	}
	d := tlspolicy.Demands{Authorities: authorities, Written: h.Transport != mail.MX}
	if policy == smtpclient.Required || policy == smtpclient.Implicit {
		d.Least = tlspolicy.Verified
	}
	return policy, d
}

// authorities returns those that sign for a fixed next hop at a host, or for MX hosts if it is "", and reports whether
// they are written down for that host.
func (r *resources) authorities(host string) (_ *tlspolicy.Authorities, pinned bool) {
	if r.cfg.tune.rootCAs != nil {
		return &tlspolicy.Authorities{Pool: r.cfg.tune.rootCAs, Number: 1}, false
	}
	if r.cfg.Authorities == nil {
		return nil, false
	}
	return r.cfg.Authorities(host)
}

// policy returns how TLS is begun with h. Another one is another Way.
func (r *resources) policy(h mail.NextHop) smtpclient.TLSPolicy {
	switch h.Transport {
	case mail.SMTPS:
		return smtpclient.Implicit
	case mail.Submission:
		return smtpclient.Required
	case mail.LMTPUnix:
		return smtpclient.None
	}
	switch {
	case h.User != "": // a password goes over verified TLS or not at all
		return smtpclient.Required
	case r.cfg.TLS == TLSRequired:
		return smtpclient.Required
	case r.cfg.TLS == TLSNone:
		return smtpclient.None
	}
	return smtpclient.Opportunistic
}
