package node

import (
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/ingress"
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
	d := n.cfg.Deadlines
	cfg := ingress.Config{
		Hostname:   n.cfg.Hostname,
		Router:     p.files.rules,
		Relay:      n.relay,
		Rates:      p.store,
		Emit:       n.events.Emit,
		Tracer:     tracer,
		HopKeys:    loopTagKeys,
		InUse:      n.listeners.holdInUse,
		HoldBudget: int64(n.cfg.Limits.HoldBudget),
		HoldWindow: int64(n.cfg.Limits.HoldWindow),
		Auth:       p.auth,
		SPF:        p.spf,
		Marks:      p.store,
		MarkKeys:   markKeys,
		Deadlines: ingress.Deadlines{
			Rcpt:   time.Duration(d.Rcpt),
			Data:   time.Duration(d.Data),
			Commit: time.Duration(d.Commit),
			Lend:   time.Duration(d.Lend),
		},
	}
	if s := p.scoring; s != nil {
		cfg.Score, cfg.Limits, cfg.Greylist = s.scorer, s.limits, s.greylist
		cfg.Counts, cfg.Later, cfg.Karma = p.store, n.learning.rates, n.learning.karma
	}
	n.server, err = ingress.New(cfg)
	return n.cfg.WithLine("", "hostname", err)
}
