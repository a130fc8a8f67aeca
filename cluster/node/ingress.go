package node

import (
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/ingress"
)

// makeServer makes the SMTP server's side from the parts that are there by now: the relay, the store, what judges
// messages and, where clients are scored, what judges them. The error is Problems.
func (n *Node) makeServer(tracer trace.Tracer) error {
	hopKeys, err := n.material.secret.derive(labelHop)
	if err != nil {
		return err
	}
	markKeys, err := n.material.secret.derive(labelMark)
	if err != nil {
		return err
	}
	auth, checker, err := n.cfg.newAuthenticator(n.resolver)
	if err != nil {
		return err
	}
	if err := n.cfg.useKeyring(auth, n.material.keyring); err != nil {
		return err
	}
	n.auth = auth
	d := n.cfg.Deadlines
	cfg := ingress.Config{
		Hostname:   n.cfg.Hostname,
		Router:     n.material.rules,
		Relay:      n.relay,
		Rates:      n.store,
		Emit:       n.events.Emit,
		Tracer:     tracer,
		HopKeys:    hopKeys,
		InUse:      n.inUse,
		HoldBudget: int64(n.cfg.Limits.HoldBudget),
		HoldWindow: int64(n.cfg.Limits.HoldWindow),
		Auth:       auth,
		SPF:        checker,
		Marks:      n.store,
		MarkKeys:   markKeys,
		Deadlines: ingress.Deadlines{
			Rcpt:   time.Duration(d.Rcpt),
			Data:   time.Duration(d.Data),
			Commit: time.Duration(d.Commit),
			Lend:   time.Duration(d.Lend),
		},
	}
	if s := n.scoring; s != nil {
		cfg.Score, cfg.Limits, cfg.Greylist = s.scorer, s.limits, s.greylist
		cfg.Counts, cfg.Later, cfg.Karma = n.store, n.drawn, n.karma
	}
	n.server, err = ingress.New(cfg)
	return n.cfg.place("", "hostname", err)
}
