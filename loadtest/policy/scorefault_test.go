package policy_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/loadtest/world"
)

// fullScore is a section with all that asks Redis or DNS.
const fullScore = listScore + "greet: 1ms\ntarpit: 1s\n" +
	"rates: {client: 10000/1m, network: 100000/1m, messages: 10000/1m, network_messages: 100000/1m, recipients: " +
	"10000/1m, refused: 100/1m, sender: 100000/1m, recipient: 100000/1m, domain: 100000/1m}\n" +
	"greylist: {from: 4, to: 6, delay: 24h}\n"

// legitimate is how many messages a fault is not to touch, of how many mail servers.
const (
	legitimate = 1000
	servers    = 100
)

// ordinary is what a wave takes without any fault.
var ordinary = struct {
	sync.Mutex
	at99 time.Duration
}{}

// A subject is a node under a fault, with all around it.
type subject struct {
	*world.Relay
	scored
	redis *world.Redis
	dns   *dnstest.Server
}

// startSubject runs a node that has answered each mail server once.
func startSubject(t *testing.T, zone, score string, url func(*world.Redis) string) *subject {
	t.Helper()
	s := &subject{redis: world.StartRedis(t)}
	s.scored = scored{zone: population(servers) + zone, score: score, redis: url(s.redis), frail: true}
	w := s.world(t)
	s.scored.redis, s.dns = "", w.DNS
	s.Relay = world.Start(t, w)
	return s
}

// withstands sends the wave and wants all of it taken, and says what the fault added.
func (s *subject) withstands(t *testing.T, begun func(i int)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), world.Patience)
	defer cancel()
	w := wave{addr: s.Addr, clients: servers, messages: legitimate, begun: begun}
	got := w.run(ctx)
	got.whole(t, w)
	ordinary.Lock()
	defer ordinary.Unlock()
	t.Logf("%d of %d accepted; a message took %s (median), %s (p99), %s at most; p99 added by the fault: %s",
		got.accepted, w.messages, got.at(50).Round(100*time.Microsecond), got.at(99).Round(100*time.Microsecond),
		got.at(100).Round(100*time.Microsecond),
		(got.at(99) - ordinary.at99).Round(100*time.Microsecond))
}

func plainURL(r *world.Redis) string { return r.URL() }

// measureOrdinary has a wave without a fault, to compare with.
func measureOrdinary(t *testing.T) {
	t.Helper()
	ordinary.Lock()
	known := ordinary.at99
	ordinary.Unlock()
	if known != 0 {
		return
	}
	s := startSubject(t, "", fullScore, plainURL)
	w := wave{addr: s.Addr, clients: servers, messages: legitimate}
	w.run(t.Context()) // the first one fills pools and caches
	got := w.run(t.Context())
	got.whole(t, w)
	ordinary.Lock()
	ordinary.at99 = got.at(99)
	ordinary.Unlock()
	t.Logf("without a fault a message took %s (median), %s (p99)", got.at(50), got.at(99))
}

// midway calls f when a third of the wave has begun.
func midway(f func()) func(int) {
	return func(i int) {
		if i == legitimate/3 {
			f()
		}
	}
}

// TestScoreFault_RedisFails: no mail suffers when redis does.
func TestScoreFault_RedisFails(t *testing.T) {
	measureOrdinary(t)
	for _, c := range []struct {
		name  string
		url   func(*world.Redis) string
		fault func(t *testing.T, s *subject)
		heal  func(t *testing.T, s *subject) // nil: it is never well
	}{
		{"killed", plainURL, func(_ *testing.T, s *subject) {
			s.redis.Kill()
		}, func(_ *testing.T, s *subject) { s.redis.Start() }},
		{"stopped", plainURL, func(_ *testing.T, s *subject) {
			s.redis.Signal(syscall.SIGSTOP)
		}, func(_ *testing.T, s *subject) { s.redis.Signal(syscall.SIGCONT) }},
		{"paused", plainURL, func(t *testing.T, s *subject) {
			s.redis.Do(t, "CLIENT", "PAUSE", "2000", "ALL")
		}, func(*testing.T, *subject) {}},
		{"emptied", plainURL, func(t *testing.T, s *subject) {
			s.redis.Do(t, "SCRIPT", "FLUSH")
			s.redis.Do(t, "FLUSHALL")
		}, nil},
		{"at a port that refuses", func(*world.Redis) string { return "redis://" + closedAddr(t) }, nil, nil},
		{"with a wrong password", func(r *world.Redis) string { return "redis://:wrong@" + r.Addr }, nil, nil},
		{"silent from the start", func(r *world.Redis) string { r.Signal(syscall.SIGSTOP); return r.URL() }, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startSubject(t, "", fullScore, c.url)
			var once sync.Once
			s.withstands(t, midway(func() {
				once.Do(func() {
					if c.fault != nil {
						c.fault(t, s)
					}
				})
			}))
			if c.heal == nil {
				return
			}
			c.heal(t, s)
			// It heals by itself: what a node learns is in Redis again.
			i := 0
			world.Await(t, "Redis is asked again", func() bool {
				i++
				if got := deliver(t.Context(), proxied(s.Addr, clientAt(i%servers))); !strings.HasPrefix(got, "250 ") {
					t.Fatalf("got %s", got)
				}
				return s.redis.Do(t, "DBSIZE") != "0" && s.redis.Calls(t) > 0
			})
		})
	}
}

