package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

func form(_ context.Context, t *trial) (string, error) {
	return "from the start of the processes to three members everywhere: " + fleet.MS(t.formed),
		within("forming", t.formed, 3*time.Second)
}

// replyID is the trace id in a reply.
var replyID = regexp.MustCompile("id=[0-9a-f]{32}")

// equality sends one of each kind, several times over, to one node and to each of three.
func equality(ctx context.Context, t *trial) (string, error) {
	if err := t.alone(ctx); err != nil {
		return "", err
	}
	const rounds = 3 // so that each kind enters at each node
	want, wantSet, err := t.answers(ctx, t.one.Nodes, rounds)
	if err != nil {
		return "", err
	}
	got, gotSet, err := t.answers(ctx, t.ring.Nodes, rounds)
	if err != nil {
		return "", err
	}
	figures := fmt.Sprintf("%d transactions, %d messages delivered by one node and %d by three", len(want),
		len(wantSet), len(gotSet))
	for i := range want {
		if want[i] != got[i] {
			return figures, fmt.Errorf("one node says %s and three say %s", want[i], got[i])
		}
	}
	if !slices.Equal(wantSet, gotSet) {
		return figures, errors.New("other messages were delivered")
	}
	return figures, nil
}

// answers returns what transactions were answered and the messages that came of them.
func (t *trial) answers(
	ctx context.Context, nodes []*fleet.Member, rounds int,
) (replies, delivered []string, err error) {
	before := len(t.lab.plain.Messages())
	kinds := []string{
		"ok@plain.test", "refused@plain.test", "deferred@plain.test", "unknown@plain.test", "lost@plain.test",
		"any@elsewhere.test",
	}
	for i := range rounds * len(kinds) {
		to := kinds[i%len(kinds)]
		m := nodes[(i+i/len(kinds))%len(nodes)]
		s, err := source.Dial(ctx, source.Config{Addr: m.SMTP})
		if err != nil {
			return nil, nil, err
		}
		r, err := s.Send(source.Message{
			Reverse: "a@client.example", Forward: []string{to},
			Octets: fmt.Appendf(nil, "Subject: equal-%d\r\n\r\nhi\r\n", i),
		})
		s.Abort(false)
		replies = append(replies,
			replyID.ReplaceAllString(fmt.Sprint(to, ": ", r.Mail, " ", r.Rcpt, " ", r.End, " ", err), "id"))
	}
	for _, m := range t.lab.plain.Messages()[before:] {
		delivered = append(delivered, fmt.Sprint(m.Mail, m.Rcpt, fleet.ID(m.Octets)))
	}
	slices.Sort(delivered)
	return replies, delivered, nil
}

// The Site's limits, as the providers' file has them for everybody, and what is to be reached.
const (
	siteSessions = 20
	minReuse     = 0.95
)

func siteLimit(ctx context.Context, t *trial) (string, error) {
	d := t.lab.many
	messages := 3000
	if t.long {
		messages = 10000
	}
	l := &fleet.Load{
		Name: t.tag("many"), Addrs: fleet.Only(t.ring.Balancer), Clients: 2 * siteSessions, Messages: messages,
		Forward: func(i int) string { return fmt.Sprintf("b@d%d.many.test", i%manyDomains) },
	}
	begun := time.Now()
	n := fleet.Count(l.Run(ctx), d)
	took := time.Since(begun)
	c := d.Counts()
	reuse := 1 - float64(c.Connections)/float64(max(1, c.Messages))
	figures := fmt.Sprintf("%s\n%.0f messages/s over %d domains; %d connections, %d of them at once at most (limit "+
		"%d); reuse %.1f %%",
		n, float64(n.Messages)/took.Seconds(), manyDomains, c.Connections, c.Peak, siteSessions, 100*reuse)
	err := n.Err()
	if c.Peak > siteSessions {
		err = errors.Join(err, errors.New("more connections than the Site's limit"))
	}
	if reuse <= minReuse {
		err = errors.Join(err, errors.New("too few sessions were used again"))
	}
	if owners := t.owning(ctx, "mx.many.example"); owners != 1 {
		err = errors.Join(err, fmt.Errorf("%d nodes have sessions with one Site", owners))
	}
	return figures, err
}

// owning counts the nodes that have sessions with a Site.
func (t *trial) owning(ctx context.Context, host string) (nodes int) {
	for _, m := range t.ring.Nodes {
		s, err := t.ring.Status(ctx, m)
		if err != nil {
			return -1
		}
		for _, site := range s.Sites {
			if strings.Contains(string(site.Site), host) && site.Open > 0 {
				nodes++
			}
		}
	}
	return nodes
}

