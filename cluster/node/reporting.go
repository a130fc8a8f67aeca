package node

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/report"
	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/ingress/message/auth/dmarc"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// A reporting is what a node counts for reports on TLS and DMARC, and what makes them.
type reporting struct {
	nodes    *report.Nodes
	reporter *report.Reporter
}

// newReporting makes what counts, nil without the section reports.
func newReporting(n *Node) *reporting {
	c := n.cfg.Reports
	if c == nil {
		return nil
	}
	contact, _ := mail.ParsePath(c.Contact, false) // the configuration was validated
	nodes := &report.Nodes{
		Counts: report.NewCounts(time.Now, contact), Name: n.cfg.Hostname, Boot: mail.NewTraceID().String(),
	}
	if n.cfg.Cluster != nil {
		nodes.Name, nodes.Others = n.cfg.Cluster.Name, n.members.others
		nodes.Ask = func(ctx context.Context, node string, question []byte) ([]byte, error) {
			return n.members.peers.Ask(ctx, node, question)
		}
	}
	if shelves := store.ShelvesOf(n.parts.store); shelves != nil {
		nodes.Keeper = report.Keeper{Keep: shelves.Keep, Load: shelves.Load}
	}
	plain := n.parts.resolver.Plain()
	evaluator, _ := dmarc.New(dmarc.Config{Resolver: plain}) // it has all that it needs
	return &reporting{nodes: nodes, reporter: report.New(report.Config{
		Origin: report.Origin{
			Organization: c.Organization, Contact: contact.String(), Generator: "millrace " + n.opts.Version,
		},
		Nodes: nodes,
		Lookup: report.Lookup{
			Organization: evaluator.Organization,
			TXT: func(ctx context.Context, name string) ([]string, error) {
				texts, err := plain.LookupTXT(ctx, name)
				if dns.NotFound(err) {
					return nil, nil
				}
				return texts, err
			},
		},
	})}
}

// startReports begins to send reports, if the configuration has the section.
func (n *Node) startReports() error {
	r := n.memory.reports
	if r == nil {
		return nil
	}
	if err := n.startOwnMail(); err != nil {
		return err
	}
	// A URL of a record is that of a stranger: no private address is connected to, whatever receivers of events have.
	all, _ := n.parts.files.hostAuthorities("")
	web, err := hook.New(hook.Config{
		Resolver: n.parts.resolver, Own: append(interfaceAddrs(), n.parts.egress.Ours.Addresses...), Roots: all.Roots(),
	})
	if err != nil {
		return err
	}
	sender := report.NewSender(r.reporter, report.Delivery{
		Owns: n.members.ownsReports, Mail: n.listeners.own.send, Say: n.log.say, Count: n.metrics.CountReport,
		Post: func(ctx context.Context, url string, header http.Header, body []byte) (int, error) {
			answer, err := web.Do(ctx, hook.Request{
				Method: http.MethodPost, URL: url, Header: header, Body: body, Limit: mostAnswer,
			})
			return answer.Status, err
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { sender.Run(ctx) }) // ends with ctx
	n.cleanups.add("reports", func(context.Context) error {
		cancel()
		running.Wait()
		web.Close()
		return nil
	})
	return nil
}

// mostAnswer bounds what a reader of reports may answer in octets, which is not read.
const mostAnswer = 64 << 10

// ownsReports reports whether this node sends the reports of a domain: the owner in the ring does.
func (m *membership) ownsReports(name string) bool {
	if m.alone() {
		return true
	}
	_, self := m.cluster.Owner(mail.Site("reports of "+name), name)
	return self
}

var (
	errNoKind   = errors.New("a report is of the kind tls or dmarc")
	errNoDomain = errors.New("this is no domain name")
	errNoDay    = errors.New("a day is written as 2006-01-02")
)

// answers returns what answers requests of the API for a report, nil without reports.
func (r *reporting) answers() func(ctx context.Context, kind, name, day string) (any, error) {
	if r == nil {
		return nil
	}
	return func(ctx context.Context, kind, name, day string) (any, error) {
		k, ok := report.ParseKind(kind)
		if !ok {
			return nil, errNoKind
		}
		name, ok = rules.ALabels(name)
		if !ok {
			return nil, errNoDomain
		}
		at := time.Now()
		if day != "" {
			var err error
			if at, err = time.Parse(time.DateOnly, day); err != nil {
				return nil, errNoDay
			}
		}
		return r.reporter.Preview(ctx, k, domain.Canonical(name), at)
	}
}

// answerPeer answers the question of another node. ok is false for one that is not about reports.
func (r *reporting) answerPeer(question []byte) (answer []byte, ok bool) {
	if r == nil {
		return (*report.Nodes)(nil).Answer(question)
	}
	return r.nodes.Answer(question)
}
