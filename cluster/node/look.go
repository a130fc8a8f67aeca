package node

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/ingress"
	"github.com/millrace/millrace/ingress/message/filter"
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// A lookout is the surroundings of a server whose one session is for an explanation: the rules in force, the hosts that
// names lead to in place of sessions with them, and a store that remembers nothing. It writes down what the session
// asks of them and what it reports. It is safe for concurrent use.
type lookout struct {
	*parts
	*reacher
	sees    *egress.Relay // knows where names lead
	connect bool          // recipients are offered to next hops
	at      *time.Time    // by which rules begin and end; nil: now
	shown   *filter.Set   // the content filters that are asked; nil: none

	asksHooks bool // hooks of rules are asked

	mu     sync.Mutex // guards what follows
	steps  []string   // of the rules
	routes []mail.Route
	wrote  []string     // what became of the reverse-path
	ways   []sighted    // in the order in which they were begun
	events []mail.Event // of the session
	octets []byte       // the begin of what the first next hop would get of the message
	kept   bool         // there is a first one
	looked ingress.Looked
}

// A sighted is a delivery, and where it would go.
type sighted struct {
	hop mail.NextHop
	way Way
	err error // why it goes nowhere
}

// newLookout returns a lookout over parts whose rules are in force. With connect it goes to next hops as far as RCPT.
// sees is the relay that looks for next hops; nil: one of its own. The caller calls hangUp.
func newLookout(p *parts, connect bool, sees *egress.Relay) (*lookout, error) {
	l := &lookout{parts: p, connect: connect, sees: sees}
	cfg := p.egress
	cfg.Emit = l.note
	var err error
	if l.reacher, err = newReacher(cfg); err != nil {
		return nil, p.cfg.WithLine("egress.", "egress", err)
	}
	if l.sees == nil {
		l.sees = l.relay
	}
	return l, nil
}

// note writes down an event.
func (l *lookout) note(e mail.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// wireConfigFor returns what the listener is told, as a running node tells it. The client comes by itself and in clear.
func (l *lookout) wireConfigFor(on *config.Listener, user string, given ingress.Given) (wire.Config, error) {
	a := around{
		router: l, relay: l, store: lookStore{l.store}, emit: l.note, rules: l.files.rules.Label, look: true,
		filters: l.shown, noHooks: !l.asksHooks,
	}
	if l.cfg.Once {
		var err error
		if a.ledger, err = l.ledgerOn(lookStore{l.store}, l.note); err != nil {
			return wire.Config{}, err
		}
	}
	server, err := l.serverFor(a)
	if err != nil {
		return wire.Config{}, err
	}
	if on.Submission {
		if given.Accounts, err = l.accountsOf(on.UsersFile, a.store, nil); err != nil {
			return wire.Config{}, err
		}
	}
	cfg, trust := l.wireConfig(on, newListeners(&l.cfg.Limits)), trustOf(on)
	cfg.Implicit, cfg.Proxy, cfg.Xclient = false, nil, nil
	cfg.NewSession = func(_ context.Context, c *wire.Client) wire.Session {
		if on.Submission {
			c.Login = &wire.Login{User: user}
		}
		return server.NewLook(c, trust, given, func(found ingress.Looked) { l.looked = found })
	}
	cfg.Emit = l.note
	return cfg, nil
}

// ledgerOn makes the ledger over a store. The configuration wants one.
func (p *parts) ledgerOn(store once.Store, emit func(mail.Event)) (*once.Ledger, error) {
	keys, err := p.files.secret.derive(labelOnce)
	if err != nil {
		return nil, err
	}
	return once.New(store, once.NewKeys(keys), emit, time.Now), nil
}

// Route asks the rules in force, and writes down what they tried for the client. What a session asks them besides, such
// as whether a postmaster is ours, is not for the client.
func (l *lookout) Route(q mail.Query) ([]mail.Route, error) {
	l.date(&q)
	steps, routes, err := l.files.rules.Explain(q)
	if q.Client.IsValid() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.steps, l.routes = steps, routes
	}
	return routes, err
}

// date sets the time of a query to that of the question.
func (l *lookout) date(q *mail.Query) {
	if l.at != nil {
		q.At = *l.at
	}
}

