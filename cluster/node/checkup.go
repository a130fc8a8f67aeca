package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/probe"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// What can be checked.
const (
	CheckTarget  = "target"  // the path to a next hop
	CheckEgress  = "egress"  // the port of MX hosts, from here
	CheckIngress = "ingress" // the same port of this node, from the others
	// CheckAddresses asks for the addresses that mail of the nodes comes from, and looks at nothing.
	CheckAddresses = "addresses"
)

// A CheckQuestion asks nodes to look at their network. It is the body of a request to the API.
type CheckQuestion struct {
	NextHop string `json:"next_hop,omitempty"` // of CheckTarget
	To      string `json:"to,omitempty"`       // a recipient to offer there; "": none
	From    string `json:"from,omitempty"`     // the sender of that; "": the null sender
	// Hosts are domains, or next hops such as smtp://mx.example.org, whose port CheckEgress tries; none: those of
	// large providers.
	Hosts []string `json:"hosts,omitempty"`
	// Beside are next hops at another port, which show where Hosts are not reached whether it is the port; none: those
	// of large providers, unless there are Hosts.
	Beside  []string `json:"beside,omitempty"`
	Seconds int      `json:"seconds,omitempty"` // that each address has; 0: 20
	Here    bool     `json:"here,omitempty"`    // this node alone is asked
}

// A CheckAnswer is what the nodes found.
type CheckAnswer struct {
	Check string        `json:"check"`
	OK    bool          `json:"ok"` // on all nodes
	Nodes []NodeChecked `json:"nodes"`
}

// A NodeChecked is what one node found.
type NodeChecked struct {
	Node  string        `json:"node"` // "" without a cluster
	OK    bool          `json:"ok"`
	Says  []string      `json:"says"` // in words
	Hosts []HostChecked `json:"hosts"`

	Addresses []netip.Addr `json:"addresses,omitempty"` // of CheckAddresses
}

// A HostChecked is one address of a host, and the steps of a session with it.
type HostChecked struct {
	Host    string       `json:"host"`
	Address string       `json:"address,omitempty"`
	Source  string       `json:"source,omitempty"` // of ours, if there are several
	Open    bool         `json:"open"`             // mail can be offered
	Steps   []probe.Step `json:"steps"`
}

const (
	// checkEach is how long one address has, and checkMost the longest that may be asked for.
	checkEach = 20 * time.Second
	checkMost = 60 * time.Second
	// checksAtOnce bounds the checks of a node that are under way.
	checksAtOnce = 4
)

// A checker looks at the network around a node.
type checker struct {
	cfg      *config.Config
	files    *files
	relay    *egress.Relay
	resolver *dns.Resolver
	members  *membership
	busy     chan struct{} // holds a token for each check under way
}

// CheckHere answers a question by itself, as a node with this configuration would that does not run. The error is
// about the question, or is Problems.
func CheckHere(ctx context.Context, c *config.Config, what string, q CheckQuestion) (*CheckAnswer, error) {
	f, err := readFiles(c, false)
	if err != nil {
		return nil, err
	}
	p, err := build(f, hooks{})
	if err != nil {
		return nil, err
	}
	defer p.close()
	r, err := newReacher(p.egress)
	if err != nil {
		return nil, c.WithLine("egress.", "egress", err)
	}
	defer r.hangUp()
	k := &checker{cfg: c, files: f, relay: r.relay, resolver: p.resolver, members: newMembership()}
	k.busy = k.members.checking
	return k.ask(ctx, what, q)
}

// checker returns what answers questions about the network around the node.
func (n shown) checker() *checker {
	return &checker{
		cfg: n.cfg, files: n.parts.files, relay: n.relay, resolver: n.parts.resolver, members: n.members,
		busy: n.members.checking,
	}
}

// answerAPI answers a request to the API: here, and with it at all nodes that this one sees.
func (k *checker) answerAPI(ctx context.Context, what string, body []byte) (any, error) {
	var q CheckQuestion
	if err := decodeOnly(body, &q); err != nil {
		return nil, err
	}
	return k.ask(ctx, what, q)
}

