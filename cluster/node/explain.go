package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/ingress"
	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/mail"
)

// A Question is a message that nobody sends: what would become of it? A nil part was left out.
type Question struct {
	IP   netip.Addr
	Helo *string
	From *mail.Path
	To   *mail.Path
	On   string // the address of the listener that is asked, "" for the first
}

// The verdicts of an Answer.
const (
	Accept = "accept"
	Drop   = "drop"
	Defer  = "defer"
	Reject = "reject"
)

// An Answer tells what would become of a message and why, as far as this node decides: the destination is not asked.
type Answer struct {
	Verdict string   `json:"verdict"`
	Reply   string   `json:"reply,omitempty"` // what the client would read, unless it is accepted
	Reason  string   `json:"reason,omitempty"`
	Cause   string   `json:"cause,omitempty"`
	Client  string   `json:"client"`
	On      string   `json:"listener"`
	Trusted bool     `json:"trusted"`
	Helo    string   `json:"helo,omitempty"`
	From    string   `json:"from,omitempty"`
	To      string   `json:"to,omitempty"`
	Score   *Scored  `json:"score,omitempty"`
	Steps   []string `json:"steps,omitempty"`
	Rule    string   `json:"rule,omitempty"`
	Ways    []Way    `json:"ways,omitempty"`
	Skipped []string `json:"skipped"` // what was not looked at, and why
	Notes   []string `json:"notes,omitempty"`
}

// A Scored is what is thought of the client.
type Scored struct {
	Total   float64  `json:"total"`
	Defer   float64  `json:"defer"`
	Reject  float64  `json:"reject"`
	Verdict string   `json:"verdict"` // of the score alone
	Signals []Signal `json:"signals"`
	Grey    bool     `json:"greylisted,omitempty"` // mail of the client is greylisted
}

// A Signal is one thing that was looked at.
type Signal struct {
	Name   string  `json:"name"`
	State  string  `json:"state"` // spoke, silent, unheard or skipped
	Weight float64 `json:"weight"`
	Text   string  `json:"text,omitempty"`
}

// A Way is one next hop of the message.
type Way struct {
	NextHop string   `json:"next_hop"`
	Reverse string   `json:"reverse,omitempty"`
	Forward []string `json:"forward"`
	Site    string   `json:"site,omitempty"`
	Hosts   []Host   `json:"hosts,omitempty"`
}

// A Host is one host that would be tried.
type Host struct {
	Name  string   `json:"name"`
	Pref  *uint16  `json:"preference,omitempty"`
	Addrs []string `json:"addresses,omitempty"`
	Error string   `json:"error,omitempty"`
}

// explainBudget is how long look-ups may take in all.
const explainBudget = 30 * time.Second

// Explain answers q by the code that mail goes through, without a session to any destination and without changing a
// counter. The error means that there is no answer: the configuration is bad.
func (c *Config) Explain(ctx context.Context, q Question) (*Answer, error) {
	m, err := c.load(false)
	if err != nil {
		return nil, err
	}
	l, err := c.listener(q.On)
	if err != nil {
		return nil, err
	}
	a := &Answer{Verdict: Accept, Client: q.IP.String(), On: l.Addr, Trusted: l.trusts(q.IP), Skipped: []string{}}
	c.noteTrust(a, l, q.IP)
	a.skip(c, q)
	resolver, err := c.newResolver()
	if err != nil {
		return nil, err
	}
	defer resolver.Close()
	ctx, cancel := context.WithTimeout(ctx, explainBudget)
	defer cancel()
	if c.Score != nil && !a.Trusted {
		refusal, err := c.scoreFor(ctx, a, m, resolver, q)
		if err != nil {
			return nil, err
		}
		if refusal != nil && !c.exempts(m, q) {
			a.refuse(refusal)
			return a, nil
		}
	}
	if q.To == nil {
		return a, nil
	}
	query := mail.Query{Forward: *q.To, Trusted: a.Trusted}
	if q.From != nil {
		query.Reverse = *q.From
	}
	steps, routes, err := m.rules.Explain(query)
	a.Steps = steps
	if err != nil {
		a.refuse(err)
		return a, nil
	}
	return a, c.follow(ctx, a, m, resolver, routes)
}

// listener finds the one that is asked.
func (c *Config) listener(addr string) (*Listener, error) {
	for i := range c.Listen {
		if addr == "" || c.Listen[i].Addr == addr {
			return &c.Listen[i], nil
		}
	}
	return nil, fmt.Errorf("there is no listener %s", addr)
}

// trusts reports whether a client at addr may relay anywhere.
func (l *Listener) trusts(addr netip.Addr) bool {
	for _, n := range l.Networks {
		if n.Contains(addr.Unmap()) {
			return true
		}
	}
	return false
}

func (c *Config) noteTrust(a *Answer, asked *Listener, ip netip.Addr) {
	for i := range c.Listen {
		if l := &c.Listen[i]; l != asked && l.trusts(ip) {
			a.Notes = append(a.Notes, "this client is trusted at "+l.Addr)
		}
	}
}

// skip names what was left out of the question or is not done by this version.
func (a *Answer) skip(c *Config, q Question) {
	skip := func(what, why string) { a.Skipped = append(a.Skipped, what+": "+why) }
	switch {
	case c.Score == nil:
		skip("score", "the configuration has none")
	case a.Trusted:
		skip("score", "trusted clients have none")
	}
	if q.Helo == nil {
		skip("helo", "not given")
	} else {
		a.Helo = *q.Helo
	}
	if q.From == nil {
		skip("from", "not given")
	} else {
		a.From = "<" + q.From.String() + ">"
	}
	if q.To == nil {
		skip("to", "not given")
		skip("rules", "they need --to")
	} else {
		a.To = "<" + q.To.String() + ">"
	}
}

