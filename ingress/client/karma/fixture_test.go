package karma

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// A ledger is a fake store: it keeps the worst vote of a domain on a client in an hour, and that for each sender, karma
// that loses half in 7 days, and networks that are known good for a time.
type ledger struct {
	ingresstest.Store
	mu     sync.Mutex
	now    func() time.Time
	votes  map[string]cast
	karma  map[good]cast // of an address without a sender, of a network with one
	good   map[good]time.Time
	given  []mail.Vote
	marked []time.Duration
	hold   chan struct{} // if set, Vote waits until it is closed, or its context ends
}

type cast struct {
	weight, votes float64
	at            time.Time
}

func newLedger(now func() time.Time) *ledger {
	return &ledger{
		now: now, votes: map[string]cast{}, karma: map[good]cast{}, good: map[good]time.Time{},
	}
}

func (l *ledger) Vote(ctx context.Context, v mail.Vote) bool {
	if l.hold != nil {
		select {
		case <-l.hold:
		case <-ctx.Done():
			return false
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.given = append(l.given, v)
	address := good{netip.PrefixFrom(v.Client, v.Client.BitLen()), ""}
	ofAddress := l.cast(v.Client.String()+" "+v.Domain, address, v.Weight)
	ofSender := l.cast(v.Client.String()+" "+v.Domain+" "+v.Sender+" ", good{network.Of(v.Client), v.Sender}, v.Weight)
	return ofAddress || ofSender
}

func (l *ledger) cast(key string, of good, weight float64) bool {
	now := l.now()
	before, again := l.votes[key]
	if again = again && now.Sub(before.at) < time.Hour; !again {
		before = cast{at: now}
	} else if weight >= before.weight {
		return false
	}
	k := l.karma[of]
	left := math.Exp2(-now.Sub(k.at).Hours() / (7 * 24))
	k = cast{max(-100, min(100, k.weight*left+weight-before.weight)), k.votes * left, now}
	if !again {
		k.votes++
	}
	l.karma[of] = k
	l.votes[key] = cast{weight: weight, at: before.at}
	return true
}

func (l *ledger) KnowGood(_ context.Context, client netip.Addr, sender string, ttl time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.good[good{network.Of(client), sender}] = l.now().Add(ttl)
	l.marked = append(l.marked, ttl)
}

// facts sets what a session would know of its client.
func (l *ledger) facts(o *Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.karma[good{netip.PrefixFrom(o.Client, o.Client.BitLen()), ""}]
	n := l.karma[good{network.Of(o.Client), o.Sender}]
	o.Address, o.Network = mail.Karma{Score: a.weight, Votes: a.votes}, mail.Karma{Score: n.weight, Votes: n.votes}
	o.KnownGood = l.good[good{network.Of(o.Client), o.Sender}].After(l.now())
}

func (l *ledger) weights() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, v := range l.given {
		fmt.Fprintf(&b, "%s %s %g\n", v.Client, v.Domain, v.Weight)
	}
	return b.String()
}

// A fixture is a recorder on a ledger, with a clock that stands still until it is set.
type fixture struct {
	*testing.T
	mu sync.Mutex
	at time.Time
	*ledger
	*Recorder
}

func newWorld(t *testing.T, change func(*Config)) *fixture {
	t.Helper()
	w := &fixture{T: t, at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	w.ledger = newLedger(w.clock)
	c := Config{Store: w.ledger, Volume: 1, Networks: 1, Now: w.clock}
	if change != nil {
		change(&c)
	}
	k, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	w.Recorder = k
	t.Cleanup(func() {
		if err := k.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *fixture) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}

func (w *fixture) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(d)
}

// see has the recorder learn from an Outcome at once, in place of its worker, which has nothing to do in these tests.
func (w *fixture) see(o Outcome) {
	w.Helper()
	w.facts(&o)
	w.learn(context.Background(), &o)
}

var (
	client = netip.MustParseAddr("203.0.113.9")
	taken  = mail.NewReply(250, 0, 0, "OK")
	spammy = mail.NewReply(550, 7, 1, "Spam message rejected")
	noUser = mail.NewReply(550, 1, 1, "No such user")
)

// believe makes domains believed.
func (w *fixture) believe(domains ...string) {
	for _, d := range domains {
		w.domains.put(d, volume{begun: w.clock(), took: w.cfg.Volume, nets: math.MaxUint64})
	}
}

func (w *fixture) want(votes string) {
	w.Helper()
	if got := w.weights(); got != votes {
		w.Errorf("got votes\n%swant\n%s", got, votes)
	}
}
