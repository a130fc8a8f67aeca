package egress

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/dial"
	"github.com/millrace/millrace/egress/probe"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/mail"
)

// A Reached is one address of a host, and how far a session with it came.
type Reached struct {
	Host string
	Addr netip.AddrPort // zero for a unix socket, and for a host without an address
	probe.Found
}

// A Reach says how hosts are to be asked.
type Reach struct {
	To     *mail.Path    // offered in RCPT; nil: no transaction is begun
	Most   time.Duration // for one address
	Addrs  int           // asked at most, 0 for as many as are tried for one recipient of mail
	Source netip.Addr    // of ours, in place of the one that mail has; the hosts' addresses are of its family
	Clear  bool          // TLS is not tried
}

// Reach asks the addresses of the hosts that d would go to, from this node and over connections of their own: greeting,
// EHLO, TLS, the login, and RCPT. Nothing is left there, and mail learns nothing of it. The error is that of names that
// lead nowhere.
func (r *Relay) Reach(ctx context.Context, d mail.Delivery, how Reach) ([]Reached, error) {
	l := r.local
	ctx = askingFor(l.within(ctx), &d)
	at, err := l.find(ctx, &d)
	if err != nil && len(at.hosts) == 0 { // a Site that is suspended may be asked
		return nil, err
	}
	as := lease{resources: l.resources, d: d, at: at}
	password, refusal := as.password()
	if refusal != nil {
		return nil, refusal
	}
	return l.reach(ctx, as.target(password), d.Reverse, how), nil
}

// ReachHost is Reach for a host that is no next hop: at the port of MX hosts, and at the addresses that an MX host may
// have.
func (r *Relay) ReachHost(ctx context.Context, host string, how Reach) []Reached {
	l := r.local
	return l.reach(l.within(ctx), dial.Target{
		Site: mail.Site(host), Transport: mail.SMTP, Port: l.cfg.Port, TLS: smtpclient.Opportunistic,
		Hosts: []string{host},
	}, mail.Path{}, how)
}

// reach asks the addresses of the hosts of a target.
func (l *Local) reach(ctx context.Context, t dial.Target, from mail.Path, how Reach) (out []Reached) {
	if how.Clear {
		t.TLS = smtpclient.None
	}
	most := dial.MostAddrs
	if how.Addrs > 0 {
		most = how.Addrs
	}
	for _, host := range t.Hosts {
		if len(out) >= most {
			break
		}
		addrs, err := l.dialer.Look(ctx, &t, host)
		if err != nil {
			out = append(out, Reached{Host: host, Found: probe.Failed(probe.StepAddress, err)})
		}
		for _, a := range addrs {
			switch {
			case !a.IsValid():
				out = append(out, Reached{Host: host})
			case !how.Source.IsValid() || how.Source.Is4() == a.Is4():
				out = append(out, Reached{Host: host, Addr: netip.AddrPortFrom(a, t.Port)})
			}
		}
	}
	out = out[:min(len(out), most)]
	var asking sync.WaitGroup
	for i := range out {
		if len(out[i].Steps) == 0 {
			asking.Go(func() { l.ask(ctx, &out[i], t, from, how) }) // ends with its time
		}
	}
	asking.Wait()
	return out
}

// ask asks one address.
func (l *Local) ask(ctx context.Context, at *Reached, t dial.Target, from mail.Path, how Reach) {
	ctx, cancel := context.WithTimeout(ctx, how.Most)
	defer cancel()
	call := probe.Call{
		Client: l.cfg.Client, Target: l.dialer.TargetAt(ctx, t, at.Host, at.Addr.Addr()), From: from, To: how.To,
		Connect: l.dialer.Connect,
	}
	if how.Source.IsValid() {
		call.Target.Source = how.Source
	}
	at.Found = probe.Host(ctx, call)
}
