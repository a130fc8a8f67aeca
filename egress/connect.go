package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http/httptrace"
	"net/netip"
	"time"

	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/mail"
)

const (
	// headStart is how long an address is tried alone before one of the other family is tried as well (RFC 8305 section
	// 5 recommends 250 ms for the Connection Attempt Delay).
	headStart = 300 * time.Millisecond
	// maxAddrs bounds the addresses of one host that are tried.
	maxAddrs = 6
	// fairTry is how long a Site must have been tried when time runs out, to be called unreachable.
	fairTry = 10 * time.Second
	// The least and the most time that one address gets to accept a connection.
	leastConnect = 2 * time.Second
	mostConnect  = 30 * time.Second
)

// connect opens a session with one of p's hosts and puts it into s: all hosts of all preferences in their order, those
// that failed lately last, until one takes us or ctx's deadline passes. The error is a *mail.Refusal whose Cause tells
// of each host; the Site is cooled then, unless the client gave up or left too little time. crowded says that the Site
// has enough of our sessions and that one of those is to be waited for.
func (l *Local) connect(ctx context.Context, p *place, s *slot, d *mail.Delivery) (crowded bool, err error) {
	if r := l.authorize(p); r != nil {
		return false, r
	}
	begun := time.Now()
	c, span := l.span(ctx, "egress.dial")
	key, opened, failed := l.dialHosts(c, p, s)
	if opened != nil {
		l.handshakeSpan(c, span, opened)
	}
	if opened == nil {
		err := noHost(failed)
		end(span, err)
		for _, f := range failed {
			_, wait := l.react(s, d, f, false)
			crowded = crowded || wait
		}
		if crowded || errors.Is(ctx.Err(), context.Canceled) || over(ctx) && time.Since(begun) < fairTry {
			return crowded, err // which says nothing of the Site, or nothing bad
		}
		refused := false
		for _, f := range failed {
			if r := aboutUs(f); r != nil {
				refused = true
				l.anomaly(d, r, "")
			}
		}
		if !isPolicy(err) || refused {
			s.Unreachable(err)
		}
		return false, err
	}
	note(span, "server.address", key.Host)
	note(span, "tls.protocol.version", opened.TLS())
	end(span, nil)
	s.Fill(key, opened)
	return false, nil
}

// dialHosts tries p's hosts.
func (l *Local) dialHosts(ctx context.Context, p *place, s *slot) (pool.Key, *session, failures) {
	var failed failures
	var down [2][]string // by whether they are marked
	for _, h := range p.hosts {
		mark := 0
		if len(p.hosts) > 1 && s.IsHostDown(h.Name) {
			mark = 1
		}
		down[mark] = append(down[mark], h.Name)
	}
	hosts := append(down[0], down[1]...)
	for i, host := range hosts {
		if i > 0 && over(ctx) {
			failed = append(failed, errors.New("no time left for "+host))
			break
		}
		key, opened, errs := l.dialHost(ctx, p, host, len(hosts)-i)
		if opened != nil {
			return key, opened, nil
		}
		failed = append(failed, errs...)
		if len(hosts) > 1 && !errors.Is(ctx.Err(), context.Canceled) {
			s.HostDown(host)
		}
	}
	return pool.Key{}, nil, failed
}

// over reports whether ctx has ended or its deadline has passed, for which a context of mail.Until does not end.
func over(ctx context.Context) bool {
	at, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(at)
}

// dialHost tries the addresses of one host, IPv6 first. hostsLeft counts this host and those after it, for which some
// time is to be left.
func (l *Local) dialHost(ctx context.Context, p *place, host string, hostsLeft int) (pool.Key, *session, failures) {
	key := pool.Key{Way: p.way, Host: host}
	if p.way.Transport == mail.LMTPUnix {
		opened, err := l.dial(ctx, l.cfg.Client, l.target(p, host, netip.Addr{}))
		if err != nil {
			return key, nil, failures{err}
		}
		return key, opened, nil
	}
	var addrs []netip.Addr
	var err error
	if p.fixed {
		addrs, err = l.finder.FixedAddrs(ctx, host)
	} else {
		addrs, err = l.finder.Addrs(ctx, host)
	}
	if err != nil {
		return key, nil, failures{err}
	}
	addrs = alternate(addrs)
	var failed failures
	for len(addrs) > 0 {
		limits := l.cfg.Client
		limits.Connect = connectTime(ctx, limits.Connect, hostsLeft+len(addrs)-1)
		n := 1
		if len(addrs) > 1 && addrs[0].Is4() != addrs[1].Is4() {
			n = 2
		}
		won, tried, errs := l.race(ctx, addrs[:n], func(ctx context.Context, a netip.Addr) (*session, error) {
			return l.dial(ctx, limits, l.target(p, host, a))
		})
		if won.session != nil {
			key.IPv6 = won.addr.Is6()
			key.Source = l.source(p.site, key.IPv6)
			return key, won.session, nil
		}
		failed = append(failed, errs...)
		addrs = addrs[tried:]
		if over(ctx) {
			break
		}
	}
	return key, nil, failed
}

// alternate gives addresses of both families in turn, IPv6 first, and not too many.
func alternate(addrs []netip.Addr) []netip.Addr {
	var family [2][]netip.Addr
	for _, a := range addrs {
		i := 0
		if a.Is4() {
			i = 1
		}
		family[i] = append(family[i], a)
	}
	out := make([]netip.Addr, 0, len(addrs))
	for i := range addrs {
		for _, f := range family {
			if i < len(f) {
				out = append(out, f[i])
			}
		}
	}
	return out[:min(len(out), maxAddrs)]
}

