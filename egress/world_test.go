package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone has one.test with one MX host, two.test with two of different preference, and what does not lead anywhere.
const zone = `
one.test. 60 IN MX 10 mx1.one.test.
mx1.one.test. 60 IN A 127.0.0.1
uno.test. 60 IN MX 10 mx1.one.test.
eins.test. 60 IN MX 10 mx1.one.test.
evil.test. 60 IN MX 10 mx1.one.test.
two.test. 60 IN MX 10 mx1.two.test.
two.test. 60 IN MX 20 mx2.two.test.
mx1.two.test. 60 IN A 127.0.0.2
mx2.two.test. 60 IN A 127.0.0.3
null.test. 60 IN MX 0 .
self.test. 60 IN MX 10 relay.test.
relay.test. 60 IN A 127.0.0.1
both.test. 60 IN MX 10 mx.both.test.
mx.both.test. 60 IN AAAA ::1
mx.both.test. 60 IN A 127.0.0.1
fixed.test. 60 IN A 127.0.0.1
`

// A world is a DNS server and a Relay that asks it.
type world struct {
	dns   *dnstest.Server
	relay *Relay
	mu    sync.Mutex
	saw   []mail.Event
}

// events returns what the Relay told the operator.
func (w *world) events() []mail.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]mail.Event(nil), w.saw...)
}

func newWorld(t testing.TB, port int, change func(*Config)) *world {
	t.Helper()
	return newWorldOf(t, zone, port, change)
}

func newWorldOf(t testing.TB, zone string, port int, change func(*Config)) *world {
	t.Helper()
	w := &world{dns: dnstest.Start(t, zone)}
	resolver, err := dns.New(dns.Config{Servers: []string{w.dns.Addr()}, TrustAD: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(resolver.Close)
	c := Config{
		Helo: "relay.test", Self: []string{"relay.test"}, Port: uint16(port), Resolver: resolver, AllowPrivate: true,
		Emit: func(e mail.Event) {
			w.mu.Lock()
			w.saw = append(w.saw, e)
			w.mu.Unlock()
		},
	}
	if change != nil {
		change(&c)
	}
	if w.relay, err = NewRelay(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.relay.Shutdown(ctx); err != nil {
			t.Errorf("sessions are out in the end: %v, %+v", err, w.relay.local.pool.Count())
		}
	})
	return w
}

// alone is a Cluster of this node alone, which suspends no Site.
type alone struct{}

func (alone) Owner(mail.Site, string) (string, bool) { return "", true }
func (alone) Begin(context.Context, string, mail.Delivery) (mail.Transaction, error) {
	return nil, errors.New("there is no other node")
}
func (alone) Next(mail.Site, string) (_ string, _ bool)           { return }
func (alone) Reached(mail.Site)                                   {}
func (alone) Unable(mail.Site, string)                            {}
func (alone) Share(mail.Site) float64                             { return 1 }
func (alone) Suspended(mail.Site) (_ time.Time, _ string, _ bool) { return }
func (alone) Suspend(mail.Site, time.Time, string)                {}
func (alone) Resume(mail.Site)                                    {}

// A sharer is a Cluster of this node alone that may have a part of each Site.
type sharer struct {
	alone
	share func(mail.Site) float64
}

func (s sharer) Share(site mail.Site) float64 { return s.share(site) }

func port(t testing.TB, s *smtptest.Server) int {
	t.Helper()
	_, p, err := net.SplitHostPort(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// An endpoint is an address at which a destination is to listen, or one whose SYNs are dropped.
type endpoint struct {
	host      string
	behaviour smtptest.Behaviour
	deaf      bool
}

// listen starts a destination at each of them, nil for one that is deaf. All have one port: one that is taken at any of
// them is left for another.
func listen(t testing.TB, endpoints ...endpoint) []*smtptest.Server {
	t.Helper()
	var err error
	for range 100 {
		var all []*smtptest.Server
		if all, err = listenOnce(t, endpoints); err == nil {
			return all
		}
	}
	t.Fatal(err)
	return nil
}

func listenOnce(t testing.TB, endpoints []endpoint) (all []*smtptest.Server, err error) {
	var undo []func()
	p := "0"
	for _, at := range endpoints {
		if at.deaf {
			var end func()
			end, err = deaf(at.host, p)
			all, undo = append(all, nil), append(undo, end)
		} else {
			var s *smtptest.Server
			if s, err = smtptest.Listen(net.JoinHostPort(at.host, p), at.behaviour); err == nil {
				all, undo = append(all, s), append(undo, s.Close)
				_, p, _ = net.SplitHostPort(s.Addr())
			}
		}
		if err != nil {
			for _, end := range undo {
				end()
			}
			return nil, err
		}
	}
	for _, end := range undo {
		t.Cleanup(end)
	}
	return all, nil
}

// one starts a destination and a world in which it is the MX host of one.test.
func one(t testing.TB, b smtptest.Behaviour, change func(*Config)) (*world, *smtptest.Server) {
	t.Helper()
	s := smtptest.Start(t, b)
	return newWorld(t, port(t, s), change), s
}

// two starts the two MX hosts of two.test and their world.
func two(t testing.TB, b1, b2 smtptest.Behaviour, change func(*Config)) (w *world, s1, s2 *smtptest.Server) {
	t.Helper()
	all := listen(t, endpoint{host: "127.0.0.2", behaviour: b1}, endpoint{host: "127.0.0.3", behaviour: b2})
	return newWorld(t, port(t, all[0]), change), all[0], all[1]
}

var subnet = netip.MustParsePrefix("192.0.2.0/24")

func to(domain string) mail.Delivery {
	return mail.Delivery{
		NextHop: mail.NextHop{Transport: mail.MX, Host: domain}, Reverse: mail.Path{Local: "a", Domain: "client.test"},
		RecipientDomain: domain, Client: subnet,
	}
}

// from is to for mail of another client: the network and the reverse-path domain depend on n.
func from(n int, domain string) mail.Delivery {
	d := to(domain)
	d.Client = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(n), 0}), 24)
	d.Reverse.Domain = fmt.Sprintf("client%d.test", n)
	return d
}