// scoreFor judges the client by the code that clients are judged by, without drawing a rate. The refusal is nil if it
// may go on. The error is Problems.
func (c *Config) scoreFor(ctx context.Context, a *Answer, m *material, resolver *dns.Resolver,
	q Question) (*mail.Refusal, error) {
	st, err := store.New(c.storeConfig())
	if err != nil {
		return nil, c.place("redis.", "redis.url", err)
	}
	defer st.Close()
	keys, err := m.secret.derive(labelScore)
	if err != nil {
		return nil, err
	}
	s, err := c.newScoring(st, resolver, keys[0], nil)
	if err != nil {
		return nil, err
	}
	defer s.lists.Close()
	s.lists.Start()
	s.lists.Await(ctx)
	k := s.scorer.Look(ctx, score.Client{Addr: q.IP.Unmap()})
	defer k.Close()
	helo := ""
	if q.Helo != nil {
		helo = *q.Helo
		k.Helo(helo)
	}
	if q.From != nil {
		checker, err := spf.New(spf.Config{Resolver: resolver.Plain()})
		if err != nil {
			return nil, err
		}
		check := checker.Begin(ctx, q.IP.Unmap(), helo, *q.From)
		defer check.Close()
		k.Mail(*q.From, check)
	}
	v := k.Verdict(ctx)
	a.Score = &Scored{
		Total: v.Score, Defer: c.Score.Defer, Reject: c.Score.Reject, Verdict: v.Action.String(), Grey: k.Grey(v),
	}
	for _, sig := range k.Explain() {
		a.Score.Signals = append(a.Score.Signals,
			Signal{Name: sig.Name, State: sig.State.String(), Weight: sig.Weight, Text: sig.Text})
	}
	if limited := k.Limited(); limited != nil {
		return limited, nil
	}
	return k.Refusal(v), nil
}

// exempts reports whether the recipient is one of ours that everybody may reach.
func (c *Config) exempts(m *material, q Question) bool {
	if q.To == nil || !ingress.IsPostmaster(*q.To) {
		return false
	}
	_, err := m.rules.Route(mail.Query{Forward: *q.To})
	_, ours := decisive(err)
	return err == nil || ours
}

// refuse makes err the verdict.
func (a *Answer) refuse(err error) {
	r := mail.ReplyFor(err)
	a.Verdict = Reject
	if r.Class() == 4 {
		a.Verdict = Defer
	}
	a.Reply = r.String()
	var refusal *mail.Refusal
	if errors.As(err, &refusal) {
		a.Reason = refusal.Reason
		if refusal.Cause != nil {
			a.Cause = refusal.Cause.Error()
		}
	}
	if rule, ok := decisive(err); ok {
		a.Rule = rule.String()
	}
}

// follow looks up where the routes lead.
func (c *Config) follow(ctx context.Context, a *Answer, m *material, resolver *dns.Resolver,
	routes []mail.Route) error {
	out, err := c.egressConfig(resolver, m)
	if err != nil {
		return err
	}
	finder, err := mx.New(mx.Config{
		Resolver: resolver, AllowPrivate: out.AllowPrivate, Self: out.Self, SelfAddrs: out.SelfAddrs,
		Providers: out.Providers,
	})
	if err != nil {
		return c.place("egress.", "egress", err)
	}
	for _, r := range routes {
		a.Rule = r.Rule.String()
		if r.Action == mail.Drop {
			a.Verdict = Drop
			continue
		}
		w := Way{NextHop: r.NextHop.String()}
		if a.From != "" {
			w.Reverse = "<" + r.Reverse.String() + ">"
		}
		for _, f := range r.Forwards {
			w.Forward = append(w.Forward, "<"+f.String()+">")
		}
		if err := w.find(ctx, finder, r.NextHop); err != nil {
			a.refuse(err)
			a.Rule = r.Rule.String()
		}
		a.Ways = append(a.Ways, w)
	}
	return nil
}

// find looks up the hosts of a next hop and their addresses. A host without any is not the end while another has one.
func (w *Way) find(ctx context.Context, finder *mx.Finder, hop mail.NextHop) error {
	if hop.Transport == mail.LMTPUnix {
		return nil
	}
	if hop.Transport != mail.MX {
		h := Host{Name: hop.Host}
		err := h.find(ctx, finder.FixedAddrs)
		w.Hosts = append(w.Hosts, h)
		return err
	}
	set, err := finder.Hosts(ctx, strings.ToLower(hop.Host))
	if err != nil {
		return err
	}
	w.Site = string(set.Site)
	var first error
	found := false
	for _, host := range set.Hosts {
		pref := host.Pref
		h := Host{Name: host.Name, Pref: &pref}
		err := h.find(ctx, finder.Addrs)
		found = found || err == nil
		if first == nil {
			first = err
		}
		w.Hosts = append(w.Hosts, h)
	}
	if found {
		return nil
	}
	return first
}

func (h *Host) find(ctx context.Context, addrs func(context.Context, string) ([]netip.Addr, error)) error {
	list, err := addrs(ctx, h.Name)
	if err != nil {
		h.Error = err.Error()
		return err
	}
	for _, a := range list {
		h.Addrs = append(h.Addrs, a.String())
	}
	return nil
}
