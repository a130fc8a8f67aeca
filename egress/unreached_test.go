package egress

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// An owner is a Cluster of this node and of the one that owns all Sites. As at the hop, a transaction begins there with
// its first recipient.
type owner struct {
	alone
	relay   *Relay
	asked   int
	unable  []string // what was said to be unable, with the Site
	reached []mail.Site
}

func (o *owner) Unable(site mail.Site, node string) {
	o.unable = append(o.unable, node+" at "+string(site))
}
func (o *owner) Reached(site mail.Site) { o.reached = append(o.reached, site) }

func (o *owner) Owner(mail.Site, string) (string, bool) { return "b", false }

func (o *owner) Begin(_ context.Context, _ string, d mail.Delivery) (mail.Transaction, error) {
	o.asked++
	return &begunLate{owner: o, d: d}, nil
}

type begunLate struct {
	mail.Transaction
	owner *owner
	d     mail.Delivery
}

func (b *begunLate) Rcpt(ctx context.Context, forward mail.Path) (err error) {
	if b.Transaction == nil {
		if b.Transaction, err = b.owner.relay.Local().Begin(ctx, b.d); err != nil {
			b.Transaction = nil
			return err
		}
	}
	return b.Transaction.Rcpt(ctx, forward)
}

func (b *begunLate) Abort() {
	if b.Transaction != nil {
		b.Transaction.Abort()
	}
}

