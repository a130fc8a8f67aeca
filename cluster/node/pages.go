package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/admin/pages"
	"github.com/millrace/millrace/cluster/node/doctor"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// startPages makes the dashboard. It ends before the server that it is a part of, which waits for open pages.
func (n shown) startPages(a *account.Account) (*pages.Pages, error) {
	examine, err := n.dns.examiner(n.parts, &n.cleanups)
	if err != nil {
		return nil, err
	}
	oracle := newOracle(n.Node)
	return pages.New(pages.Config{
		Version: n.opts.Version, Enter: a.Authenticate, Account: a, Ask: n.rules.verifier.Ask,
		HasToken: n.parts.files.token != nil,
		Live:     n.liveNodes, Cluster: n.clusterStatus, Activity: n.activity,
		Clear: n.cfg.Log.Addresses != "hash",
		Logs:  func() bool { return n.readings().Log != nil },
		Rules: func() pages.Rules {
			r := n.rules.router
			return pages.Rules{Label: r.Label(), Rules: r.Len(), Domains: r.Domains(), Files: r.Files()}
		},
		Domains: func() []string { return n.rules.router.HostedNames(maxExamined) },
		Explain: oracle.explainPage, Examine: examine,
	}), nil
}

// live returns what this node does now.
func (n shown) live() admin.Live {
	l := n.metrics.Live()
	l.Node, l.At, l.Ready, l.Draining = n.activity.Name, time.Now(), n.ready(), n.drain.begun.Load()
	l.Clients, l.Most = n.listeners.connections()
	if n.listeners.up.Load() { // the servers are there
		l.Open, _ = n.listeners.inFlight()
	}
	sites := n.clusterStatus().Sites
	l.Sites = sites[:min(len(sites), admin.MaxLiveSites)]
	return l
}

// liveNodes returns what all nodes do now, this one first.
func (n shown) liveNodes(ctx context.Context) []admin.Live {
	others := n.members.others()
	all := make([]admin.Live, 1+len(others))
	var asking sync.WaitGroup
	for i, node := range others {
		asking.Go(func() { all[1+i] = n.liveOf(ctx, node) }) // ends with ctx
	}
	all[0] = n.live()
	asking.Wait()
	return all
}

// A liveQuestion asks a node what it does now.
type liveQuestion struct {
	Live bool `json:"live"`
}

// liveOf asks another node what it does.
func (n shown) liveOf(ctx context.Context, node string) (l admin.Live) {
	question, err := json.Marshal(liveQuestion{true})
	if err == nil {
		question, err = n.members.peers.Ask(ctx, node, question)
	}
	if err == nil {
		err = json.Unmarshal(question, &l)
	}
	if err == nil && l.At.IsZero() {
		err = errors.New("runs an older version, which does not say what it does")
	}
	if err != nil {
		return admin.Live{Node: node, Failed: library.ReplaceAllString(err.Error(), "")}
	}
	l.Node = node // what it says of itself does not count
	return l
}

// answerLive answers another node that asks what this one does, and reports false for another question.
func (n shown) answerLive(question []byte) ([]byte, bool) {
	var q liveQuestion
	if json.Unmarshal(question, &q) != nil || !q.Live {
		return nil, false
	}
	answer, err := json.Marshal(n.live())
	return answer, err == nil
}

// explainPage answers a question that was typed.
func (o *oracle) explainPage(ctx context.Context, typed pages.Question) (*pages.Explained, error) {
	q, err := questionOf(typed)
	if err != nil {
		return nil, err
	}
	select {
	case o.places <- struct{}{}:
		defer func() { <-o.places }()
	default:
		return nil, fmt.Errorf("the node answers %d other questions", maxAsked)
	}
	a, err := o.explain(ctx, q)
	if err != nil {
		return nil, err
	}
	return pageOf(a), nil
}

// questionOf reads what was typed. What was left empty is left out.
func questionOf(typed pages.Question) (q Question, err error) {
	if q.IP, err = netip.ParseAddr(typed.IP); err != nil {
		return q, fmt.Errorf("%q is no address of a client", typed.IP)
	}
	if typed.Helo != "" {
		q.Helo = &typed.Helo
	}
	for _, path := range []struct {
		text string
		into **mail.Path
	}{{typed.From, &q.From}, {typed.To, &q.To}} {
		text := path.text
		if text == "" {
			continue
		}
		if len(text) > 1 && text[0] == '<' && text[len(text)-1] == '>' {
			text = text[1 : len(text)-1]
		}
		p, err := mail.ParsePath(text, true)
		if err != nil {
			return q, fmt.Errorf("%q is no address: %w", path.text, err)
		}
		*path.into = &p
	}
	if why := (&Ask{Question: q}).fault(); why != "" {
		return q, errors.New(why)
	}
	return q, nil
}

// pageOf returns an answer as the page of the simulator has it.
func pageOf(a *Answer) *pages.Explained {
	out := &pages.Explained{
		Fate: a.Verdict, Reply: a.Reply, Reason: a.Reason, Cause: a.Cause, Rule: a.Rule, Steps: a.Steps,
		Skipped: a.Skipped, Notes: a.Notes,
	}
	for _, w := range a.Ways {
		way := pages.Way{NextHop: w.NextHop, Reverse: w.Reverse, Forward: w.Forward}
		for _, h := range w.Hosts {
			way.Hosts = append(way.Hosts, cmp.Or(h.Error, h.Name))
		}
		out.Ways = append(out.Ways, way)
	}
	if s := a.Score; s != nil {
		out.Score = &pages.Scored{Total: s.Total, Defer: s.Defer, Reject: s.Reject}
		for _, x := range s.Signals {
			out.Score.Signals = append(out.Score.Signals,
				pages.Signal{Name: x.Name, State: x.State, Text: x.Text, Weight: x.Weight})
		}
	}
	return out
}

// examiner returns what examines the DNS of a domain for a page.
func (w *watches) examiner(p *parts, ends *cleanups) (
	func(ctx context.Context, name string) ([]pages.Finding, error), error,
) {
	web, err := hook.New(hook.Config{Resolver: p.resolver})
	if err != nil {
		return nil, err
	}
	ends.add("doctor of the pages", func(context.Context) error { web.Close(); return nil })
	return func(ctx context.Context, name string) ([]pages.Finding, error) {
		labels, ok := rules.ALabels(name)
		if !ok || !mail.IsDomain(labels) {
			return nil, fmt.Errorf("%q is no domain", name)
		}
		d, err := doctor.New(doctor.Config{Node: p.cfg, Resolver: p.resolver, Web: web})
		if err != nil {
			return nil, err
		}
		var out []pages.Finding
		for _, f := range d.Domain(ctx, labels).Findings {
			out = append(out, pages.Finding{
				Check: f.Check, Name: f.Name, State: string(f.State), Expected: f.Expected, Found: f.Found,
				Reason: f.Reason, Fix: f.Fix,
			})
		}
		return out, nil
	}, nil
}