// closedAddr returns an address without a listener.
func closedAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// two are the lists of the tests in which lists fail, of which one speaks for everybody's client and sender domain.
const two = "lists: [{zone: zen.example, weight: 10}, {zone: dbl.example, weight: 10, of: domain}]\n"

const dbl = "test.dbl.example. 300 IN A 127.0.0.2\n"

// ill is a zone in which lists answer with what stands in more, if that is anything, to every question.
func ill(more string) string {
	zone := population(servers)
	if more == "" {
		return zone + dbl
	}
	return strings.Replace(zone, zenItself, "", 1) + more
}

// TestScoreFault_ListsFail: no mail suffers when lists do.
func TestScoreFault_ListsFail(t *testing.T) {
	measureOrdinary(t)
	score := strings.Replace(fullScore, "lists: [{zone: zen.example, weight: 10}]\n", two, 1) + "deadline: 500ms\n"
	const everything = "*.zen.example. 300 IN A 127.0.0.2\n*.dbl.example. 300 IN A 127.0.0.2\n"
	refusals := "*.zen.example. 300 IN A 127.255.255.254\n*.dbl.example. 300 IN A 127.255.255.254\n"
	parked := "*.zen.example. 300 IN A 192.0.2.80\n*.dbl.example. 300 IN A 192.0.2.80\n"
	silence := func(fault dnstest.Fault) func(*subject) {
		return func(s *subject) {
			for i := range servers {
				s.dns.SetFault(reversed(clientAt(i))+".zen.example", "A", fault)
				s.dns.SetFault(nameOf(clientAt(i))+".dbl.example", "A", fault)
			}
			for _, name := range []string{
				"1.0.0.127.zen.example", "2.0.0.127.zen.example", "test.dbl.example", "invalid.dbl.example",
				"client.example.dbl.example",
			} {
				s.dns.SetFault(name, "A", fault)
			}
		}
	}
	for _, c := range []struct {
		name  string
		zone  string // besides; taken away first
		fault func(s *subject)
	}{
		{"that time out", "", silence(dnstest.Fault{Flaw: dnstest.Drop})},
		{"that fail", "", silence(dnstest.Fault{Rcode: "SERVFAIL"})},
		{"that refuse the question", "", silence(dnstest.Fault{Rcode: "REFUSED"})},
		{"that answer refused", refusals, nil},
		{"that point to a parking page", parked, nil},
		{"that list the whole world", everything, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Run("from the start", func(t *testing.T) {
				s := &subject{redis: world.StartRedis(t)}
				s.scored = scored{zone: ill(c.zone), score: score, redis: s.redis.URL(), frail: true}
				w := s.world(t)
				s.dns = w.DNS
				if c.fault != nil {
					c.fault(s)
				}
				s.Relay = world.Start(t, w)
				s.withstands(t, nil)
			})
			t.Run("all of a sudden", func(t *testing.T) {
				s := startSubject(t, dbl, score, plainURL)
				s.withstands(t, func(i int) {
					if i != 0 { // no list has an answer yet
						return
					}
					if c.fault != nil {
						c.fault(s)
						return
					}
					if err := s.dns.SetZone(ill(c.zone)); err != nil {
						t.Error(err)
					}
				})
			})
		})
	}
}

// TestScoreFault_OneLookUpForAllNodes: one look up per address serves all nodes.
func TestScoreFault_OneLookUpForAllNodes(t *testing.T) {
	const addresses = 20
	zone := population(addresses) + listed(clientAt(3)) + listed(bad)
	r := world.StartRedis(t)
	s := scored{zone: zone, score: listScore, redis: r.URL()}
	w := s.world(t)
	var nodes []*world.Relay
	for range 3 {
		nodes = append(nodes, world.Start(t, w))
	}
	for i := range addresses {
		for _, n := range nodes {
			want := "250"
			if i == 3 {
				want = "554"
			}
			if got := deliver(t.Context(), proxied(n.Addr, clientAt(i))); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %s", clientAt(i), got)
			}
		}
	}
	for i := range addresses {
		if n := w.DNS.Count(reversed(clientAt(i))+".zen.example", "A"); n.UDP+n.TCP != 1 {
			t.Errorf("%s was asked about %d times", clientAt(i), n.UDP+n.TCP)
		}
	}

	t.Run("at the same time", func(t *testing.T) {
		held := make(chan struct{})
		name := reversed(bad) + ".zen.example"
		w.DNS.SetFault(name, "A", dnstest.Fault{Until: held})
		answers := make(chan string, 9)
		var all sync.WaitGroup
		for i := range 9 {
			all.Go(func() { answers <- deliver(t.Context(), proxied(nodes[i%3].Addr, bad)) }) // ends with its answer
		}
		w.DNS.Await(name, "A", 1)
		close(held)
		all.Wait()
		close(answers)
		var got []string
		for a := range answers {
			got = append(got, world.ReplyID.ReplaceAllString(a, "id=?"))
		}
		slices.Sort(got)
		if got = slices.Compact(got); len(got) != 1 || got[0] != refusedText {
			t.Errorf("got %q", got)
		}
		if n := w.DNS.Count(name, "A"); n.UDP+n.TCP != 1 {
			t.Errorf("asked about %d times", n.UDP+n.TCP)
		}
	})
}