// connectTime is how long one address may take to accept a connection when so many are left to be tried.
func connectTime(ctx context.Context, most time.Duration, left int) time.Duration {
	if most == 0 {
		most = mostConnect
	}
	at, ok := ctx.Deadline()
	if !ok {
		return most
	}
	return min(most, max(leastConnect, time.Until(at)/time.Duration(left)))
}

// target is what to connect to.
func (l *Local) target(p *place, host string, a netip.Addr) smtpclient.Target {
	policy := smtpclient.TLSPolicy(p.way.TLS)
	t := smtpclient.Target{
		Network: "tcp", Host: host, Helo: l.cfg.Helo, TLS: policy, TLSConfig: l.tls[policy], User: p.way.User,
		Password: p.password,
		LMTP:     p.way.Transport == mail.LMTP || p.way.Transport == mail.LMTPUnix,
	}
	if p.way.Transport == mail.LMTPUnix {
		t.Network, t.Addr = "unix", host
		return t
	}
	t.Addr = netip.AddrPortFrom(a, p.way.Port).String()
	t.Source = l.source(p.site, a.Is6())
	if literal, ok := mail.LiteralAddr(host); ok {
		t.Host = literal.String()
	}
	return t
}

// dial opens a session with one address. A TLS handshake that breaks off is tried again without post-quantum key
// exchange, whose large first message some boxes in the middle cannot take; and under the opportunistic policy,
// whatever was wrong with TLS, once more in clear.
func (l *Local) dial(ctx context.Context, limits smtpclient.Config, t smtpclient.Target) (*session, error) {
	opened, err := smtpclient.Dial(ctx, limits, t)
	if err == nil || !handshakeFailed(err) || over(ctx) {
		return opened, err
	}
	first := err
	if brokeOff(err) {
		t.TLSConfig = l.classic[t.TLS]
		opened, err = smtpclient.Dial(ctx, limits, t)
		if err == nil || !handshakeFailed(err) || over(ctx) {
			return opened, err
		}
	}
	if t.TLS != smtpclient.Opportunistic {
		return nil, first
	}
	t.TLS = smtpclient.None
	if opened, err = smtpclient.Dial(ctx, limits, t); err != nil {
		return nil, failures{first, err}
	}
	return opened, nil
}

// authorize looks up the password that p's sessions need, if they need one.
func (l *Local) authorize(p *place) *mail.Refusal {
	if p.way.User == "" {
		return nil
	}
	ok := false
	if l.cfg.Password != nil {
		p.password, ok = l.cfg.Password(p.way.User, p.hosts[0].Name, p.way.Port)
	}
	if !ok {
		return mail.Refuse(451, 3, 5, "System is not configured for this destination", "no password",
			errors.New("no password for "+p.way.User+" at "+string(p.site)))
	}
	return nil
}

// handshakeFailed reports whether err is of the TLS handshake, after STARTTLS was agreed on.
func handshakeFailed(err error) bool {
	var d *smtpclient.DialError
	return errors.As(err, &d) && d.Stage == smtpclient.StageTLS
}

// brokeOff reports whether the other side said nothing about why a handshake failed, which is what a box in the middle
// does.
func brokeOff(err error) bool {
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" {
		return false
	}
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	return !errors.As(err, &certificate) && !errors.As(err, &record) && !errors.As(err, &unknown) &&
		!errors.As(err, &name)
}

// An attempt is what became of dialling one address.
type attempt struct {
	addr    netip.Addr
	session *session
	err     error
}

// race dials the first of at most two addresses, and the second as well if the first has not accepted the connection
// after headStart. The first to accept is kept and the other given up, because two sessions with one host would count
// against us. It returns when nothing it started is running; tried says how many of the addresses were.
func (l *Local) race(ctx context.Context, addrs []netip.Addr,
	dial func(context.Context, netip.Addr) (*session, error)) (won attempt, tried int, failed failures) {
	if len(addrs) == 1 {
		opened, err := dial(ctx, addrs[0])
		if err != nil {
			return attempt{}, 1, failures{err}
		}
		return attempt{addr: addrs[0], session: opened}, 1, nil
	}
	results := make(chan attempt, len(addrs))
	connected := make(chan int, 16) // tells of the first few; what does not fit is not missed
	cancels := make([]context.CancelFunc, len(addrs))
	start := func(i int) {
		c, cancel := context.WithCancel(ctx)
		cancels[i] = cancel
		c = httptrace.WithClientTrace(c, &httptrace.ClientTrace{ConnectDone: func(_, _ string, err error) {
			if err == nil {
				select {
				case connected <- i:
				default:
				}
			}
		}})
		go func() { // ends with dial, which cancel and ctx's deadline cut short; awaited through results
			opened, err := dial(c, addrs[i])
			results <- attempt{addrs[i], opened, err}
		}()
	}
	start(0)
	defer func() { cancels[0]() }()
	tried = 1
	timer := time.NewTimer(headStart)
	defer timer.Stop()
	for running := 1; running > 0; {
		select {
		case i := <-connected:
			timer.Stop()
			if tried == 2 {
				cancels[1-i]()
			}
		case <-timer.C:
			start(1)
			defer func() { cancels[1]() }()
			tried = 2
			running++
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				failed = append(failed, r.err)
				timer.Stop() // the second address is for the caller to go on with
			case won.session != nil:
				r.session.Close()
			default:
				won = r
				for i := range tried {
					cancels[i]()
				}
			}
		}
	}
	return won, tried, failed
}
