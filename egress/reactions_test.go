package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// A provider takes at most so many messages in any period, over 20 sessions, and refuses the rest.
type provider struct {
	most  int
	every time.Duration

	mu   sync.Mutex
	took []time.Time
}

func (p *provider) behaviour() smtptest.Behaviour {
	return smtptest.Behaviour{MaxSessions: 20, Keep: 1, On: func(s smtptest.Step) (smtptest.Answer, bool) {
		if s.Verb == smtptest.Dot {
			return smtptest.Answer{After: 150 * time.Millisecond}, true
		}
		if s.Verb != "MAIL" {
			return smtptest.Answer{}, false
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		now := time.Now()
		for len(p.took) > 0 && !now.Before(p.took[0].Add(p.every)) {
			p.took = p.took[1:]
		}
		if len(p.took) >= p.most {
			return smtptest.Answer{Reply: "451 4.7.0 Message rate limit exceeded, slow down"}, true
		}
		p.took = append(p.took, now)
		return smtptest.Answer{}, false
	}}
}

// load has so many clients send messages one after another until ctx ends, and counts what comes of them.
func load(ctx context.Context, r *Relay, hop mail.NextHop, clients int) (taken, deferred *atomic.Int64, wait func()) {
	taken, deferred = new(atomic.Int64), new(atomic.Int64)
	var all sync.WaitGroup
	for n := range clients {
		all.Go(func() { // ends with ctx
			for ctx.Err() == nil {
				c, cancel := context.WithTimeout(ctx, time.Minute)
				d := from(n%5, "one.test")
				d.NextHop = hop
				err := attemptOne(c, r, d)
				switch {
				case err == nil:
					taken.Add(1)
				case ctx.Err() == nil:
					deferred.Add(1)
				}
				cancel()
			}
		})
	}
	return taken, deferred, all.Wait
}

func attemptOne(ctx context.Context, r *Relay, d mail.Delivery) error {
	tx, err := r.Begin(ctx, d)
	if err != nil {
		return err
	}
	if err := tx.Rcpt(ctx, path("b@one.test")); err != nil {
		tx.Abort()
		return err
	}
	if err := tx.Data(ctx, mail.Stuffed); err != nil {
		tx.Abort()
		return err
	}
	if out := tx.Commit(ctx, octets(message)); len(out) != 1 || out[0].Reply.Code != 250 {
		return fmt.Errorf("got %+v", out)
	}
	return nil
}

// TestRelay_ProviderLimits has more clients than a provider that takes 20 sessions and 100 messages in any second can
// serve: once where its limits are known, and once where its replies have to tell them. Of what it takes afterwards few
// messages are refused for them. Time is virtual.
func TestRelay_ProviderLimits(t *testing.T) {
	for _, c := range []struct {
		name, limits string
		settle       int64 // how many messages are taken before it counts
	}{
		{"known", "connections=20 message_rate=100/s messages=1000 idle=1m age=1h", 50},
		{"learnt", "connections=40 messages=1000 idle=1m age=1h", 3000},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { limitedByProvider(t, c.limits, c.settle) })
		})
	}
}

