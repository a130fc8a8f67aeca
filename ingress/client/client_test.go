package client

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/client/greylist"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

var (
	testKey  = []byte("sixteen octets!!")
	testAddr = netip.MustParseAddr("192.0.2.1")
	reverse  = ingresstest.Path("a@b.example")
)

// A store counts its calls. rates, unless it is nil, answers the rates of recipients.
type store struct {
	ingresstest.Store
	rcpts atomic.Int64 // round trips
	drawn atomic.Int64 // rates of a client
	rates func(rates []mail.Rate) []mail.RateResult
}

func (s *store) Client(ctx context.Context, q mail.ClientQuery) (mail.Facts, error) {
	for _, r := range q.Rates {
		if !r.Peek {
			s.drawn.Add(1)
		}
	}
	return s.Store.Client(ctx, q)
}

func (s *store) Rcpt(ctx context.Context, q mail.RcptQuery) (mail.RcptFacts, error) {
	s.rcpts.Add(1)
	f, err := s.Store.Rcpt(ctx, q)
	if s.rates != nil {
		f.Rates = s.rates(q.Rates)
	}
	return f, err
}

// newClients returns Clients with limits and a score that refuses blocked clients.
func newClients(t *testing.T, s *store) *Clients {
	t.Helper()
	often := rate.Limit{Count: 1000, Per: time.Hour}
	limits, err := rate.New(rate.Config{Key: testKey, ClientConnections: often, ClientRecipients: often})
	if err != nil {
		t.Fatal(err)
	}
	block, err := score.ParseEntry("192.0.2.0/24")
	if err != nil {
		t.Fatal(err)
	}
	scorer, err := score.New(score.Config{Store: s, Limits: limits, Block: []score.Entry{block}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Score: scorer, Limits: limits, Store: s})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Rates and greylisting need a store.
func TestConfig_Store(t *testing.T) {
	p, err := greylist.New(greylist.Config{Key: testKey})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Greylist: p}
	if _, err := New(cfg); err == nil {
		t.Error("greylisting without a store was taken")
	}
	cfg.Store = &store{}
	if _, err := New(cfg); err != nil {
		t.Error(err)
	}
}

// A trusted client is the zero Client: nothing is asked about it.
func TestClient_Trusted(t *testing.T) {
	var c Client
	if delay, err := c.Greeting(t.Context()); delay != 0 || err != nil {
		t.Errorf("greeting %v, %v", delay, err)
	}
	c.EarlyTalker()
	c.Introduce("client.example")
	c.Sender(reverse, nil)
	if err := c.Judge(t.Context(), false); err != nil || c.IsScored() || c.Tarpit() != 0 {
		t.Errorf("judged: %v", err)
	}
	tx := c.Begin(reverse)
	a := tx.Recipient(t.Context(), Recipient{Forward: reverse}, func([]Recipient) []Recipient {
		t.Error("the group was asked for")
		return nil
	})
	if err := a.Await(); err != nil {
		t.Error(err)
	}
	tx.Learn(Outcome{Reply: mail.NewReply(550, 1, 1, "no"), Host: "mx.far.example", Rcpt: true})
	c.Close()
}

// A client that its score refuses is refused, except for a recipient that is spared.
func TestClient_Judge(t *testing.T) {
	c := newClients(t, &store{}).Arrive(t.Context(), testAddr, "")
	defer c.Close()
	if err := c.Judge(t.Context(), true); err != nil {
		t.Errorf("spared: %v", err)
	}
	if err := c.Judge(t.Context(), false); mail.ReplyFor(err).Class() != 5 {
		t.Errorf("not spared: %v", err)
	}
	var told mail.Event
	if c.Scored(&told); told.Score < 10 || told.Signals == "" {
		t.Errorf("score %v, signals %q", told.Score, told.Signals)
	}
}

