package node

import (
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/ingress"
	"github.com/millrace/millrace/ingress/client"
	"github.com/millrace/millrace/ingress/message"
)

// makeServer makes the server that answers SMTP sessions. It needs the relay and, where clients are scored, what
// startScore starts. The error is Problems.
func (n *Node) makeServer(tracer trace.Tracer) error {
	p := n.parts
	loopTagKeys, err := p.files.secret.derive(labelLoopTag)
	if err != nil {
		return err
	}
	markKeys, err := p.files.secret.derive(labelMark)
	if err != nil {
		return err
	}
	idKeys, err := p.files.secret.derive(labelMessageID)
	if err != nil {
		return err
	}
	d := n.cfg.Deadlines
	cfg := ingress.Config{
		Router: p.files.rules,
		Relay:  n.relay,
		Store:  p.store,
		Emit:   n.events.Emit,
		Rules:  n.rules.version,
		Tracer: tracer,
		// What is delivered by us comes from them, and so do the addresses that others write to us at.
		Addresses: p.egress.Addresses,
		Rcpt:      time.Duration(d.Rcpt),
		FanOut:    n.cfg.Limits.FanOut, FanOutPerClient: n.cfg.Limits.FanOutPerClient,
		Message: message.Config{
			Hostname:    n.cfg.Hostname,
			LoopTagKeys: loopTagKeys,
			HoldWindow:  int64(n.cfg.Limits.HoldWindow),

			MessageIDKey: idKeys[0],

			Auth:     p.auth,
			SPF:      p.spf,
			Store:    p.store,
			MarkKeys: markKeys,
			Once:     n.ledger,
			Data:     time.Duration(d.Data),
			Commit:   time.Duration(d.Commit),
			Lend:     time.Duration(d.Lend),
		},
	}
	if l := n.learning; l != nil {
		cfg.Client = p.clientConfig()
		cfg.Client.Counts, cfg.Client.Karma = l.rates, l.karma
	}
	cfg.Client.Guard = p.guard
	n.server, err = ingress.New(cfg)
	return n.cfg.WithLine("", "hostname", err)
}

// clientConfig returns what is asked about clients, which the configuration has to score, without what learns of them.
func (p *parts) clientConfig() client.Config {
	s := p.scoring
	return client.Config{Score: s.scorer, Limits: s.limits, Greylist: s.greylist, Store: p.store}
}