func limitedByProvider(t *testing.T, text string, settle int64) {
	rules, err := feedback.Parse("test",
		"421 * * \"too many connections\" -> fewer sessions\n4yz 4.7.0 * \"rate limit exceeded\" -> slower "+
			"20% for 5s\n")
	if err != nil {
		t.Fatal(err)
	}
	resolver, err := dns.New(dns.Config{Servers: []string{"192.0.2.53:53"}}) // asked for nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(resolver.Close)
	line := smtptest.NewLine()
	s := smtptest.Serve(line, (&provider{most: 100, every: time.Second}).behaviour())
	t.Cleanup(s.Close)
	cfg := Config{Helo: "[192.0.2.1]", Resolver: resolver, AllowPrivate: true, Reactions: rules, TLS: TLSNone}
	limits(t, text)(&cfg)
	cfg.Connect = func(ctx context.Context, _ smtpclient.Target) (net.Conn, error) { return line.Dial(ctx) }
	r, err := NewRelay(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	taken, deferred, wait := load(ctx, r, mail.NextHop{Transport: mail.SMTP, Host: "192.0.2.25"}, 60)
	defer wait()
	defer stop()
	reach := func(count int64) {
		for taken.Load() < count { // at last it is the test's time that is over
			time.Sleep(5 * time.Millisecond)
		}
	}
	reach(settle)
	earlier, begun := deferred.Load(), time.Now()
	const messages = 2000
	reach(settle + messages)
	refused := deferred.Load() - earlier
	n := s.Counts()
	t.Logf("%.1f messages/s of 100, %d deferred of %d, %d before; %d sessions at most, %d in all, %+v",
		messages/time.Since(begun).Seconds(), refused, messages, earlier, n.Peak, n.Connections,
		r.local.pool.Adaptations())
	if refused > messages/50 {
		t.Errorf("%d of %d deferred", refused, messages)
	}
	if strings.Contains(text, "connections=20") && n.Peak > 20 {
		t.Errorf("%d sessions at once", n.Peak)
	}
}

// TestRelay_TooManySessions has a destination that takes 5 sessions at once and does not say so before it is too late.
func TestRelay_TooManySessions(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{
		MaxSessions: 5, Answers: map[string]smtptest.Answer{smtptest.Dot: {After: 5 * time.Millisecond}},
	}, limits(t, "connections=20 messages=1000 idle=1m age=1h"))
	deliver(t, w, to("one.test"), "b@one.test") // one is open, so that those that come at once have one to wait for
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() { // ends after its messages
			for range 10 {
				if err := attemptOne(t.Context(), w.relay, to("one.test")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	learnt := w.relay.local.pool.Adaptations()
	if len(learnt) != 1 || learnt[0].Sessions < 1 || learnt[0].Sessions > 5 {
		t.Errorf("learnt %+v, want 5 sessions at most", learnt)
	}
	if n := s.Counts(); n.Connections > 60 {
		t.Errorf("%d connections for 301 messages", n.Connections)
	}
}

// A census counts the connections that are open at our end.
type census struct {
	mu         sync.Mutex
	open, peak int
}

func (c *census) connect(ctx context.Context, t smtpclient.Target) (net.Conn, error) {
	conn, err := smtpclient.Connect(ctx, t)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	c.peak = max(c.peak, c.open)
	return &counted{Conn: conn, census: c}, nil
}

// A counted is one of them.
type counted struct {
	net.Conn
	census *census
	once   sync.Once
}

func (c *counted) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.census.mu.Lock()
		defer c.census.mu.Unlock()
		c.census.open--
	})
	return err
}

// TestRelay_OneSitePerProvider: 300 hosts of one provider are one Site with one limit.
func TestRelay_OneSitePerProvider(t *testing.T) {
	var zone strings.Builder
	for i := range 300 {
		fmt.Fprintf(&zone,
			"d%d.test. 60 IN MX 10 tenant%d.mail.provider.test.\ntenant%d.mail.provider.test. 60 IN A "+
				"127.0.0.1\n", i, i, i)
	}
	s := smtptest.Start(t, smtptest.Behaviour{})
	providers, err := mx.ParseProviders("test",
		// A session that we closed counts for 100 ms at most where its server takes longer: our ends are counted.
		"limits * connections=20 messages=1000 idle=10m age=1h\nsite big .mail.provider.test\nlimits big "+
			"connections=6 messages=1000 idle=10m age=1h\n")
	if err != nil {
		t.Fatal(err)
	}
	var told sync.Map
	var ours census
	w := newWorldOf(t, zone.String(), port(t, s), func(c *Config) {
		c.Providers = providers
		c.Connect = ours.connect
		c.Cluster = sharer{share: func(site mail.Site) float64 { told.Store(site, true); return 1 }}
	})
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() { // ends after its messages
			for n := i; n < 300; n += 60 {
				domain := fmt.Sprintf("d%d.test", n)
				tx, err := w.relay.Begin(t.Context(), to(domain))
				if err != nil {
					t.Error(err)
					return
				}
				rcpt(t, tx, "b@"+domain)
				if out := finish(t, tx); out[0].Reply.Code != 250 {
					t.Errorf("%+v", out)
				}
			}
		})
	}
	all.Wait()
	sites := 0
	told.Range(func(site, _ any) bool {
		if sites++; site != mail.Site("big") {
			t.Errorf("a Site %v", site)
		}
		return true
	})
	if n := s.Counts(); ours.peak > 6 || n.Messages != 300 || sites != 1 {
		t.Errorf("%d sessions at once, %d messages, %d Sites", ours.peak, n.Messages, sites)
	}
}