func path(s string) mail.Path {
	local, domain, _ := strings.Cut(s, "@")
	return mail.Path{Local: local, Domain: domain}
}

func octets(s string) mail.Octets { return mail.Octets{Segments: net.Buffers{[]byte(s)}} }

const message = "Subject: x\r\n\r\nbody\r\n"

func begin(t testing.TB, w *world, d mail.Delivery) *transaction {
	t.Helper()
	tx, err := w.relay.Begin(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return tx.(*transaction)
}

func rcpt(t testing.TB, tx mail.Transaction, to ...string) {
	t.Helper()
	for _, r := range to {
		if err := tx.Rcpt(t.Context(), path(r)); err != nil {
			t.Fatalf("RCPT %s: %v", r, err)
		}
	}
}

// finish sends the message in one piece.
func finish(t testing.TB, tx mail.Transaction) []mail.Outcome {
	t.Helper()
	if err := tx.Data(t.Context(), mail.Stuffed); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return tx.Commit(ctx, octets(message))
}

// deliver takes one message to one recipient and wants a 250.
func deliver(t testing.TB, w *world, d mail.Delivery, to string) mail.Outcome {
	t.Helper()
	tx := begin(t, w, d)
	rcpt(t, tx, to)
	out := finish(t, tx)
	if len(out) != 1 || out[0].Reply.Code != 250 {
		t.Fatalf("got %+v", out)
	}
	return out[0]
}

// want checks that err is a Refusal with this code and enhanced code, such as "451 4.4.1".
func want(t testing.TB, err error, reply string) *mail.Refusal {
	t.Helper()
	var r *mail.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want a Refusal %s", err, reply)
	}
	if got := r.Reply.String(); !strings.HasPrefix(got, reply) {
		t.Errorf("got %v, want %s", err, reply)
	}
	if r.Reason == "" {
		t.Errorf("%v has no reason", err)
	}
	return r
}

// isIdle waits until no session is lent and n are idle.
func isIdle(t testing.TB, w *world, n int) {
	t.Helper()
	if c := w.relay.local.pool.Count(); c.Lent != 0 || c.Idle != n {
		t.Errorf("%+v, want %d idle", c, n)
	}
}

func limits(t testing.TB, text string) func(*Config) {
	p, err := mx.ParseProviders("test", "limits * "+text)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.Providers = p }
}

var other = netip.MustParsePrefix("198.51.100.0/24")
