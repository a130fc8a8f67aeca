package egress

import (
	"cmp"
	"context"
	"net/netip"

	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/mail"
)

// A place is where a next hop leads: a Site, its hosts in the order to try them, and the way to speak with them.
type place struct {
	site   mail.Site
	hosts  []mx.Host
	limits pool.Limits
	way    pool.Way
	fixed  bool // the operator wrote the host down

	password string // of way.User, once a session is to be opened
}

// place finds where h leads. Errors are *mail.Refusal.
func (l *Local) place(ctx context.Context, h mail.NextHop) (place, error) {
	p := place{way: pool.Way{
		Transport: h.Transport, Port: l.port(h), TLS: uint8(l.policy(h)), User: h.User, Helo: l.cfg.Helo,
	}}
	if h.Transport == mail.MX {
		set, err := l.finder.Hosts(ctx, h.Host)
		if err != nil {
			return place{}, err
		}
		p.site, p.hosts = set.Site, set.Hosts
	} else {
		known := l.fixed(h)
		p.fixed, p.site, p.hosts = true, known.site, known.hosts
	}
	p.limits = l.limits(p.site)
	return p, nil
}

// limits gives the caps of a Site: what was configured for it over what the providers' file says.
func (l *Local) limits(site mail.Site) pool.Limits {
	known, over := l.finder.Limits(site), l.cfg.Limits[site]
	sessions := cmp.Or(over.Sessions, known.Connections, pool.Generic().Sessions)
	share := 1.0
	if l.cfg.Share != nil {
		share = l.cfg.Share(site)
		sessions = max(1, int(float64(sessions)*share))
	}
	return pool.Limits{
		Sessions: sessions,
		Rate:     share * cmp.Or(over.Rate, known.MessageRate),
		Opens:    share * cmp.Or(over.Opens, known.ConnectRate),

		OpensAtOnce: max(1, int(share*float64(cmp.Or(over.OpensAtOnce, known.ConnectBurst)))),

		Messages: cmp.Or(over.Messages, known.Messages),
		Age:      cmp.Or(over.Age, known.Age),
		Idle:     cmp.Or(over.Idle, known.Idle),
	}
}

// A fixedHop is what a fixed next hop's place has besides its way.
type fixedHop struct {
	site  mail.Site
	hosts []mx.Host
}

// fixed gives the Site of a fixed next hop, which is its own name without the user: identities are kept apart by their
// Way.
func (l *Local) fixed(h mail.NextHop) *fixedHop {
	h.User = ""
	if known, ok := l.fixedHops.Get(h); ok {
		return known
	}
	f := &fixedHop{site: mail.Site(h.String()), hosts: []mx.Host{{Name: h.Host}}}
	l.fixedHops.Put(h, f, 1)
	return f
}

func (l *Local) port(h mail.NextHop) uint16 {
	if h.Port != 0 {
		return h.Port
	}
	switch h.Transport {
	case mail.MX:
		return l.cfg.Port
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

// policy says what h's sessions must have of TLS. What MTA-STS and DANE demand of a domain will come in here; a
// stricter policy is another Way, so that no session of a weaker one serves it.
func (l *Local) policy(h mail.NextHop) smtpclient.TLSPolicy {
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
	case l.cfg.TLS == TLSRequired:
		return smtpclient.Required
	case l.cfg.TLS == TLSNone:
		return smtpclient.None
	}
	return smtpclient.Opportunistic
}

// source gives our address towards p for one family, the zero Addr if the system is to choose. It depends on the Site
// and on the configuration alone, so that all nodes with the same list and all restarts come to the same one.
func (l *Local) source(site mail.Site, v6 bool) netip.Addr {
	list := l.sources4
	if v6 {
		list = l.sources6
	}
	switch len(list) {
	case 0:
		return netip.Addr{}
	case 1:
		return list[0]
	}
	return list[fnv(string(site))%uint32(len(list))]
}

// fnv is FNV-1a.
func fnv(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}
