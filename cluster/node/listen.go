package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/ingress/wire"
)

// listeners are the addresses that accept mail, and what all of them share.
type listeners struct {
	places  *wire.Places
	memory  wire.Memory
	servers []*wire.Server
	own     *ownMail // carries what the node itself sends
	bound   []net.Listener
	up      atomic.Bool // all are bound and none has failed, that of other nodes included
}

func newListeners(l *config.Limits) *listeners {
	return &listeners{places: newPlaces(l), memory: wire.Memory{Budget: int64(l.HoldBudget)}}
}

// connections returns how many clients are connected, and how many may be.
func (l *listeners) connections() (now, most int) { return l.places.Open(), l.places.Most() }

// hold returns what the metrics show of the memory for messages.
func (l *listeners) hold() admin.Hold {
	m := &l.memory
	return admin.Hold{InUse: m.InUse(), Budget: m.Budget, GaveWay: m.GaveWay(), Refused: m.Refused()}
}

// shutdown shuts all servers down at once and returns their errors.
func (l *listeners) shutdown(ctx context.Context) error {
	var all sync.WaitGroup
	errs := make([]error, len(l.servers))
	for i, s := range l.servers {
		all.Go(func() { errs[i] = s.Shutdown(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// inFlight returns how many transactions are open, and of how many messages the end of data was released without an
// answer to the client yet.
func (l *listeners) inFlight() (open, committing int) {
	for _, s := range l.servers {
		o, c := s.InFlight()
		open, committing = open+o, committing+c
	}
	return open, committing
}

// listen binds every address before it serves any, so that a node that cannot have one of them never answered on
// another.
func (l *listeners) listen(c *config.Config, wireConfig func(*config.Listener) wire.Config, log *logger,
	ends *cleanups) error {
	for i := range c.Listen {
		s, err := wire.NewServer(wireConfig(&c.Listen[i]))
		if err != nil {
			return c.WithLine("", fmt.Sprintf("listen[%d]", i), err)
		}
		bound, err := net.Listen("tcp", c.Listen[i].Addr)
		if err != nil {
			for _, b := range l.bound {
				b.Close()
			}
			return c.WithLine("", fmt.Sprintf("listen[%d].addr", i), err)
		}
		l.servers, l.bound = append(l.servers, s), append(l.bound, bound)
	}
	var serving sync.WaitGroup
	for i, s := range l.servers {
		bound := l.bound[i]
		serving.Go(func() { // ends when Shutdown closes the listener
			if err := s.Serve(bound); err != nil {
				l.failed(log, bound.Addr(), err)
			}
		})
		log.say(slog.LevelInfo, "listening", "for", "smtp", "addr", bound.Addr().String(), "relay", c.Listen[i].Relay)
	}
	ends.add("listeners", func(ctx context.Context) error {
		err := l.shutdown(ctx)
		serving.Wait()
		return err
	})
	return nil
}

// failed makes the node not ready, because it no longer accepts connections at addr.
func (l *listeners) failed(log *logger, addr net.Addr, err error) {
	log.say(slog.LevelError, "listener failed", "addr", addr.String(), "cause", err.Error())
	l.up.Store(false)
}

// wireConfig returns what a listener is told. The server has to be made before the first session comes.
func (n *Node) wireConfig(l *config.Listener) wire.Config {
	cfg, trust := n.parts.wireConfig(l, n.listeners), trustOf(l)
	cfg.NewSession = func(_ context.Context, client *wire.Client) wire.Session {
		return n.server.NewSession(client, trust)
	}
	if l.Submission {
		serveUsers(n, l, &cfg)
	}
	cfg.Tracing = n.telemetry.tracing
	cfg.Emit, cfg.Panicked, cfg.Abort = n.events.Emit, n.log.panicked, n.abortNextHops
	cfg.Handshake = func(took time.Duration, err error) { n.metrics.ObserveHandshake(admin.WithClient, took, err) }
	return cfg
}

// wireConfig returns what a listener is told without the node that has the sessions, for a node and for an explanation
// alike.
func (p *parts) wireConfig(l *config.Listener, all *listeners) wire.Config {
	limits := p.cfg.Limits
	handshake := p.files.certificate.public
	switch {
	case l.ClientCA != "":
		handshake = p.files.certificate.asking
	case l.Relay == "trusted":
		handshake = p.files.certificate.trusted
	case l.Submission:
		handshake = p.files.certificate.users
	}
	return wire.Config{
		Hostname: p.cfg.Hostname,
		Page:     p.cfg.RefusalPage(),
		TLS:      handshake,
		Implicit: l.TLS == "implicit",
		Believed: wire.Believed{
			Proxy:       config.Prefixes(l.ProxyProtocol),
			Xclient:     config.Prefixes(l.Xclient),
			Traceparent: config.Prefixes(p.cfg.Telemetry.Traceparent),
			Certified:   p.files.certifiedOn(l),
		},
		Bounds: wire.Bounds{
			MessageSize: int64(limits.MessageSize),
			Line:        int(limits.Line),
			Recipients:  limits.Recipients,
		},
		Places:     all.places,
		LoosePaths: l.Relay == "trusted",
		Standing:   standingOn(l, p.scoring),
		Memory:     &all.memory,
		Lend:       time.Duration(p.cfg.Deadlines.Lend),
		RequireTLS: p.canRequireTLS(),
	}
}

// canRequireTLS reports whether this node can demand of destinations what REQUIRETLS asks for (RFC 8689 section 4.2.1):
// a certificate that is checked, of a host that DNSSEC or MTA-STS vouches for.
func (p *parts) canRequireTLS() bool {
	return p.egress.TLS != egress.TLSNone && (p.cfg.DNS.TrustAD || p.cfg.Egress.MTASTS)
}

// abortNextHops ends all waits for next hops, here and at other nodes, when the time of a drain is over. Messages whose
// end of data was released are not affected.
func (n *Node) abortNextHops() {
	n.relay.Abort()
	if n.members.peers != nil {
		n.members.peers.Abort()
	}
}