// TestHandover_Unreached: where the owner reaches no host, the node that has the client tries by itself; what a
// destination said to the owner stands.
func TestHandover_Unreached(t *testing.T) {
	const site = "mx1.one.test"
	for _, c := range []struct {
		name   string
		change func(*Config) // of the owner
		before func(*testing.T, *world)
		answer map[string]smtptest.Answer
		want   string // "" if it is delivered from here
		quiet  bool   // it is, and yet says nothing of the Site
	}{
		{name: "it has no address to connect from", change: func(c *Config) {
			c.Sources = []netip.Addr{netip.MustParseAddr("192.0.2.77")}
		}},
		{name: "no connection is accepted", change: func(c *Config) { c.Port = 1 }},
		{name: "the Site cools there for that", change: func(c *Config) { c.Port = 1 },
			before: func(t *testing.T, w *world) {
				_, err := w.relay.Begin(t.Context(), to("one.test"))
				want(t, err, "451 4.4.1")
			}},
		{name: "its name server is gone", before: func(_ *testing.T, w *world) { w.dns.Close() }},
		{name: "its clients' connections failed too often", quiet: true, before: func(_ *testing.T, w *world) {
			d := to("one.test")
			d.Chosen = true
			w.relay.local.connects.draw(&d, 2*mostFailed.Burst)
		}},
		{name: "the family of the host's addresses is not ours", change: func(c *Config) {
			c.Sources = []netip.Addr{netip.MustParseAddr("::1")}
		}},
		{name: "the host says 421", want: "451 4.4.1",
			answer: map[string]smtptest.Answer{smtptest.Greeting: {Reply: "421 4.3.2 Not now", Close: true}}},
		{name: "the host closes the connection", want: "451 4.4.1",
			answer: map[string]smtptest.Answer{smtptest.Greeting: {Close: true}}},
		{name: "the recipient is refused", answer: map[string]smtptest.Answer{"RCPT": {Reply: "550 5.1.1 Unknown"}},
			want: "550 5.1.1"},
		{name: "the Site is suspended there", before: func(t *testing.T, w *world) {
			tx := begin(t, w, to("one.test"))
			tx.slot.Suspend(time.Hour, errors.New("aborted"))
			tx.Abort()
		}, want: "451 4.4.5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Behaviour{Answers: c.answer})
			there := newWorld(t, port(t, s), c.change)
			if c.before != nil {
				c.before(t, there)
			}
			o := &owner{relay: there.relay}
			w := newWorld(t, port(t, s), func(c *Config) { c.Cluster = o })
			for n := range 2 {
				before := s.Counts().Connections
				d := to("one.test")
				d.Chosen = c.quiet // connections that fail count
				tx := begunFor(t, w, d)
				ctx := mail.Until(t.Context(), time.Now().Add(time.Minute))
				err := tx.Rcpt(ctx, path("x@one.test"))
				if c.want != "" {
					want(t, err, c.want)
					tx.Abort()
					if n := s.Counts().Connections - before; n > 1 {
						t.Errorf("%d connections: the answer was not left as it is", n)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				rcpt(t, tx, "y@one.test")
				if out := finish(t, tx); len(out) != 2 || out[0].Reply.Code != 250 || out[0].Via != "" {
					t.Fatalf("got %+v", out)
				}
				if got := len(s.Messages()); got != n+1 {
					t.Errorf("%d messages", got)
				}
				e := w.events()
				if len(e) != n+1 || e[n].Reason != reachedHere || e[n].Host != "b" || e[n].Site != site {
					t.Errorf("events: %+v", e)
				}
			}
			if w.relay.local.pool.Count().Cooling {
				t.Error("the Site cools here")
			}
			switch {
			case c.want != "" || c.quiet:
				if len(o.unable) != 0 {
					t.Errorf("the owner is said to be unable: %v", o.unable)
				}
			case !slices.Equal(o.unable, []string{"b at " + site, "b at " + site}):
				t.Errorf("unable: %v", o.unable)
			}
			if got := len(o.reached); c.want == "" && !c.quiet && got != 4 || c.want != "" && got != 0 {
				t.Errorf("the Site is said to be reached %d times", got)
			}
			if o.asked != 2 {
				t.Errorf("the owner was asked %d times", o.asked)
			}
		})
	}
}

func begun(t *testing.T, w *world) mail.Transaction {
	t.Helper()
	return begunFor(t, w, to("one.test"))
}

func begunFor(t *testing.T, w *world, d mail.Delivery) mail.Transaction {
	t.Helper()
	tx, err := w.relay.Begin(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

// TestHandover_UnreachedBounce: what a bounce meets, or other mail whose next hop a stranger chose, says nothing of the
// owner; it is delivered all the same.
func TestHandover_UnreachedBounce(t *testing.T) {
	s := smtptest.Start(t, smtptest.Behaviour{})
	o := &owner{relay: newWorld(t, 1, nil).relay}
	w := newWorld(t, port(t, s), func(c *Config) { c.Cluster = o })
	d := to("one.test")
	d.Reverse = mail.Path{}
	deliverWithin(t, w, d, "b@one.test", 30*time.Second)
	d = to("one.test")
	d.Chosen = true
	deliverWithin(t, w, d, "b@one.test", 30*time.Second)
	if len(o.unable)+len(o.reached) != 0 || len(s.Messages()) != 2 {
		t.Errorf("unable: %v, reached: %v, %d messages", o.unable, o.reached, len(s.Messages()))
	}
}

// TestHandover_UnreachedBoth: what neither node reaches is refused in the words of the one that has the client, and
// told of as any destination that is down.
func TestHandover_UnreachedBoth(t *testing.T) {
	there := newWorld(t, 1, nil)
	o := &owner{relay: there.relay}
	w := newWorld(t, 1, func(c *Config) { c.Cluster = o })
	for range 2 { // the second time both cool
		tx := begun(t, w)
		err := tx.Rcpt(t.Context(), path("x@one.test"))
		want(t, err, "451 4.4.1")
		tx.Abort()
	}
	if e := w.events(); len(e) != 0 {
		t.Errorf("events: %+v", e)
	}
	if len(o.unable) != 0 {
		t.Errorf("a Site that no node reaches counts: %v", o.unable)
	}
}

// An owning Cluster says that this node owns all Sites, and that b is the next one.
type owning struct {
	owner
	none bool // there is no next node
}

func (*owning) Owner(mail.Site, string) (string, bool)  { return "", true }
func (o *owning) Next(mail.Site, string) (string, bool) { return "b", !o.none }

// TestRelay_HandOn: what its owner does not reach is delivered by the next node, if that one reaches it; else the
// refusal is the owner's.
func TestRelay_HandOn(t *testing.T) {
	noAddress := func(c *Config) { c.Sources = []netip.Addr{netip.MustParseAddr("192.0.2.77")} }
	for _, c := range []struct {
		name   string
		here   func(*Config)
		there  func(*Config)
		answer map[string]smtptest.Answer
		none   bool
		bounce bool
		want   string // "" if it is delivered by the next node
		asked  int
	}{
		{name: "no address to connect from", here: noAddress, asked: 1},
		{name: "a bounce", here: noAddress, bounce: true, asked: 1},
		{name: "the next does not reach it either", here: noAddress, there: noAddress, asked: 1, want: "451 4.4.1"},
		{name: "there is no other node", here: noAddress, none: true, want: "451 4.4.1"},
		{name: "the host says 421", want: "451 4.4.1",
			answer: map[string]smtptest.Answer{smtptest.Greeting: {Reply: "421 4.3.2 Not now", Close: true}}},
		{name: "the next is refused the recipient", here: noAddress, want: "550 5.1.1", asked: 1,
			answer: map[string]smtptest.Answer{"RCPT": {Reply: "550 5.1.1 Unknown"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Behaviour{Answers: c.answer})
			o := &owning{none: c.none}
			o.relay = newWorld(t, port(t, s), c.there).relay
			w := newWorld(t, port(t, s), func(config *Config) {
				config.Cluster = o
				if c.here != nil {
					c.here(config)
				}
			})
			d := to("one.test")
			if c.bounce {
				d.Reverse = mail.Path{}
			}
			ctx := mail.Until(t.Context(), time.Now().Add(30*time.Second))
			tx, err := w.relay.Begin(ctx, d)
			if err == nil {
				err = tx.Rcpt(ctx, path("x@one.test"))
			}
			if o.asked != c.asked {
				t.Errorf("the next node was asked %d times", o.asked)
			}
			if c.want != "" {
				want(t, err, c.want)
				if tx != nil {
					tx.Abort()
				}
				if len(o.unable)+len(w.events()) != 0 && c.answer == nil {
					t.Errorf("unable: %v, events: %+v", o.unable, w.events())
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if out := finish(t, tx); len(out) != 1 || out[0].Reply.Code != 250 || len(s.Messages()) != 1 {
				t.Fatalf("got %+v", out)
			}
			if e := w.events(); len(e) != 1 || e[0].Reason != reachedThere || e[0].Host != "b" {
				t.Errorf("events: %+v", e)
			}
			if said := slices.Equal(o.unable, []string{" at mx1.one.test"}); said == c.bounce {
				t.Errorf("unable: %v", o.unable)
			}
		})
	}
}

// A lapsing transaction is that of an owner that loses its way at one call.
type lapsing struct {
	alone
	at      string
	inDoubt bool
	calls   int
}

func (l *lapsing) Owner(mail.Site, string) (string, bool) { return "b", false }

func (l *lapsing) Begin(context.Context, string, mail.Delivery) (mail.Transaction, error) {
	return l, nil
}

func (l *lapsing) err(call string) error {
	if l.at != call {
		return nil
	}
	l.calls++
	r := mail.Refuse(451, 4, 1, "Destination cannot be reached, try again later", "unreachable", nil)
	r.Unreached = true
	return r
}

func (l *lapsing) Rcpt(_ context.Context, forward mail.Path) error { return l.err(forward.Local) }
func (l *lapsing) Stream(context.Context) error                    { return l.err("stream") }
func (l *lapsing) Data(context.Context, mail.Form) error           { return l.err("data") }
func (l *lapsing) Renew(context.Context) error                     { return l.err("renew") }
func (l *lapsing) Write(mail.Octets) error                         { return l.err("write") }
func (l *lapsing) Abort()                                          {}
func (l *lapsing) Lend() bool                                      { return true }
func (l *lapsing) Wanted() bool                                    { return false }
func (l *lapsing) SMTPUTF8() bool                                  { return false }
func (l *lapsing) Commit(context.Context, mail.Octets) []mail.Outcome {
	err := l.err("commit")
	o := mail.Outcome{Reply: mail.NewReply(250, 0, 0, "ok"), Cause: err, InDoubt: l.inDoubt}
	if err != nil {
		o.Reply = mail.ReplyFor(err)
	}
	return []mail.Outcome{o, o}
}

// TestHandover_UnreachedLate: an owner that loses its way when recipients stand accepted there costs nothing, for as
// long as nothing of the message is gone and no end of data may be; after that nothing is sent again.
func TestHandover_UnreachedLate(t *testing.T) {
	for _, c := range []struct {
		name, at string
		streams  bool
		inDoubt  bool
		here     int // messages that are delivered from here
		want     int
	}{
		{name: "at the second recipient", at: "y", here: 1, want: 250},
		{name: "when it begins again", at: "renew", here: 1, want: 250},
		{name: "before it streams", at: "stream", streams: true, here: 1, want: 250},
		{name: "before DATA", at: "data", here: 1, want: 250},
		{name: "at the first piece, which is in hand", at: "write", streams: true, here: 1, want: 250},
		{name: "when it is to release the end of data, of a held message", at: "commit", here: 1, want: 250},
		{name: "then, of one that streamed", at: "commit", streams: true, want: 451},
		{name: "an end of data is in doubt", at: "commit", inDoubt: true, want: 451},
		{name: "never", at: "", want: 250},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Behaviour{})
			l := &lapsing{at: c.at, inDoubt: c.inDoubt}
			w := newWorld(t, port(t, s), func(c *Config) { c.Cluster = l })
			tx := begun(t, w)
			rcpt(t, tx, "x@one.test", "y@one.test")
			if err := tx.Renew(t.Context()); err != nil {
				t.Fatal(err)
			}
			if c.streams {
				if err := tx.Stream(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := tx.Data(t.Context(), mail.Stuffed); err != nil {
				t.Fatal(err)
			}
			if c.streams {
				if err := tx.Write(octets(message)); err != nil {
					t.Fatal(err)
				}
			}
			out := tx.Commit(t.Context(), octets(message))
			if len(out) != 2 || out[0].Reply.Code != c.want || out[1].Reply.Code != c.want {
				t.Errorf("got %+v", out)
			}
			if n := len(s.Messages()); n != c.here || l.calls > 1 {
				t.Errorf("%d messages from here, %d calls at the owner that failed", n, l.calls)
			}
			if n := len(w.events()); n != c.here {
				t.Errorf("%d events", n)
			}
		})
	}
}

// TestLocal_LeavesTime: an owner whose connections are not answered leaves time for the node that asked.
func TestLocal_LeavesTime(t *testing.T) {
	inTime(t, 2400*time.Millisecond, func(limit time.Duration) error {
		s := listen(t, endpoint{host: "127.0.0.1"}, endpoint{host: "127.0.0.9", deaf: true})[0]
		const away = "one.test. 60 IN MX 10 mx1.one.test.\nmx1.one.test. 60 IN A 127.0.0.9\n"
		there := newWorldOf(t, away, port(t, s), nil)
		w := newWorld(t, port(t, s), func(c *Config) { c.Cluster = &owner{relay: there.relay} })
		err := deliverWithin(t, w, to("one.test"), "b@one.test", limit)
		if err == nil && len(s.Messages()) != 1 {
			return errors.New("it arrived elsewhere")
		}
		return err
	})
}
