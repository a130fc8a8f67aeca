package bench

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/ingress/client/dnsbl"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/mail"
)

// scoreClient is a mail server with proper names, on no list.
var scoreClient = netip.MustParseAddr("203.0.113.9")

const scoreZone = "9.113.0.203.in-addr.arpa. 3600 IN PTR mail.client.example.\n" +
	"mail.client.example. 3600 IN A 203.0.113.9\n" +
	"client.example. 3600 IN MX 10 mail.client.example.\n" +
	"client.example. 3600 IN TXT \"v=spf1 ip4:203.0.113.9 -all\"\n" +
	"2.0.0.127.zen.example. 3600 IN A 127.0.0.2\n" +
	"2.0.0.127.psbl.example. 3600 IN A 127.0.0.2\n" +
	"test.dbl.example. 3600 IN A 127.0.0.2\n"

// A scoreStage is all that a connection passes until its first recipient, with a warm cache.
type scoreStage struct {
	store   *store.Store
	limits  *rate.Limits
	scorer  *score.Scorer
	checker *spf.Checker
	lists   *dnsbl.Set
	reverse mail.Path
}

func newScoreStage(b *testing.B, redis string) *scoreStage {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	server := dnstest.Start(b, scoreZone)
	resolver, err := dns.New(dns.Config{Servers: []string{server.Addr()}})
	must(err)
	b.Cleanup(resolver.Close)
	s := &scoreStage{}
	s.store, err = store.New(store.Config{URL: redis})
	must(err)
	b.Cleanup(func() { must(s.store.Close()) })
	s.lists, err = dnsbl.New(dnsbl.Config{Store: s.store, Resolver: resolver.Plain(), Lists: []dnsbl.List{
		{Zone: "zen.example", Weight: 10}, {Zone: "psbl.example", Weight: 5},
		{Zone: "dbl.example", Weight: 10, Kind: dnsbl.Domains},
	}})
	must(err)
	b.Cleanup(s.lists.Close)
	many := rate.Limit{Count: 1 << 20, Per: time.Minute}
	s.limits, err = rate.New(rate.Config{
		Key: []byte("a key for the benchmark"), ClientConnections: many, NetworkConnections: many, ClientMessages: many,
		NetworkMessages:  many,
		ClientRecipients: many, ClientRefused: many, SenderMessages: many, RecipientMessages: many,
		DomainMessages: many,
	})
	must(err)
	s.scorer, err = score.New(score.Config{
		Store: s.store, Lists: s.lists, Limits: s.limits, Resolver: resolver.Plain(),
		Hostnames: []string{"relay.example"}, Grey: score.Band{From: 3, To: 6},
	})
	must(err)
	s.checker, err = spf.New(spf.Config{Resolver: resolver.Plain()})
	must(err)
	s.reverse, err = mail.ParsePath("a@client.example", true)
	must(err)
	if v := s.connection(b.Context(), nil); v.Action != mail.VerdictAccept || len(v.Reasons) != 0 {
		b.Fatalf("the client is not what it should be: %+v", v)
	}
	return s
}

// connection is one connection up to the verdict. took, unless it is nil, gets what MAIL and the wait for the verdict
// took when the answers were there.
func (s *scoreStage) connection(ctx context.Context, took func(mailed, awaited time.Duration)) mail.Verdict {
	k := s.scorer.Connect(ctx, score.Client{Addr: scoreClient})
	defer k.Close()
	k.Helo("mail.client.example")
	began := time.Now()
	k.Mail(s.reverse, nil)
	mailed := time.Since(began)
	v := k.Verdict(ctx)
	if took != nil {
		began = time.Now()
		v = k.Verdict(ctx)
		took(mailed, time.Since(began))
	}
	return v
}

// spf is the check of SPF that is begun at MAIL, and serves authentication as well.
func (s *scoreStage) spf(ctx context.Context) error {
	check := s.checker.Begin(ctx, scoreClient, "mail.client.example", s.reverse)
	defer check.Close()
	if got, _ := check.Wait(ctx); got != "pass" {
		return fmt.Errorf("spf=%s", got)
	}
	return nil
}

// group is what a group of recipients asks the store, beside the opening of the transaction at the next hop.
func (s *scoreStage) group(b *testing.B, n int) mail.RcptQuery {
	b.Helper()
	q := rate.RcptQuestion{Client: scoreClient, Reverse: s.reverse, First: true}
	for i := range n {
		p, err := mail.ParsePath(fmt.Sprintf("r%d@bench.example", i), true)
		if err != nil {
			b.Fatal(err)
		}
		q.Rcpts = append(q.Rcpts, rate.Rcpt{Forward: p})
	}
	return mail.RcptQuery{Rates: s.limits.Rcpt(q)}
}