// Rewrite asks the rules in force, and writes down what became of the reverse-path.
func (l *lookout) Rewrite(q mail.Query, opens mail.Opens) (reverse mail.Path, remark string) {
	l.date(&q)
	reverse, remark = l.files.rules.Rewrite(q, opens)
	step := "the reverse-path becomes <" + reverse.String() + ">, which opens to " + opens.String()
	if remark != "" {
		step = "the reverse-path is not rewritten: " + remark
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrote = append(l.wrote, step)
	return reverse, remark
}

// Begin finds where d would go, and returns a transaction that delivers nothing.
func (l *lookout) Begin(ctx context.Context, d mail.Delivery) (mail.Transaction, error) {
	at := sighted{hop: d.NextHop}
	var sight egress.Sight
	sight, at.err = l.sees.Look(ctx, d)
	if d.Leg != nil {
		d.Leg.Site = sight.Site // what is signed depends on it
	}
	d.Settle(ctx)
	at.way = wayOf(sight, &d)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ways = append(l.ways, at)
	if at.err != nil {
		return nil, at.err
	}
	t := &lookTransaction{to: l, way: len(l.ways) - 1, d: d}
	if !l.kept {
		t.keep, l.kept = l, true
	}
	return t, nil
}

// wayOf returns a delivery and where it would go as an answer has it.
func wayOf(sight egress.Sight, d *mail.Delivery) Way {
	w := Way{NextHop: d.NextHop.String(), Reverse: "<" + d.Reverse.String() + ">"}
	if !sight.Fixed {
		w.Site = string(sight.Site)
	}
	for i := range sight.Hosts {
		seen := &sight.Hosts[i]
		h := Host{Name: seen.Name}
		if !sight.Fixed {
			h.Pref = &seen.Pref
		}
		for _, a := range seen.Addrs {
			if a.IsValid() { // else the proxy looks it up
				h.Addrs = append(h.Addrs, a.String())
			}
		}
		if seen.Err != nil {
			h.Error = seen.Err.Error()
		}
		if d.NextHop.Transport != mail.LMTPUnix {
			w.Hosts = append(w.Hosts, h)
		}
	}
	return w
}

// waysOf returns where the recipient's mail would go, in the order of its routes. The routes that are tried where
// others fail are looked at as well.
func (l *lookout) waysOf(ctx context.Context) (ways []Way) {
	for i := range l.routes {
		place := 0
		if l.routes[i].Else != nil {
			place = 1
		}
		for r := &l.routes[i]; r != nil && r.Action != mail.Drop; r = r.Else {
			w := l.wayTo(ctx, r)
			w.Try = place
			if by := r.Policy.Client; by != mail.ClientUntold && r.NextHop.Transport != mail.MX {
				w.Client = by.String()
			}
			for _, f := range r.Forwards {
				w.Forward = append(w.Forward, "<"+f.String()+">")
			}
			ways = append(ways, w)
			place++
		}
	}
	return ways
}

// wayTo returns where mail on a route would go. One that the session did not begin is looked at now.
func (l *lookout) wayTo(ctx context.Context, r *mail.Route) Way {
	reverse := ""
	for i := range l.ways {
		if l.ways[i].hop == r.NextHop {
			return l.ways[i].way
		}
		reverse = l.ways[i].way.Reverse // all of a list have one
	}
	d := mail.Delivery{NextHop: r.NextHop, Reverse: r.Reverse}
	sight, err := l.sees.Look(ctx, d)
	w := wayOf(sight, &d)
	if r.Rewrite {
		w.Reverse = reverse
	}
	if err != nil && len(w.Hosts) == 0 {
		w.Hosts = []Host{{Name: r.NextHop.Host, Error: causeOf(err).Error()}}
	}
	return w
}

// last returns the last event that says how a transaction, or one of its recipients, ended or was begun.
func (l *lookout) last() (e mail.Event, ok bool) {
	for i := range l.events {
		if k := l.events[i].Kind; k == mail.Routed || k.IsOutcome() && k != mail.Aborted {
			e, ok = l.events[i], true
		}
	}
	return e, ok
}

// dropped reports whether rules deliver the recipient's mail nowhere.
func (l *lookout) dropped() bool { return len(l.routes) > 0 && l.routes[0].Action == mail.Drop }

// A lookTransaction takes a message that goes nowhere.
type lookTransaction struct {
	to       *lookout
	way      int // its place in the ways
	d        mail.Delivery
	keep     *lookout // keeps the begin of the message; nil: it is not kept
	accepted int
}

// Rcpt accepts a recipient, or asks the next hop whether it does.
func (t *lookTransaction) Rcpt(ctx context.Context, forward mail.Path) error {
	if t.to.connect {
		c, err := t.to.reach(ctx, t.d, []mail.Path{forward})
		t.to.mu.Lock()
		way := &t.to.ways[t.way].way
		way.Contacts = append(way.Contacts, c)
		t.to.mu.Unlock()
		if err != nil {
			return err
		}
	}
	t.accepted++
	return nil
}

// Stream has a place.
func (t *lookTransaction) Stream(context.Context) error { return nil }

// Data opens the message.
func (t *lookTransaction) Data(context.Context, mail.Form) error { return nil }

// maxLookOctets bounds what is kept of a message: more than our fields.
const maxLookOctets = 256 << 10

// Write keeps the begin of the message.
func (t *lookTransaction) Write(o mail.Octets) error {
	l := t.keep
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range o.Segments {
		l.octets = append(l.octets, s[:min(len(s), maxLookOctets-len(l.octets))]...)
	}
	return nil
}

// Commit takes the message for each recipient.
func (t *lookTransaction) Commit(_ context.Context, last mail.Octets) []mail.Outcome {
	_ = t.Write(last) // it has no error
	out := make([]mail.Outcome, t.accepted)
	for i := range out {
		out[i].Reply = mail.NewReply(250, 0, 0, "OK")
	}
	return out
}

// Abort ends the transaction.
func (t *lookTransaction) Abort() {}

// Lend keeps what there is.
func (t *lookTransaction) Lend() bool { return false }

// Renew has nothing to begin again.
func (t *lookTransaction) Renew(context.Context) error { return nil }

// Wanted reports that no other client waits.
func (t *lookTransaction) Wanted() bool { return false }

// SMTPUTF8 reports that the next hop takes any address: which it is is not known.
func (t *lookTransaction) SMTPUTF8() bool { return true }

// withoutID returns a reply as an answer has it: the id is that of no transaction.
func withoutID(r mail.Reply) string {
	r.ID = mail.TraceID{}
	return strings.TrimSpace(r.String())
}