func flushAll(ctx context.Context, t *trial) (string, error) {
	var r refusals
	l := &fleet.Load{Addrs: fleet.AnyOf(t.ring.Nodes), Clients: clients, Watch: r.watch}
	const flushes = 4
	n, err := t.under(ctx, l, func() error {
		for range flushes {
			fleet.Rest(ctx, 300*time.Millisecond)
			if err := flush(t.lab.redis); err != nil {
				return err
			}
		}
		fleet.Rest(ctx, 500*time.Millisecond)
		return nil
	})
	return fmt.Sprintf("%s\n%d times emptied: %s", n, flushes, &r), errors.Join(err, r.err())
}

// A greylist asks each triplet of client address, reverse-path and forward-path to come again after a while.
type greylist struct {
	mu   sync.Mutex
	seen map[string]time.Time
}

// greyDelay is after how long a retry passes.
const greyDelay = 500 * time.Millisecond

func newGreylist() *greylist { return &greylist{seen: make(map[string]time.Time)} }

func (g *greylist) answer(s smtptest.Step) (smtptest.Answer, bool) {
	if s.Verb != "RCPT" {
		return smtptest.Answer{}, false
	}
	host, _, err := net.SplitHostPort(s.Message.Client)
	if err != nil {
		host = s.Message.Client
	}
	triplet := host + " " + s.Message.Reverse + " " + s.Forward
	g.mu.Lock()
	defer g.mu.Unlock()
	at, known := g.seen[triplet]
	if !known {
		g.seen[triplet] = time.Now()
	}
	if known && time.Since(at) >= greyDelay {
		return smtptest.Answer{}, false
	}
	return smtptest.Answer{Reply: "451 4.7.1 Greylisted"}, true
}

// greylisting sends each message twice, to random nodes: the second time is the first at which it may pass.
func greylisting(ctx context.Context, t *trial) (string, error) {
	if err := t.alone(ctx); err != nil {
		return "", err
	}
	passed, all, err := t.retried(ctx, t.ring.Nodes)
	if err != nil {
		return "", err
	}
	without, _, err := t.retried(ctx, t.apart.Nodes)
	figures := fmt.Sprintf("passed on the first allowed retry: %d of %d with the ring, %d without", passed, all,
		without)
	if passed != all {
		err = errors.Join(err, errors.New("a retry did not pass"))
	}
	if without == all {
		err = errors.Join(err, errors.New("the control run shows no difference"))
	}
	return figures, err
}

func (t *trial) retried(ctx context.Context, nodes []*fleet.Member) (passed, all int, err error) {
	all = 3 * greySites
	tag := t.tag("grey")
	for attempt := range 2 {
		if attempt == 1 {
			fleet.Rest(ctx, greyDelay+50*time.Millisecond)
		}
		for i := range all {
			s, err := source.Dial(ctx, source.Config{Addr: nodes[rand.IntN(len(nodes))].SMTP})
			if err != nil {
				return 0, 0, err
			}
			r, err := s.Send(source.Message{
				Reverse: "a@client.example", Forward: []string{fmt.Sprintf("%s-%d@d%d.grey.test", tag, i, i%greySites)},
				Octets: fmt.Appendf(nil, "Subject: %s-%d\r\n\r\nhi\r\n", tag, i),
			})
			s.Abort(false)
			if err != nil {
				return 0, 0, err
			}
			if attempt == 0 && r.End.Class() != 4 {
				return 0, 0, fmt.Errorf("the first attempt was answered %s", r.End)
			}
			if attempt == 1 && r.End.Class() == 2 {
				passed++
			}
		}
	}
	return passed, all, nil
}

// handshakes compares what one node, three nodes and a cluster ask of destinations' TLS for the same mail.
func handshakes(ctx context.Context, t *trial) (string, error) {
	if err := t.alone(ctx); err != nil {
		return "", err
	}
	if _, err := t.ring.Out(ctx, t.ring.Nodes, 3); err != nil {
		return "", err
	}
	const messages = 1000
	var per [3]float64
	var figures []string
	for i, f := range []struct {
		name  string
		fleet *fleet.Fleet
	}{{"one node", t.one}, {"three with the ring", t.ring}, {"three without", t.apart}} {
		before := t.lab.tls.Counts()
		l := &fleet.Load{
			Name: t.tag("tls"), Addrs: fleet.AnyOf(f.fleet.Nodes), Clients: 3, Messages: messages, Fresh: true,
			Forward: func(i int) string { return fmt.Sprintf("b@d%d.tls.test", i%tlsSites) },
		}
		n := fleet.Count(l.Run(ctx), t.lab.tls)
		after := t.lab.tls.Counts()
		per[i] = 1000 * float64(after.Handshakes-before.Handshakes) / float64(n.Messages)
		figures = append(figures,
			fmt.Sprintf("%s: %.0f handshakes per 1000 messages (%d resumed), %s", f.name, per[i],
				after.Resumed-before.Resumed, n))
		if err := n.Err(); err != nil {
			return strings.Join(figures, "\n"), err
		}
	}
	if per[1] >= per[2] {
		return strings.Join(figures, "\n"), errors.New("the ring saves no handshakes")
	}
	return strings.Join(figures, "\n"), nil
}
