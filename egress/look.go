package egress

import (
	"context"
	"net/netip"

	"github.com/millrace/millrace/egress/dial"
	"github.com/millrace/millrace/router/mail"
)

// A Sight is where a delivery would go, as far as names tell it.
type Sight struct {
	Site  mail.Site // "" unless the hosts are known
	Fixed bool      // the hosts were written down, and have no preference
	Hosts []SightHost
}

// A SightHost is one host of a Sight, in the order in which they are tried.
type SightHost struct {
	Name  string
	Pref  uint16
	Addrs []netip.Addr // none at a unix socket
	Err   error        // why none of its addresses can be had
}

// Look finds where d would go as Begin does, and opens no session. The error is the one that Begin would end with
// because names lead nowhere: of the next hop, or of all of its hosts. What is known by then is returned beside it.
func (r *Relay) Look(ctx context.Context, d mail.Delivery) (Sight, error) {
	l := r.local
	ctx = askingFor(l.within(ctx), &d)
	at, err := l.find(ctx, &d)
	if err != nil {
		return Sight{}, err
	}
	out := Sight{Site: at.site, Fixed: at.fixed}
	as := lease{resources: l.resources, d: d, at: at}
	if _, refusal := as.password(); refusal != nil {
		err = refusal
	}
	target := as.target("")
	var failed dial.Failures
	for i, host := range target.Hosts {
		h := SightHost{Name: host, Pref: at.hosts[i].Pref}
		if h.Addrs, h.Err = l.dialer.Look(ctx, &target, host); h.Err != nil {
			failed = append(failed, h.Err)
		} else if d.NextHop.Transport == mail.LMTPUnix {
			h.Addrs = nil
		}
		out.Hosts = append(out.Hosts, h)
	}
	if err == nil && len(failed) > 0 && len(failed) == len(target.Hosts) {
		err = noHost(failed, at.demands.Required)
	}
	return out, err
}
