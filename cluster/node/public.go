package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/migrate"
	"github.com/millrace/millrace/cluster/node/doctor"
	"github.com/millrace/millrace/cluster/public"
	"github.com/millrace/millrace/router/mail"
)

// publicPages are what strangers can read of a node.
type publicPages struct {
	*Node
	refusals *public.Refusals // nil: the configuration has no section public
	asking   chan struct{}    // holds a token for each question to the other nodes
	server   *public.Server   // nil before start, and without the section
}

// questionsAtOnce bounds the questions to other nodes that strangers cause at a time.
const questionsAtOnce = 8

func newPublicPages(n *Node) (*publicPages, error) {
	p := &publicPages{Node: n, asking: make(chan struct{}, questionsAtOnce)}
	if n.cfg.Public == nil {
		return p, nil
	}
	var err error
	p.refusals, err = public.NewRefusals(time.Now)
	return p, err
}

// start starts the public server, if the configuration has the section.
func (p *publicPages) start() error {
	c := p.cfg.Public
	if c == nil {
		return nil
	}
	cfg := public.Config{
		Addr: c.Addr, Forwarded: config.Prefixes(c.Forwarded),
		Pages: public.Pages{Why: p.why, Policy: p.policy, Egress: p.egress()},
	}
	if p.rules.verifier != nil {
		cfg.Pages.Verify = p.confirm
	}
	if c.InTLS() {
		cfg.TLS = p.parts.files.certificate.pages
	}
	s, err := public.Listen(cfg)
	if err != nil {
		return p.cfg.WithLine("public.", "public.addr", err)
	}
	s.Start()
	p.server = s
	p.Node.cleanups.add("public", s.Shutdown)
	p.log.say(slog.LevelInfo, "listening", "for", "public", "addr", s.Addr().String())
	return nil
}

// policy returns the policy of MTA-STS of a domain that is hosted.
func (p *publicPages) policy(name string) (text string, ok bool) {
	if !p.rules.router.Hosted(name) {
		return "", false
	}
	policy, ok := doctor.PolicyOf(p.cfg, name)
	return policy.Text(), ok
}

// egress returns what lists the addresses that mail comes from. It is nil where these are not known: of a cluster, each
// node knows its own alone, and a list that lacks a node is worse than none.
func (p *publicPages) egress() func(format string) (text string, ok bool) {
	addrs := append(p.cfg.EgressAddrs(), config.PublicAddrs(p.cfg.Public.Egress)...)
	if p.cfg.Cluster != nil && len(p.cfg.Public.Egress) == 0 {
		return nil
	}
	if len(addrs) == 0 {
		for _, a := range interfaceAddrs() {
			addrs = append(addrs, config.PublicAddrs([]string{a.String()})...)
		}
	}
	if len(addrs) == 0 {
		return nil
	}
	return func(format string) (string, bool) {
		return migrate.NewEgress(p.cfg.Hostname, addrs, time.Now()).In(format)
	}
}

// A whyQuestion is a question to another node.
type whyQuestion struct {
	Why string `json:"why"` // the id of a refusal
}

// errBusy means that as many questions are under way as may be.
var errBusy = errors.New("as many questions as other nodes are asked at a time are under way")

// why returns what is remembered of the refusals with an id, here or, where this node knows nothing of it, at the other
// nodes.
func (p *publicPages) why(ctx context.Context, id mail.TraceID) ([]public.Refused, error) {
	if found := p.refusals.Find(id); len(found) > 0 || p.members.alone() {
		return found, nil
	}
	select {
	case p.asking <- struct{}{}:
		defer func() { <-p.asking }()
	default:
		return nil, errBusy
	}
	question, err := json.Marshal(whyQuestion{id.String()})
	if err != nil {
		return nil, err
	}
	others := p.members.others()
	answers := make([][]public.Refused, len(others))
	var asking sync.WaitGroup
	for i, node := range others {
		asking.Go(func() { // ends with ctx
			if content, err := p.members.peers.Ask(ctx, node, question); err == nil {
				_ = json.Unmarshal(content, &answers[i]) // a node of another version remembers nothing
			}
		})
	}
	asking.Wait()
	return public.Merge(answers...), nil
}

// answerPeer answers the question of another node about a refusal. It reports false if the question is another one.
func (p *publicPages) answerPeer(content []byte) (answer []byte, ok bool) {
	var q whyQuestion
	if json.Unmarshal(content, &q) != nil || q.Why == "" {
		return nil, false
	}
	id, ok := public.ParseID(q.Why)
	if !ok {
		return nil, true
	}
	found := p.refusals.Find(id)
	answer, err := json.Marshal(found)
	return answer, err == nil
}

// PublicAddr returns the address of the public server, "" if there is none. It is for tests, which bind port 0.
func (n *Node) PublicAddr() string {
	if n.public.server == nil {
		return ""
	}
	return n.public.server.Addr().String()
}
