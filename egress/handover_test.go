package egress

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// nodes are a Cluster in which hops to some nodes are lost at the first recipient; others deliver to the destination.
type nodes struct {
	alone
	mu     sync.Mutex
	owners []string // of the next questions, "" for this node; the last one stays
	asked  []string // for a transaction
	gone   map[string]bool
	others *Relay
}

func (n *nodes) Owner(mail.Site, string) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	o := n.owners[0]
	if len(n.owners) > 1 {
		n.owners = n.owners[1:]
	}
	return o, o == ""
}

func (n *nodes) Begin(ctx context.Context, node string, d mail.Delivery) (mail.Transaction, error) {
	n.mu.Lock()
	n.asked = append(n.asked, node)
	n.mu.Unlock()
	if n.gone[node] {
		return brokenAtRcpt{cause: peerError{}}, nil
	}
	if node == "choosy" {
		return brokenAtRcpt{cause: declined{}}, nil
	}
	return n.others.Local().Begin(ctx, d)
}

type peerError struct{}

func (peerError) Error() string { return "the peer is gone" }
func (peerError) Sent() bool    { return false }

// A declined is a peer that leaves the next hop to us.
type declined struct{ peerError }

func (declined) Declined() bool { return true }

type brokenAtRcpt struct {
	mail.Transaction
	cause error
}

func (b brokenAtRcpt) Rcpt(context.Context, mail.Path) error {
	return mail.Refuse(451, 4, 2, "Lost", "peer lost", b.cause)
}
func (brokenAtRcpt) Abort() {}

// TestHandover_Failover: a transaction whose owner is lost is begun again at the node that owns the Site then.
func TestHandover_Failover(t *testing.T) {
	for name, c := range map[string]struct {
		owners  []string
		lost    []string
		asked   string // in turn
		emitted string // to the operator, of each that was lost
	}{
		"the next owner has been found": {owners: []string{"b", "c"}, lost: []string{"b"}, asked: "b c ",
			emitted: "b: peer lost, handed to another; "},
		"it is this node": {owners: []string{"b", ""}, lost: []string{"b"}, asked: "b ",
			emitted: "b: peer lost, delivered from here; "},
		"the lost one is still the owner": {owners: []string{"b", "b"}, lost: []string{"b"}, asked: "b ",
			emitted: "b: peer lost, delivered from here; "},
		"the next owner is lost as well": {owners: []string{"b", "c", "d"}, lost: []string{"b", "c"}, asked: "b c ",
			emitted: "b: peer lost, handed to another; c: peer lost, delivered from here; "},
		"the owner does not take the next hop": {owners: []string{"choosy"}, asked: "choosy ",
			emitted: "choosy: peer does not take this next hop, delivered from here; "},
		"the owner is not lost in any case": {owners: []string{"b"}, asked: "b "},
	} {
		t.Run(name, func(t *testing.T) {
			ring := &nodes{owners: c.owners, gone: make(map[string]bool)}
			for _, n := range c.lost {
				ring.gone[n] = true
			}
			s := smtptest.Start(t, smtptest.Behaviour{})
			ring.others = newWorld(t, port(t, s), nil).relay
			emitted := ""
			w := newWorld(t, port(t, s), func(c *Config) {
				c.Cluster = ring
				c.Emit = func(e mail.Event) {
					if e.Kind == mail.Anomaly {
						emitted += e.Host + ": " + e.Reason + "; "
					}
				}
			})
			tx, err := w.relay.Begin(t.Context(), to("one.test"))
			if err != nil {
				t.Fatal(err)
			}
			rcpt(t, tx, "x@one.test", "y@one.test")
			if out := finish(t, tx); len(out) != 2 || out[0].Reply.Code != 250 || out[1].Reply.Code != 250 {
				t.Errorf("got %+v", out)
			}
			asked := ""
			for _, n := range ring.asked {
				asked += n + " "
			}
			if asked != c.asked || len(s.Messages()) != 1 {
				t.Errorf("asked %q, %d messages", asked, len(s.Messages()))
			}
			if emitted != c.emitted {
				t.Errorf("emitted %q, want %q", emitted, c.emitted)
			}
		})
	}
}

// TestIsPeerError: a refusal is no lost peer.
func TestIsPeerError(t *testing.T) {
	if peer, _ := isPeerError(errors.New("refused")); peer {
		t.Error("a refusal is no lost peer")
	}
}