// With Look, Judge decides as ever, draws no rate and holds nothing back, and Explain tells why.
func TestClients_Look(t *testing.T) {
	s := &store{}
	cfg := newClients(t, s).cfg
	cfg.Look = true
	clients, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := clients.Arrive(t.Context(), testAddr, "")
	defer c.Close()
	if err := c.Judge(t.Context(), false); mail.ReplyFor(err).Class() != 5 || c.Tarpit() != 0 {
		t.Errorf("judged: %v", err)
	}
	e := c.Explain(t.Context())
	if e.Verdict.Action != mail.VerdictReject || len(e.Signals) == 0 {
		t.Errorf("explanation %+v", e)
	}
	if n := s.drawn.Load(); n != 0 {
		t.Errorf("%d rates were drawn", n)
	}
}

// The recipients that were pipelined are asked about in one round trip, and each gets its own answer.
func TestTransaction_Recipient(t *testing.T) {
	second := ingresstest.Path("second@example.com")
	s := &store{rates: func(rates []mail.Rate) []mail.RateResult {
		out := slices.Repeat([]mail.RateResult{{Allowed: true}}, len(rates))
		last := rates[len(rates)-1].Unit
		for i := range rates { // the last recipient's rate is used up
			out[i].Allowed = rates[i].Unit != last
		}
		return out
	}}
	c := newClients(t, s).Arrive(t.Context(), testAddr, "")
	defer c.Close()
	tx := c.Begin(reverse)
	pipelined := func(group []Recipient) []Recipient { return append(group, Recipient{Forward: second}) }
	first := tx.Recipient(t.Context(), Recipient{Forward: ingresstest.Path("first@example.com")}, pipelined)
	if err := first.Await(); err != nil {
		t.Errorf("first: %v", err)
	}
	if err := tx.Recipient(t.Context(), Recipient{Forward: second}, nil).Await(); mail.ReplyFor(err).Code != 450 {
		t.Errorf("second: %v", err)
	}
	if n := s.rcpts.Load(); n != 1 {
		t.Errorf("%d round trips", n)
	}
}

// A knownStore knows every client as good.
type knownStore struct{ store }

func (s *knownStore) Client(ctx context.Context, q mail.ClientQuery) (mail.Facts, error) {
	f, err := s.store.Client(ctx, q)
	f.KnownGood = []string{""}
	return f, err
}

// TestClient_Limited: refused recipients bind a client that is known good by its own limit alone, and recipients that
// need a transaction of their own never count for it.
func TestClient_Limited(t *testing.T) {
	for _, knownGood := range []bool{false, true} {
		cfg := Config{}
		var err error
		few := func(n int) rate.Limit { return rate.Limit{Count: n, Per: time.Hour} }
		if cfg.Guard, err = rate.NewGuard(rate.GuardConfig{Client: few(10), Network: few(5)}); err != nil {
			t.Fatal(err)
		}
		scoring := score.Config{Store: &store{}}
		if knownGood {
			scoring.Store = &knownStore{}
		}
		if cfg.Score, err = score.New(scoring); err != nil {
			t.Fatal(err)
		}
		clients, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		c := clients.Arrive(t.Context(), testAddr, "")
		defer c.Close()
		if err := c.Judge(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		tx := c.Begin(reverse)
		refusal := func(reason string) Outcome {
			r := mail.AnotherTransaction(reason)
			return Outcome{Reply: r.Reply, Reason: r.Reason, Rcpt: true}
		}
		for range 100 { // it tells nothing of other recipients
			tx.Learn(refusal("lmtp"))
		}
		putOff := refusal(mail.AnotherNextHop)
		for _, of := range []string{mail.AnotherPolicy, mail.TooManyNextHops, mail.TooManyOfClient} {
			tx.Learn(refusal(of))
		}
		for range 20 {
			tx.Learn(putOff)
		}
		if err := c.Limited(); err != nil {
			t.Errorf("known good %v: 23 put off: %v", knownGood, err)
		}
		tx.Learn(putOff)
		if err := c.Limited(); (err == nil) != knownGood {
			t.Errorf("known good %v: 24 put off: %v", knownGood, err)
		}
		for range 10 {
			tx.Learn(Outcome{Reply: mail.NewReply(550, 1, 1, "no"), Rcpt: true})
		}
		if err := c.Limited(); mail.ReplyFor(err).Code != 450 {
			t.Errorf("known good %v: 10 refused: %v", knownGood, err)
		}
	}
}