// A board is the suspensions of a Cluster of this node alone.
type board struct {
	alone
	now func() time.Time
	mu  sync.Mutex
	all map[mail.Site]time.Time
}

func (b *board) Suspended(site mail.Site) (time.Time, string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	until, ok := b.all[site]
	return until, "asked for it", ok && b.now().Before(until)
}

func (b *board) Suspend(site mail.Site, until time.Time, _ string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all[site] = until
}

func (b *board) Resume(site mail.Site) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.all, site)
}

// TestRelay_Suspended: a suspended Site is refused with its time and reopened by one message.
func TestRelay_Suspended(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprint("shared ", shared), func(t *testing.T) {
			var ahead atomic.Int64
			now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			b := &board{now: now, all: make(map[mail.Site]time.Time)}
			rules, err := feedback.Parse("test", "421 * * \"[ts03]\" -> suspend 5m\n")
			if err != nil {
				t.Fatal(err)
			}
			bad := smtptest.Behaviour{
				Answers: map[string]smtptest.Answer{"MAIL": {
					Reply: "421 4.7.1 [TS03] All messages are deferred", Close: true,
				}},
			}
			w, s := one(t, smtptest.Behaviour{}, func(c *Config) {
				c.Now, c.Reactions = now, rules
				if shared {
					c.Cluster = b
				}
			})
			deliver(t, w, to("one.test"), "b@one.test")
			s.Set(bad)
			ahead.Store(int64(time.Second)) // what was accepted before speaks no more against it
			for n, domain := range []string{"one.test", "uno.test", "eins.test"} {
				tx := begin(t, w, from(n, domain))
				want(t, tx.Rcpt(t.Context(), path("b@"+domain)), "451 4.7.1")
				tx.Abort()
			}
			refused := func() {
				t.Helper()
				before := s.Counts().Connections
				_, err := w.relay.Begin(t.Context(), to("one.test"))
				if r := want(t, err, "451 4.4.5"); !strings.Contains(r.Reply.Text, " UTC") {
					t.Errorf("no time in %q", r.Reply.Text)
				}
				if s.Counts().Connections != before {
					t.Error("the destination was asked")
				}
			}
			refused()
			ahead.Store(int64(5*time.Minute + 2*time.Second))
			probe := begin(t, w, to("one.test")) // the first one after it tries
			refused()
			if err := probe.Rcpt(t.Context(), path("b@one.test")); err == nil {
				t.Error("taken")
			}
			probe.Abort()
			refused()
			s.Set(smtptest.Behaviour{})
			ahead.Store(int64(11 * time.Minute))
			probe = begin(t, w, to("one.test"))
			rcpt(t, probe, "b@one.test")
			refused() // a recipient proves nothing
			if out := finish(t, probe); out[0].Reply.Code != 250 {
				t.Errorf("%+v", out)
			}
			deliver(t, w, to("one.test"), "b@one.test")
			if _, _, ok := b.Suspended(probe.d.Site); ok {
				t.Error("the others still think so")
			}
			b.Suspend(probe.d.Site, now().Add(time.Minute), "another node")
			other, err := w.relay.Begin(t.Context(), to("one.test"))
			if (err != nil) != shared {
				t.Errorf("another node's suspension: %v", err)
			}
			if err == nil {
				other.Abort()
			}
			w.relay.Resume(probe.d.Site)
			deliver(t, w, to("one.test"), "b@one.test")
		})
	}
}