// decodeOnly decodes an object whose fields are all known.
func decodeOnly(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// ask answers a question here and, unless q.Here, at all other nodes.
func (k *checker) ask(ctx context.Context, what string, q CheckQuestion) (*CheckAnswer, error) {
	run, err := k.prepare(what, &q)
	if err != nil {
		return nil, err
	}
	if !k.take() {
		return nil, errors.New("as many checks as this node makes at a time are under way")
	}
	defer k.give()
	ctx, cancel := context.WithTimeout(ctx, q.longest())
	defer cancel()
	own, others := k.nodes()
	if q.Here {
		others = nil
	}
	found := make([]NodeChecked, 1+len(others))
	var asking sync.WaitGroup
	for i, node := range others {
		asking.Go(func() { found[1+i] = k.askOther(ctx, node, what, &q) }) // ends with ctx
	}
	seen := what == CheckIngress && len(others) > 0 // by the others, which is what counts
	if !seen {
		found[0] = run(ctx)
		found[0].Node = own
	}
	asking.Wait()
	if seen {
		found = found[1:]
	}
	answer := &CheckAnswer{Check: what, OK: true, Nodes: found}
	for _, n := range found {
		answer.OK = answer.OK && n.OK
	}
	return answer, nil
}

// take takes a place for a check and reports whether there is one.
func (k *checker) take() bool {
	select {
	case k.busy <- struct{}{}:
		return true
	default:
		return false
	}
}

// give returns the place of a check that has ended.
func (k *checker) give() { <-k.busy }

// nodes returns the name of this node and those of the others.
func (k *checker) nodes() (own string, others []string) {
	if k.members.alone() {
		return "", nil
	}
	own = k.members.cluster.Self()
	for _, m := range k.members.cluster.Members() {
		if m.Name != own {
			others = append(others, m.Name)
		}
	}
	slices.Sort(others)
	return own, others
}

// each returns how long one address has.
func (q *CheckQuestion) each() time.Duration {
	return min(cmp.Or(time.Duration(q.Seconds)*time.Second, checkEach), checkMost)
}

// longest returns how long a check may take in all, look-ups and the wait for other nodes included.
func (q *CheckQuestion) longest() time.Duration { return 2*q.each() + 2*checkEach }

// A peerQuestion is a question to another node.
type peerQuestion struct {
	Check string        `json:"check"`
	Ask   CheckQuestion `json:"ask"`
	Host  string        `json:"host,omitempty"` // of CheckIngress: the name of the node that asks
}

// askOther has another node answer.
func (k *checker) askOther(ctx context.Context, node, what string, q *CheckQuestion) (out NodeChecked) {
	content, err := json.Marshal(peerQuestion{Check: what, Ask: *q, Host: k.cfg.Hostname})
	if err == nil {
		content, err = k.members.peers.Ask(ctx, node, content)
	}
	if err == nil {
		err = json.Unmarshal(content, &out)
	}
	if err != nil {
		out = NodeChecked{Says: []string{"cannot be asked: " + library.ReplaceAllString(err.Error(), "")}}
	}
	out.Node = node // what it says of itself does not count
	return out
}

// answerPeer answers the question of another node, about this one alone.
func (k *checker) answerPeer(ctx context.Context, content []byte) []byte {
	out, err := k.checkFor(ctx, content)
	if err != nil {
		out = NodeChecked{Says: []string{err.Error()}}
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil
	}
	return text
}

// checkFor carries out the question of another node. It connects only to where mail of strangers could go from here:
// to what this node's own rules name, and to what MX records may lead to. So a node that was broken into cannot look
// around in this one's network.
func (k *checker) checkFor(ctx context.Context, content []byte) (NodeChecked, error) {
	var asked peerQuestion
	if err := json.Unmarshal(content, &asked); err != nil {
		return NodeChecked{}, errors.New("this node does not understand the question")
	}
	q := asked.Ask
	var run func(context.Context) NodeChecked
	if asked.Check == CheckIngress {
		if !mail.IsDomain(asked.Host) {
			return NodeChecked{}, fmt.Errorf("%q is no host name", asked.Host)
		}
		run = func(ctx context.Context) NodeChecked { return k.ingress(ctx, asked.Host, &q) }
	} else {
		var err error
		if run, err = k.prepare(asked.Check, &q); err != nil {
			return NodeChecked{}, err
		}
		for _, text := range append(slices.Concat(q.Hosts, q.Beside), q.NextHop) {
			if text == "" {
				continue
			}
			h, err := k.nextHop(text)
			if err != nil {
				return NodeChecked{}, err
			}
			if !k.files.rules.HasNextHop(h) && (h.Transport != mail.MX || h.IsLocal()) {
				return NodeChecked{}, fmt.Errorf("%s is no next hop of this node's rules, so it is not tried for "+
					"another node; run the check on this one", h)
			}
		}
	}
	if !k.take() {
		return NodeChecked{}, errors.New("as many checks as this node makes at a time are under way")
	}
	defer k.give()
	ctx, cancel := context.WithTimeout(ctx, q.longest())
	defer cancel()
	return run(ctx), nil
}

// prepare reads a question and returns what answers it from here.
func (k *checker) prepare(what string, q *CheckQuestion) (func(context.Context) NodeChecked, error) {
	switch what {
	case CheckTarget:
		return k.target(q)
	case CheckEgress:
		return k.egress(q)
	case CheckAddresses:
		return k.addresses, nil
	case CheckIngress:
		return func(ctx context.Context) NodeChecked {
			out := k.ingress(ctx, k.cfg.Hostname, q)
			out.OK = false
			out.Says = append(out.Says, "no other node was asked, and what a node sees of itself is no proof that "+
				"others reach it: ask from another network, by millrace check target smtp://"+k.cfg.Hostname)
			return out
		}, nil
	}
	return nil, fmt.Errorf("there is no check %q: there are %s, %s, %s and %s", what, CheckTarget, CheckEgress,
		CheckIngress, CheckAddresses)
}

// nextHop reads a next hop or a domain.
func (k *checker) nextHop(text string) (mail.NextHop, error) {
	return (&rules.Config{HasCredentials: func(user, host string, port uint16) bool {
		_, ok := k.files.password(user, host, port)
		return ok
	}}).ParseNextHop(text)
}

// hostsChecked returns what was reached as the answer has it.
func hostsChecked(reached []egress.Reached) []HostChecked {
	out := []HostChecked{}
	for _, r := range reached {
		h := HostChecked{Host: r.Host, Open: r.Open, Steps: r.Steps}
		if r.Addr.IsValid() {
			h.Address = r.Addr.String()
		}
		out = append(out, h)
	}
	return out
}

// failing returns the last step that failed, nil if none did.
func failing(steps []probe.Step) *probe.Step {
	for i := len(steps) - 1; i >= 0; i-- {
		if !steps[i].OK && steps[i].Name != probe.StepCertificate || i == len(steps)-1 && !steps[i].OK {
			return &steps[i]
		}
	}
	return nil
}

// target returns what goes to a next hop as mail would.
func (k *checker) target(q *CheckQuestion) (func(context.Context) NodeChecked, error) {
	hop, err := k.nextHop(q.NextHop)
	if err != nil {
		return nil, err
	}
	d := mail.Delivery{NextHop: hop, Favoured: true}
	how := egress.Reach{Most: q.each()}
	if q.From != "" {
		if d.Reverse, err = mail.ParsePath(q.From, true); err != nil {
			return nil, fmt.Errorf("from: %q: %w", q.From, err)
		}
	}
	if q.To != "" {
		to, err := mail.ParsePath(q.To, true)
		if err != nil {
			return nil, fmt.Errorf("to: %q: %w", q.To, err)
		}
		how.To, d.RecipientDomain = &to, to.Domain
	}
	return func(ctx context.Context) NodeChecked {
		reached, err := k.relay.Reach(ctx, d, how)
		out := NodeChecked{Hosts: hostsChecked(reached), Says: []string{}}
		if err != nil {
			out.Says = append(out.Says, probe.Words(err))
		}
		for i := range reached {
			out.OK = out.OK || reached[i].Takes
			out.Says = append(out.Says, k.wordsOf(&reached[i], &out.Hosts[i], how.To != nil))
		}
		return out
	}, nil
}

// wordsOf says what became of one address.
func (k *checker) wordsOf(r *egress.Reached, h *HostChecked, offered bool) string {
	where := cmp.Or(h.Address, h.Host)
	failed := failing(r.Steps)
	switch {
	case r.Takes && offered:
		return where + " is open and takes the recipient"
	case r.Takes:
		return where + " is open; no recipient was offered"
	case r.Open && failed != nil:
		return fmt.Sprintf("%s is open; %s: %s", where, failed.Name, cmp.Or(failed.Says, failed.Reply))
	case failed != nil:
		return fmt.Sprintf("%s is not open: %s: %s", where, failed.Name, cmp.Or(failed.Says, failed.Reply))
	}
	return where + " is not open"
}
