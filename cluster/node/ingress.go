package node

import (
	"context"
	"time"

	"github.com/millrace/millrace/ingress"
	"github.com/millrace/millrace/ingress/client"
	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/ingress/message/filter"
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// An around is what the server of SMTP sessions meets beside the parts of the node: what a running node has of it, and
// what an explanation puts in its place.
type around struct {
	router   ingress.Router
	relay    ingress.Relay
	store    world.Store
	emit     func(mail.Event)
	rules    func() string // which rules there are
	tracing  *mail.Tracing
	ledger   *once.Ledger
	learning *learning   // nil: nothing is learnt
	filters  *filter.Set // nil: no content filter is asked
	look     bool        // the sessions are for an explanation
	noHooks  bool        // hooks are not asked
}

// makeServer makes the server that answers SMTP sessions. It needs the relay and, where clients are scored, the
// learning. The error is Problems.
func (n *Node) makeServer() (err error) {
	n.server, err = n.parts.serverFor(around{
		router: n.parts.files.rules, relay: n.relay, store: n.parts.store, emit: n.events.Emit,
		rules: n.rules.router.Label, tracing: n.telemetry.tracing, ledger: n.memory.ledger,
		learning: n.memory.learning, filters: n.parts.filters,
	})
	return err
}

// askHook returns what asks hooks, nil where none are asked.
func (p *parts) askHook(asked bool) func(context.Context, mail.HookQuestion) mail.HookAnswer {
	if p.decisions == nil || !asked {
		return nil
	}
	return p.decisions.Ask
}

// serverFor makes the server that answers SMTP sessions, for a node and for an explanation alike. The error is
// Problems.
func (p *parts) serverFor(a around) (*ingress.Server, error) {
	loopTagKeys, err := p.files.secret.derive(labelLoopTag)
	if err != nil {
		return nil, err
	}
	markKeys, err := p.files.secret.derive(labelMark)
	if err != nil {
		return nil, err
	}
	idKeys, err := p.files.secret.derive(labelMessageID)
	if err != nil {
		return nil, err
	}
	d := p.cfg.Deadlines
	cfg := ingress.Config{
		Router:  a.router,
		Relay:   a.relay,
		Store:   a.store,
		Hook:    p.askHook(!a.noHooks),
		Emit:    a.emit,
		Rules:   a.rules,
		Tracing: a.tracing,
		// What is delivered by us comes from them, and so do the addresses that others write to us at.
		Addresses: p.egress.Addresses,
		Rcpt:      time.Duration(d.Rcpt),
		FanOut:    p.cfg.Limits.FanOut, FanOutPerClient: p.cfg.Limits.FanOutPerClient,
		Message: message.Config{
			Hostname:    p.cfg.Hostname,
			LoopTagKeys: loopTagKeys,
			HoldWindow:  int64(p.cfg.Limits.HoldWindow),

			MessageIDKey: idKeys[0],

			Auth:     p.auth,
			SPF:      p.spf,
			ARC:      func(s mail.Site) mail.ARCUse { return p.files.sites.Load().providers.ARC(s) },
			Store:    a.store,
			MarkKeys: markKeys,
			Once:     a.ledger,
			Filters:  a.filters,
			Data:     time.Duration(d.Data),
			Commit:   time.Duration(d.Commit),
			Lend:     time.Duration(d.Lend),
		},
	}
	if s := p.scoring; s != nil {
		cfg.Client = client.Config{
			Score: s.scorer, Limits: s.limits, Greylist: s.greylist, Store: a.store,
		}
	}
	if l := a.learning; l != nil {
		cfg.Client.Counts, cfg.Client.Karma = l.rates, l.karma
	}
	cfg.Client.Guard, cfg.Client.Look = p.guard, a.look
	server, err := ingress.New(cfg)
	return server, p.cfg.WithLine("", "hostname", err)
}