// BenchmarkScoreStage is what the score of a connection costs with a warm cache: with the twin alone there is no round
// trip, with Redis there is one, and "trip" is that round trip by itself.
func BenchmarkScoreStage(b *testing.B) {
	for _, with := range []string{"twin", "redis"} {
		redis := ""
		if with == "redis" {
			redis = "redis://" + extern.StartRedis(b)
		}
		s := newScoreStage(b, redis)
		run := func(name string, work func(context.Context) error) {
			b.Run("store="+with+"/"+name, func(b *testing.B) {
				before := s.store.Stats().Trips
				crowd(b, func() error { return work(b.Context()) })
				b.ReportMetric(float64(s.store.Stats().Trips-before)/float64(b.N), "trips/op")
			})
		}
		run("connection", func(ctx context.Context) error { s.connection(ctx, nil); return nil })
		q := mail.ClientQuery{
			Addr: scoreClient, Rates: s.limits.Connect(scoreClient), Lists: s.lists.Zones(scoreClient),
			Lock: time.Second,
		}
		run("trip", func(ctx context.Context) error { _, err := s.store.Client(ctx, q); return err })
		run("SPF", s.spf)
		for _, n := range []int{1, 12} {
			q := s.group(b, n)
			run(fmt.Sprintf("recipients=%d", n), func(ctx context.Context) error {
				_, err := s.store.Rcpt(ctx, q)
				return err
			})
		}
	}
}

// BenchmarkScoreWaits is what a client waits at MAIL, and at its first RCPT when the answers are there by then.
func BenchmarkScoreWaits(b *testing.B) {
	s := newScoreStage(b, "redis://"+extern.StartRedis(b))
	var mailed, awaited []time.Duration
	for b.Loop() {
		s.connection(b.Context(), func(m, a time.Duration) { mailed, awaited = append(mailed, m), append(awaited, a) })
	}
	for name, took := range map[string][]time.Duration{"MAIL": mailed, "RCPT": awaited} {
		b.ReportMetric(at(took, 50), name+"-p50-us")
		b.ReportMetric(at(took, 99), name+"-p99-us")
	}
}

// BenchmarkScoreRelay sends one message a connection through a node, eight at a time, with and without the score.
// Client, relay and destination are one process, whose CPU is told; Redis is another.
func BenchmarkScoreRelay(b *testing.B) {
	for _, with := range []string{"off", "twin", "redis"} {
		b.Run("score="+with, func(b *testing.B) {
			addr := scoredNode(b, with, sink(b, false))
			message := body(4 << 10)
			for range 100 {
				if err := converse(addr, message); err != nil {
					b.Fatal(err)
				}
			}
			crowd(b, func() error { return converse(addr, message) })
		})
	}
}

// crowd does work b.N times, eight at a time, and reports the CPU of the process and how long one took. One at a time
// would count what an idle scheduler spins, too.
func crowd(b *testing.B, work func() error) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	took := make([][]time.Duration, 8)
	b.ReportAllocs()
	before := cpu()
	b.ResetTimer()
	for i := range took {
		all.Go(func() { // ends when nothing is left
			for left.Add(-1) >= 0 {
				began := time.Now()
				if err := work(); err != nil {
					b.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(began))
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(at(slices.Concat(took...), 50), "p50-us")
	b.ReportMetric(at(slices.Concat(took...), 99), "p99-us")
}

// at returns what so many percent took at most, in microseconds.
func at(took []time.Duration, percent int) float64 {
	slices.Sort(took)
	return float64(took[len(took)*percent/100].Nanoseconds()) / 1000
}

// converse sends a message in a connection of its own, which a proxy brings.
func converse(addr string, message []byte) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	c := textproto.NewConn(conn)
	defer c.Close()
	for _, step := range []struct {
		line string
		code int
	}{
		{"PROXY TCP4 " + scoreClient.String() + " 192.0.2.1 40000 25", 220}, {"EHLO mail.client.example", 250},
		{"MAIL FROM:<a@client.example>", 250},
		{"RCPT TO:<b@bench.example>", 250}, {"DATA", 354}, {string(message) + ".", 250}, {"QUIT", 221},
	} {
		if err := c.PrintfLine("%s", step.line); err != nil {
			return err
		}
		if _, _, err := c.ReadResponse(step.code); err != nil {
			return err
		}
	}
	return nil
}

// scoredNode is a node behind a proxy.
func scoredNode(b *testing.B, with, sink string) string {
	b.Helper()
	config := "listen: [{addr: \"127.0.0.1:0\", proxy_protocol: [\"127.0.0.1/32\"]}]\ndns: {servers: [\"" +
		dnstest.Start(b, scoreZone).Addr() + "\"]}\n"
	if with != "off" {
		config += "score:\n  greylist: {from: 3, to: 6}\n  lists: [{zone: zen.example, weight: 10}, {zone: " +
			"psbl.example, weight: 5}, {zone: dbl.example, weight: 10, of: domain}]\n" +
			"  rates: {"
		var rates []string
		for _, name := range []string{
			"client", "network", "messages", "network_messages", "recipients", "refused", "sender", "recipient",
			"domain",
		} {
			rates = append(rates, name+": 1000000/1m")
		}
		config += strings.Join(rates, ", ") + "}\n"
	}
	if with == "redis" {
		config += "redis: {url: \"redis://" + extern.StartRedis(b) + "\"}\n"
	}
	return serve(b, b.TempDir(), config, unjudged(sink))
}