// TestRelay_ClientsWords: a client cannot slow a Site with words of its own.
func TestRelay_ClientsWords(t *testing.T) {
	w, _ := one(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
		return smtptest.Answer{Reply: "450 4.7.0 <" + s.Forward + ">: come back later"}, s.Verb == "RCPT"
	}}, nil)
	tx := begin(t, w, to("one.test"))
	err := tx.Rcpt(t.Context(), path("rate limit exceeded@one.test"))
	var r *mail.Refusal
	if !errors.As(err, &r) {
		t.Fatal(err)
	}
	tx.Abort()
	if got := w.relay.local.pool.Adaptations(); len(got) != 0 {
		t.Errorf("learnt %+v from %v", got, r.Cause)
	}
}

// TestTransaction_Complaints: what one stranger's messages are refused for does not slow the others.
func TestTransaction_Complaints(t *testing.T) {
	w, _ := one(t,
		smtptest.Behaviour{
			Answers: map[string]smtptest.Answer{smtptest.Dot: {Reply: "450 4.7.0 Message rate limit exceeded"}},
		}, nil)
	send := func(network string, favoured bool) int {
		d := to("one.test")
		d.Client, d.Favoured = netip.MustParsePrefix(network), favoured
		d.Reverse.Domain = "of" + d.Client.Addr().String() + ".test"
		tx := begin(t, w, d)
		rcpt(t, tx, "b@one.test")
		finish(t, tx)
		return len(w.relay.local.pool.Adaptations())
	}
	for range 5 {
		if send("192.0.2.0/24", false) != 0 {
			t.Fatal("one network slowed the Site")
		}
	}
	send("198.51.100.0/24", false)
	if send("203.0.113.0/24", false) != 1 {
		t.Error("three networks did not")
	}
	w, _ = one(t,
		smtptest.Behaviour{
			Answers: map[string]smtptest.Answer{smtptest.Dot: {Reply: "450 4.7.0 Message rate limit exceeded"}},
		}, nil)
	if send("192.0.2.0/24", true) != 1 {
		t.Error("a client of ours did not")
	}
}

// TestTransaction_Suspended: a transaction that is open heeds a suspension.
func TestTransaction_Suspended(t *testing.T) {
	b := &board{now: time.Now, all: make(map[mail.Site]time.Time)}
	w, s := one(t, smtptest.Behaviour{}, func(c *Config) { c.Cluster = b })
	tx := begin(t, w, to("one.test"))
	rcpt(t, tx, "b@one.test")
	tx.Lend()
	b.Suspend(tx.d.Site, time.Now().Add(time.Hour), "another owner met it")
	want(t, tx.Rcpt(t.Context(), path("c@one.test")), "451 4.4.5")
	want(t, tx.Renew(t.Context()), "451 4.4.5")
	tx.Abort()
	if n := s.Counts().Messages; n != 0 {
		t.Errorf("%d messages are delivered", n)
	}
}

// TestTransaction_Limits: a transaction that goes on has the limits of now.
func TestTransaction_Limits(t *testing.T) {
	var third atomic.Bool
	lim := limits(t, "connections=18 messages=100 idle=1m age=1h")
	w, _ := one(t, smtptest.Behaviour{}, func(c *Config) {
		lim(c)
		c.Cluster = sharer{share: func(mail.Site) float64 {
			if third.Load() {
				return 1.0 / 3
			}
			return 1
		}}
	})
	old := begin(t, w, to("one.test"))
	rcpt(t, old, "b@one.test")
	old.Lend()
	third.Store(true)
	w.relay.Yield(func(mail.Site) bool { return true })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var waiting sync.WaitGroup
	for i := range 12 {
		waiting.Go(func() { // ends with the test, or at once if it waits for a session
			d := to("one.test")
			d.Client = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24)
			d.Favoured = true // so that its session is not taken away
			tx, err := w.relay.Begin(ctx, d)
			if err != nil {
				return
			}
			<-ctx.Done()
			tx.Abort()
		})
	}
	until(t, func() bool { return w.relay.local.pool.Count().Lent == 6 && w.relay.local.pool.Count().Waiting == 6 })
	_ = old.Renew(mail.Until(ctx, time.Now().Add(50*time.Millisecond))) // it waits like others
	if n := w.relay.local.pool.Count().Lent; n > 6 {
		t.Errorf("%d sessions, want 6 at most", n)
	}
	cancel()
	waiting.Wait()
	old.Abort()
}
